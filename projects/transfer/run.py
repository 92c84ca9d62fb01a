"""One experiment from its configuration to the written result: `main(cfg, open_run, stop)`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import minidl as ml
import minidl.functional as F
from minidl.io.weights import kind_of
from minidl.models import Classifier
from minidl.train import Evaluation, RunDir, StopSignal, Trainer, evaluate, fingerprint
from projects.convnet.data import Split
from projects.recipe import optimizer_of
from projects.settings import UsageError, checksum, commit, device_name, dtype_of, rows_of, start
from projects.transfer.config import Config
from projects.transfer.data import Images, batches, load_images, plain
from projects.transfer.features import Prepared, prepare
from projects.transfer.look import restored, write_report
from projects.transfer.methods.balance import class_weights, scores
from projects.transfer.methods.masking import MaskedUpdate, Masks, select_masks
from projects.transfer.methods.norms import unfold_norms
from projects.transfer.methods.pruning import prune
from projects.transfer.methods.quantize import quantized, state_bytes
from projects.transfer.model import Rest, Tuning, build, check_earlier, weights_file
from projects.transfer.recipe import forward_for, make_schedule


def main(cfg: Config, open_run: Callable[[], RunDir], stop: StopSignal) -> int:
    """Train `cfg` in the run from where it stands, test once, write result and report.

    The run is opened when device, data and network are there: a new one leaves nothing behind
    if one of them fails.
    """
    start(cfg)
    file = weights_file(cfg)
    if file is not None:
        kind_of(file)  # raises, before the pictures are read
    images = load_images(cfg)
    begun = time.perf_counter()
    tuning = Tuning(cfg, begin(cfg, images))
    teacher = teacher_of(cfg, images)
    prepared = prepare(cfg, tuning.model, tuning.cut, images)
    spent = {"preparation_seconds": round(time.perf_counter() - begun, 2)}
    run = open_run()
    trainer = make_trainer(cfg, run, images, prepared, tuning, teacher, stop)
    resumed = trainer.resume()
    rows_of(run, "heldout_accuracy")  # raises before training, if they are damaged
    counts = [len(part) for part in (images.labelled, images.train.y, images.heldout.y)]
    print(f"{run.path}: {cfg.preset}, {cfg.dataset}, {counts[0]:,} of {counts[1]:,} training "
          f"images labelled, {counts[2]:,} held out, {len(images.test.y):,} to test; "
          f"{tuning.tuned_parameters():,} numbers tuned")  # fmt: skip
    if resumed:
        print(f"resumed after {trainer.epoch} epochs and {trainer.batch} batches")
    trainer.fit()
    tested = judge(cfg, tuning.model, prepared, prepared.test, images.test.y, stop.check)
    result = conclude(cfg, run, trainer, tuning, tested, images) | spent
    result |= shrunk(cfg, run, images, stop.check)
    run.write_json("result.json", result)
    run.write_csv()
    write_report(run, result, tested, images, tuning.model, prepared)
    print(f"test accuracy {100 * tested.accuracy:.2f} %, macro F1 {100 * result['macro_f1']:.2f} "
          f"%, held-out {100 * result['heldout_accuracy']:.2f} %, {result['seconds']:.0f} s of "
          f"training\nreport: {run.path / 'report.html'}")  # fmt: skip
    return 0


def begin(cfg: Config, images: Images) -> Classifier:
    """The network as training finds it."""
    model = build(cfg, len(images.classes), images.size).to(cfg.device)
    if cfg.sparse:
        prune(model, cfg.sparse, keep=[model.head_name])
    if cfg.unfold:
        pictures = batches(images.train.x, images.train.y, cfg.device, plain(images))
        unfold_norms(model, (x for x, _ in pictures))
    return model


def teacher_of(cfg: Config, images: Images) -> Classifier | None:
    """The model of the run that `cfg` names as teacher; UsageError if it sees other images."""
    if not cfg.teacher:
        return None
    check_earlier(cfg.teacher)
    _, about, model = restored(cfg.teacher)
    own = {"classes": images.classes, "size": images.size, "mean": [*images.mean]}
    for name, value in own.items():
        if about[name] != value:
            rule = f"teacher: {cfg.teacher} has another {name}; got {about[name]}, not {value}"
            raise UsageError(rule)
    return model.to(cfg.device)


def make_trainer(cfg: Config, run: RunDir, images: Images, prepared: Prepared, tuning: Tuning,
                 teacher: Classifier | None, stop: StopSignal) -> Trainer:  # fmt: skip
    """The loop for this experiment."""
    model, loader = tuning.model, prepared.loader
    optimizer: Any = optimizer_of(cfg, tuning.groups())

    def judged() -> dict[str, float]:
        y, check = images.heldout.y, trainer.stop.check
        seen = judge(cfg, model, prepared, prepared.heldout, y, check)
        return {"heldout_loss": seen.loss, "heldout_accuracy": seen.accuracy}

    factors = None
    if cfg.balance == "weighted":
        factors = class_weights(images.train.y[images.labelled], len(images.classes))
    forward = forward_for(cfg, tuning, prepared.cut, lambda: trainer.epoch, factors, teacher)
    schedule = make_schedule(cfg, tuning, optimizer, len(loader))
    if cfg.strategy == "masked":
        optimizer = MaskedUpdate(optimizer, model, masks_of(cfg, tuning, prepared))
    if cfg.sparse:
        optimizer = MaskedUpdate(optimizer, model, filled(model))
    about = {"classes": images.classes, "size": images.size}
    trainer = Trainer(
        run, model, optimizer, loader, forward, judged, epochs=cfg.epochs,
        identity=identity(cfg, images),
        about=about | {"mean": [*images.mean], "std": [*images.std]},
        scheduler=schedule, clip=cfg.clip, precision=dtype_of(cfg),
        captured=not (cfg.sparse or cfg.strategy in ("gradual", "masked") or cfg.semi == "pseudo"),
        read_every=1 if cfg.device == "cpu" else 50, stop=stop,
    )  # fmt: skip
    return trainer


def masks_of(cfg: Config, tuning: Tuning, prepared: Prepared) -> Masks:
    """The entries of the largest gradients in the first epoch, and all of the head."""
    model = tuning.model

    def losses() -> Iterator[ml.Tensor]:
        for x, y, *_ in prepared.loader:
            yield F.cross_entropy(tuning.run(x, prepared.cut, 0), y)

    masks = select_masks(model, losses(), 1 - cfg.sparsity, whole=[f"{model.head_name}."])
    prepared.loader.set_epoch(0)
    return masks


def filled(model: Classifier) -> Masks:
    """Where the weights below the head are not zero: a pruned model stays sparse."""
    below = {k: p for k, p in model.named_parameters() if not k.startswith(model.head_name + ".")}
    return {k: p.detach().cpu().numpy() != 0 for k, p in below.items() if p.ndim > 1}


def identity(cfg: Config, images: Images) -> dict[str, str]:
    """Fingerprints of configuration, data and weights; where they lie does not count."""
    text = checksum(cfg, "data", "device", "cache", "weights", "teacher")
    splits = (images.train, images.heldout, images.test)
    data = fingerprint(a for s in splits for a in (s.x, s.y))
    return {"configuration": text, "data": data, "weights": weights_hash(cfg)}


def weights_hash(cfg: Config) -> str:
    """SHA-256 of the file of weights, or nothing."""
    file = weights_file(cfg)
    return "" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def judge(cfg: Config, model: Classifier, prepared: Prepared, x: Any, y: Any,
          check: Callable[[], None]) -> Evaluation:  # fmt: skip
    """What the model says of images, or of what its beginning made of them."""
    given = batches(x, y, cfg.device, prepared.transform)
    return evaluate(Rest(model, prepared.cut), given, check=check)


def conclude(cfg: Config, run: RunDir, trainer: Trainer, tuning: Tuning, tested: Evaluation,
             images: Images) -> dict[str, Any]:  # fmt: skip
    """result.json: all at the final epoch; nothing was selected on held-out or test images."""
    rows, file = run.rows(), weights_file(cfg)
    return {
        "preset": cfg.preset,
        "dataset": cfg.dataset,
        "seed": cfg.seed,
        "test_accuracy": tested.accuracy,
        **scores(tested.confusion()),
        "heldout_accuracy": rows[-1]["heldout_accuracy"],
        "test_loss": tested.loss,
        "test_images": len(tested.labels),
        "training_images": len(images.train.y),
        "labelled_images": len(images.labelled),
        "heldout_images": len(images.heldout.y),
        "epochs": len(rows),
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "tuned_parameters": tuning.tuned_parameters(),
        "weights": "" if file is None else file.name,
        "weights_sha256": weights_hash(cfg),
        "device": device_name(cfg.device),
        "commit": commit(),
    }


def shrunk(cfg: Config, run: RunDir, images: Images, check: Callable[[], None]) -> dict[str, Any]:
    """What pruning and int8 leave of the accuracy and the size (bytes), as `cfg` asks for."""
    result: dict[str, Any] = {}

    def pictures(split: Split) -> Iterator[tuple[ml.Tensor, ml.Tensor]]:
        return batches(split.x, split.y, "cpu", plain(images))

    def accuracy(smaller: Any) -> float:
        return evaluate(smaller, pictures(images.test), check=check).accuracy

    if cfg.prune:
        model = restored(run.path)[2]
        result["pruned"] = prune(model, cfg.prune) | {"accuracy": accuracy(model)}
    if cfg.quantize:
        model = restored(run.path)[2]
        small = quantized(model, (x for x, _ in pictures(images.heldout)))
        sizes = {"bytes": state_bytes(small), "dense_bytes": state_bytes(model)}
        result["quantized"] = sizes | {"accuracy": accuracy(small)}
    return result
