"""What the pages of all projects begin and end with: reports of runs, tables of several."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from minidl.io import write_bytes
from minidl.train import Report, RunDir
from projects.settings import settings_of


def begun(run: RunDir, result: dict[str, Any], tiles: dict[str, str]) -> Report:
    """A page that says what was run and how, and what came out: name -> value."""
    title = f"{result['preset']} on {result['dataset']}"
    page = Report(title, f"seed {result['seed']}, {result['device']}")
    page.tiles(tiles)
    page.section("Command")
    page.code(run.read_json("config.json")["command"])
    return page


def finish(page: Report, run: RunDir, kind: type) -> None:
    """Write report.html, with all fields of the settings; those made since have their defaults."""
    saved = dataclasses.asdict(settings_of(kind, run)) | run.read_json("config.json")
    page.section("Configuration")
    page.table([(k, v) for k, v in saved.items() if k != "command"], ("field", "value"))
    run.write_text("report.html", page.html())


def finish_table(page: Report, head: Sequence[str], rows: Sequence[Sequence[Any]],
                 path: str | os.PathLike[str], what: str) -> None:  # fmt: skip
    """Write a page that ends with a table; print the table, and where `what` (curves, say) is."""
    page.table(rows, head)
    write_bytes(path, [page.html().encode()])
    print_table(head, rows)
    print(f"{what}: {path}")


def print_table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows of cells under a line of headings, each column as wide as its widest cell."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
