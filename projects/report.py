"""What the reports of all projects' runs begin and end with."""

from __future__ import annotations

import dataclasses
from typing import Any

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
