"""Sums and extremes over axes, with fixed chunks so that results do not depend on the threads."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.backend.cpu.choice import LIMITS
from minidl.backend.cpu.jit import PIECE, R, at, kernel, launch, zero
from minidl.backend.cpu.layout import cast
from minidl.backend.cpu.memory import Array, empty, zeros
from minidl.backend.cpu.replay import made, note
from minidl.backend.looping import sum_form
from minidl.errors import RangeError, require


@kernel("R* f8* int int", fast=True)
def _row_sums(i, x, y, row, pieces):
    """y[i] = sum of the i-th piece of a row; a partial sum in R, kept as double."""
    r = i // pieces
    start = r * row + (i - r * pieces) * PIECE
    stop = min(start + PIECE, r * row + row)
    s = R(0)
    for j in range(start, stop):
        s += x[j]
    y[i] = s


@kernel("R* f8* int int int")
def _column_sums(i, x, y, rows, columns, chunk):
    """y[block, j] = sum over a block of rows of x (outer, rows, columns); blocks by `chunk`."""
    out = i * columns
    zero(at(y, out), columns)
    for r in range(i * chunk, min(i * chunk + chunk, rows)):
        base = r * columns
        for j in range(columns):
            y[out + j] += x[base + j]


def sum(x: Array, axes: tuple[int, ...], keepdims: bool = False, wide: bool = False) -> Array:
    """Sum over axes; floats as partial sums in x's type, added up in double.

    wide: of half types in float32, in which they are added up.
    """
    if not axes and x.ndim and not wide:
        return x
    ours = x.size > LIMITS["sum_by_numpy"] and x.dtype.str[1:] in ("f4", "f8")
    form = sum_form(x, axes) if ours else None
    if form is None or 1 not in (form[0], form[2]):
        dtype = np.dtype(np.int64) if x.dtype.kind in "iub" else x.dtype
        single = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
        return made(_sum, x, axes, keepdims, single, single if wide else dtype)
    outer, rows, columns = form
    kept = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
    if columns == 1:
        pieces = -(-rows // PIECE)
        part = empty((outer, pieces), np.float64)
        launch(_row_sums, outer * pieces, max(1, PIECE // rows), x, part, rows, pieces)
    else:
        chunk = max(1, PIECE * 4 // columns)
        part = empty((-(-rows // chunk), columns), np.float64)
        launch(_column_sums, len(part), 1, x, part, rows, columns, chunk)
    return made(_sum, part, int(columns == 1), False, np.float64, x.dtype).reshape(kept)


def _sum(x: Array, axes: Any, keepdims: Any, wide: Any, dtype: np.dtype) -> Array:
    return np.asarray(np.add.reduce(x, axes, wide, keepdims=keepdims), dtype)


def square_sum(xs: Sequence[Array]) -> Array:
    """Sum of the squares of all elements of arrays of one dtype: (), of half types in float32."""
    wide = np.result_type(xs[0].dtype, np.float32)

    def total() -> Array:
        given = (x.astype(wide, copy=False) for x in xs)
        return np.asarray(math.fsum(np.vdot(x, x) for x in given), wide)

    return made(total)


def extreme(x: Array, axes: tuple[int, ...], largest: bool, keepdims: bool) -> Array:
    """Maximum or minimum over axes; NaN wins."""
    return made(lambda: np.asarray((x.max if largest else x.min)(axis=axes, keepdims=keepdims)))


def check_probabilities(op: str, x: Array) -> None:
    """Raise, naming op and what there is, unless all of x lies in [0, 1]; NaN does not."""
    note(_check_unit, op, x)


def _check_unit(op: str, x: Array) -> None:
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 1.0)
    fits, rule = low >= 0 and high <= 1, "probabilities must lie in [0, 1]"
    require(fits, op, rule, error=RangeError, least=low, largest=high)


def argextreme(x: Array, axis: int | None, largest: bool) -> Array:
    """Index of the first extreme along an axis (of the flattened x: None), int64."""
    return made(lambda: np.asarray((x.argmax if largest else x.argmin)(axis=axis)))


def cumsum(x: Array, axis: int) -> Array:
    """Running sums along an axis; floats are added up in double."""
    wide = np.dtype(np.int64 if x.dtype.kind in "iub" else np.float64)
    return cast(made(np.cumsum, x, axis, wide), wide if wide.kind == "i" else x.dtype)


def argsort(x: Array, axis: int, descending: bool) -> Array:
    """Indices that sort along an axis, stable in both directions; NaN counts as largest."""
    return made(_argsort, x, axis, descending)


def _argsort(x: Array, axis: int, descending: bool) -> Array:
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


def add_partials(part: Array) -> Array:
    """Sum over the first axis of a C-contiguous array, in order."""
    if not len(part):
        return zeros(part.shape[1:], part.dtype)
    y = empty(part.shape[1:], part.dtype)
    launch(_add_partials, y.size, 1 << 14, part, y, len(part), y.size)
    return y
