"""Tables of many runs or samples: models by tokens, and what temperature and top-p do."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.models.sampling import Sampler
from minidl.train import Report, RunDir, StopSignal, report
from projects import several
from projects.command import Parser
from projects.report import finish_table
from projects.settings import UsageError, assignments, settings_of
from projects.textgen import metrics
from projects.textgen.config import Config
from projects.textgen.corpus import load_corpus
from projects.textgen.model import generate
from projects.textgen.presets import PRESETS, preset
from projects.textgen.run import main
from projects.textgen.sample import trained

NOTE = "Definitions: projects/textgen/metrics.py"
ACROSS = 4  # panels beside each other
SHORTEST = 20  # tokens of a text that a sweep measures
CELLS = [name for name in PRESETS if name.startswith("t-")]
LOSSES = {"nats/character": "test_nats_per_character", "bits/character": "test_bits_per_character",
          "perplexity": "test_perplexity"}  # fmt: skip


def table(argv: Sequence[str], stop: StopSignal) -> int:
    """Train every model over every kind of token, or go on with it; write the table of metrics."""
    parser = several.parser("textgen", "table")
    several.at_a_time(parser)
    parser.add_argument("--only", default="", metavar="TEXT", help="cells whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    names = several.holding(CELLS, args.only)
    fixed = {"data": args.data, "seed": args.seed} | assignments(Config, args.set)
    cells = [dataclasses.replace(preset(name), **fixed) for name in names]
    command = shlex.join(["python", "-m", "projects.textgen", "table", *argv])
    runs = [(cfg, Path(args.out) / cfg.preset, command) for cfg in cells]
    results = several.train_all("textgen", main, runs, args.jobs, stop)
    kinds = [*results[0]["written"]]
    head = ("model", *LOSSES, *kinds)
    lines = [(name[2:], *(f"{r[key]:.3f}" for key in LOSSES.values()),
              *(f"{r['written'][kind]:.3g}" for kind in kinds))
             for name, r in zip(names, results, strict=True)]  # fmt: skip
    page = Report("Models by tokens", NOTE)
    finish_table(page, head, lines, Path(args.out) / "table.html", "table")
    return 0


def sweep(argv: Sequence[str], stop: StopSignal) -> int:
    """Sample from a run at several temperatures and shares of the nucleus; write the table."""
    parser = Parser("textgen sweep")
    parser.add_argument("--run", required=True, metavar="DIR")
    parser.add_argument("--temperature", default="0.2,0.4,0.6,0.8,1.0,1.2", metavar="LIST")
    parser.add_argument("--top-p", default="0.5,0.7,0.8,0.9,0.95,1.0", metavar="LIST")
    parser.add_argument("--tokens", type=int, default=2000, help="of each of four texts")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.tokens < SHORTEST:
        rule = f"--tokens must be at least {SHORTEST}, for texts with words to measure"
        raise UsageError(f"{rule}; got {args.tokens}")
    points = [("temperature", value) for value in numbers("temperature", args.temperature)]
    points += [("top_p", value) for value in numbers("top-p", args.top_p)]
    options: list[dict[str, Any]] = [{"seed": args.seed, name: value} for name, value in points]
    samplers = [Sampler(**given) for given in options]
    run = RunDir(args.run)
    model, kind = trained(args.run, "sweep")
    corpus = load_corpus(settings_of(Config, run))
    prompt, found = np.tile(corpus.opening(), (4, 1)), []
    for (name, value), sampler in zip(points, samplers, strict=True):
        stop.check()
        made = generate(model.eval(), prompt, args.tokens, sampler)
        texts = [kind.decode(row[prompt.shape[1] :]) for row in made]
        found.append((name, value, metrics.table(texts, corpus.text)))
        print(f"{name} {value}: {texts[0][:60]!r}")
    head = ("sampler", "value", *found[0][2])
    lines = [(name, value, *(f"{v:.3g}" for v in row.values())) for name, value, row in found]
    page = Report(f"Sampling from {args.run}", NOTE)
    page.figure(drawn(found))
    finish_table(page, head, lines, run.path / "sweep.html", "table")
    return 0


def numbers(name: str, text: str) -> list[float]:
    """The numbers in a text, separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--{name} takes numbers separated by commas; got {text!r}") from None


def drawn(found: list[tuple[str, float, dict[str, float]]]) -> Any:
    """Every metric by temperature and by top-p, each in its own panel."""
    kinds = [*found[0][2]]
    lines = -(-len(kinds) // ACROSS)
    figure, axes = report.panels(ACROSS, 11, 2.2 * lines, lines)
    for place in axes[len(kinds) :]:
        place.set_axis_off()
    for place, kind in zip(axes, kinds):
        for i, name in enumerate(("temperature", "top_p")):
            some = [(value, row[kind]) for n, value, row in found if n == name]
            place.plot(*zip(*some), ".-", color=report.RUNS[i], label=name)
        place.set_title(kind, loc="left")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure
