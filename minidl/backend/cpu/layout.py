"""Moving array data about: layouts, joins, padding and dtype conversion."""

import math
from typing import Any

import numpy as np

from minidl.backend.cpu import memory
from minidl.backend.cpu.jit import kernel, launch
from minidl.backend.cpu.memory import Array, Maybe, contiguous, empty, empty_like, empty_nchw
from minidl.backend.cpu.replay import note, recording
from minidl.backend.looping import dense_like, is_channels_last, joint_of, padding_of

_FEW = 1 << 12  # numbers that a record moves by a kernel, one after the other
_START = np.zeros(1, np.int64)


@kernel("R* R* i8* int int i8*")
def _move(i, x, y, first, step, axes, sizes):
    """The i-th number of x, in logical order, to y behind first[0] steps.

    sizes holds every axis' length and its strides in x and y.
    """
    rest, a, b = i, 0, first[0] * step
    for k in range(axes - 1, -1, -1):
        n = sizes[3 * k]
        a += rest % n * sizes[3 * k + 1]
        b += rest % n * sizes[3 * k + 2]
        rest = rest // n
    y[b] = x[a]


def copy_into(y: Array, x: Array, first: Maybe = None) -> None:
    """y = x, which broadcasts; or y[..., first : first + T, :] = x (..., T, D), first (1,) int64.

    In a record few numbers are moved by a kernel, which is done again without Python.
    """
    if not recording() or not 0 < x.size <= _FEW or x.dtype != y.dtype or x.itemsize not in (4, 8):
        note(_copy_into, y, x, first)
        return
    size, step = x.itemsize, 0 if first is None else y.strides[-2] // x.itemsize
    shape = y.shape if first is None else (*y.shape[:-2], *x.shape[-2:])
    strides = [s // size for s in np.broadcast_to(x, shape).strides], [s // size for s in y.strides]
    sizes = np.array([shape, *strides], np.int64).T.copy()
    bits = [a.view(f"f{size}") for a in (x, y)]
    total = math.prod(shape)
    launch(_move, total, total, *bits, _START if first is None else first, step, len(shape), sizes)


def _copy_into(y: Array, x: Array, first: Maybe) -> None:
    start = 0 if first is None else int(first[0])
    y[... if first is None else (..., slice(start, start + x.shape[-2]), slice(None))] = x


def copy(x: Array) -> Array:
    """A dense copy with x's order of axes in memory."""
    made = empty_like(x)
    copy_into(made, x)
    return made


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """x's elements in logical C order in a new shape: a view where possible."""
    seen = view_as(x, shape)
    return contiguous(x).reshape(shape) if seen is None else seen


def view_as(x: Array, shape: tuple[int, ...]) -> Array | None:
    """x's elements in logical C order in a new shape, as a view; None where there is none."""
    try:
        return x.reshape(shape, copy=False)
    except ValueError:
        return None


def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    """x seen with its axes of size 1 repeated: a view that cannot be written to."""
    return np.broadcast_to(x, shape)


def _empty(shape: tuple[int, ...], dtype: np.dtype, channels_last: bool) -> Array:
    return empty_nchw(*shape, dtype=dtype) if channels_last else empty(shape, dtype)


def cat(xs: Any, axis: int) -> Array:
    """The arrays one after the other; channels-last if all are."""
    shape, keys = joint_of([x.shape for x in xs], axis)
    y = _empty(shape, xs[0].dtype, all(map(is_channels_last, xs)))
    for x, key in zip(xs, keys, strict=True):
        note(np.copyto, y[key], x)
    return y


def assemble(xs: Any, keys: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Each of xs at its key of a new array of a shape: the memory that all lie in, or copies.

    The keys share the array out among themselves; None in xs stands for zeros. `strides` gives the
    order of the axes in memory.
    """
    given = [x for x in xs if x is not None]
    first = given[0]
    laid, base = dense_like(shape, strides, first.itemsize), first.base
    whole = isinstance(base, Array) and base.flags.c_contiguous and base.dtype == first.dtype
    if whole and base.size == math.prod(shape) and len(given) == len(xs):
        y = np.ndarray(shape, first.dtype, base, 0, laid)
        if all(_same_place(x, y[key]) for x, key in zip(xs, keys, strict=True)):
            return y
    y = memory.strided(shape, laid, first.dtype)
    for x, key in zip(xs, keys, strict=True):
        note(y.__setitem__, key, 0 if x is None else x)
    return y


def _same_place(x: Array, y: Array) -> bool:
    """Whether x and y are the same view."""
    same = x.shape == y.shape and x.strides == y.strides
    return same and memory.address_of(x) == memory.address_of(y)


def pad(x: Array, widths: tuple[tuple[int, int], ...], value: float) -> Array:
    """x with `value` around it; negative widths cut; channels-last is kept."""
    shape, inside, taken = padding_of(x.shape, widths)
    y = _empty(shape, x.dtype, is_channels_last(x))
    note(y.fill, value)
    note(y.__setitem__, inside, x[taken])
    return y


def cast(x: Array, dtype: Any) -> Array:
    """x in another dtype with the same layout (x itself if it has it)."""
    if x.dtype == dtype:
        return x
    y = empty_like(x, dtype)
    with np.errstate(all="ignore"):
        note(y.__setitem__, ..., x)
    return y


def full_like(x: Array, value: Any, dtype: Any = None) -> Array:
    """An array of one value with x's shape and layout, and its dtype unless another is given."""
    y = empty_like(x, dtype)
    note(y.fill, value)
    return y
