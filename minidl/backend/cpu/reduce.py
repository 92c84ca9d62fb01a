"""Sums and extremes over axes, with fixed chunks so that results do not depend on the threads."""

from __future__ import annotations

import math

import numpy as np

from minidl.backend.cpu import memory
from minidl.backend.cpu.jit import R, kernel, launch

_SMALL = 1 << 13  # elements below which NumPy's own sum is as fast
_PIECE = 1 << 14  # elements of one partial sum


@kernel("R* f8* int int int", fast=True)
def _row_sums(lo, hi, slot, x, y, row, piece, pieces):
    """y[i] = sum of the i-th piece of a row; a partial sum in R, kept as double."""
    for i in range(lo, hi):
        r = i // pieces
        start = r * row + (i - r * pieces) * piece
        stop = min(start + piece, r * row + row)
        s = R(0)
        for j in range(start, stop):
            s += x[j]
        y[i] = s


@kernel("R* f8* int int int")
def _column_sums(lo, hi, slot, x, y, rows, columns, chunk):
    """y[block, j] = sum over a block of rows of x (outer, rows, columns); blocks by `chunk`."""
    for i in range(lo, hi):
        first = i * chunk
        last = min(first + chunk, rows)
        out = i * columns
        for j in range(columns):
            y[out + j] = 0
        for r in range(first, last):
            base = r * columns
            for j in range(columns):
                y[out + j] += x[base + j]


def sum(x: np.ndarray, axes: tuple[int, ...], keepdims: bool = False) -> np.ndarray:  # noqa: A001
    """Sum over axes; floats as partial sums in x's type, added up in double."""
    if not axes and x.ndim:
        return x
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    kept = shape if keepdims else tuple(n for i, n in enumerate(x.shape) if i not in axes)
    form = _form(x, axes) if x.size > _SMALL and x.dtype.str[1:] in ("f4", "f8") else None
    if form is None:
        wide = np.float32 if x.dtype.itemsize == 2 and x.dtype.kind in "fV" else None
        dtype = np.int64 if x.dtype.kind in "iub" else wide
        return np.asarray(x.sum(axis=axes, keepdims=keepdims, dtype=dtype)).astype(
            x.dtype if wide else (dtype or x.dtype), copy=False
        )
    kind, rows, columns = form
    if kind == "rows":
        pieces = -(-columns // _PIECE)
        part = memory.empty((rows, pieces), np.float64)
        launch(_row_sums, rows * pieces, max(1, _PIECE // columns), x, part, columns, _PIECE, pieces)
        y = part.sum(axis=1)
    else:
        chunk = max(1, _PIECE * 4 // columns)
        blocks = -(-rows // chunk)
        part = memory.empty((blocks, columns), np.float64)
        launch(_column_sums, blocks, 1, x, part, rows, columns, chunk)
        y = part.sum(axis=0)
    return y.astype(x.dtype).reshape(kept)


def _form(x: np.ndarray, axes: tuple[int, ...]) -> tuple[str, int, int] | None:
    """x as (rows, columns) with columns summed ("rows") or rows summed ("columns"), or None.

    Only for dense x whose kept axes lie, in memory, wholly before or wholly behind the summed ones
    and keep their logical order.
    """
    order = sorted(range(x.ndim), key=lambda i: -x.strides[i])
    if any(s < 0 for s in x.strides) or not x.transpose(order).flags.c_contiguous:
        return None
    real = [i for i in order if x.shape[i] != 1]
    gone = [i in axes for i in real]
    kept = [i for i in real if i not in axes]
    if kept != sorted(kept):
        return None
    count = math.prod(x.shape[i] for i in kept)
    total = x.size // max(count, 1)
    if gone == sorted(gone):  # kept axes first
        return ("rows", count, total)
    if gone == sorted(gone, reverse=True):
        return ("columns", total, count)
    return None


def extreme(x: np.ndarray, axes: tuple[int, ...], largest: bool, keepdims: bool) -> np.ndarray:
    """Maximum or minimum over axes; NaN wins."""
    return np.asarray((x.max if largest else x.min)(axis=axes, keepdims=keepdims))


def argextreme(x: np.ndarray, axis: int | None, largest: bool) -> np.ndarray:
    """Index of the first extreme along an axis (of the flattened x: None), int64."""
    return np.asarray((x.argmax if largest else x.argmin)(axis=axis))


def cumsum(x: np.ndarray, axis: int) -> np.ndarray:
    """Running sums along an axis."""
    return np.cumsum(x, axis=axis, dtype=np.int64 if x.dtype.kind in "iub" else x.dtype)


def argsort(x: np.ndarray, axis: int, descending: bool) -> np.ndarray:
    """Indices that sort along an axis, stable in both directions; NaN counts as largest."""
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    back = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
    return np.flip(x.shape[axis] - 1 - back, axis).copy()


@kernel("R* R* int int")
def _add_partials(lo, hi, slot, part, y, count, size):
    """y[j] = part[0, j] + part[1, j] + … for j in lo..hi."""
    for j in range(lo, hi):
        y[j] = part[j]
    for i in range(1, count):
        for j in range(lo, hi):
            y[j] += part[i * size + j]


def add_partials(part: np.ndarray) -> np.ndarray:
    """Sum over the first axis of a C-contiguous array, in order."""
    if not len(part):
        return memory.zeros(part.shape[1:], part.dtype)
    y = memory.empty(part.shape[1:], part.dtype)
    launch(_add_partials, y.size, 1 << 14, part, y, len(part), y.size)
    return y
