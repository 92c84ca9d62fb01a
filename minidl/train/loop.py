"""The training loop: epochs of steps, an evaluation after each, all of it exactly resumable."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from tqdm import tqdm

from minidl import random
from minidl.autograd import Tensor
from minidl.data import DataLoader
from minidl.errors import MinidlError
from minidl.nn import Module
from minidl.nn.utils import clip_grad_norm_
from minidl.optim import Optimizer
from minidl.train.metrics import RunningSums
from minidl.train.rundir import RunDir
from minidl.train.signals import Interrupted, StopSignal


class TrainingError(MinidlError, RuntimeError):
    """Training cannot go on: the loss is NaN or infinite."""


class Stateful(Protocol):
    """Anything whose state is saved and put back."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Trainer:
    """Train `model` for `epochs` over `loader`, saving to `run`; `fit` does it, `resume` goes on.

    forward(model, batch) -> (loss, hits): the mean loss of a batch and how many it got right.
    evaluate() -> what to log after an epoch (floats); `monitor` names the one that early stopping
    watches (higher is better), after `patience` epochs without a better one (0: never).
    scheduler steps after every update ("step") or every epoch ("epoch"); with `accumulate` > 1 an
    update follows that many batches; `clip` bounds the norm of all gradients (0: no bound).
    identity: fingerprints of configuration and data that a resumed run must share; about: constants
    to keep in the checkpoint, such as the names of the classes.
    """

    def __init__(
        self,
        run: RunDir,
        model: Module,
        optimizer: Optimizer,
        loader: DataLoader,
        forward: Callable[[Module, Any], tuple[Tensor, Tensor]],
        evaluate: Callable[[], dict[str, float]],
        *,
        epochs: int,
        identity: dict[str, str],
        about: dict[str, Any] | None = None,
        scheduler: Any = None,
        schedule_per: str = "step",
        ema: Any = None,
        accumulate: int = 1,
        clip: float = 0.0,
        patience: int = 0,
        monitor: str = "heldout_accuracy",
        save_every: float = 30.0,
        read_every: int = 1,
        stop: StopSignal | None = None,
    ) -> None:
        self.run, self.model, self.optimizer, self.loader = run, model, optimizer, loader
        self.forward, self.evaluate = forward, evaluate
        self.epochs, self.identity, self.ema = epochs, identity, ema
        self.about = about or {}
        self.scheduler, self.schedule_per = scheduler, schedule_per
        self.accumulate, self.clip = accumulate, clip
        self.patience, self.monitor = patience, monitor
        self.save_every, self.read_every = save_every, read_every
        self.stop = stop or StopSignal()
        self.epoch = self.batch = self.steps = self.waited = self.rows = 0
        self.best = -math.inf
        self.sums = RunningSums()
        self.seconds = 0.0  # of training steps, all sessions together
        self.epoch_seconds = 0.0
        self._unread: list[tuple[Tensor, Tensor, int, float]] = []
        self._saved_at = time.perf_counter()
        self.bar = tqdm(disable=True)

    # -- state ------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, Stateful]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler,
                 "ema": self.ema}  # fmt: skip
        return {name: part for name, part in parts.items() if part is not None}

    def _position(self) -> dict[str, int]:
        return self.loader.state_dict() | {"epoch": self.epoch, "batch": self.batch}

    def save(self) -> None:
        """Write the checkpoint: the whole state between two updates, without any time in it."""
        self._read()
        loop = {name: getattr(self, name) for name in ("steps", "rows", "best", "waited")}
        loop["sums"] = dataclasses.asdict(self.sums)
        state = {name: part.state_dict() for name, part in self._parts().items()}
        clock = {"seconds": self.seconds, "epoch_seconds": self.epoch_seconds}
        self.run.write_json("clock.json", clock)
        fixed = {"about": self.about, "random": random.get_state(), "loader": self._position()}
        self.run.save({"loop": loop, **fixed, **state}, self.identity)
        self._saved_at = time.perf_counter()

    def resume(self) -> bool:
        """Put back what `save` wrote; False if nothing was saved yet."""
        state = self.run.load(self.identity)
        self.run.cut_rows(state["loop"]["rows"] if state else 0)
        if state is None:
            return False
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        random.set_state(state["random"])
        loop = state["loop"]
        self.loader.load_state_dict(state["loader"])
        self.epoch, self.batch = state["loader"]["epoch"], state["loader"]["batch"]
        self.steps, self.rows = loop["steps"], loop["rows"]
        self.best, self.waited = loop["best"], loop["waited"]
        self.sums = RunningSums(**loop["sums"])
        clock = self.run.read_json("clock.json")
        self.seconds, self.epoch_seconds = clock["seconds"], clock["epoch_seconds"]
        return True

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the last epoch or to early stopping; Interrupted after a signal, all saved."""
        total = self.epochs * len(self.loader.dataset)
        done = self.epoch * len(self.loader.dataset) + self.sums.seen
        look = {"unit": "img", "unit_scale": True, "disable": None}  # None: only on a terminal
        try:
            with tqdm(total=total, initial=done, **look) as self.bar:
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
        length = len(self.loader)
        self.loader.load_state_dict(self._position())
        start = time.perf_counter()
        for batch in self.loader:
            lr = self.optimizer.param_groups[0]["lr"]
            loss, right = self.forward(self.model, batch)
            (loss / self.accumulate if self.accumulate > 1 else loss).backward()
            self._unread.append((loss.detach(), right, len(batch[0]), lr))
            self.batch += 1
            self.bar.update(len(batch[0]))
            if self.batch % self.accumulate and self.batch < length:
                continue
            self._update()
            now = time.perf_counter()
            self.seconds += now - start
            self.epoch_seconds += now - start
            start = now
            self.stop.busy = True
            if now - self._saved_at > self.save_every or self.stop.number:
                self.save()
                self.stop.check()
                start = time.perf_counter()
        self._read()

    def _update(self) -> None:
        """One optimizer step from the gradients at hand."""
        if len(self._unread) >= self.read_every:
            self._read()
        if self.clip:
            clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model)
        if self.scheduler is not None and self.schedule_per == "step":
            self.scheduler.step()
        self.steps += 1

    def _read(self) -> None:
        """Bring waiting losses to the host (a GPU would stall on each one) and refuse a NaN."""
        first = self.batch - len(self._unread)
        for i, (loss, right, count, lr) in enumerate(self._unread):
            value = float(loss.item())
            if not math.isfinite(value):
                raise TrainingError(
                    f"train: the loss became {value} in epoch {self.epoch + 1}, batch "
                    f"{first + i + 1} of {len(self.loader)}, at learning rate {lr:.3g}; "
                    "try a smaller learning rate, warm-up or gradient clipping"
                )
            self.sums.add(value, float(right.item()), count)
            self.bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
        self._unread.clear()

    def _finish_epoch(self) -> None:
        """Evaluate, log a row, move to the next epoch, save."""
        start = time.perf_counter()
        try:
            values = self.evaluate()
        except Interrupted as stopped:
            if not stopped.at_once:
                self.save()  # at the end of the epoch's batches: resuming evaluates again
            raise
        lr = self.optimizer.param_groups[0]["lr"]
        row = {
            "epoch": self.epoch + 1,
            **self.sums.means(),
            **values,
            "lr": lr,
            "seconds": round(self.epoch_seconds, 3),
            "evaluation_seconds": round(time.perf_counter() - start, 3),
            "images_per_second": round(self.sums.seen / max(self.epoch_seconds, 1e-9), 1),
        }
        if self.scheduler is not None and self.schedule_per == "epoch":
            self.scheduler.step()
        self.run.append_row(row)
        self.rows += 1
        self.bar.write(epoch_line(row, self.epochs))
        better = values.get(self.monitor, -math.inf) > self.best
        self.best = values[self.monitor] if better else self.best
        self.waited = 0 if better else self.waited + 1
        self.epoch, self.batch = self.epoch + 1, 0
        self.epoch_seconds, self.sums = 0.0, RunningSums()
        self.save()
        self.stop.check()


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """One epoch's row of metrics as a line for people."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name, value in row.items():
        if name.endswith("_loss"):
            parts.append(f"{name.replace('_', ' ')} {value:.4f}")
        elif name.endswith("_accuracy"):
            parts.append(f"{name.replace('_', ' ')} {100 * value:.2f} %")
    parts.append(f"{row['images_per_second']:.0f} img/s")
    return "  ".join(parts)
