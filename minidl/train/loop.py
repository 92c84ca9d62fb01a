"""The training loop: epochs of steps, an evaluation after each, all of it exactly resumable."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from tqdm import tqdm

from minidl import dtypes, random
from minidl.amp import GradScaler, autocast
from minidl.autograd import Tensor
from minidl.capturing import capture
from minidl.data import DataLoader
from minidl.errors import CheckpointError, DataError, MinidlError, require, require_one_of, reworded
from minidl.nn import Module
from minidl.nn.utils import clip_grad_norm_
from minidl.ops.arguments import ints_of
from minidl.ops.join import stack
from minidl.optim import Optimizer
from minidl.train.rundir import RunDir
from minidl.train.signals import Interrupted, StopSignal

PLACE = ("epoch", "batch", "steps", "best", "waited", "sums")  # what the checkpoint keeps of it
SUMS = {"loss": 0.0, "right": 0.0, "seen": 0}  # over an epoch: nats, hits, images or tokens


class TrainingError(MinidlError):
    """Training cannot go on: the loss is NaN or infinite."""


@dataclass(eq=False, repr=False)
class Trainer:
    """Train `model` for `epochs` over `loader`, saving to `run`; `fit` does it, `resume` goes on.

    forward(model, batch) -> (loss, hits): the mean loss of a batch and how many it got right.
    evaluate() -> what to log after an epoch (floats); `monitor` names the one that early stopping
    watches (higher is better), after `patience` epochs without a better one (0: never).
    scheduler steps after every update; with `accumulate` > 1 an update follows that many batches;
    `clip` bounds the norm of all gradients (0: no bound).
    identity: fingerprints of configuration and data that a resumed run must share; about: constants
    to keep in the checkpoint, such as the names of the classes.
    save_every: seconds between checkpoints within an epoch; read_every: batches between looks at
    the loss, each of which makes a GPU wait. unit: what is counted, for the bar and the rows, and
    how many a batch has. state: more that has a state of its own, by name. captured: on a GPU a
    step is replayed as one graph (`ml.capture`), for which forward must be a function of the
    batch's tensors alone; not with `accumulate`. precision: float32, or on a GPU the half type
    (float16, bfloat16) that products are made in; float16's losses are scaled.
    """

    run: RunDir
    model: Module
    optimizer: Optimizer
    loader: DataLoader
    forward: Callable[[Module, Any], tuple[Tensor, Tensor]]
    evaluate: Callable[[], dict[str, float]]
    _: KW_ONLY
    epochs: int
    identity: dict[str, str]
    about: dict[str, Any] = field(default_factory=dict)
    scheduler: Any = None
    ema: Any = None
    accumulate: int = 1
    clip: float = 0.0
    patience: int = 0
    monitor: str = "heldout_accuracy"
    save_every: float = 30.0
    read_every: int = 1
    unit: str = "images"
    count: Callable[[Any], int] = lambda batch: len(batch[0])
    state: dict[str, Any] = field(default_factory=dict)
    captured: bool = False
    precision: str = "float32"
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self) -> None:
        self.epoch = self.batch = self.steps = self.waited = 0
        self.best = -math.inf
        self.sums: dict[str, float] = dict(SUMS)
        self.seconds = 0.0  # of this epoch's steps, all sessions together
        self._unread: list[tuple[Tensor, Tensor, int, float]] = []
        (self.epochs,) = ints_of("Trainer", "epochs", self.epochs, 1, 0)
        (self.accumulate,) = ints_of("Trainer", "accumulate", self.accumulate, 1, 1)
        require_one_of("Trainer", ("float32", "float16", "bfloat16"), precision=self.precision)
        kind = getattr(dtypes, self.precision)
        self._cast = autocast("cuda", dtype=kind, enabled=kind != dtypes.float32)
        self._scaler = GradScaler(enabled=self.precision == "float16")
        whole = self.captured and self.accumulate == 1
        replay = capture(lambda *parts: self._work(parts), training=True)
        self._step: Callable[[Any], Any] = (lambda batch: replay(*batch)) if whole else self._work
        self._saved_at = time.perf_counter()
        self.bar = tqdm(disable=True)

    # -- state ------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, Any]:
        """Whatever has a state of its own, by name."""
        parts = {name: getattr(self, name) for name in ("model", "optimizer", "scheduler", "ema")}
        parts |= {"scaler": self._scaler} if self._scaler.enabled else {}
        return {name: part for name, part in parts.items() if part is not None} | self.state

    def _position(self) -> dict[str, int]:
        return self.loader.state_dict() | {"epoch": self.epoch, "batch": self.batch}

    def save(self) -> None:
        """Write the checkpoint: the whole state between two updates, without any time in it."""
        self._read()
        loop = {name: getattr(self, name) for name in PLACE}
        fixed = {"about": self.about, "random": random.get_state(), "loader": self._position()}
        state = {name: part.state_dict() for name, part in self._parts().items()}
        self.run.write_json("clock.json", {"seconds": self.seconds})
        self.run.save({"loop": loop, **fixed, **state}, self.identity)
        self._saved_at = time.perf_counter()

    def resume(self) -> bool:
        """Put back what `save` wrote; False if nothing was saved yet."""
        kinds = (KeyError, TypeError, AttributeError)  # of what is not there, or of another type
        with reworded(CheckpointError, f"resume: {self.run.path} is damaged, or lacks", *kinds):
            state = self.run.load(self.identity)
            self.run.cut_rows(state["loop"]["epoch"] if state else 0)
            if state is None:
                return False
            self.seconds = self.run.read_json("clock.json")["seconds"]
            kept = [(part, state[name]) for name, part in self._parts().items()]
            for part, own in [*kept, (self.loader, state["loader"])]:
                part.load_state_dict(own)
            random.set_state(state["random"])
            for name in PLACE:
                setattr(self, name, state["loop"][name])
        return True

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the last epoch or to early stopping; Interrupted after a signal, all saved."""
        size = len(self.loader.dataset)
        done = self.epoch * size + self.sums["seen"]
        look: dict[str, Any] = {"unit": f" {self.unit}", "unit_scale": True, "initial": done}
        try:
            # On a terminal alone, and not where standard error is closed.
            with tqdm(total=self.epochs * size, disable=not sys.stderr or None, **look) as self.bar:
                while not self.finished:
                    self._train_epoch()
                    self._finish_epoch()
        finally:
            self.stop.busy = False

    @property
    def finished(self) -> bool:
        """Whether no epoch is left to train."""
        return self.epoch >= self.epochs or 0 < self.patience <= self.waited

    def _train_epoch(self) -> None:
        self.model.train()
        self.loader.load_state_dict(self._position())
        start = time.perf_counter()
        for batch in self.loader:
            lr = self.optimizer.param_groups[0]["lr"]
            loss, right = (y.clone() for y in self._step(batch))  # a replay writes them anew
            count = self.count(batch)
            self._unread.append((loss, right, count, lr))
            self.batch += 1
            self.bar.update(count)
            if self.accumulate > 1:
                if self.batch % self.accumulate and self.batch < len(self.loader):
                    continue
                self._update()
            self._advance()
            begun, start = start, time.perf_counter()
            self.seconds += start - begun
            self.stop.busy = True
            if start - self._saved_at > self.save_every or self.stop.number:
                self.save()
                self.stop.check()
                start = time.perf_counter()
        require(self.batch > 0, "Trainer", "the loader gave no batch", error=DataError)
        self._read()

    def _work(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Loss and hits of a batch, its gradients, and the update unless it waits for more."""
        with self._cast:
            loss, right = self.forward(self.model, batch)
        group = self.accumulate  # batches of this update; an epoch's last may be of fewer
        if group > 1:
            group = min(group, len(self.loader) - self.batch // group * group)
        self._scaler.scale(loss / group if group > 1 else loss).backward()
        if self.accumulate == 1:
            self._update()
        return loss.detach(), right

    def _update(self) -> None:
        """One optimizer step from the gradients at hand."""
        if self.clip:
            self._scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), self.clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model)

    def _advance(self) -> None:
        """What follows an update and is no part of its graph."""
        if len(self._unread) >= self.read_every:
            self._read()
        if self.scheduler is not None:
            self.scheduler.step()
        self.steps += 1

    def _read(self) -> None:
        """Add up the losses not yet looked at, and refuse a NaN."""
        kept = self._unread
        read = [stack([step[k] for step in kept]).tolist() for k in (0, 1) if kept]  # two copies
        for i, (value, right, (*_, count, lr)) in enumerate(zip(*read, kept), 1 - len(kept)):
            at = f"epoch {self.epoch + 1}, batch {self.batch + i}"
            rule = f"the loss became {value} in {at}, at learning rate {lr:.3g}"
            require(math.isfinite(value), "train", rule, error=TrainingError,
                    fix="try a smaller learning rate, warm-up or gradient clipping")  # fmt: skip
            for name, more in zip(SUMS, (value * count, float(right), count), strict=True):
                self.sums[name] += more
            self.bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
        kept.clear()

    def _finish_epoch(self) -> None:
        """Evaluate, log a row, move to the next epoch, save."""
        start = time.perf_counter()
        try:
            values = self.evaluate()
        except Interrupted as stopped:
            if not stopped.at_once:
                self.save()  # at the end of the epoch's batches: resuming evaluates again
            raise
        fits, rule = not self.patience or self.monitor in values, "evaluate gives no such monitor"
        require(fits, "Trainer", rule, monitor=self.monitor, known=[*values])
        seen = max(self.sums["seen"], 1)
        row = {
            "epoch": self.epoch + 1,
            "train_loss": self.sums["loss"] / seen,
            "train_accuracy": self.sums["right"] / seen,
            **values,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.seconds, 3),
            "evaluation_seconds": round(time.perf_counter() - start, 3),
            f"{self.unit}_per_second": round(seen / max(self.seconds, 1e-9), 1),
        }
        self.run.append_row(row)
        self.bar.write(epoch_line(row, self.epochs))
        score = values.get(self.monitor, -math.inf)
        self.waited = 0 if score > self.best else self.waited + 1
        self.best = max(self.best, score)
        self.epoch, self.batch = self.epoch + 1, 0
        self.seconds, self.sums = 0.0, dict(SUMS)
        self.save()
        self.stop.check()


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """One epoch's row of metrics as a line for people."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name, value in row.items():
        if name.endswith(("_loss", "_accuracy")):
            shown = f"{value:.4f}" if name.endswith("_loss") else f"{100 * value:.2f} %"
            parts.append(f"{name.replace('_', ' ')} {shown}")
    parts += [f"{row[k]:,.0f} {k[:-11]}/s" for k in row if k.endswith("_per_second")]
    return "  ".join(parts)
