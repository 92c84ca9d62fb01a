"""Moving array data about: layouts, joins, padding and dtype conversion."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend.cpu import memory


def is_channels_last(x: np.ndarray) -> bool:
    """Whether x is (N, C, H, W) over channels-last memory and not in C order as well."""
    return x.ndim == 4 and not x.flags.c_contiguous and x.transpose(0, 2, 3, 1).flags.c_contiguous


def like(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y with its axes in memory as x's: y itself, or a copy. Shapes are equal."""
    if is_channels_last(x):
        return memory.nhwc(y).transpose(0, 3, 1, 2)
    return memory.contiguous(y) if x.flags.c_contiguous else y


def reshape(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """x's elements in logical C order in a new shape: a view where possible."""
    if x.flags.c_contiguous:
        return x.reshape(shape)
    try:
        return x.reshape(shape, copy=False)
    except ValueError:
        return memory.contiguous(x).reshape(shape)


def cat(xs: Any, axis: int) -> np.ndarray:
    """The arrays one after the other; channels-last if the first is."""
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    if all(is_channels_last(x) for x in xs):
        n, c, h, w = shape
        y = memory.empty_nchw(n, c, h, w, xs[0].dtype)
    else:
        y = memory.empty(tuple(shape), xs[0].dtype)
    start = 0
    for x in xs:
        stop = start + x.shape[axis]
        y[(slice(None),) * axis + (slice(start, stop),)] = x
        start = stop
    return y


def pad(x: np.ndarray, widths: tuple[tuple[int, int], ...], value: float) -> np.ndarray:
    """x with `value` around it; negative widths cut; channels-last is kept."""
    shape = tuple(max(n + lo + hi, 0) for n, (lo, hi) in zip(x.shape, widths, strict=True))
    if is_channels_last(x):
        n, c, h, w = shape
        y = memory.empty_nchw(n, c, h, w, x.dtype)
    else:
        y = memory.empty(shape, x.dtype)
    y.fill(value)
    inside = tuple(slice(max(lo, 0), m - max(hi, 0)) for m, (lo, hi) in zip(shape, widths))
    taken = tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(x.shape, widths))
    y[inside] = x[taken]
    return y


def cast(x: np.ndarray, dtype: Any) -> np.ndarray:
    """x in another dtype with the same layout (x itself if it has it)."""
    if x.dtype == dtype:
        return x
    y = memory.empty_like(x, dtype)
    with np.errstate(all="ignore"):
        np.copyto(y, x, casting="unsafe")
    return y


def full_like(x: np.ndarray, value: Any) -> np.ndarray:
    """An array of one value with x's shape, dtype and layout."""
    y = memory.empty_like(x)
    y.fill(value)
    return y
