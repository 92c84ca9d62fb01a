"""RESULTS.md of a project, from committed runs: a table, the commands, the curves and notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minidl.io import write_bytes
from minidl.train import RunDir, report

# Folders of runs that RESULTS.md shows apart, and their headings; the others come first.
SECTIONS = {
    "": "",
    "gpu": "On a GPU",
    "compared": "Optimizers, schedules and orders at 30 epochs, on a GPU",
    "input": "Input normalisation at 30 epochs, on a GPU",
}


def row(*cells: object) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |\n"


def section_of(run: RunDir) -> str:
    """The section that a run is shown in."""
    name = run.path.resolve().parent.name
    return name if name in SECTIONS else ""


def write(folders: Sequence[str], out: Path, here: Path, head: str, columns: Sequence[str],
          line: Callable[[RunDir], str], draw: Callable[[list[RunDir]], Any]) -> None:  # fmt: skip
    """Write RESULTS.md and results.svg into `out`; here/results/notes.md follows if out is here.

    Runs in a folder called as one of SECTIONS have a section and curves of their own.
    """
    import matplotlib as mpl

    runs, text = [RunDir(folder) for folder in folders], head
    for name, title in SECTIONS.items():
        own = [run for run in runs if section_of(run) == name]
        if not own:
            continue
        text += f"\n## {title}\n\n" if name else ""
        text += row(*columns) + row(*["---"] * len(columns)) + "".join(map(line, own))
        image = f"results-{name}.svg" if name else "results.svg"
        text += f"\n![Curves of the runs]({image})\n"
        with mpl.rc_context(report.TEXT):
            draw(own).savefig(out / image, metadata={"Date": None})
    text += "\n## Commands\n\n```\n"
    text += "".join(run.read_json("config.json")["command"] + "\n" for run in runs) + "```\n"
    notes = here / "results" / "notes.md"
    text += f"\n{notes.read_text()}" if out == here and notes.exists() else ""
    write_bytes(out / "RESULTS.md", [text.encode()])
