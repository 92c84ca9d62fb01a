"""Looking at runs: the report of one, several drawn together, predictions for pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minidl as ml
import minidl.functional as F
from minidl.data import read_image, transforms
from minidl.errors import CheckpointError, DataError, require, reworded
from minidl.train import Evaluation, Report, RunDir, report
from projects.command import Answers
from projects.convnet.config import Config
from projects.convnet.model import build
from projects.report import begun, finish, finish_table
from projects.settings import (
    clock,
    rows_of,
    settings_of,
    short_names,
    state_of,
)


def write_report(
    run: RunDir,
    result: dict[str, Any],
    tested: Evaluation,
    images: np.ndarray,
    classes: Sequence[str],
    model: Any,
) -> None:
    """report.html: images (N, C, H, W) uint8 are those of `tested`, in order."""
    rows = run.rows()
    page = begun(run, result, {
        "test accuracy": f"{100 * result['test_accuracy']:.2f} %",
        "held-out accuracy": f"{100 * result['heldout_accuracy']:.2f} %",
        "test loss": f"{result['test_loss']:.4f} nats",
        "epochs": str(result["epochs"]),
        "training time": clock(result["seconds"]),
        "training speed": f"{result['images_per_second']:,.0f} images/s",
        "parameters": f"{result['parameters']:,}",
        "forward, one image": f"{result['flops'] / 1e6:,.1f} MFLOP",
    })  # fmt: skip
    page.section(
        "Curves",
        "Training figures are running means of the epoch, under augmentation and dropout; "
        "nothing was selected on the held-out images.",
    )
    page.figure(report.curves({result["preset"]: rows}))
    numbers = ", ".join(f"{k} {name}" for k, name in enumerate(classes))
    note = f"Counts on the {len(tested.labels):,} test images."
    page.section(
        "Confusion", f"{note} Classes: {numbers}." if len(classes) > report.NAMED else note
    )
    page.figure(report.confusion(tested.confusion(), classes))
    add_mistakes(page, tested, classes, lambda rows: pictures(images[rows]))
    weight = first_filters(model)
    if weight is not None:
        page.section(
            "First layer",
            f"{len(weight)} filters of {weight.shape[2]}x{weight.shape[3]}, each in its own range.",
        )
        page.filters(weight)
    page.section("Time per epoch")
    page.figure(report.times(rows))
    finish(page, run, Config)


def add_mistakes(
    page: Report,
    tested: Evaluation,
    classes: Sequence[str],
    drawn: Callable[[np.ndarray], np.ndarray],
) -> None:
    """The test images that were most surely taken for something else; drawn: of their numbers."""
    wrong = tested.mistakes(24)
    if len(wrong):
        page.section("Most confident mistakes", "The answer and its probability, then the label.")
        page.gallery(drawn(wrong), captions(tested, classes, wrong))


def captions(tested: Evaluation, classes: Sequence[str], rows: np.ndarray) -> list[str]:
    """The answer to test images, its probability, and the label."""
    said, labels = tested.said[rows], tested.labels[rows]
    answers = zip(said, np.exp(tested.log_probs[rows, said]), labels, strict=True)
    return [f"{classes[k]} {100 * p:.0f} %\nis {classes[label]}" for k, p, label in answers]


def pictures(images: np.ndarray) -> np.ndarray:
    """(N, C, H, W) uint8 -> (N, H, W, 3) or (N, H, W) for drawing."""
    return images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)


def first_filters(model: Any) -> np.ndarray | None:
    """The first convolution's filters (at most 64) where they can be seen: 1 or 3 channels."""
    first = next((value for value in model.state_dict().values() if value.ndim == 4), None)
    if first is None or first.shape[1] not in (1, 3) or first.shape[2] == 1:
        return None
    return first.cpu().numpy()[:64]


def compare_runs(folders: Sequence[str], out: str, kind: type = Config) -> None:
    """Draw the curves of several runs into the HTML file `out` and print their results.

    kind: of their settings, which tells of which project they must be.
    """
    runs = [RunDir(folder) for folder in folders]
    rows = {}
    table = []
    for run, name in zip(runs, short_names(runs), strict=True):
        cfg: Any = settings_of(kind, run)
        kept = rows_of(run, "heldout_accuracy")
        require(bool(kept), "compare", f"{run.path} has no finished epoch yet", error=DataError)
        rows[name] = kept
        done = run.read_json("result.json") if (run.path / "result.json").exists() else {}
        rule = f"{run.path} has a damaged result.json"
        with reworded(CheckpointError, rule, TypeError, ValueError):
            tested = percent(done.get("test_accuracy"))
        table.append((run.path, cfg.preset, cfg.dataset, cfg.seed, kept[-1]["epoch"],
                      percent(kept[-1]["heldout_accuracy"]), tested,
                      f"{sum(row['seconds'] for row in kept):.0f}"))  # fmt: skip
    head = ("run", "preset", "data", "seed", "epochs", "held-out %", "test %", "seconds")
    page = Report("Runs compared", f"{len(runs)} runs")
    page.figure(report.curves(rows))
    page.section("Results", "At the last finished epoch of each.")
    finish_table(page, head, table, out, "curves")


def percent(share: float | None) -> str:
    """A fraction as a percentage, or a dash."""
    return "-" if share is None else f"{100 * share:.2f}"


def opened(folder: str) -> Answers:
    """The classes of a run, and what its model answers to the picture in a file."""
    run = RunDir(folder)
    cfg = settings_of(Config, run)
    state = state_of(run, "predict", "shape", "classes", "mean", "std")
    about = state["about"]
    rule = f"predict: {run.checkpoint} is damaged"
    with reworded(CheckpointError, rule, KeyError, TypeError, ValueError):
        model = build(cfg, about["shape"], len(about["classes"]))
        model.load_state_dict(state["model"] | (state["ema"]["average"] if cfg.ema else {}))
    channels, side, _ = about["shape"]
    steps: list[Any] = [transforms.Resize(side), transforms.CenterCrop(side)]
    steps += [transforms.Grayscale()] if channels == 1 else []
    steps.append(transforms.Normalize(about["mean"], about["std"]))
    return about["classes"], answering(model.eval(), transforms.Compose(steps))


def answering(model: Any, wanted: transforms.Compose) -> Callable[[str], np.ndarray]:
    """The probabilities (K,) that a model gives the picture in a file, prepared as it is wanted."""

    @ml.no_grad()
    def answer(file: str) -> np.ndarray:
        x = wanted(read_image(file).transpose(2, 0, 1)[None])
        return F.softmax(model(ml.as_tensor(x)), dim=1).numpy()[0]

    return answer
