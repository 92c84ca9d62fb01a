"""A self-contained HTML page about a run: numbers, curves, confusion, mistakes, filters, times."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RUNS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
TEXT: Any = {
    "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e4e8ee", "axes.edgecolor": "#8a94a6", "axes.axisbelow": True,
    "svg.hashsalt": "minidl"}  # fmt: skip
NAMED = 25  # most classes whose names a confusion matrix has at its axes
BARE = {"Date": None, "Creator": None, "Format": None, "Type": None}  # no time, no addresses

Rows = Sequence[dict[str, Any]]  # of metrics.jsonl


class Report:
    """A page that is filled section by section; `html()` is the finished, self-contained text."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.parts = [f"<h1>{escape(title)}</h1>", f'<p class="sub">{escape(subtitle)}</p>']

    def html(self) -> str:
        """The whole page."""
        style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
        head = f'<meta charset="utf-8"><title>{escape(self.title)}</title><style>{style}</style>'
        page = "<!doctype html><html lang=en>" + head + "\n".join(self.parts) + "</html>\n"
        return page.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # files' names

    def section(self, title: str, note: str = "") -> None:
        """Start a section with a heading and a sentence on how to read it."""
        self.parts.append(f'<h2>{escape(title)}</h2><p class="note">{escape(note)}</p>')

    def tiles(self, values: dict[str, str]) -> None:
        """A row of headline figures: name -> value."""
        tile = '<div class="tile"><b>{}</b><span>{}</span></div>'
        self._block("tiles", (tile.format(escape(v), escape(k)) for k, v in values.items()))

    def code(self, text: str) -> None:
        """A block of literal text, such as the command of the run."""
        self.parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, rows: Iterable[Sequence[Any]], head: Sequence[str]) -> None:
        """A plain table under a line of headings; values are shown as Python shows them."""
        lines = [("th", head), *(("td", row) for row in rows)]
        cells = ("".join(f"<{t}>{escape(str(c))}</{t}>" for c in row) for t, row in lines)
        self.parts.append(f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>")

    def figure(self, figure: Any) -> None:
        """Embed a matplotlib figure as SVG."""
        import matplotlib as mpl

        data = io.StringIO()
        with mpl.rc_context(TEXT):
            figure.savefig(data, format="svg", metadata=BARE)
        self.parts.append(data.getvalue()[data.getvalue().index("<svg") :])

    def gallery(self, images: np.ndarray, captions: Sequence[str]) -> None:
        """Show images (N, H, W, 3) or (N, H, W) uint8, each over its caption."""
        cell = "<figure>{}<figcaption>{}</figcaption></figure>"
        pairs = zip(images, captions, strict=True)
        self._block("gallery", (cell.format(picture(x), escape(text)) for x, text in pairs))

    def filters(self, weight: np.ndarray) -> None:
        """Show filters (K, C, R, S), C 1 or 3, each stretched to its own range."""
        tiles = weight.transpose(0, 2, 3, 1).astype(np.float64)
        low, high = tiles.min((1, 2, 3), keepdims=True), tiles.max((1, 2, 3), keepdims=True)
        levels = np.rint(255 * (tiles - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
        self._block("filters", map(picture, levels if levels.shape[3] == 3 else levels[..., 0]))

    def _block(self, kind: str, cells: Iterable[str]) -> None:
        self.parts.append(f'<div class="{kind}">{"".join(cells)}</div>')


def picture(pixels: np.ndarray) -> str:
    """An <img> of pixels (H, W, 3) or (H, W) uint8, its data inside; CSS gives its size."""
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, "png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def panels(columns: int, width: float, height: float, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure of axes side by side, in rows, without pyplot's global state."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(TEXT):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def curves(runs: dict[str, Rows], by_share: bool = False) -> Any:
    """Loss, accuracy and learning rate of every epoch of each run: name -> rows.

    by_share: over the share of each run's own epochs, where runs differ much in length.
    """
    figure, axes = panels(3, 11, max(3.4, 0.16 * len(runs) + 0.6))
    titles = {"loss": "loss (nats), training dotted", "accuracy": "accuracy (%), training dotted",
              "lr": "learning rate at the epoch's end"}  # fmt: skip
    for place, (what, title) in zip(axes, titles.items(), strict=True):
        for i, (name, rows) in enumerate(runs.items()):
            for key in (f"train_{what}", f"heldout_{what}", what):
                shown = [row for row in rows if key in row]
                values = [row[key] * (100 if what == "accuracy" else 1) for row in shown]
                again, colour = divmod(i, len(RUNS))
                line = ":" if key.startswith("train") else ("-", "--", "-.")[again % 3]
                label = name if key.startswith("heldout") else None
                at = [row["epoch"] / (rows[-1]["epoch"] if by_share else 1) for row in shown]
                look = {"marker": "." * (len(shown) < 60), "linestyle": line, "label": label}
                place.plot(at, values, color=RUNS[colour], **look)
        label_progress(place, title)
        if by_share:
            place.set_xlabel("share of the run's epochs")
            place.xaxis.get_major_locator().set_params(integer=False)
    axes[2].set_ylim(bottom=0)
    if len(runs) > 1:
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper", fontsize=8,
                      frameon=False)  # fmt: skip
    return figure


def label_progress(axes: Any, title: str, unit: str = "epoch") -> None:
    """Title the axes; label the x axis by whole epochs, or steps."""
    axes.set_title(title, loc="left")
    axes.set_xlabel(unit)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """The confusion matrix (K, K) as shares of each row; cells hold counts when they fit."""
    count = len(classes)
    size = min(3.2 + 0.42 * count, 11.0)
    figure, (axes,) = panels(1, size, size * 0.9)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.grid(False)
    shades = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shades, ax=axes, shrink=0.75, label="share of the true class")
    axes.set(xlabel="answer", ylabel="true class")
    if count <= NAMED:
        axes.set_xticks(range(count), classes, rotation=45, ha="right", parse_math=False)
        axes.set_yticks(range(count), classes, parse_math=False)
        for i, j in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[i, j] > 0.5 else "#1c2128"
            axes.text(j, i, int(matrix[i, j]), ha="center", va="center", color=colour, fontsize=8)
    return figure


def times(rows: Rows) -> Any:
    """Seconds of training and of evaluation for every epoch."""
    figure, (axes,) = panels(1, 11, 2.3)
    names = ("epoch", "seconds", "evaluation_seconds")
    epochs, train, judge = ([row[name] for row in rows] for name in names)
    axes.bar(epochs, train, color=RUNS[0], label="training", width=0.7)
    axes.bar(epochs, judge, bottom=train, color=RUNS[1], label="evaluation", width=0.7)
    label_progress(axes, "seconds")
    axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False)
    return figure
