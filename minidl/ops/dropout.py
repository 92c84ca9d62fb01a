"""Dropout of elements and of channels; masks come from the "dropout" stream of random numbers."""

from __future__ import annotations

from typing import Any

from minidl import backend
from minidl.autograd import raw
from minidl.errors import DTypeError, require
from minidl.fusion import pointwise
from minidl.random import default


@pointwise
def _kept(x, mask, *, scale):
    """x * mask * scale."""
    return x * mask * scale


def _drop(name: str, x: Any, p: float, training: bool, shape: tuple[int, ...]) -> Any:
    require(0 <= p <= 1, name, "p must lie in [0, 1]", p=p)
    require(x.dtype.kind in "fV", name, "x must be floating point", error=DTypeError, x=x)
    if not training or p == 0:
        return x
    last = len(shape) == 4 and backend.of(raw(x)).is_channels_last(raw(x))
    mask = default("dropout").bernoulli(1 - p, shape, channels_last=last)
    return _kept(x, mask, scale=1 / (1 - p) if p < 1 else 0.0)


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """x with each element zeroed with probability p and the rest divided by 1 - p.

    inplace is accepted and ignored: x is never written to (Srivastava et al. 2014).
    """
    return _drop("dropout", input, p, training, tuple(input.shape))


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """dropout of whole channels of x (N, C, ...); inplace as in dropout."""
    x = input
    require(x.ndim >= 3, "dropout2d", "x must have at least 3 axes (N, C, ...)", x=x)
    return _drop("dropout2d", x, p, training, (*x.shape[:2], *[1] * (x.ndim - 2)))
