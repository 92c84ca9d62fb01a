"""Ops that join and cut tensors: cat, stack, split, flip, repeat, pad."""

import itertools
from collections.abc import Sequence
from typing import Any

from minidl import backend
from minidl.autograd import op
from minidl.dtypes import result_type
from minidl.errors import require
from minidl.ops.arguments import axes_of, axis_of, fitted, length_of, sizes_of
from minidl.ops.index import getitem, pieces
from minidl.ops.shape import clone, expand, reshape, to_dtype, unsqueeze


@op
def _cat(*xs: Any, axis: int) -> Any:
    """The arrays one after the other along an axis."""
    sizes = [x.shape[axis] for x in xs]

    def vjp(g: Any, need: Any) -> Any:
        places = zip(itertools.accumulate(sizes, initial=0), sizes, need)
        return tuple(narrow(g, axis, a, n) if wanted else None for a, n, wanted in places)

    return backend.of(xs[0]).cat(xs, axis), (), vjp


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors one after the other along dim; dtypes are promoted."""
    require(len(tensors) > 0, "cat", "needs at least one tensor")
    wanted = result_type(*tensors)
    tensors = [x for x in tensors if tuple(x.shape) != (0,)] or list(tensors[:1])
    first = tensors[0]
    i = axis_of(dim, first.ndim, "cat")
    others = (*first.shape[:i], *first.shape[i + 1 :])
    for x in tensors:
        fits = x.ndim == first.ndim > i and (*x.shape[:i], *x.shape[i + 1 :]) == others
        require(fits, "cat", f"shapes must agree in every axis but {i}", first=first, other=x)
    return _cat(*(to_dtype(x, wanted) for x in tensors), axis=i)


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors, of one shape, along a new axis dim."""
    require(len(tensors) > 0, "stack", "needs at least one tensor")
    first = tensors[0]
    i = axis_of(dim, first.ndim + 1, "stack")
    for x in tensors:
        require(x.shape == first.shape, "stack", "shapes must be equal", first=first, other=x)
    return cat([unsqueeze(x, i) for x in tensors], i)


def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    """x[start : start + length] along dim, a view."""
    i, n = length_of(dim, x, "narrow")
    begin = start + n if start < 0 else start
    rule = f"start and length must lie within the axis of {n}"
    require(0 <= begin <= begin + length <= n, "narrow", rule, start=start, length=length, x=x)
    return getitem(x, (slice(None),) * i + (slice(begin, begin + length),))


def split(x: Any, split_size_or_sections: Any, dim: int = 0) -> tuple:
    """x in pieces of a size (the last may be smaller), or of the sizes listed."""
    (i, n), given = length_of(dim, x, "split"), split_size_or_sections
    if isinstance(given, int):
        require(given > 0 or n == 0, "split", "the size must be positive", size=given)
        sizes = [min(given, n - k) for k in range(0, n, given or 1)] or [0]
    else:
        sizes = list(given)
        fits = sum(sizes) == n and min(sizes, default=0) >= 0
        require(fits, "split", f"the sizes must add up to {n}, none negative", sizes=sizes)
    before = (slice(None),) * i
    starts = itertools.accumulate(sizes, initial=0)
    return pieces(x, keys=tuple((*before, slice(a, a + k)) for a, k in zip(starts, sizes)))


def chunk(x: Any, chunks: int, dim: int = 0) -> tuple:
    """x in at most `chunks` pieces of equal size (the last may be smaller)."""
    require(chunks > 0, "chunk", "chunks must be positive", chunks=chunks)
    n = length_of(dim, x, "chunk")[1]
    return split(x, -(-n // chunks) if n else [0] * chunks, dim)


def unbind(x: Any, dim: int = 0) -> tuple:
    """The slices of x along dim, without that axis."""
    i, n = length_of(dim, x, "unbind")
    return pieces(x, keys=tuple((*(slice(None),) * i, k, ...) for k in range(n)))


@op
def flip_axes(x: Any, *, axes: tuple[int, ...]) -> Any:
    """x reversed along the axes."""
    key = tuple(slice(None, None, -1 if i in axes else 1) for i in range(x.ndim))
    return backend.of(x).copy(x[key]), (), lambda g, need: (flip_axes(g, axes=axes),)


def flip(x: Any, *dims: Any) -> Any:
    """x reversed along dims."""
    given = sizes_of(dims, "flip")
    return flip_axes(x, axes=axes_of(given, x.ndim, "flip") if given else ())


def repeat(x: Any, *sizes: Any) -> Any:
    """x repeated `sizes` times along each axis (leading axes are added), as PyTorch's repeat."""
    counts = sizes_of(sizes, "repeat")
    fits = len(counts) >= x.ndim and min(counts, default=0) >= 0
    require(fits, "repeat", "needs a count for every axis, none negative", x=x, sizes=counts)
    shape = (1,) * (len(counts) - x.ndim) + tuple(x.shape)
    apart = reshape(x, tuple(n for s in shape for n in (1, s)))
    wide = expand(apart, shape=tuple(n for c, s in zip(counts, shape) for n in (c, s)))
    y = reshape(wide, tuple(c * s for c, s in zip(counts, shape)))
    return y if any(c > 1 and s > 1 for c, s in zip(counts, shape)) else clone(y)


@op
def pad_constant(x: Any, *, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> Any:
    """x with `value` around it (negative widths cut), channels-last kept."""
    back, around = tuple([(-lo, -hi) for lo, hi in widths]), fitted("pad", value, x.dtype)
    return backend.of(x).pad(x, widths, around), (), lambda g, need: (pad_constant(g, widths=back),)
