"""Looking at runs: the report of one, several drawn together, predictions, exported weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

import minidl as ml
from minidl.data import transforms
from minidl.data.dataset import take
from minidl.errors import CheckpointError, ShapeError, reworded
from minidl.io import save_safetensors
from minidl.models import Classifier
from minidl.nn.module import kept_modes
from minidl.train import Evaluation, Report, RunDir, report
from projects.command import Answers
from projects.convnet.look import add_mistakes, answering, captions, percent
from projects.report import begun, finish
from projects.settings import (
    clock,
    commit,
    label_of,
    settings_of,
    state_of,
)
from projects.transfer.config import Config
from projects.transfer.data import Images, batches, plain
from projects.transfer.features import Prepared
from projects.transfer.methods.embeddings import knn_accuracy, lacking, maps2d
from projects.transfer.methods.gradcam import gradcam
from projects.transfer.methods.lora import merge_lora
from projects.transfer.model import Tuning, make

ARRAYS = ("cifar10", "cifar100", "shapes", "embedded")  # whose pictures have a size of their own
NEIGHBOURS = 5
SHOWN = 16  # test images under Grad-CAM
MAPPED = 1000  # most test images on the map
LARGEST = 1e15  # number of an embedding: sums of squares stay within float32


# ---- models of runs ------------------------------------------------------------------------------


def restored(folder: str | os.PathLike[str]) -> tuple[Config, dict[str, Any], Classifier]:
    """A run's configuration, what its checkpoint says of the data, its model in eval mode."""
    run = RunDir(folder)
    cfg = settings_of(Config, run)
    state = state_of(run, "run", "classes", "size", "mean", "std")
    about = state["about"]
    with reworded(CheckpointError, f"{run.checkpoint} is damaged", TypeError, ValueError):
        model = make(cfg, len(about["classes"]), about["size"])
    Tuning(cfg, model)  # which adds the layers of LoRA
    model.load_state_dict(state["model"])
    if cfg.strategy == "lora":
        merge_lora(model)
    return cfg, about, model.eval()


def opened(folder: str) -> Answers:
    """The classes of a run, and what its model answers to the picture in a file."""
    cfg, about, model = restored(folder)
    margin = 0 if cfg.dataset in ARRAYS else cfg.crop  # as around the pictures of its test
    side = about["size"] + 2 * margin
    wanted = transforms.Compose([
        transforms.Resize(side), transforms.CenterCrop(side), transforms.CenterCrop(about["size"]),
        transforms.Normalize(about["mean"], about["std"]),
    ])  # fmt: skip
    return about["classes"], answering(model, wanted)


def export(folder: str, out: str) -> None:
    """Write the weights of a run as safetensors, with how they were made; LoRA is merged in."""
    saved = RunDir(folder).read_json("config.json")
    cfg, about, model = restored(folder)
    made = {"command": saved["command"], "commit": commit() or "", "model": cfg.model,
            "width": str(cfg.width), "scale": cfg.scale, "dataset": cfg.dataset,
            "classes": ",".join(about["classes"])}  # fmt: skip
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    save_safetensors(arrays, out, made)
    print(f"{out}: {len(arrays)} arrays, {Path(out).stat().st_size:,} bytes")


# ---- the report ----------------------------------------------------------------------------------


def write_report(run: RunDir, result: dict[str, Any], tested: Evaluation, images: Images,
                 model: Classifier, prepared: Prepared) -> None:  # fmt: skip
    """report.html of a finished run."""
    rows = run.rows()
    page = begun(run, result, tiles(result))
    page.section("Curves", "Training figures are running means of the epoch, under augmentation; "
                 "nothing was selected on the held-out images.")  # fmt: skip
    page.figure(report.curves({result["preset"]: rows}))
    page.section("Confusion", f"Counts on the {len(tested.labels):,} test images.")
    page.figure(report.confusion(tested.confusion(), images.classes))
    add_classes(page, result, tested, images)
    add_mistakes(page, tested, images.classes, lambda chosen: pictures(images, chosen))
    add_gradcam(page, tested, images, model)
    add_embeddings(page, images, model, prepared)
    page.section("Time per epoch")
    page.figure(report.times(rows))
    finish(page, run, Config)


def tiles(result: dict[str, Any]) -> dict[str, str]:
    """The headline figures."""
    shown = {
        "test accuracy": f"{100 * result['test_accuracy']:.2f} %",
        "macro F1": f"{100 * result['macro_f1']:.2f} %",
        "held-out accuracy": f"{100 * result['heldout_accuracy']:.2f} %",
        "epochs": str(result["epochs"]),
        "training time": clock(result["seconds"]),
        "parameters tuned": f"{result['tuned_parameters']:,} of {result['parameters']:,}",
        "labelled images": f"{result['labelled_images']:,} of {result['training_images']:,}",
    }
    for name in ("pruned", "quantized"):
        if name in result:
            shown[name] = f"{100 * result[name]['accuracy']:.2f} %"
    return shown


def add_classes(page: Report, result: dict[str, Any], tested: Evaluation, images: Images) -> None:
    """Per-class accuracy and F1, and how many images of each there are."""
    page.section("Classes")
    known = np.bincount(images.train.y[images.labelled], minlength=len(images.classes))
    seen = np.bincount(tested.labels, minlength=len(images.classes))
    each = zip(images.classes, known, seen, result["class_accuracy"], result["class_f1"])
    table = [(k, name, n, m, percent(a), percent(f)) for k, (name, n, m, a, f) in enumerate(each)]
    page.table(table, ("number", "class", "labelled", "test images", "accuracy %", "F1 %"))


def pictures(images: Images, rows: np.ndarray) -> np.ndarray:
    """The middles of test images (n, size, size, 3) uint8, for drawing."""
    middle = transforms.CenterCrop(images.size)
    return middle(images.test.x[rows]).transpose(0, 2, 3, 1)


def add_gradcam(page: Report, tested: Evaluation, images: Images, model: Classifier) -> None:
    """Where in some test images the network sees what it says, if it has maps."""
    rows = np.linspace(0, len(tested.labels) - 1, min(SHOWN, len(tested.labels))).astype(int)
    x = ml.as_tensor(plain(images)(images.test.x[rows])).to(next(model.parameters()).device)
    page.section("Grad-CAM", "Red: what speaks for the answer (arXiv 1610.02391).")
    try:
        heat = gradcam(model, x, None, tested.said[rows])
    except ShapeError as error:  # a network of tokens
        page.code(str(error))
        return
    seen = pictures(images, rows)
    red = np.zeros_like(seen) + np.array([255, 0, 0], np.uint8)
    mixed = seen + (red - seen.astype(np.float32)) * (0.6 * heat[..., None])
    page.gallery(mixed.astype(np.uint8), captions(tested, images.classes, rows))


def add_embeddings(page: Report, images: Images, model: Classifier, prepared: Prepared) -> None:
    """k-NN accuracy of what the head sees, and a map of it."""
    last = len(model.sections()) - 1
    known, labels = take(prepared.train, images.labelled), images.train.y[images.labelled]
    train, test = (embedded(model, prepared.cut, last, x, y, prepared.transform)
                   for x, y in ((known, labels), (prepared.test, images.test.y)))  # fmt: skip
    if not np.abs(np.concatenate([train, test])).max() < LARGEST:
        page.section("Embeddings", "Left out: training diverged, what the head sees is infinite, "
                     "not a number, or too large for distances.")  # fmt: skip
        return
    hits = knn_accuracy(train, labels, test, images.test.y, min(NEIGHBOURS, len(labels)))
    some = np.linspace(0, len(test) - 1, min(MAPPED, len(test))).astype(int)
    maps = maps2d(test[some], 0)
    note = f"What the head sees: the {NEIGHBOURS} nearest labelled training images name "
    note += f"{100 * hits:.2f} % of the test images. The map is by {' and by '.join(maps)}."
    page.section("Embeddings", note + lacking())
    for places in maps.values():
        page.figure(mapped(places, images.test.y[some], images.classes))


def mapped(places: np.ndarray, y: np.ndarray, classes: list[str]) -> Any:
    """Points (N, 2), by their labels y (N,)."""
    figure, (axes,) = report.panels(1, 8, 6)
    for k, name in enumerate(classes):
        axes.scatter(*places[y == k].T, s=9, color=report.RUNS[k % len(report.RUNS)],
                     marker="os^Dv"[k // len(report.RUNS) % 5], label=label_of(name))  # fmt: skip
    axes.legend(frameon=False, fontsize=6, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def embedded(model: Classifier, first: int, last: int, x: np.ndarray, y: np.ndarray,
             transform: Any) -> np.ndarray:  # fmt: skip
    """What sections first … last - 1 make of x, as rows (N, D); of maps the channels' means."""
    rows, device = [], str(next(model.parameters()).device)
    with kept_modes(model), ml.no_grad():
        model.eval()
        for part, _ in batches(x, y, device, transform):
            out = model.run(part, first, last)
            rows.append((out.mean((2, 3)) if out.ndim == 4 else out.flatten(1)).numpy())
    return np.concatenate(rows)
