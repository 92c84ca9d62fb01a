"""RESULTS.md of a project, from committed runs: a table, the commands, the curves and notes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minidl.errors import CheckpointError, DataError, require, reworded
from minidl.io import write_bytes
from minidl.train import RunDir, report
from projects.command import Parser, status_of
from projects.settings import UsageError, check_value, rows_of, saved_of

# Folders whose runs RESULTS.md shows apart, and their headings; all other runs come first.
SECTIONS = {"": "", "gpu": "On a GPU"}
# Errors of what a file lacks, or has of another type.
DAMAGE = (KeyError, TypeError, ValueError, AttributeError)


def row(*cells: object) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |\n"


def chosen(project: str, folders: Sequence[str], here: Path, order: Sequence[str]) -> list[RunDir]:
    """The finished runs in folders, or without any in here/results, in the order of their presets.

    Raises UsageError or CheckpointError for a folder that holds no finished run of the project.
    """
    found = [Path(folder) for folder in folders]
    found = found or [file.parent for file in (here / "results").rglob("result.json")]
    if not found:
        raise UsageError(f"there is no run in {here / 'results'}")
    places = {name: k for k, name in enumerate(order)}
    keys = {}
    for run in map(RunDir, found):
        name = saved_of(project, run).get("preset")
        check_value(f"{run.path / 'config.json'}: preset", str, name)
        run.read_json("result.json")
        require(bool(rows_of(run)), "results", f"{run.path} has no metrics", error=DataError)
        keys[run] = places.get(name, len(order)), name, str(run.path)
    return sorted(keys, key=keys.__getitem__)


def command_of(project: str, folders: Sequence[str]) -> str:
    """The command line that writes RESULTS.md of these folders."""
    return shlex.join(["python", "-m", f"projects.{project}.results", *sorted(folders)])


def write(runs: Sequence[RunDir], out: Path, here: Path, head: str, columns: Sequence[str],
          line: Callable[[RunDir], str], draw: Callable[[list[RunDir]], Any],
          sections: Mapping[str, str] = SECTIONS) -> None:  # fmt: skip
    """Write RESULTS.md and results.svg into `out`; here/results/notes.md follows if out is here.

    Runs in a folder that `sections` names have a section and curves of their own.
    """
    import matplotlib as mpl

    def cells(run: RunDir) -> str:
        with reworded(CheckpointError, f"{run.path} has a damaged result.json", *DAMAGE):
            return line(run)

    text, commands = head, ""
    folder = {run: run.path.resolve().parent.name for run in runs}
    for name, title in sections.items():
        own = [r for r in runs if (folder[r] if folder[r] in sections else "") == name]
        if not own:
            continue
        commands += "".join(run.read_json("config.json")["command"] + "\n" for run in own)
        text += f"\n## {title}\n\n" if name else ""
        text += row(*columns) + row(*["---"] * len(columns)) + "".join(cells(run) for run in own)
        image = f"results-{name}.svg" if name else "results.svg"
        text += f"\n![Curves of the runs]({image})\n"
        rule = "results: metrics.jsonl of a run is damaged"
        with mpl.rc_context(report.TEXT), reworded(CheckpointError, rule, *DAMAGE):
            draw(own).savefig(out / image, metadata={"Date": None})
    text += f"\n## Commands\n\n```\n{commands}```\n"
    notes = here / "results" / "notes.md"
    text += f"\n{notes.read_text()}" if out == here and notes.exists() else ""
    write_bytes(out / "RESULTS.md", [text.encode()])


def main(project: str, write_results: Callable[[Sequence[str]], None]) -> int:
    """The command `python -m projects.NAME.results`: 0, 2 for a mistake in it, 1 for a failure."""
    text = "Write RESULTS.md and its curves beside this project's code."
    parser = Parser(f"{project}.results", description=text)
    text = "a finished run: config.json, metrics.jsonl, result.json (default: all in results/)"
    parser.add_argument("runs", nargs="*", metavar="FOLDER", help=text)
    return status_of(lambda: write_results(parser.parse_args(sys.argv[1:]).runs))
