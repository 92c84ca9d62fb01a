"""Draws the graph that was recorded for a tensor, by matplotlib."""

import os
from typing import Any

from minidl.autograd import Node, Tensor
from minidl.errors import GraphError, require

_LIMIT = 400  # nodes in a picture; more are unreadable


def plot_graph(tensor: Tensor, path: str | os.PathLike[str]) -> None:
    """Draw what backward from `tensor` will walk: ops, and on top the leaves with their shapes.

    path: its ending (.svg, .png, .pdf) says how. Raises GraphError for a tensor without a graph,
    one whose graph backward has freed, and one too large to draw.
    """
    rule = "the tensor has no graph: it was not computed from one that requires grad"
    require(tensor.node is not None, "plot_graph", rule, error=GraphError, tensor=tensor)
    labels, edges = _walk(tensor.node)
    nodes, rule, fix = len(labels), f"a picture holds {_LIMIT} nodes", "draw a part of it"
    require(nodes <= _LIMIT, "plot_graph", rule, error=GraphError, fix=fix, nodes=nodes)
    _picture(labels, edges, path)


def _walk(root: Node) -> tuple[dict[int, str], list[tuple[int, int]]]:
    """Labels by id, the root first, and (from, to) pairs; leaves are labelled "shape"."""
    labels: dict[int, str] = {}
    edges: list[tuple[int, int]] = []
    stack: list[Any] = [root]
    while stack:
        node = stack.pop()
        if id(node) in labels:
            continue
        rule, fix = "the graph was freed by backward", "draw it before, or pass retain_graph=True"
        require(node.vjp is not None, "plot_graph", rule, error=GraphError, fix=fix)
        labels[id(node)] = node.name
        for source, index in filter(None, node.edges):
            edges.append((id(source), id(node)))
            if index < 0:
                labels.setdefault(id(source), str(tuple(source.shape)))
            else:
                stack.append(source)
    return labels, edges


def _layers(labels: dict[int, str], edges: list[tuple[int, int]]) -> list[list[int]]:
    """Nodes by their longest way to the root, the root's layer first; leaves sit by their users."""
    depth = dict.fromkeys(labels, 0)
    while late := [(a, b) for a, b in edges if depth[a] <= depth[b]]:
        for a, b in late:
            depth[a] = max(depth[a], depth[b] + 1)
    levels = range(max(depth.values()) + 1)
    return [[key for key in labels if depth[key] == level] for level in levels]


def _picture(labels: dict[int, str], edges: list[tuple[int, int]], path: Any) -> None:
    from matplotlib.figure import Figure

    layers = _layers(labels, edges)
    widest = max(map(len, layers))
    place: dict[int, tuple[float, float]] = {}

    def above(key: int) -> float:  # the mean of what the node feeds
        feeds = [place[b][0] for a, b in edges if a == key and b in place]
        return sum(feeds) / max(len(feeds), 1)

    for level, layer in enumerate(layers):
        for k, key in enumerate(sorted(layer, key=above)):
            place[key] = (k - (len(layer) - 1) / 2, level)
    figure = Figure(figsize=(1.5 * widest + 1, 0.7 * len(layers) + 1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-widest / 2 - 0.3, widest / 2 + 0.3), ylim=(-0.7, len(layers) - 0.3))
    style: Any = {"arrowstyle": "->", "color": "0.5", "shrinkA": 9, "shrinkB": 9}
    for a, b in edges:
        axes.annotate("", place[b], place[a], arrowprops=style)
    for key, (x, y) in place.items():
        leaf = labels[key].startswith("(")
        box = {"boxstyle": "square" if leaf else "round", "fc": "#dbe9f6" if leaf else "white"}
        axes.text(x, y, labels[key], ha="center", va="center", fontsize=8, bbox=box)
    figure.savefig(path)
