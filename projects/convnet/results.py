"""RESULTS.md from committed result.json files: `python -m projects.convnet.results`.

Of all runs in results/, each a folder with config.json, metrics.jsonl and result.json, or of the
folders given. The table, the commands and the curves (results.svg) are written beside this file,
with what results/notes.md says of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidl.train import RunDir, report
from projects.convnet.presets import PRESETS
from projects.results import SECTIONS, chosen, command_of, main, row, write

HERE = Path(__file__).resolve().parent
HEAD = """# Results of projects/convnet

Single runs, one seed each. Held-out: the last training images, never trained on. Both accuracies
are those of the final epoch; nothing was selected on them. Made by
`{command}`.

"""
COMPARED = {
    "compared": "Optimizers, schedules and orders at 30 epochs, on a GPU",
    "input": "Input normalisation at 30 epochs, on a GPU",
}
COLUMNS = (
    "preset", "data", "epochs", "held-out %", "test % (images)", "parameters", "MFLOP", "training",
    "images/s", "device", "commit",
)  # fmt: skip


def line(run: RunDir) -> str:
    """One row of the table."""
    r = run.read_json("result.json")
    return row(
        r["preset"],
        r["dataset"],
        r["epochs"],
        f"{100 * r['heldout_accuracy']:.2f}",
        f"{100 * r['test_accuracy']:.2f} ({r['test_images']:,})",
        f"{r['parameters']:,}",
        f"{r['flops'] / 1e6:.1f}",
        f"{r['seconds'] / 60:.1f} min",
        f"{r['images_per_second']:.0f}",
        r["device"],
        (r["commit"] or "-")[:10],
    )


def write_results(folders: Sequence[str], out: Path = HERE) -> None:
    """Write RESULTS.md and results.svg into `out`; without folders of all runs in results/."""

    def draw(runs: list[RunDir]) -> Any:
        rows = {run.path.name: run.rows() for run in runs}
        lengths = [len(kept) for kept in rows.values()]
        return report.curves(rows, by_share=max(lengths) > 4 * min(lengths))

    runs = chosen("convnet", folders, HERE, [*PRESETS])
    head = HEAD.format(command=command_of("convnet", folders))
    write(runs, out, HERE, head, COLUMNS, line, draw, SECTIONS | COMPARED)


if __name__ == "__main__":
    sys.exit(main("convnet", write_results))
