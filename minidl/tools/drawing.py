"""Draws the graph that was recorded for a tensor: as DOT text, or as a picture by matplotlib."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from minidl.autograd import Node, Tensor
from minidl.errors import GraphError, require

_LIMIT = 400  # nodes in a picture; more are unreadable (DOT takes any number)


def plot_graph(tensor: Tensor, path: str | os.PathLike[str]) -> None:
    """Draw what backward from `tensor` will walk: ops, and the leaves with their shapes.

    The ending of `path` says how: .dot writes Graphviz text, all others (.svg, .png, .pdf) a
    picture by matplotlib, the leaves on top. Raises GraphError for a tensor without a graph, one
    whose graph backward has freed, and one too large to draw.
    """
    rule = "the tensor has no graph: it was not computed from one that requires grad"
    require(tensor.node is not None, "plot_graph", rule, error=GraphError, tensor=tensor)
    labels, edges = _walk(tensor.node)
    if Path(path).suffix == ".dot":
        Path(path).write_text(_dot(labels, edges), encoding="utf-8")
        return
    fits = len(labels) <= _LIMIT
    rule = f"a picture holds {_LIMIT} nodes"
    fix = "write a .dot file"
    require(fits, "plot_graph", rule, error=GraphError, fix=fix, nodes=len(labels))
    _picture(labels, edges, Path(path))


def _walk(root: Node) -> tuple[dict[int, str], list[tuple[int, int]]]:
    """Labels by id, the root first, and (from, to) pairs; leaves are labelled "shape"."""
    labels: dict[int, str] = {}
    edges: list[tuple[int, int]] = []
    stack: list[Any] = [root]
    while stack:
        node = stack.pop()
        if id(node) in labels:
            continue
        rule = "the graph was freed by backward"
        fix = "draw it before, or pass retain_graph=True"
        require(node.vjp is not None, "plot_graph", rule, error=GraphError, fix=fix)
        labels[id(node)] = node.name
        for edge in node.edges:
            if edge is None:
                continue
            source, index = edge
            edges.append((id(source), id(node)))
            if index < 0:
                labels.setdefault(id(source), str(tuple(source.shape)))
            else:
                stack.append(source)
    return labels, edges


def _dot(labels: dict[int, str], edges: list[tuple[int, int]]) -> str:
    numbers = {key: number for number, key in enumerate(labels)}
    lines = ["digraph {", "  node [fontname=monospace];"]
    for key, number in numbers.items():
        shape = "box" if labels[key].startswith("(") else "ellipse"
        lines.append(f'  n{number} [label="{labels[key]}", shape={shape}];')
    lines += [f"  n{numbers[a]} -> n{numbers[b]};" for a, b in edges]
    return "\n".join([*lines, "}", ""])


def _layers(labels: dict[int, str], edges: list[tuple[int, int]]) -> list[list[int]]:
    """Nodes by their longest way to the root, the root's layer first; leaves sit by their users."""
    depth = dict.fromkeys(labels, 0)
    pending = dict.fromkeys(labels, 0)
    sources: dict[int, list[int]] = {key: [] for key in labels}
    for a, b in edges:
        pending[a] += 1
        sources[b].append(a)
    ready = [key for key, count in pending.items() if not count]
    while ready:
        node = ready.pop()
        for source in sources[node]:
            depth[source] = max(depth[source], depth[node] + 1)
            pending[source] -= 1
            if not pending[source]:
                ready.append(source)
    layers: list[list[int]] = [[] for _ in range(max(depth.values()) + 1)]
    for key, level in depth.items():
        layers[level].append(key)
    return layers


def _picture(labels: dict[int, str], edges: list[tuple[int, int]], path: Path) -> None:
    from matplotlib.figure import Figure

    layers = _layers(labels, edges)
    widest = max(map(len, layers))
    place: dict[int, tuple[float, float]] = {}
    for level, layer in enumerate(layers):  # each node near the mean of what it feeds
        feeds: dict[int, list[float]] = {key: [] for key in layer}
        for a, b in edges:
            if a in feeds and b in place:
                feeds[a].append(place[b][0])
        layer.sort(key=lambda key: sum(feeds[key]) / max(len(feeds[key]), 1))
        for k, key in enumerate(layer):
            place[key] = (k - (len(layer) - 1) / 2, level)
    figure = Figure(figsize=(1.5 * widest + 1, 0.7 * len(layers) + 1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-widest / 2 - 0.3, widest / 2 + 0.3)
    axes.set_ylim(-0.7, len(layers) - 0.3)
    for a, b in edges:
        style: Any = {"arrowstyle": "->", "color": "0.5", "shrinkA": 9, "shrinkB": 9}
        axes.annotate("", place[b], place[a], arrowprops=style)
    for key, (x, y) in place.items():
        leaf = labels[key].startswith("(")
        box = {"boxstyle": "square" if leaf else "round", "fc": "#dbe9f6" if leaf else "white"}
        axes.text(x, y, labels[key], ha="center", va="center", fontsize=8, bbox=box)
    figure.savefig(path)
