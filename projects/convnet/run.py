"""One experiment from its configuration to the written result: `main(cfg, run)`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import minidl as ml
from minidl import nn, optim
from minidl.data.transforms import Normalize
from minidl.tools import summary
from minidl.train import Evaluation, RunDir, StopSignal, Trainer, evaluate, fingerprint
from projects.convnet.config import Config
from projects.convnet.data import Images, Split, batches, load_images, loader_for
from projects.convnet.look import write_report
from projects.convnet.model import Contrastive, build
from projects.convnet.recipe import make_optimizer, make_schedule, objective, supervised_contrastive
from projects.recipe import hits
from projects.settings import checksum, commit, device_name, dtype_of, rows_of, start


def main(cfg: Config, open_run: Callable[[], RunDir], stop: StopSignal) -> int:
    """Train `cfg` in the run from where it stands, test once, write result and report.

    The run is opened when device, data and network are there: a new one leaves nothing behind
    if one of them fails.
    """
    start(cfg)
    images = load_images(cfg)
    model = build(cfg, images.shape, len(images.classes))
    if cfg.model == "speedrun":
        normalise = Normalize(images.mean, images.std)
        model.init_whiten(normalise(images.train.x[:5000]))
    model.to(cfg.device)
    run = open_run()
    trainer = make_trainer(cfg, run, images, model, stop)
    resumed = trainer.resume()
    rows_of(run, "heldout_accuracy")  # raises before training, if they are damaged
    counts = [len(split.y) for split in (images.train, images.heldout, images.test)]
    print(f"{run.path}: {cfg.preset}, {cfg.dataset}, training on {counts[0]:,} images, "
          f"{counts[1]:,} held out, {counts[2]:,} to test")  # fmt: skip
    if resumed:
        print(f"resumed after {trainer.epoch} epochs and {trainer.batch} batches")
    trainer.fit()
    tested = judge(cfg, trainer, images, images.test, stop.check)
    result = conclude(cfg, run, trainer, tested, images)
    run.write_json("result.json", result)
    run.write_csv()
    write_report(run, result, tested, images.test.x, images.classes, model)
    print(
        f"test accuracy {100 * result['test_accuracy']:.2f} %, "
        f"held-out {100 * result['heldout_accuracy']:.2f} %, "
        f"{result['seconds']:.0f} s of training\nreport: {run.path / 'report.html'}"
    )
    return 0


def make_trainer(
    cfg: Config, run: RunDir, images: Images, model: nn.Module, stop: StopSignal
) -> Trainer:
    """The loop for this experiment."""
    loader = loader_for(cfg, images)
    optimizer = make_optimizer(cfg, model)
    steps = -(-len(loader) // cfg.accumulate)

    def judged() -> dict[str, float]:
        seen = judge(cfg, trainer, images, images.heldout, trainer.stop.check)
        return {"heldout_loss": seen.loss, "heldout_accuracy": seen.accuracy}

    about = {"classes": images.classes, "shape": list(images.shape)}
    trainer = Trainer(
        run,
        model,
        optimizer,
        loader,
        forward_for(cfg, lambda: trainer.epoch),
        judged,
        epochs=cfg.epochs,
        identity=identity(cfg, images),
        about=about | {"mean": images.mean, "std": images.std},
        scheduler=make_schedule(cfg, optimizer, steps),
        ema=optim.EMA(model, decay=cfg.ema) if cfg.ema else None,
        accumulate=cfg.accumulate,
        clip=cfg.clip,
        patience=cfg.patience,
        read_every=1 if cfg.device == "cpu" else 50,
        captured=cfg.loss != "supcon",  # which does other work in other epochs
        precision=dtype_of(cfg),
        stop=stop,
    )
    return trainer


def identity(cfg: Config, images: Images) -> dict[str, str]:
    """Fingerprints of configuration and data; where they lie and what computes does not count."""
    splits = (images.train, images.heldout, images.test)
    data = fingerprint(a for s in splits for a in (s.x, s.y))
    return {"configuration": checksum(cfg, "data", "device"), "data": data}


def forward_for(
    cfg: Config, epoch: Callable[[], int]
) -> Callable[[nn.Module, Any], tuple[ml.Tensor, ml.Tensor]]:
    """The loss and the hits of a batch."""
    loss_of = objective(cfg)

    def classify(model: nn.Module, batch: Any) -> tuple[ml.Tensor, ml.Tensor]:
        x, y = batch
        logits = model(x)
        return loss_of(logits, y), hits(logits, y)

    def contrast(model: Contrastive, batch: Any) -> tuple[ml.Tensor, ml.Tensor]:
        x, y, other = batch
        if epoch() >= cfg.pretrain:
            return classify(model, (x, y))
        z = model.embed(ml.cat([x, other]))
        return supervised_contrastive(z, y, cfg.temperature), ml.zeros((), device=cfg.device)

    return contrast if cfg.loss == "supcon" else classify


def judge(
    cfg: Config, trainer: Trainer, images: Images, split: Split, check: Callable[[], None]
) -> Evaluation:
    """What the model (its averaged weights, if it keeps them) says of a split."""
    model = trainer.model
    views = (lambda x: x, lambda x: x.flip(3)) if cfg.tta else (lambda x: x,)  # as in a mirror
    with trainer.ema.swapped(model) if trainer.ema is not None else nullcontext():
        return evaluate(model, batches(split, images, cfg.device), views=views, check=check)


def conclude(
    cfg: Config, run: RunDir, trainer: Trainer, tested: Evaluation, images: Images
) -> dict[str, Any]:
    """result.json: all at the final epoch; nothing was selected on held-out or test images."""
    about = summary(trainer.model, (1, *images.shape))
    rows = run.rows()
    seconds = sum(row["seconds"] for row in rows)
    seen = len(images.train.y) * len(rows)
    return {
        "preset": cfg.preset,
        "dataset": cfg.dataset,
        "seed": cfg.seed,
        "test_accuracy": tested.accuracy,
        "heldout_accuracy": rows[-1]["heldout_accuracy"],
        "test_loss": tested.loss,
        "test_images": len(tested.labels),
        "epochs": len(rows),
        "seconds": round(seconds, 2),
        "images_per_second": round(seen / max(seconds, 1e-9), 1),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "flops": about.flops,
        "device": device_name(cfg.device),
        "commit": commit(),
    }
