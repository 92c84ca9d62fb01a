"""RESULTS.md from committed runs: `python -m projects.textgen.results`.

Of all runs in results/, each a folder with config.json, metrics.jsonl and result.json, or of the
folders given. The table, the commands and the curves (results.svg) are written beside this file,
with what results/notes.md says of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minidl.train import RunDir
from projects.results import chosen, command_of, main, row, write
from projects.settings import settings_of
from projects.textgen.compare import drawn
from projects.textgen.config import Config
from projects.textgen.presets import PRESETS

HERE = Path(__file__).resolve().parent
HEAD = """# Results of projects/textgen

Single runs, one seed each, losses in nats a character at the last step, or with keep=best at that
of the least validation loss; nothing else was selected on the validation text, nothing on the test
text. Made by `{command}`.

"""
COLUMNS = (
    "preset", "text", "tokens", "steps", "validation", "test", "test bits", "spelt %", "parameters",
    "training", "tokens/s", "device", "commit",
)  # fmt: skip


TRANSLATING = """## Translation

Losses in nats a token of the French sentence given the English one, `</s>` too; BLEU-4 in percent
of greedy translations and of the best of four beams.

"""
TRANSLATORS = (
    "preset", "sentences", "attention", "steps", "validation", "test", "validation BLEU",
    "test BLEU", "with beams", "parameters", "training", "tokens/s", "device", "commit",
)  # fmt: skip


def translators(runs: list[RunDir]) -> str:
    """The table of the runs that translate, if there are any."""
    rows = ""
    for r in (run.read_json("result.json") for run in runs if translates(run)):
        bleus = ("validation_bleu", "test_bleu", "test_bleu_beams")
        rows += row(
            r["preset"], r["dataset"], r["attention"], f"{r['steps']:,}",
            f"{r['validation_loss']:.3f}", f"{r['test_loss']:.3f}",
            *(f"{100 * r[key]:.1f}" for key in bleus), *ending(r),
        )  # fmt: skip
    head = row(*TRANSLATORS) + row(*["---"] * len(TRANSLATORS))
    return f"{TRANSLATING}{head}{rows}\n## Language models\n\n" if rows else ""


def translates(run: RunDir) -> bool:
    """Whether a run is of a translator."""
    return "test_bleu" in run.read_json("result.json")


def ending(r: dict[str, Any]) -> tuple[str, ...]:
    """The cells that end a row of both tables."""
    return (f"{r['parameters']:,}", f"{r['seconds'] / 60:.1f} min", f"{r['tokens_per_second']:,}",
            r["device"], (r["commit"] or "-")[:10])  # fmt: skip


def line(run: RunDir) -> str:
    """One row of the table of language models; none for a translator."""
    if translates(run):
        return ""
    r = run.read_json("result.json")
    return row(
        r["preset"], r["dataset"], f"{r['tokens']} ({r['vocabulary']})", f"{r['steps']:,}",
        f"{r['validation_nats_per_character']:.3f}", f"{r['test_nats_per_character']:.3f}",
        f"{r['test_bits_per_character']:.3f}", f"{r['written'].get('spelt %', float('nan')):.1f}",
        *ending(r),
    )  # fmt: skip


def draw(runs: list[RunDir]) -> Any:
    """Validation loss of every language model."""
    curves = {}
    for run in runs:
        if translates(run):
            continue
        each, kept = settings_of(Config, run).each, run.rows()
        values = [r["validation_nats_per_character"] for r in kept]
        curves[run.path.name] = [r["epoch"] * each for r in kept], values
    return drawn(curves)


def write_results(folders: Sequence[str], out: Path = HERE) -> None:
    """Write RESULTS.md and results.svg into `out`; without folders of all runs in results/."""
    runs = chosen("textgen", folders, HERE, [*PRESETS])
    head = HEAD.format(command=command_of("textgen", folders)) + translators(runs)
    write(runs, out, HERE, head, COLUMNS, line, draw)


if __name__ == "__main__":
    sys.exit(main("textgen", write_results))
