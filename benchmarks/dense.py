"""A linear layer with GELU, and a square matrix product."""

from __future__ import annotations

import numpy as np

from benchmarks import oracle
from benchmarks.case import Case, Cost, Expected, Work, kernel, passes, random
from benchmarks.library import Minidl


def linear_gelu(rows: int, inputs: int, outputs: int) -> Case:
    """x (rows, inputs) -> gelu(x Wᵀ + b) (rows, outputs)."""

    def build(lib: Minidl) -> Work:
        scale = np.float32(inputs**-0.5)
        arrays = random(rows, inputs), scale * random(outputs, inputs, seed=1), random(outputs)
        leaves = dict(zip(("x", "weight", "bias"), (lib.tensor(a, True) for a in arrays)))
        out = random(rows, outputs, seed=2)

        def expect() -> dict[str, Expected]:
            x, w, b = (a.astype(np.float64) for a in arrays)
            y, slope = oracle.gelu(x @ w.T + b)
            dz = out * slope
            return {
                "y": Expected(y, inputs), "x": Expected(dz @ w, outputs),
                "weight": Expected(dz.T @ x, rows), "bias": Expected(dz.sum(0), rows),
            }  # fmt: skip

        def forward():
            return lib.F.gelu(lib.F.linear(*leaves.values()))

        return kernel(lib, forward, leaves, lib.tensor(out), expect)

    flops = 2 * rows * inputs * outputs
    x, w, y = 4 * rows * inputs, 4 * inputs * outputs, 4 * rows * outputs
    costs = passes(Cost(flops, x + w + y), Cost(2 * flops, 2 * x + 2 * w + 2 * y))
    return Case("linear_gelu_4096_384_1536", "dense", build, costs)


def matmul(n: int) -> Case:
    """Two square matrices."""

    def build(lib: Minidl) -> Work:
        arrays, out = {"a": random(n, n), "b": random(n, n, seed=1)}, random(n, n, seed=2)
        a, b = (lib.tensor(array, True) for array in arrays.values())

        def expect() -> dict[str, Expected]:
            left, right, g = (m.astype(np.float64) for m in (*arrays.values(), out))
            values = {"y": left @ right, "a": g @ right.T, "b": left.T @ g}
            return {name: Expected(value, n) for name, value in values.items()}

        return kernel(lib, lambda: a @ b, {"a": a, "b": b}, lib.tensor(out), expect)

    costs = passes(Cost(2 * n**3, 12 * n * n), Cost(4 * n**3, 20 * n * n))
    return Case("matmul_1024", "dense", build, costs)


def cases(small: bool = False) -> list[Case]:
    """Products of matrices."""
    return [linear_gelu(64 if small else 4096, 384, 1536), matmul(128 if small else 1024)]
