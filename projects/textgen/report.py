"""The report of a run: curves, samples, their metrics, pictures of what the network does."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl as ml
import minidl.functional as F
from minidl import nn
from minidl.models import GPT
from minidl.train import Report, RunDir, report
from projects.report import begun, finish
from projects.settings import clock, settings_of
from projects.textgen.config import Config
from projects.textgen.corpus import Corpus
from projects.textgen.model import Carried, writable

SHOWN = 160  # characters of the validation text in the pictures
NEURONS = 6


def write_report(
    run: RunDir, result: dict[str, Any], samples: list[str], model: nn.Module, corpus: Corpus
) -> None:
    """Write report.html."""
    cfg = settings_of(Config, run)
    page = begun(run, result, {
        "validation, nats a character": f"{result['validation_nats_per_character']:.3f}",
        "test, nats a character": f"{result['test_nats_per_character']:.3f}",
        "test, bits a character": f"{result['test_bits_per_character']:.3f}",
        "steps": f"{result['steps']:,}",
        "training time": clock(result["seconds"]),
        "training speed": f"{result['tokens_per_second']:,.0f} tokens/s",
        "parameters": f"{result['parameters']:,}",
    })  # fmt: skip
    page.section("Loss", "Training figures are means over the steps since the row before.")
    page.figure(losses(run.rows(), cfg.each))
    page.section("Samples", f"Temperature {cfg.temperature}; nothing was selected.")
    for text in samples:
        page.code(text[:1500])
    if result["written"]:
        page.section("What was written", "By the definitions in projects/textgen/metrics.py.")
        page.table([(k, f"{v:.4g}") for k, v in result["written"].items()], ("metric", "value"))
    if corpus.tokenizer.kind in ("characters", "bytes"):
        pictures(page, model, corpus)
    finish(page, run, Config)


def losses(rows: list[dict[str, Any]], every: int) -> Any:
    """Training and validation loss, and the learning rate, by steps."""
    figure, axes = report.panels(2, 11, 3.4)
    steps = [row["epoch"] * every for row in rows]
    for key, look in (("train_loss", ".:"), ("validation_loss", ".-")):
        axes[0].plot(steps, [row[key] for row in rows], look, label=key.replace("_", " "))
    axes[0].legend(frameon=False)
    axes[1].plot(steps, [row["lr"] for row in rows], ".-")
    axes[1].set_ylim(bottom=0)
    for place, title in zip(axes, ("loss (nats a token)", "learning rate"), strict=True):
        report.label_progress(place, title, "step")
    return figure


@ml.no_grad()
def pictures(page: Report, model: nn.Module, corpus: Corpus) -> None:
    """Next-character probabilities over a text, and the firing of neurons (Karpathy 2015)."""
    device = next(iter(model.parameters())).device
    tokens = corpus.validation[: min(SHOWN, 4 * len(corpus.validation) // 5)]
    if isinstance(model, GPT):
        tokens = tokens[: model.block_size]
    x = ml.tensor(tokens[None, :-1], device=device)
    logits = Carried().run(model.eval(), x)[0, :, : writable(model)]
    shares = F.softmax(logits, -1).cpu().numpy()
    text = [corpus.tokenizer.decode([t]) for t in tokens]
    right = shares[np.arange(len(shares)), tokens[1:]]
    page.section(
        "Next characters",
        "The probability of each character of the validation text, from those before it; the table "
        "names the three likeliest at each of the first places.",
    )
    page.figure(strip(text[1:], right[None], ["probability"]))
    page.table(_guesses(corpus, text, shares, right), ("text so far", "next", "likeliest"))
    firing = neurons(model, x)
    if firing is not None:
        page.section(
            "Neurons",
            "Hidden units of the last layer whose value varies most over the text, from -1 "
            "(blue) to 1 (red).",
        )
        page.figure(strip(text[:-1], firing, [f"unit {k + 1}" for k in range(len(firing))]))


def _guesses(corpus: Corpus, text: list[str], shares: np.ndarray, right: np.ndarray) -> list[tuple]:
    """A row for each of the first characters: what came, and the three likeliest."""
    rows = []
    for k in range(min(24, len(shares))):
        best = np.argsort(-shares[k], kind="stable")[:3]
        said = ", ".join(f"{corpus.tokenizer.decode([int(t)])!r} {shares[k][t]:.0%}" for t in best)
        rows.append(
            ("".join(text[max(k - 20, 0) : k + 1]), f"{text[k + 1]!r} {right[k]:.0%}", said)
        )
    return rows


def neurons(model: Any, x: ml.Tensor) -> np.ndarray | None:
    """Outputs (units, T) in [-1, 1] of the last recurrent layer's most varied units."""
    if not hasattr(model, "rnn"):
        return None
    y = model.rnn(model.embedding(x.T))[0][:, 0].cpu().numpy()
    order = np.argsort(-y.std(0), kind="stable")[:NEURONS]
    return y[:, order].T


def strip(text: list[str], values: np.ndarray, names: list[str]) -> Any:
    """Rows of coloured cells, one a value, with the text's characters in them."""
    wide = 80
    lines = -(-len(text) // wide)
    rows = len(values)
    figure, (axes,) = report.panels(1, 11, 0.27 * lines * (rows + 0.6) + 0.3)
    axes.set_axis_off()
    low = -1.0 if values.min() < 0 else 0.0
    import matplotlib as mpl

    shades = mpl.colormaps["coolwarm" if low else "Greens"]
    least = 0.15 if low else 0.0  # the text must be legible
    for line in range(lines):
        for r in range(rows):
            top = line * (rows + 0.6) + r
            for k, c in enumerate(text[line * wide : (line + 1) * wide]):
                value = (values[r, line * wide + k] - low) / (1 - low)
                colour = shades(least + 0.7 * value)
                axes.add_patch(mpl.patches.Rectangle((k, -top), 1, 1, color=colour))
                shown = {"\n": "↵", " ": "·"}.get(c, c if c.isprintable() else "?")
                axes.text(k + 0.5, 0.5 - top, shown.replace("$", r"\$"), ha="center", va="center",
                          fontsize=7)  # fmt: skip
            axes.text(-0.5, 0.5 - top, names[r], ha="right", va="center", fontsize=6)
    axes.set(xlim=(-8, wide), ylim=(1 - lines * (rows + 0.6), 1.2))
    return figure
