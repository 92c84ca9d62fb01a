"""A search over width, batch and learning rate: `python -m projects.textgen search`.

Every point is a run directory of its own under --out.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.random import Generator
from minidl.train import Report, StopSignal, report
from projects import several
from projects.report import finish_table
from projects.settings import UsageError, assignments
from projects.textgen.config import Config
from projects.textgen.presets import preset
from projects.textgen.run import main

FIELDS = ("hidden", "batch", "lr")


def search(argv: Sequence[str], stop: StopSignal) -> int:
    """Train every point, then write the table and the picture."""
    parser = several.parser("textgen", "search")
    parser.add_argument("--preset", default="e-lstm1")
    parser.add_argument("--hidden", default="64,128,256", metavar="LIST")
    parser.add_argument("--batch", default="32,64", metavar="LIST")
    parser.add_argument("--lr", default="1e-3,4e-3", metavar="LIST",
                        help="values; with --random N its least and largest")  # fmt: skip
    several.at_a_time(parser)
    parser.add_argument("--random", type=int, metavar="N", help="N drawn points in place of a grid")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    base = preset(args.preset)
    fixed = {"data": args.data, "seed": args.seed} | assignments(Config, args.set)
    base = dataclasses.replace(base, **fixed)
    if base.model == "seq2seq":
        rule = "search is of language models"
        raise UsageError(f"{rule}; got model=seq2seq, preset {args.preset}")
    lists = {name: listed(name, getattr(args, name)) for name in FIELDS}
    count = args.random
    points = grid(lists) if count is None else drawn_points(lists, count, args.seed)
    command = shlex.join(["python", "-m", "projects.textgen", "search", *argv])
    root, runs = Path(args.out), []
    for k, point in enumerate(points):
        cfg, name = dataclasses.replace(base, **point), f"point-{k + 1:02d}"
        print(f"{name} of {len(points)}: {point}")
        runs.append((cfg, root / name, command))
    results = several.train_all("textgen", main, runs, args.jobs, stop)
    conclude(root, args.preset, list(zip(points, results, strict=True)))
    return 0


def listed(field: str, text: str) -> list[Any]:
    """The values of a field in a text, separated by commas."""
    values = [assignments(Config, [f"{field}={part}"])[field] for part in text.split(",")]
    if len(set(values)) != len(values):
        raise UsageError(f"--{field} names a value twice; got {text!r}")
    return values


def grid(lists: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations."""
    return [dict(zip(lists, values)) for values in itertools.product(*lists.values())]


def drawn_points(lists: dict[str, list[Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Points with widths and batches from the lists and rates log-uniform in their range."""
    if count < 1:
        raise UsageError(f"--random must be at least 1; got {count}")
    if min(lists["lr"]) <= 0:
        raise UsageError(f"--lr must be positive to be drawn from; got {min(lists['lr'])}")
    u = Generator(seed, "init").uniform((count, len(FIELDS)), np.float64)
    low, high = np.log(min(lists["lr"])), np.log(max(lists["lr"]))
    return [
        {
            "hidden": lists["hidden"][int(a * len(lists["hidden"]))],
            "batch": lists["batch"][int(b * len(lists["batch"]))],
            "lr": float(f"{np.exp(low + c * (high - low)):.4g}"),
        }
        for a, b, c in u
    ]


def conclude(root: Path, name: str, found: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """search.html: the points by validation loss, and a picture of them."""
    key = "validation_nats_per_character"
    order = sorted(found, key=lambda pair: pair[1][key])
    head = (*FIELDS, "validation", "test", "parameters", "seconds")
    rows = [(*point.values(), f"{r[key]:.3f}", f"{r['test_nats_per_character']:.3f}",
             f"{r['parameters']:,}", f"{r['seconds']:.0f}") for point, r in order]  # fmt: skip
    page = Report(f"Search around {name}", f"{len(found)} points; losses in nats a character")
    page.figure(drawn(found, key))
    page.section("Points", "The best first.")
    finish_table(page, head, rows, root / "search.html", "picture")


def drawn(found: list[tuple[dict[str, Any], dict[str, Any]]], key: str) -> Any:
    """Validation loss by learning rate; colour: width, size: batch."""
    figure, (axes,) = report.panels(1, 8, 4)
    for i, hidden in enumerate(sorted({point["hidden"] for point, _ in found})):
        some = [(point, r) for point, r in found if point["hidden"] == hidden]
        axes.scatter([p["lr"] for p, _ in some], [r[key] for _, r in some],
                     s=[2 * p["batch"] for p, _ in some], label=f"{hidden} units",
                     color=report.RUNS[i % len(report.RUNS)], alpha=0.8)  # fmt: skip
    axes.set_xscale("log")
    axes.set_title("validation loss (nats a character); size: batch", loc="left")
    axes.set_xlabel("learning rate")
    axes.legend(frameon=False)
    return figure
