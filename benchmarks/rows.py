"""Row by row: softmax, cross-entropy, embedding."""

from __future__ import annotations

import numpy as np

from benchmarks import oracle
from benchmarks.case import Case, Cost, Expected, Work, kernel, passes, random
from benchmarks.library import Minidl


def softmax(rows: int, width: int) -> Case:
    """x (rows, width) over its last axis."""

    def build(lib: Minidl) -> Work:
        array, out = random(rows, width), random(rows, width, seed=1)
        x = lib.tensor(array, True)

        def expect() -> dict[str, Expected]:
            y = oracle.softmax(array.astype(np.float64))
            dx = y * (out - (y * out).sum(-1, keepdims=True))
            return {"y": Expected(y, width), "x": Expected(dx, width)}

        return kernel(lib, lambda: lib.F.softmax(x, -1), {"x": x}, lib.tensor(out), expect)

    size = 4 * rows * width
    return Case("softmax_4096x512", "rows", build, passes(Cost(0, 2 * size), Cost(0, 3 * size)))


def cross_entropy(name: str, rows: int, classes: int) -> Case:
    """The mean over rows of logits (rows, classes)."""

    def build(lib: Minidl) -> Work:
        array, labels = random(rows, classes), np.random.default_rng(1).integers(0, classes, rows)
        x, y = lib.tensor(array, True), lib.tensor(labels)

        def expect() -> dict[str, Expected]:
            p = oracle.softmax(array.astype(np.float64))
            loss = -np.log(p[np.arange(rows), labels]).mean()
            p[np.arange(rows), labels] -= 1
            return {"y": Expected(np.array(loss), classes), "x": Expected(p / rows, classes)}

        return kernel(lib, lambda: lib.F.cross_entropy(x, y), {"x": x}, None, expect)

    size = 4 * rows * classes
    return Case(name, "rows", build, passes(Cost(0, size), Cost(0, 2 * size)))


def embedding(tokens: int, vocabulary: int, width: int) -> Case:
    """Rows of a table (vocabulary, width); its gradient is dense."""

    def build(lib: Minidl) -> Work:
        array, out = random(vocabulary, width), random(tokens, width, seed=1)
        chosen = np.random.default_rng(2).integers(0, vocabulary, tokens)
        table, index = lib.tensor(array, True), lib.tensor(chosen)

        def expect() -> dict[str, Expected]:
            grad = np.zeros(array.shape)
            np.add.at(grad, chosen, out)
            return {"y": Expected(array[chosen]), "table": Expected(grad, tokens / vocabulary + 1)}

        def forward():
            return lib.F.embedding(index, table)

        return kernel(lib, forward, {"table": table}, lib.tensor(out), expect)

    rows, grad = 4 * tokens * width, 4 * vocabulary * width
    costs = passes(Cost(0, 2 * rows), Cost(0, rows + grad))
    return Case("embedding_4096_of_8192x384", "rows", build, costs)


def cases(small: bool = False) -> list[Case]:
    """A language model's ends, and the softmax of attention."""
    part = 64 if small else 1
    return [
        softmax(4096 // part, 512),
        cross_entropy("cross_entropy_4096x65", 4096 // part, 65),
        cross_entropy("cross_entropy_2048x8192", 2048 // part, 8192),
        embedding(4096 // part, 8192, 384),
    ]
