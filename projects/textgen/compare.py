"""Several runs drawn together and listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.errors import CheckpointError, DataError, require, reworded
from minidl.train import Report, RunDir, report
from projects.report import finish_table
from projects.settings import rows_of, settings_of, short_names
from projects.textgen.config import Config

HEAD = ("run", "preset", "text", "tokens", "steps", "validation", "test", "parameters", "seconds")


def compare_runs(folders: Sequence[str], out: str) -> None:
    """Draw the validation curves of several runs into the HTML file `out`; print their results."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    table = []
    runs = [RunDir(folder) for folder in folders]
    for run, name in zip(runs, short_names(runs), strict=True):
        key = "validation_nats_per_character"
        cfg, rows = settings_of(Config, run), rows_of(run, key)
        require(bool(rows), "compare", f"{run.path} has no look at its text yet", error=DataError)
        at = [row["epoch"] * cfg.each for row in rows]
        curves[name] = at, [row[key] for row in rows]
        done = run.read_json("result.json") if (run.path / "result.json").exists() else {}
        test, kinds = done.get("test_nats_per_character"), (KeyError, TypeError, ValueError)
        with reworded(CheckpointError, f"{run.path} has a damaged result.json", *kinds):
            table.append((
                run.path, cfg.preset, cfg.dataset, cfg.tokens, at[-1],
                f"{rows[-1][key]:.3f}", "-" if test is None else f"{test:.3f}",
                f"{done['parameters']:,}" if done else "-",
                f"{sum(row['seconds'] for row in rows):.0f}",
            ))  # fmt: skip
    page = Report("Runs compared", f"{len(table)} runs; losses in nats a character")
    page.figure(drawn(curves))
    page.section("Results", "At the last look at the validation text of each.")
    finish_table(page, HEAD, table, out, "curves")


def drawn(curves: dict[str, tuple[list[int], list[float]]]) -> Any:
    """Validation loss by steps, a line a run."""
    figure, (axes,) = report.panels(1, 9, 4)
    for i, (name, (at, values)) in enumerate(curves.items()):
        again, colour = divmod(i, len(report.RUNS))
        axes.plot(at, values, (".-", ".--", ".:")[again % 3], label=name, color=report.RUNS[colour])
    report.label_progress(axes, "validation loss (nats a character)", "step")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
