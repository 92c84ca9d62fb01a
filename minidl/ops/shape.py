"""Ops that move elements without changing them: views, broadcasting, copies and casts."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import op, parts, raw
from minidl.dtypes import is_real
from minidl.errors import require
from minidl.ops.arguments import axes_of, axis_of, length_of, sizes_of
from minidl.tape import views_to

# ---- broadcasting --------------------------------------------------------------------------------


@op
def sum_to(x: Any, *, shape: tuple[int, ...]) -> Any:
    """Sum x over the axes along which `shape` was broadcast to x.shape."""
    given = x.shape
    if given == shape:
        return x, (), lambda g, need: (g,)
    whole = (-1,) * (len(given) - len(shape)) + shape  # -1: an axis that shape lacks
    axes = tuple(i for i, (n, m) in enumerate(zip(given, whole)) if n != m)
    return backend.of(x).sum(x, axes).reshape(shape), (), lambda g, need: (expand(g, shape=given),)


@op(view=True)
def expand(x: Any, *, shape: tuple[int, ...]) -> Any:
    """x seen with the given shape, its size-1 axes repeated without copying."""
    given = x.shape
    return backend.of(x).broadcast_to(x, shape), (), lambda g, need: (sum_to(g, shape=given),)


def broadcast_to(x: Any, size: Sequence[int]) -> Any:
    """x with its size-1 axes repeated to `size`; -1 keeps an axis (PyTorch's expand)."""
    lead = len(size) - x.ndim
    given = (1,) * lead + tuple(x.shape)
    shape = tuple(m if n == -1 and i >= lead else n for i, (n, m) in enumerate(zip(size, given)))
    fits = lead >= 0 and all(m in (1, n) and n >= 0 for n, m in zip(shape, given))
    require(fits, "expand", "only axes of size 1 can be expanded", x=x, size=size)
    same = math.prod(shape) == math.prod(given)
    return _reshape(x, shape=shape) if same else expand(x, shape=shape)


def expand_to(x: Any, *sizes: Any) -> Any:
    """Tensor.expand: sizes as separate ints or one tuple."""
    return broadcast_to(x, sizes_of(sizes, "expand"))


# ---- views ---------------------------------------------------------------------------------------


@op(view=True)
def alias(x: Any) -> Any:
    """The same array as a new tensor with its own place in the graph."""
    return x.view(), (), lambda g, need: (g,)


@op(view=True)
def _reshape(x: Any, *, shape: tuple[int, ...]) -> Any:
    """x's elements in logical C order in a new shape; backward restores x's layout."""
    given, be = x.shape, backend.of(x)
    order = channels_last if be.is_channels_last(x) else lambda g: g
    return be.reshape(x, shape), (), lambda g, need: (order(_reshape(g, shape=given)),)


@op(view=True)
def channels_last(x: Any) -> Any:
    """x (N, C, H, W) with channels-last memory: itself, or one copy."""
    return backend.of(x).nhwc(x).transpose(0, 3, 1, 2), (), lambda g, need: (g,)


def reshape(x: Any, *shape: Any) -> Any:
    """x's elements in logical C order in a new shape; one size may be -1. A view where possible."""
    return _reshape(x, shape=_filled(x, sizes_of(shape, "reshape"), "reshape"))


def _filled(x: Any, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The shape with its -1 worked out."""
    count = math.prod(x.shape)
    known = math.prod([n for n in shape if n != -1])
    if shape.count(-1) == 1 and min(shape) == -1 and known and count % known == 0:
        return tuple(count // known if n == -1 else n for n in shape)
    if known != count or min(shape, default=0) < 0:
        rule = f"shape {shape} must hold x's {count} elements (one size may be -1)"
        require(False, name, rule, x=x)
    return shape


def view(x: Any, *shape: Any) -> Any:
    """reshape without a copy; raises where the strides do not allow it.

    Where they are an op's own and not what was done to its result (a convolution's is in
    channels-last order, PyTorch's in C order), it copies.
    """
    wanted, base = _filled(x, sizes_of(shape, "view"), "view"), views_to(x)[0]
    seen = backend.of(raw(x)).view_as(raw(x), wanted)
    fits, fix = seen is not None or not raw(base).flags.c_contiguous, "use reshape, which copies"
    require(fits, "view", f"size {wanted} does not fit x's strides", x=x, fix=fix)
    return _reshape(x, shape=wanted)


@op(view=True)
def permute_axes(x: Any, *, axes: tuple[int, ...]) -> Any:
    """x with its axes in another order."""
    back = tuple([axes.index(i) for i in range(len(axes))])
    return x.transpose(axes), (), lambda g, need: (permute_axes(g, axes=back),)


def permute(x: Any, *dims: Any) -> Any:
    """x with its axes in the order dims."""
    n = x.ndim
    order = tuple([axis_of(d, n, "permute") for d in sizes_of(dims, "permute")])
    once = sorted(order) == list(range(n))
    require(once, "permute", "dims must name every axis once", x=x, dims=dims)
    return permute_axes(x, axes=order)


def transpose(x: Any, dim0: int, dim1: int) -> Any:
    """x with two axes exchanged."""
    n = x.ndim
    order = list(range(n or 1))
    i, j = axis_of(dim0, n, "transpose"), axis_of(dim1, n, "transpose")
    order[i], order[j] = order[j], order[i]
    return permute_axes(x, axes=tuple(order[:n]))


def t(x: Any) -> Any:
    """The transpose of a matrix (a vector stays as it is)."""
    require(x.ndim <= 2, "t", "x must have at most 2 axes", x=x)
    return transpose(x, 0, 1) if x.ndim == 2 else x


def movedim(x: Any, source: Any, destination: Any) -> Any:
    """x with the axes `source` moved to the places `destination`."""
    src = [axis_of(d, x.ndim, "movedim") for d in np.atleast_1d(source)]
    dst = [axis_of(d, x.ndim, "movedim") for d in np.atleast_1d(destination)]
    fits = len({*src}) == len(src) == len(dst) == len({*dst})
    require(fits, "movedim", "each dim may appear once", source=source, destination=destination)
    order = [i for i in range(x.ndim) if i not in src]
    for place, axis in sorted(zip(dst, src)):
        order.insert(place, axis)
    return permute_axes(x, axes=tuple(order)[: x.ndim])


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """x with the axes start_dim..end_dim as one (logical C order)."""
    a, b = axis_of(start_dim, x.ndim, "flatten"), axis_of(end_dim, x.ndim, "flatten")
    require(a <= b, "flatten", "start_dim must not lie behind end_dim", x=x, start=a, end=b)
    s = tuple(x.shape) or (1,)
    return _reshape(x, shape=(*s[:a], math.prod(s[a : b + 1]), *s[b + 1 :]))


def unflatten(x: Any, dim: int, sizes: Sequence[int]) -> Any:
    """x with one axis split into several (one may be -1)."""
    i, n = length_of(dim, x, "unflatten")
    inner = _filled(np.broadcast_to(0, n), tuple(sizes), "unflatten")
    return reshape(x, (*x.shape[:i], *inner, *x.shape[i + 1 :]))


def squeeze(x: Any, dim: Any = None) -> Any:
    """x without its axes of size 1 (all, or those in dim)."""
    axes = () if dim in ((), []) else axes_of(dim, x.ndim, "squeeze")
    return _reshape(x, shape=tuple(n for i, n in enumerate(x.shape) if n != 1 or i not in axes))


def unsqueeze(x: Any, dim: int) -> Any:
    """x with a new axis of size 1 at dim."""
    i = axis_of(dim, x.ndim + 1, "unsqueeze")
    return _reshape(x, shape=(*x.shape[:i], 1, *x.shape[i:]))


# ---- copies -------------------------------------------------------------------------------------


@op
def clone(x: Any, *, memory_format: Any = None) -> Any:
    """A dense copy that gradients flow through; keeps the order of axes in memory."""
    return backend.of(x).copy(x), (), lambda g, need: (g,)


@op
def _contiguous(x: Any) -> Any:
    return backend.of(x).contiguous(x), (), lambda g, need: (g,)


def contiguous(x: Any, memory_format: Any = None) -> Any:
    """x in C order, or with memory_format ml.channels_last in that (itself if it is)."""
    if memory_format == "channels_last":
        return channels_last(x)
    return x if raw(x).flags.c_contiguous else _contiguous(x)


@op
def cast(x: Any, *, dtype: Any) -> Any:
    """x in another dtype; gradients come back in x's own."""
    given, y = x.dtype, backend.of(x).cast(x, dtype)
    if not (is_real(given) and is_real(y.dtype)):
        return y, (), None
    return y, (), lambda g, need: (cast(g, dtype=given),)


@op
def to_device(x: Any, *, there: Any, back: Any) -> Any:
    """x in the memory of another backend; gradients come back."""
    y = there.from_host(back.to_host(x))
    return y, (), lambda g, need: (to_device(g, there=back, back=there),)


def to_dtype(x: Any, dtype: Any) -> Any:
    """x in a dtype: itself if it has it or if dtype is None."""
    return x if dtype is None or x.dtype == np.dtype(dtype) else cast(x, dtype=np.dtype(dtype))


# ---- missing axes --------------------------------------------------------------------------------


def each(results: Any, f: Callable[[Any], Any]) -> Any:
    """f of a result, or of each of several."""
    return tuple(map(f, results)) if isinstance(results, tuple) else f(results)


def batched(f: Callable[[Any], Any], x: Any, ndim: int, name: str) -> Any:
    """f(x), with a batch axis added and taken away again if x lacks it."""
    rule = f"x must have {ndim} axes, or {ndim - 1} without N"
    require(x.ndim in (ndim, ndim - 1), name, rule, x=x)
    return f(x) if x.ndim == ndim else each(f(unsqueeze(x, 0)), lambda y: squeeze(y, 0))


def along_one(f: Callable[[Any], Any], x: Any) -> Any:
    """A function of images applied to x (N, C, L) or (C, L) as images of one row."""
    return each(f(unsqueeze(x, -2)), lambda y: squeeze(y, -2))


parts |= {"alias": alias, "sum_to": sum_to, "to_dtype": to_dtype}
