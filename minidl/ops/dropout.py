"""Dropout of elements and of channels; masks come from the "dropout" stream of random numbers."""

from typing import Any

from minidl import backend
from minidl.autograd import raw
from minidl.errors import require
from minidl.fusion import pointwise
from minidl.ops.arguments import check_real
from minidl.random import default


@pointwise
def _kept(x, mask, *, scale):
    """x * mask * scale."""
    return x * mask * scale


def _drop(name: str, x: Any, p: float, training: bool, shape: tuple[int, ...]) -> Any:
    require(0 <= p <= 1, name, "p must lie in [0, 1]", p=p)
    check_real(name, x)
    if not training or p == 0:
        return x
    be = backend.of(raw(x))
    last = len(shape) == 4 and be.is_channels_last(raw(x))
    mask = default("dropout").bernoulli(1 - p, shape, channels_last=last, backend=be)
    return _kept(x, mask, scale=1 / (1 - p) if p < 1 else 0.0)


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """input with each element zeroed with probability p and the rest divided by 1 - p.

    inplace is accepted and ignored: input is never written to (Srivastava et al. 2014).
    """
    return _drop("dropout", input, p, training, tuple(input.shape))


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """dropout of whole channels of input (N, C, ...); inplace as in dropout."""
    require(input.ndim >= 3, "dropout2d", "needs at least 3 axes (N, C, ...)", input=input)
    return _drop("dropout2d", input, p, training, (*input.shape[:2], *[1] * (input.ndim - 2)))
