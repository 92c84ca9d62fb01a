"""Tables of experiments: `python -m projects.transfer table NAME --out DIR` trains what one needs.

Every run is a directory of its own under --out. Pictures and the features of frozen beginnings are
made once for all of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.io import write_bytes
from minidl.train import Report, StopSignal, report
from projects import several
from projects.report import finish_table
from projects.settings import UsageError, assignments
from projects.transfer.config import Config
from projects.transfer.presets import PRESETS, preset
from projects.transfer.run import main

HEAD = ("experiment", "what it is", "seeds", "held-out %", "test %", "macro F1 %", "after", "tuned",
        "training", "preparing")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table:
    """Presets that are compared, each trained with seeds 0 … seeds - 1."""

    title: str
    presets: Sequence[str]
    seeds: int = 1


SHARES = ("100", "50", "10", "one")
TABLES = {
    "embedded": Table("Embedded data", ("quick-scratch", "quick-head", "quick"), 3),
    "species": Table("Dog or cat", ("e-species", "e-species-224")),
    "sizes": Table("Input size, head only", ("e-size-64", "e-size-96", "e-breeds-head",
                                             "e-size-160", "e-size-192", "e-breeds-head-224")),
    "strategies": Table("What is tuned", (
        "e-breeds-head", *(f"e-breeds-last{n}" for n in (1, 2, 3, 4, 6, 8, 12)), "e-gradual",
        "e-full")),
    "parts": Table("Parts of all sections", ("e-full", "c-norms", "a-masked")),
    "rates": Table("Learning rates, schedules, augmentation, decay", (
        "e-breeds-last3", "e-one-rate", "e-decay", "e-constant", "e-step",
        "e-two-schedules", "e-nesterov", "e-no-augment", "e-no-decay")),
    "mixing": Table("Erasing and mixing", ("e-breeds-last3", "c-erasing", "c-policy", "c-cutmix",
                                           "c-mixup")),
    "norms": Table("Batch norms", ("e-breeds-last3", "e-norm-frozen", "e-norm-affine",
                                   "e-norm-statistics", "e-norm-both")),
    "imbalance": Table("A fifth of each cat breed", (
        "e-balanced", "e-imbalance-plain", "e-imbalance-weighted", "e-imbalance-oversample"), 3),
    "labels": Table("Few labels", tuple(f"a-labels-{share}{kind}" for share in SHARES
                                        for kind in ("", "-pseudo", "-fixmatch")), 3),
    "lora": Table("LoRA on the last sections", (
        "e-breeds-last3", "a-lora-1", "a-lora-4", "a-lora-16", "a-labels-10-last3",
        "a-labels-10-lora")),
    "smaller": Table("Pruned, and in int8", ("a-prune", "a-sparse", "a-sparse-full",
                                             "a-quantize")),
    "distilled": Table("Half the width, told by the finetuned network", (
        "quick", "a-student", "a-distill"), 3),
    "transformers": Table("A Vision Transformer", (
        "a-vit-backbone", "a-vit-scratch", "a-vit-head", "a-vit", "a-vit-lora")),
    "finetuned": Table("At 224 pixels", ("e-breeds-head-224", "e-breeds-last4-224")),
}  # fmt: skip


def table(argv: Sequence[str], stop: StopSignal) -> int:
    """Train every run of a table, or go on with it; write table.json and table.html."""
    parser = several.parser("transfer", "table", TABLES)
    parser.add_argument("--seeds", type=int, help="runs of each preset (default: the table's)")
    parser.add_argument("--cache", metavar="DIR", help="of pictures and features (default: in DIR)")
    args = parser.parse_args(argv)
    chosen, names = several.chosen(TABLES, args.name, args.only)
    seeds = chosen.seeds if args.seeds is None else args.seeds
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1; got {seeds}")
    root = Path(args.out)
    fixed = {"data": args.data, "cache": args.cache or str(root / "cache")}
    fixed |= assignments(Config, args.set)
    command = f"python -m projects.transfer table {args.name}"
    runs: list[tuple[Config, Path]] = []
    for name in names:
        for seed in range(seeds):
            cfg = dataclasses.replace(preset(name), **fixed | {"seed": seed})
            for field in ("weights", "teacher"):  # of another run of the table
                if (other := getattr(cfg, field)) in chosen.presets:
                    earlier = root / f"{other}-{seed}"
                    if other not in names and not several.finished(earlier):
                        rule = f"{name} needs the run {earlier}, which --only {args.only!r} leaves"
                        raise UsageError(f"{rule} out")
                    cfg = dataclasses.replace(cfg, **{field: str(earlier)})
            runs.append((cfg, root / f"{name}-{seed}"))
    results = [several.run_once(main, *run, command, stop) for run in runs]
    about = {"table": args.name, "title": chosen.title, "command": command, "results": results}
    write_bytes(root / "table.json", [in_lines(about).encode()])
    page = Report(chosen.title, f"{len(results)} runs; all at their final epoch")
    page.figure(drawn(about))
    finish_table(page, HEAD, lines(results), root / "table.html", "table")
    return 0


def in_lines(about: dict[str, Any]) -> str:
    """JSON with a line for each result and five digits after the point, for version control."""

    def line(values: dict[str, Any]) -> str:
        return json.dumps(json.loads(json.dumps(values), parse_float=lambda s: round(float(s), 5)))

    head = json.dumps(about | {"results": []}).removesuffix("]}")
    return head + "\n" + ",\n".join(map(line, about["results"])) + "\n]}\n"


def grouped(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The results by preset, in order."""
    names = dict.fromkeys(r["preset"] for r in results)
    return {name: [r for r in results if r["preset"] == name] for name in names}


def lines(results: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line of HEAD's cells for each preset; of several seeds mean ± standard deviation."""
    found = []
    for name, some in grouped(results).items():

        def percent(key: str, some: list[dict[str, Any]] = some) -> str:
            values = [100 * r[key] for r in some]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            return f"{np.mean(values):.2f}{spread}"

        first = some[0]
        after = [f"{key} {100 * first[key]['accuracy']:.2f}" for key in ("pruned", "quantized")
                 if key in first]  # fmt: skip
        found.append((
            name, PRESETS[name][0], str(len(some)), percent("heldout_accuracy"),
            percent("test_accuracy"), percent("macro_f1"), ", ".join(after) or "-",
            f"{first['tuned_parameters']:,}",
            *(f"{np.mean([r[key] for r in some]):.0f} s"
              for key in ("seconds", "preparation_seconds")),
        ))  # fmt: skip
    return found


def drawn(about: dict[str, Any]) -> Any:
    """Test accuracy of every run, a row a preset."""
    groups = grouped(about["results"])
    figure, (place,) = report.panels(1, 7, 0.28 * len(groups) + 0.7)
    for k, some in enumerate(groups.values()):
        shares = [100 * r["test_accuracy"] for r in some]
        place.plot(shares, [k] * len(some), "o", color=report.RUNS[0], markersize=4, alpha=0.7)
    place.set_yticks(range(len(groups)), [*groups])
    place.set_ylim(len(groups) - 0.5, -0.5)
    place.grid(axis="x", alpha=0.3)
    place.set_title(f"{about['title']}: test accuracy (%)", loc="left")
    return figure
