"""A self-contained HTML page about a run: numbers, curves, confusion, mistakes, filters, times."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2128;max-width:1040px;margin:32px auto;
padding:0 20px}
h1{font-size:26px;margin:0 0 2px}h2{font-size:18px;margin:36px 0 8px}
p.sub{color:#59636e;margin:0 0 18px}.note{color:#59636e;font-size:13px;margin:4px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px}
.tile{background:#f3f5f8;border-radius:8px;padding:10px 14px}
.tile b{display:block;font-size:21px}.tile span{color:#59636e;font-size:13px}
pre{background:#f3f5f8;border-radius:8px;padding:10px 14px;overflow-x:auto;white-space:pre-wrap}
table{border-collapse:collapse;font-size:13px}td,th{padding:2px 18px 2px 0;text-align:left;
vertical-align:top}td:first-child{color:#59636e}svg{max-width:100%;height:auto}
img{image-rendering:pixelated;border-radius:4px;width:100%}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(105px,1fr));gap:12px}
.filters{display:grid;grid-template-columns:repeat(auto-fill,minmax(46px,1fr));gap:6px}
figure{margin:0}figcaption{font-size:12.5px;line-height:1.3;white-space:pre-line}
"""
TRAIN, HELDOUT, OTHER = "#8a94a6", "#2563eb", "#d97706"
RUNS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
TEXT: Any = {"font.size": 9.5, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#e4e8ee", "axes.edgecolor": "#8a94a6", "axes.axisbelow": True,
        "svg.hashsalt": "minidl"}  # fmt: skip


BARE = {"Date": None, "Creator": None, "Format": None, "Type": None}  # no time, no addresses


class Report:
    """A page that is filled section by section; `html()` is the finished, self-contained text."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.parts = [
            f"<h1>{html.escape(title)}</h1>",
            f'<p class="sub">{html.escape(subtitle)}</p>',
        ]

    def html(self) -> str:
        """The whole page."""
        head = (
            f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{STYLE}</style>'
        )
        return "<!doctype html><html lang=en>" + head + "\n".join(self.parts) + "</html>\n"

    def section(self, title: str, note: str = "") -> None:
        """Start a section with a heading and a sentence on how to read it."""
        self.parts.append(f"<h2>{html.escape(title)}</h2>")
        if note:
            self.parts.append(f'<p class="note">{html.escape(note)}</p>')

    def tiles(self, values: dict[str, str]) -> None:
        """A row of headline figures: name -> value."""
        tiles = (f'<div class="tile"><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>'
                 for k, v in values.items())  # fmt: skip
        self.parts.append(f'<div class="tiles">{"".join(tiles)}</div>')

    def code(self, text: str) -> None:
        """A block of literal text, such as the command of the run."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> None:
        """A plain table; numbers are shown as Python shows them."""
        lines = [
            "<tr>" + "".join(f"<th>{html.escape(str(c))}</th>" for c in head) + "</tr>"
        ] * bool(head)
        for row in rows:
            lines.append("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>")
        self.parts.append(f"<table>{''.join(lines)}</table>")

    def figure(self, figure: Any) -> None:
        """Embed a matplotlib figure as SVG."""
        import matplotlib as mpl

        data = io.BytesIO()
        with mpl.rc_context(TEXT):
            figure.savefig(data, format="svg", metadata=BARE)
        text = data.getvalue().decode()
        self.parts.append(text[text.index("<svg") :])

    def gallery(self, images: np.ndarray, captions: Sequence[str]) -> None:
        """Show images (N, H, W, 3) or (N, H, W) uint8, each over its caption."""
        cells = (
            f"<figure>{picture(image)}<figcaption>{html.escape(caption)}</figcaption></figure>"
            for image, caption in zip(images, captions, strict=True)
        )
        self.parts.append(f'<div class="gallery">{"".join(cells)}</div>')

    def filters(self, weight: np.ndarray) -> None:
        """Show filters (K, C, R, S), C 1 or 3, each stretched to its own range."""
        tiles = weight.transpose(0, 2, 3, 1).astype(np.float64)
        low, high = tiles.min((1, 2, 3), keepdims=True), tiles.max((1, 2, 3), keepdims=True)
        levels = np.rint(255 * (tiles - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
        cells = (picture(tile if tile.shape[2] == 3 else tile[..., 0]) for tile in levels)
        self.parts.append(f'<div class="filters">{"".join(cells)}</div>')


def picture(pixels: np.ndarray) -> str:
    """An <img> of pixels (H, W, 3) or (H, W) uint8, its data inside; CSS gives its size."""
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, "png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def panels(columns: int, width: float, height: float, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure of rows x columns axes, without pyplot's global state."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(TEXT):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def curves(rows: Sequence[dict[str, Any]]) -> Any:
    """Loss, accuracy and learning rate of every epoch of one run."""
    figure, (left, middle, right) = panels(3, 11, 3.1)
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 30 else None
    for axes, what, scale in ((left, "loss", 1.0), (middle, "accuracy", 100.0)):
        for name, colour in (("train", TRAIN), ("heldout", HELDOUT)):
            if f"{name}_{what}" in rows[0]:
                values = [scale * row[f"{name}_{what}"] for row in rows]
                label = "held-out" if name == "heldout" else "training"
                axes.plot(epochs, values, color=colour, label=label, marker=marker, ms=3)
        axes.legend(frameon=False)
    right.plot(epochs, [row["lr"] for row in rows], color=OTHER, marker=marker, ms=3)
    for axes, title in (
        (left, "loss (nats)"),
        (middle, "accuracy (%)"),
        (right, "learning rate at the epoch's end"),
    ):
        axes.set_title(title, loc="left")
        whole_epochs(axes)
    return figure


def whole_epochs(axes: Any) -> None:
    """Label the x axis by whole epochs."""
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)


def compared(runs: dict[str, Sequence[dict[str, Any]]]) -> Any:
    """Held-out (solid) and training (dashed) loss and accuracy of several runs: name -> rows."""
    figure, pair = panels(2, 11, 4.2)
    for axes, what, scale, title in zip(
        pair, ("loss", "accuracy"), (1.0, 100.0), ("loss (nats)", "accuracy (%)"), strict=True
    ):
        for i, (name, rows) in enumerate(runs.items()):
            for part, style in (("train", ":"), ("heldout", "-")):
                points = [
                    (r["epoch"], scale * r[f"{part}_{what}"]) for r in rows if f"{part}_{what}" in r
                ]
                label = name if part == "heldout" else None
                if points:
                    look = {"color": RUNS[i % len(RUNS)], "lw": 1.1 if part == "train" else 1.8}
                    axes.plot(*zip(*points, strict=True), style, label=label, **look)
        axes.set_title(f"{title}: held-out solid, training dotted", loc="left")
        whole_epochs(axes)
    pair[1].legend(frameon=False)
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """The confusion matrix (K, K) as shares of each row; cells hold counts when they fit."""
    count = len(classes)
    size = min(3.2 + 0.42 * count, 11.0)
    figure, (axes,) = panels(1, size, size * 0.9)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.grid(False)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, shrink=0.75, label="share of the true class")
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    if count <= 25:
        axes.set_xticks(range(count), classes, rotation=45, ha="right")
        axes.set_yticks(range(count), classes)
        for i, j in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[i, j] > 0.5 else "#1c2128"
            axes.text(j, i, int(matrix[i, j]), ha="center", va="center", color=colour, fontsize=8)
    return figure


def times(rows: Sequence[dict[str, Any]]) -> Any:
    """Seconds of training and of evaluation for every epoch."""
    figure, (axes,) = panels(1, 11, 2.3)
    epochs = [row["epoch"] for row in rows]
    train = [row["seconds"] for row in rows]
    axes.bar(epochs, train, color=HELDOUT, label="training", width=0.7)
    axes.bar(epochs, [row["evaluation_seconds"] for row in rows], bottom=train, color=OTHER,
             label="evaluation", width=0.7)  # fmt: skip
    axes.set_title("seconds", loc="left")
    axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False)
    whole_epochs(axes)
    return figure
