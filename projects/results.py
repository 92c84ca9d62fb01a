"""RESULTS.md of a project, from committed runs: a table, the commands, the curves and notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minidl.io import write_bytes
from minidl.train import RunDir, report


def row(*cells: object) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |\n"


def write(folders: Sequence[str], out: Path, here: Path, head: str, columns: Sequence[str],
          line: Callable[[RunDir], str], draw: Callable[[list[RunDir]], Any]) -> None:  # fmt: skip
    """Write RESULTS.md and results.svg into `out`; here/results/notes.md follows if out is here."""
    import matplotlib as mpl

    runs = [RunDir(folder) for folder in folders]
    text = head + row(*columns) + row(*["---"] * len(columns)) + "".join(map(line, runs))
    text += "\n![Curves of the runs](results.svg)\n\n## Commands\n\n```\n"
    text += "".join(run.read_json("config.json")["command"] + "\n" for run in runs) + "```\n"
    notes = here / "results" / "notes.md"
    text += f"\n{notes.read_text()}" if out == here and notes.exists() else ""
    with mpl.rc_context(report.TEXT):
        draw(runs).savefig(out / "results.svg", metadata={"Date": None})
    write_bytes(out / "RESULTS.md", [text.encode()])
