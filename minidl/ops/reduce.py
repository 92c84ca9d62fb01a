"""Ops over axes: sums, extremes, moments, order."""

import builtins
import functools
import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, op, raw, wrap
from minidl.dtypes import default, is_real
from minidl.errors import require
from minidl.fusion import pointwise, sqrt, where
from minidl.ops import pointwise as pw
from minidl.ops.arguments import axes_of, axis_of, check_real
from minidl.ops.autocasting import raised
from minidl.ops.index import gather, getitem
from minidl.ops.join import cat, flip_axes, narrow
from minidl.ops.shape import clone, each, expand, movedim, reshape, squeeze, to_dtype, unsqueeze
from minidl.tape import settled

Values = namedtuple("Values", ["values", "indices"])


def _with_ones(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


@pointwise
def root(x, power):
    """x to a power, or its square root (None); where x is 0, so is the gradient."""
    return where(x == 0, 0.0, sqrt(x) if power is None else x**power)


@pointwise
def _tied(x, y):
    """1 where x is the extreme y, or a NaN, which makes the extreme one; else 0."""
    return where((x == y) | (x != x), 1.0, 0.0)


@op
def sum_axes(x: Any, *, axes: tuple[int, ...], keepdim: bool = False, wide: bool = False) -> Any:
    """Sum over axes; ints and bools add up in int64. wide: half types give float32."""
    shape, ones, dtype = x.shape, _with_ones(x.shape, axes), x.dtype
    y = backend.of(x).sum(x, axes, keepdim, wide)
    return y, (), lambda g, need: (expand(reshape(to_dtype(g, dtype), ones), shape=shape),)


def _in_single(function: Callable) -> Callable:
    """The function, in which half types are computed with in float32, where they would overflow."""

    @functools.wraps(function)
    def widened(x: Any, *args: Any, **options: Any) -> Any:
        x = raised(x)
        if x.dtype.itemsize != 2 or not is_real(x.dtype):
            return function(x, *args, **options)
        y = function(to_dtype(x, default), *args, **options)
        return each(y, lambda a: to_dtype(a, x.dtype))

    return widened


def sum(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Sum of the elements, or over dim."""
    x = to_dtype(raised(x), dtype)
    return to_dtype(sum_axes(x, axes=axes_of(dim, x.ndim, "sum"), keepdim=keepdim), dtype)


def mean(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Mean of the elements, or over dim."""
    x = to_dtype(raised(x), dtype)
    check_real("mean", x)
    axes = axes_of(dim, x.ndim, "mean")
    count = math.prod(x.shape[i] for i in axes)
    total = sum_axes(x, axes=axes, keepdim=keepdim, wide=True)
    return to_dtype(pw.mul(total, 1.0 / count) if count else pw.div(total, 0.0), x.dtype)


def var(x: Any, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *,
        correction: Any = None) -> Any:  # fmt: skip
    """Variance over dim, two passes; divided by n - correction (1 unless told, 0: biased)."""
    return var_mean(x, dim, unbiased, keepdim, correction=correction)[0]


@_in_single
def var_mean(x: Any, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *,
             correction: Any = None) -> tuple:  # fmt: skip
    """Variance and mean over dim."""
    check_real("var", x)
    if isinstance(dim, bool):  # x.var(False), as PyTorch's first overload
        dim, unbiased = None, dim
    less = correction if correction is not None else int(unbiased)
    axes = axes_of(dim, x.ndim, "var")
    count = math.prod(x.shape[i] for i in axes)
    m = mean(x, axes, True)
    # Of any c near the mean: Σ (x - c)² - (Σ (x - c))² / n. The mean itself is rounded.
    d = pw.sub(x, m.detach() if isinstance(m, Tensor) else m)
    squares, off = (sum_axes(v, axes=axes, keepdim=keepdim) for v in (pw.square(d), d))
    total = pw.clamp(pw.sub(squares, pw.div(pw.square(off), builtins.max(count, 1))), 0.0)
    m = m if keepdim else squeeze(m, axes)
    return pw.div(total, float(builtins.max(count - less, 0))), m


def std(x: Any, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *,
        correction: Any = None) -> Any:  # fmt: skip
    """Standard deviation over dim; gradient 0 where it is 0."""
    return root(var(x, dim, unbiased, keepdim, correction=correction), None)


@_in_single
def norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    """The p-norm over dim (p a number, inf, -inf, or "fro"); gradient 0 where it is 0."""
    check_real("norm", x)
    p = 2.0 if p in ("fro", None) else float(p)
    if abs(p) == math.inf:
        return (amax if p > 0 else amin)(pw.abs(x), dim, keepdim)
    if p == 0:
        return sum(to_dtype(pw.ne(x, 0), x.dtype), dim, keepdim)
    if p == 1:
        return sum(pw.abs(x), dim, keepdim)
    if p == 2:
        return root(sum(pw.square(x), dim, keepdim), None)
    size = pw.abs(x)
    return root(sum(root(size, p) if p > 0 else pw.pow(size, p), dim, keepdim), 1 / p)


def prod(x: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Product of the elements, or along dim, by halves: differentiable to any order."""
    x = to_dtype(x, dtype or (np.int64 if x.dtype.kind in "iub" else x.dtype))
    axis = axis_of(dim or 0, x.ndim, "prod")
    if dim is None or not x.ndim:
        x, axis, keepdim = reshape(x, -1), 0, False
    x = movedim(x, axis, 0)
    while (n := x.shape[0]) > 1:
        half = n // 2
        y = pw.mul(getitem(x, slice(0, half)), getitem(x, slice(half, 2 * half)))
        x = cat([y, getitem(x, slice(2 * half, n))]) if n % 2 else y
    y = clone(getitem(x, 0)) if n else to_dtype(pw.add(sum_axes(x, axes=(0,)), 1), x.dtype)
    return unsqueeze(y, axis) if keepdim else y


@op
def _extreme(x: Any, *, axes: tuple[int, ...], largest: bool, keepdim: bool) -> Any:
    """Extreme over axes; the gradient is shared evenly between ties, or between NaNs."""
    ones = _with_ones(x.shape, axes)
    y = backend.of(x).extreme(x, axes, largest, keepdim)

    def vjp(g: Any, need: Any, x: Any, y: Any) -> Any:
        ties = _tied(raw(x), expand(reshape(raw(y), ones), shape=x.shape))
        share = pw.div(ties, backend.of(ties).sum(ties, axes, True))
        return (pw.mul(expand(reshape(g, ones), shape=x.shape), share),)

    return y, (x, y), vjp


def amax(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """Maximum over dim; NaN wins; ties share the gradient."""
    return _whole_extreme("amax", x, dim, True, keepdim)


def amin(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """Minimum over dim; NaN wins; ties share the gradient."""
    return _whole_extreme("amin", x, dim, False, keepdim)


def _whole_extreme(name: str, x: Any, dim: Any, largest: bool, keepdim: bool) -> Any:
    axes = axes_of(dim, x.ndim, name)
    some = 0 not in [x.shape[i] for i in axes]
    require(some, name, "cannot reduce an axis of size 0", x=x, dim=dim)
    return _extreme(x, axes=axes, largest=largest, keepdim=keepdim)


def max(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Maximum of all; (values, indices) along dim; element-wise with a second tensor."""
    return _max_or_min("max", x, dim, keepdim, True)


def min(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Minimum of all; (values, indices) along dim; element-wise with a second tensor."""
    return _max_or_min("min", x, dim, keepdim, False)


def _max_or_min(name: str, x: Any, dim: Any, keepdim: bool, largest: bool) -> Any:
    if dim is None:
        return _whole_extreme(name, x, (), largest, False)
    if hasattr(dim, "dtype"):
        return (pw.maximum if largest else pw.minimum)(x, dim)
    k = _arg(name, x, dim, True, largest)
    found = gather(x, dim, k), k
    return Values(*(found if keepdim else each(found, lambda y: squeeze(y, dim))))


def _arg(name: str, x: Any, dim: int | None, keepdim: bool, largest: bool) -> Any:
    a = raw(x)
    axis = None if dim is None else axis_of(dim, a.ndim, name)
    if not a.ndim:
        return wrap(backend.of(a).zeros((), np.int64))
    some = a.size if axis is None else a.shape[axis]
    require(some > 0, name, "cannot reduce an axis of size 0", x=x, dim=dim)
    k = backend.of(a).argextreme(a, axis, largest)
    return wrap(k.reshape(_with_ones(a.shape, axes_of(dim, a.ndim, name))) if keepdim else k)


def argmax(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Index of the first maximum (int64), of the flattened x without dim."""
    return _arg("argmax", x, dim, keepdim, True)


def argmin(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Index of the first minimum (int64), of the flattened x without dim."""
    return _arg("argmin", x, dim, keepdim, False)


def all(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether every element is true, or every one over dim."""
    return wrap(pw.eq(_count(pw.eq(raw(x), 0), dim, "all", keepdim), 0))


def any(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether some element is true, or some one over dim."""
    return wrap(pw.ne(_count(pw.ne(raw(x), 0), dim, "any", keepdim), 0))


def count_nonzero(x: Any, dim: Any = None) -> Any:
    """How many elements are not zero."""
    return wrap(_count(pw.ne(raw(x), 0), dim, "count_nonzero", False))


def _count(true: Any, dim: Any, name: str, keepdim: bool) -> Any:
    """How many of a raw array of bools are true, over dim; () is no axis in `all` and `any`."""
    axes = () if dim in ((), []) and name != "count_nonzero" else axes_of(dim, true.ndim, name)
    return backend.of(true).sum(true, axes, keepdim)


@_in_single
def logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    """log of the sum of exp over dim, without overflow."""
    axes, top = axes_of(dim, x.ndim, "logsumexp"), 0.0
    if math.prod(x.shape[i] for i in axes):
        top = backend.of(raw(x)).extreme(raw(x), axes, True, True)
        top = pw.where(pw.isfinite(top), top, 0.0)
    y = pw.add(pw.log(sum_axes(pw.exp(pw.sub(x, top)), axes=axes, keepdim=True)), top)
    return y if keepdim else squeeze(y, axes)


@op
def cumsum_axis(x: Any, *, axis: int) -> Any:
    """Running sums along an axis."""

    def vjp(g: Any, need: Any) -> Any:
        return (flip_axes(cumsum_axis(flip_axes(g, axes=(axis,)), axis=axis), axes=(axis,)),)

    return backend.of(x).cumsum(x, axis), (), vjp


def cumsum(x: Any, dim: int, *, dtype: Any = None) -> Any:
    """Running sums along dim."""
    x, axis = to_dtype(raised(x), dtype), axis_of(dim, x.ndim, "cumsum")
    return to_dtype(cumsum_axis(x, axis=axis), dtype) if x.ndim else sum(x, dtype=dtype)


def argsort(x: Any, dim: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """Indices (int64) that sort x along dim; always stable."""
    axis = axis_of(dim, x.ndim, "argsort")
    if not x.ndim:
        return wrap(backend.of(raw(x)).zeros((), np.int64))
    return wrap(backend.of(raw(x)).argsort(raw(x), axis, descending))


def sort(x: Any, dim: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """(values, indices) in order along dim; always stable; NaN counts as largest."""
    k = argsort(x, dim, descending)
    return Values(gather(x, dim, k), k)


def topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The k largest (smallest) along dim: (values, indices), in order."""
    axis = axis_of(dim, x.ndim, "topk")
    n = x.shape[axis] if x.ndim else 1
    require(0 <= k <= n, "topk", f"k must lie in 0..{n}", k=k, x=x)
    order = argsort(x, axis, largest)
    places = settled(narrow(order, axis, 0, k)) if x.ndim else order
    return Values(gather(x, axis, places), places)
