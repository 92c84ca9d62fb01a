"""The report of a translating run: curves, translations beside their references, attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.train import RunDir, report
from projects.report import begun, finish
from projects.settings import clock
from projects.textgen.config import Config
from projects.textgen.report import losses
from projects.textgen.translation import joined
from projects.textgen.translator import Translator

SHOWN = 12  # translations
PICTURES = 4  # of attention


def write_report(run: RunDir, result: dict[str, Any], groups: dict[str, list[str]],
                 translator: Translator) -> None:  # fmt: skip
    """Write report.html; groups: English test sentences, each with its French ones."""
    rows, each = run.rows(), translator.cfg.each
    page = begun(run, result, {
        "validation, nats a token": f"{result['validation_loss']:.3f}",
        "test, nats a token": f"{result['test_loss']:.3f}",
        "validation BLEU": f"{100 * result['validation_bleu']:.1f}",
        "test BLEU": f"{100 * result['test_bleu']:.1f}",
        "test BLEU, beams": f"{100 * result['test_bleu_beams']:.1f}",
        "steps": f"{result['steps']:,}",
        "training time": clock(result["seconds"]),
        "parameters": f"{result['parameters']:,}",
    })  # fmt: skip
    page.section("Loss", "Training figures are means over the steps since the row before.")
    page.figure(losses(rows, each))
    page.section("BLEU-4", "Of greedy translations of validation sentences, in percent.")
    page.figure(curve([row["epoch"] * each for row in rows], rows))
    sentences = [*groups][:SHOWN]
    made, weights = zip(*(single(translator, text) for text in sentences))
    page.section("Translations", "Of test sentences; greedy, and nothing was selected.")
    lines = [(text, joined(words), " | ".join(joined(t.split()) for t in groups[text]))
             for text, words in zip(sentences, made)]  # fmt: skip
    page.table(lines, ("English", "translation", "references"))
    page.section("Attention", "Where each word of a translation (a row) looks, dark: most.")
    for text, words, seen in [*zip(sentences, made, weights)][:PICTURES]:
        page.figure(picture(text.split(), words, seen))
    finish(page, run, Config)


def single(translator: Translator, text: str) -> tuple[list[str], np.ndarray]:
    """The words of a translation and their weights (n, S)."""
    words, weights = translator.greedy([text])
    return words[0], weights[0]


def curve(at: list[int], rows: Sequence[dict[str, Any]]) -> Any:
    """Validation BLEU by steps."""
    figure, (axes,) = report.panels(1, 6, 3)
    axes.plot(at, [100 * row["validation_bleu"] for row in rows], ".-")
    axes.set_xlabel("step")
    return figure


def picture(source: Sequence[str], words: Sequence[str], weights: np.ndarray) -> Any:
    """Weights (n, S) of the written words (rows; the last may be the end) over the source's."""
    rows = [*words, "</s>"][: len(weights)]
    figure, (axes,) = report.panels(1, 1.5 + 0.5 * len(source), 1 + 0.3 * len(rows))
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.grid(False)
    names = [[text.replace("$", r"\$") for text in side] for side in (source, rows)]
    axes.set_xticks(range(len(source)), names[0], rotation=45, ha="left")
    axes.set_yticks(range(len(rows)), names[1])
    axes.xaxis.tick_top()
    return figure
