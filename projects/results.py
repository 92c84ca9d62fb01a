"""RESULTS.md of a project, from committed runs: a table, the commands, the curves and notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minidl.io import write_bytes
from minidl.train import RunDir, report

# Folders whose runs RESULTS.md shows apart, and their headings; all other runs come first.
SECTIONS = {"": "", "gpu": "On a GPU"}


def row(*cells: object) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |\n"


def write(folders: Sequence[str], out: Path, here: Path, head: str, columns: Sequence[str],
          line: Callable[[RunDir], str], draw: Callable[[list[RunDir]], Any],
          sections: Mapping[str, str] = SECTIONS) -> None:  # fmt: skip
    """Write RESULTS.md and results.svg into `out`; here/results/notes.md follows if out is here.

    Runs in a folder that `sections` names have a section and curves of their own.
    """
    import matplotlib as mpl

    runs, text = [RunDir(folder) for folder in folders], head
    folder = {run: run.path.resolve().parent.name for run in runs}
    for name, title in sections.items():
        own = [r for r in runs if (folder[r] if folder[r] in sections else "") == name]
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
