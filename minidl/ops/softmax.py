"""Softmax and its relatives, and the activations that look at more than one element."""

from collections.abc import Callable
from typing import Any

from minidl import backend
from minidl.autograd import Tensor, op
from minidl.errors import require
from minidl.ops import pointwise as pw
from minidl.ops.arguments import axis_of, check_real, length_of
from minidl.ops.autocasting import raised
from minidl.ops.join import chunk
from minidl.ops.reduce import sum_axes
from minidl.ops.shape import reshape, to_dtype


def _sum(x: Any, axis: int) -> Any:
    return sum_axes(x, axes=(axis,), keepdim=True)


@op
def softmax_axis(x: Any, *, axis: int) -> Any:
    """exp(x) / sum(exp(x)) along an axis; saves the result."""
    y = backend.of(x).softmax(x, axis)
    return y, (y,), lambda g, need, y: (_softmax_grad(g, y, axis),)


def _softmax_grad(g: Any, y: Any, axis: int) -> Any:
    """y * (g - sum(g * y)), by elementary ops where it will be differentiated again."""
    if isinstance(y, Tensor):
        return pw.mul(y, pw.sub(g, _sum(pw.mul(g, y), axis)))
    return backend.of(g).softmax_grad(g, y, axis)


@op
def log_softmax_axis(x: Any, *, axis: int) -> Any:
    """x - log(sum(exp(x))) along an axis; saves the result."""
    y = backend.of(x).log_softmax(x, axis)
    return y, (y,), lambda g, need, y: (_log_softmax_grad(g, y, axis),)


def _log_softmax_grad(g: Any, y: Any, axis: int) -> Any:
    """g - exp(y) * sum(g), by elementary ops where it will be differentiated again."""
    if isinstance(y, Tensor):
        return pw.sub(g, pw.mul(pw.exp(y), _sum(g, axis)))
    return backend.of(g).log_softmax_grad(g, y, axis)


def _along(name: str, op: Callable, x: Any, dim: int | None, dtype: Any) -> Any:
    x = raised(x) if dtype is None else to_dtype(x, dtype)
    check_real(name, x)
    if dim is None:  # PyTorch's old rule
        dim = 0 if x.ndim in (0, 1, 3) else 1
    axis = axis_of(dim, x.ndim, name)
    return op(x, axis=axis) if x.ndim else reshape(op(reshape(x, 1), axis=0), ())


def softmax(input: Any, dim: int | None = None, *, dtype: Any = None) -> Any:
    """exp(x) / sum(exp(x)) along dim; NaN where all of x is -inf."""
    return _along("softmax", softmax_axis, input, dim, dtype)


def log_softmax(input: Any, dim: int | None = None, *, dtype: Any = None) -> Any:
    """log(softmax(x)) along dim, without overflow or underflow."""
    return _along("log_softmax", log_softmax_axis, input, dim, dtype)


def softmin(input: Any, dim: int | None = None, *, dtype: Any = None) -> Any:
    """softmax(-x) along dim."""
    return softmax(pw.neg(input), dim, dtype=dtype)


def glu(input: Any, dim: int = -1) -> Any:
    """a * sigmoid(b), where a and b are the halves of x along dim (Dauphin et al. 2017)."""
    n = length_of(dim, input, "glu")[1]
    require(n % 2 == 0, "glu", "the size of x along dim must be even", x=input, dim=dim)
    a, b = chunk(input, 2, dim)
    return pw.mul(a, pw.sigmoid(b))


def prelu(input: Any, weight: Any) -> Any:
    """input where positive, weight * input elsewhere; weight: one number or one a channel."""
    count = weight.shape[0] if weight.ndim else 1
    fits = weight.ndim <= 1 and count in (1, *input.shape[1:2])
    rule = "weight must hold one number, or one a channel"
    require(fits, "prelu", rule, input=input, weight=weight)
    w = reshape(weight, (1, count) + (1,) * (input.ndim - 2) if count > 1 else ())
    return pw.where(pw.gt(input, 0), input, pw.mul(w, input))
