"""Tables of experiments: `python -m projects.convnet table NAME --out DIR` trains what one needs.

Every run is a directory of its own under --out; its settings are its preset's, changed by the
table's and the command's.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from minidl.train import StopSignal
from projects import several
from projects.convnet.config import Config
from projects.convnet.look import compare_runs
from projects.convnet.presets import PRESETS, preset
from projects.convnet.run import main
from projects.settings import assignments


@dataclasses.dataclass(frozen=True)
class Table:
    """Presets that are compared, and how many epochs each gets (0: its own number)."""

    presets: Sequence[str]
    epochs: int = 0


def starting(*beginnings: str) -> tuple[str, ...]:
    """The presets whose names start so."""
    return tuple(name for name in PRESETS if name.startswith(beginnings))


ROWS = ("e-baseline", "e-weight-decay", "e-dropout", "e-augment", "e-all")
TABLES = {
    "e": Table(ROWS),
    "e-compared": Table(tuple(name for name in starting("e-") if name not in ROWS[1:4]), 30),
    "c": Table(starting("c-")),
    "resnets": Table(starting("a-resnet", "a-cifar100")),
    "blocks": Table(("a-se", "a-patchify", "a-convnext", "a-convmixer", "a-depthwise", "a-kernel5",
                     "a-width64")),
    "noise": Table(starting("a-noise")),
    "contrast": Table(starting("a-supcon")),
}  # fmt: skip


def table(argv: Sequence[str], stop: StopSignal) -> int:
    """Train every run of a table, or go on with it; draw them together into table.html."""
    parser = several.parser("convnet", "table", TABLES)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--epochs", type=int, help="of every run (default: the table's)")
    several.at_a_time(parser)
    args = parser.parse_args(argv)
    chosen, names = several.chosen(TABLES, args.name, args.only)
    epochs = args.epochs if args.epochs is not None else chosen.epochs or None
    given = {"device": args.device, "data": args.data, "epochs": epochs}
    fixed = {k: v for k, v in given.items() if v not in (None, "")}
    changed = [f"--{k}={v}" for k, v in fixed.items()] + [*["--set"] * bool(args.set), *args.set]
    fixed |= assignments(Config, args.set)
    runs = []
    for name in names:
        cfg = dataclasses.replace(preset(name), **fixed)
        command = shlex.join(["python", "-m", "projects.convnet", "--preset", name, *changed])
        runs.append((cfg, Path(args.out) / name, command))
    several.train_all("convnet", main, runs, args.jobs, stop)
    compare_runs([str(folder) for _, folder, _ in runs], str(Path(args.out) / "table.html"))
    return 0
