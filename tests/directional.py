"""Checks of gradients along random directions, and of results at several thread counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minidl as ml
from minidl import config


def tensor(x: np.ndarray, grad: bool = True) -> Any:
    return ml.tensor(x, requires_grad=grad)


def check_gradients(
    f: Callable, *arrays: np.ndarray, order: int = 2, tol: float = 1e-6, seed: int = 0
) -> None:
    """Compare derivatives of f (float64 in and out) with central differences.

    Directions and cotangents are random. Order 2 differentiates the gradient once more. The
    truncation error is some 1e-12 times third derivatives, rounding 1e-16 / 1e-6: hence tol.
    """
    rng = np.random.default_rng(seed)
    step = 1e-6
    directions = [rng.normal(size=a.shape) for a in arrays]
    before = [a.copy() for a in arrays]
    g = tensor(rng.normal(size=f(*map(tensor, arrays)).shape), False)

    def gradient(xs: list, create: bool = False) -> list:
        y = f(*xs)
        return list(ml.grad(y, xs, g, create_graph=create, allow_unused=True))

    def moved(s: float) -> list:
        return [tensor(a + s * d) for a, d in zip(arrays, directions, strict=True)]

    def compare(scalar: Callable, grads: list, what: str) -> None:
        found = sum((h.numpy() * d).sum() for h, d in zip(grads, directions) if h is not None)
        want = (scalar(step) - scalar(-step)) / (2 * step)
        assert abs(found - want) <= tol * max(1.0, abs(want)), (what, found, want)

    first = gradient([tensor(a) for a in arrays])
    again = gradient([tensor(a) for a in arrays])
    for a, b in zip(first, again, strict=True):
        assert a is None or a.numpy().tobytes() == b.numpy().tobytes(), "not the same on rerun"
    compare(
        lambda s: float((f(*moved(s)).detach().numpy() * g.numpy()).sum()), first, "first order"
    )
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    if order < 2:
        return
    xs = [tensor(a) for a in arrays]
    weights = [rng.normal(size=a.shape) for a in arrays]
    made = gradient(xs, create=True)
    live = [(h, w) for h, w in zip(made, weights) if h is not None and h.requires_grad]
    heads, ws = [h for h, _ in live], [tensor(w, False) for _, w in live]
    second = ml.grad(heads, xs, ws, allow_unused=True) if live else [None] * len(xs)

    def slope(s: float) -> float:
        grads = gradient(moved(s))
        return sum((h.detach().numpy() * w).sum() for h, w in zip(grads, weights) if h is not None)

    compare(slope, list(second), "second order")


def check_threads(f: Callable[[], list[np.ndarray]]) -> None:
    """f() gives the same bits with 1, 2 and 3 threads."""
    given, found = config.threads(), []
    try:
        for n in (1, 2, 3):
            config.set_num_threads(n)
            found.append([np.asarray(a).tobytes() for a in f()])
    finally:
        config.set_num_threads(given)
    assert found[0] == found[1] == found[2]


def backward_of(f: Callable, *arrays: np.ndarray, seed: int = 1) -> list[np.ndarray]:
    """f's result and its gradients for a random cotangent."""
    xs = [tensor(a) for a in arrays]
    y = f(*xs)
    g = np.random.default_rng(seed).normal(size=y.shape).astype(y.dtype)
    return [y.detach().numpy(), *(h.numpy() for h in ml.grad(y, xs, tensor(g, False)))]


def layouts(x: np.ndarray) -> list[np.ndarray]:
    """x with different strides: C order, channels-last, Fortran order, every second element."""
    found = [np.ascontiguousarray(x), np.asfortranarray(x)]
    if x.ndim > 2:
        found.append(np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1))
    wide = np.repeat(x, 2, -1) if x.ndim else x
    return [*found, wide[..., ::2]] if x.ndim else found
