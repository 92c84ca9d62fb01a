"""A chain of pointwise operations with a sum, and AdamW over many tensors."""

from __future__ import annotations

import numpy as np

from benchmarks.case import Case, Cost, Expected, Work, agree, kernel, passes, random
from benchmarks.library import Minidl


def chain(count: int) -> Case:
    """(x * y + z).tanh().sum() of vectors."""

    def build(lib: Minidl) -> Work:
        arrays = {name: random(count, seed=i) for i, name in enumerate("abc")}
        leaves = {name: lib.tensor(array, True) for name, array in arrays.items()}
        x, y, z = leaves.values()

        def expect() -> dict[str, Expected]:
            a, b, c = (array.astype(np.float64) for array in arrays.values())
            value = np.tanh(a * b + c)
            slope = 1 - value * value
            grads = {"a": slope * b, "b": slope * a, "c": slope}
            out = {name: Expected(grad, 4) for name, grad in grads.items()}
            return out | {"y": Expected(np.array(value.sum()), count)}

        return kernel(lib, lambda: (x * y + z).tanh().sum(), leaves, None, expect)

    costs = passes(Cost(0, 12 * count), Cost(0, 24 * count))
    return Case("elementwise_chain_16M", "pointwise", build, costs)


def adamw(pairs: int, size: int) -> Case:
    """A step over `pairs` matrices (size, size) and vectors (size,) with fixed gradients."""
    lr, b1, b2, eps, decay = 1e-3, 0.9, 0.999, 1e-8, 0.01

    def build(lib: Minidl) -> Work:
        arrays = [random(*shape, seed=i) for i in range(pairs) for shape in ((size, size), (size,))]
        params = [lib.nn.Parameter(lib.tensor(array)) for array in arrays]
        for i, param in enumerate(params):
            param.grad = lib.tensor(random(*param.shape, seed=1000 + i))
        optimizer = lib.adamw(params, lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay)

        def check() -> None:
            optimizer.step()
            optimizer.step()
            for i, (param, array) in enumerate(zip(params, arrays)):
                g, p = random(*array.shape, seed=1000 + i).astype(np.float64), array.astype("d")
                m = v = 0 * g
                for step in (1, 2):
                    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
                    p = p * (1 - lr * decay)
                    p -= lr * m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + eps)
                agree(f"parameter {i}", param.detach().numpy(), Expected(p))

        return Work({"step": optimizer.step}, check)

    count = pairs * size * (size + 1)  # p, m, v read and written, g read
    return Case("adamw_10M_60t", "pointwise", build, {"step": (Cost(0, 28 * count),)})


def cases(small: bool = False) -> list[Case]:
    """Memory-bound work."""
    return [chain(2**16 if small else 2**24), adamw(30, 32 if small else 577)]
