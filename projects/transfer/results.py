"""RESULTS.md from committed runs: `python -m projects.transfer.results FOLDER…`.

Each folder holds config.json, metrics.jsonl and result.json of one run. The table, the commands
and the curves (results.svg) are written beside this file, with what results/notes.md says of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidl.train import RunDir, report
from projects.results import row, write

HERE = Path(__file__).resolve().parent
HEAD = """# Results of projects/transfer

Single runs, one seed each unless a note says otherwise. Held-out: a tenth of each class's training
images, never trained on. All accuracies are those of the final epoch; nothing was selected on them.
Preparing: decoding aside, statistics and features of the frozen beginning. Made by
`python -m projects.transfer.results`.

"""
COLUMNS = (
    "preset", "data", "seed", "labelled", "epochs", "held-out %", "test % (images)", "macro F1 %",
    "tuned", "training", "preparing", "device", "commit",
)  # fmt: skip


def line(run: RunDir) -> str:
    """One row of the table."""
    r = run.read_json("result.json")
    smaller = "".join(
        f"; {name} {100 * r[name]['accuracy']:.2f}" for name in ("pruned", "quantized") if name in r
    )
    return row(
        r["preset"],
        r["dataset"],
        r["seed"],
        f"{r['labelled_images']:,} of {r['training_images']:,}",
        r["epochs"],
        f"{100 * r['heldout_accuracy']:.2f}",
        f"{100 * r['test_accuracy']:.2f} ({r['test_images']:,}){smaller}",
        f"{100 * r['macro_f1']:.2f}",
        f"{r['tuned_parameters']:,}",
        f"{r['seconds'] / 60:.1f} min",
        f"{r['preparation_seconds'] / 60:.1f} min",
        r["device"],
        (r["commit"] or "-")[:10],
    )


def write_results(folders: Sequence[str], out: Path = HERE) -> None:
    """Write RESULTS.md and results.svg into `out`."""

    def draw(runs: list[RunDir]) -> Any:
        return report.curves({run.path.name: run.rows() for run in runs})

    write(folders, out, HERE, HEAD, COLUMNS, line, draw)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    write_results(sys.argv[1:])
