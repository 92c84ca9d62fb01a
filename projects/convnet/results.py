"""RESULTS.md from committed result.json files: `python -m projects.convnet.results FOLDER…`.

Each folder holds config.json, metrics.jsonl and result.json of one run. The table, the commands
and the curves (results.svg) are written beside this file, with what results/notes.md says of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from minidl.io import write_bytes
from minidl.train import RunDir, report

HERE = Path(__file__).resolve().parent
HEAD = """# Results of projects/convnet

Single runs, one seed each. Held-out: the last training images, never trained on. Both accuracies
are those of the final epoch; nothing was selected on them. Made by
`python -m projects.convnet.results`.

"""
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


def row(*cells: object) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |\n"


def write_results(folders: Sequence[str], out: Path = HERE) -> None:
    """Write RESULTS.md and results.svg into `out`."""
    import matplotlib as mpl

    runs = [RunDir(folder) for folder in folders]
    text = HEAD + row(*COLUMNS) + row(*["---"] * len(COLUMNS)) + "".join(map(line, runs))
    text += "\n![Curves of the runs](results.svg)\n\n## Commands\n\n```\n"
    text += "".join(run.read_json("config.json")["command"] + "\n" for run in runs) + "```\n"
    notes = HERE / "results" / "notes.md"
    text += f"\n{notes.read_text()}" if out == HERE else ""
    with mpl.rc_context(report.TEXT):
        figure = report.curves({run.path.name: run.rows() for run in runs})
        figure.savefig(out / "results.svg", metadata={"Date": None})
    write_bytes(out / "RESULTS.md", [text.encode()])


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    write_results(sys.argv[1:])
