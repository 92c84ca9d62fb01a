"""Sums over axes on the GPU."""

import builtins
from collections.abc import Sequence

import numpy as np

from minidl.backend.cuda.memory import cast, contiguous, zeros
from minidl.backend.cuda.plans import PACK, accumulator, table_of
from minidl.backend.cuda.printer import ROWS
from minidl.backend.cuda.rows import width_of
from minidl.backend.cuda.runtime import MOST, THREADS, Array, empty, kernel, launch
from minidl.backend.looping import sum_form

_PIECE = 1 << 13  # elements of a row that a block adds up
_ROWS, _BLOCKS = 64, 528  # rows of a piece at least; blocks that share out columns, if they can
_SHORT = 1 << 10  # elements of a row that a warp adds up


def sum(x: Array, axes: tuple[int, ...], keepdims: bool = False, wide: bool = False) -> Array:
    """Sum over axes, added up in float32, float64 or int64; wide: not rounded to a half type."""
    dtype = accumulator(x.dtype) if wide or x.dtype.kind in "iub" else x.dtype
    if not axes and x.ndim:
        return cast(x, dtype) if wide else x
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    kept = shape if keepdims else tuple(n for i, n in enumerate(x.shape) if i not in axes)
    if not x.size:
        return zeros(kept, dtype)
    form = sum_form(x, axes)
    if form is None:  # one copy with the summed axes last
        x = contiguous(x.transpose(*(i for i in range(x.ndim) if i not in axes), *axes))
        form = sum_form(x, tuple(range(x.ndim - len(axes), x.ndim)))
        assert form is not None
    part, (outer, left, columns) = x, form
    while left > 1 or part is x:
        part, left = _piece_sums(part, outer, left, columns)
    return cast(part, dtype).reshape(kept)


def _piece_sums(x: Array, outer: int, rows: int, columns: int) -> tuple[Array, int]:
    """Sums of pieces of the rows (outer, pieces, columns), and how many pieces there are."""
    across = outer * -(-columns * x.itemsize // (32 * PACK))  # whatever the width of packs
    shared_out = max(_ROWS, -(-rows // max(1, _BLOCKS // across)), -(-rows // MOST))
    piece = _PIECE if columns == 1 else shared_out
    pieces = -(-rows // piece)
    part = empty((outer * pieces * columns,), accumulator(x.dtype))
    if columns == 1:
        team = 32 if rows <= _SHORT else THREADS
        run = kernel("reduce.cu", "row_sums", x.dtype, team)
        blocks = -(-part.size * team // THREADS)
        launch(run, blocks, x, part, rows, piece, pieces, part.size)
    else:
        wide = min(8, width_of(columns, x))
        run = kernel("reduce.cu", "column_sums", x.dtype, wide)
        launch(run, (outer * -(-columns // (32 * wide)), pieces), x, part, rows, columns, piece)
    return part, pieces


def square_sum(xs: Sequence[Array]) -> Array:
    """Sum of the squares of all elements of arrays of one dtype: (), of half types in float32."""
    flat = [(contiguous(x),) for x in xs]
    tables = [table_of(flat[i : i + ROWS]) for i in range(0, len(flat), ROWS)]
    dtype, wide = xs[0].dtype, accumulator(xs[0].dtype)
    part, first = empty((builtins.sum(blocks for _, blocks in tables),), wide), 0
    run = kernel("reduce.cu", "square_sums", dtype)
    for i, (table, blocks) in enumerate(tables):
        count = min(ROWS, len(flat) - i * ROWS)
        launch(run, blocks, table, count, part[first : first + blocks])
        first += blocks
    return sum(part, (0,))


def _extremes(x: Array, axes: tuple[int, ...], largest: bool) -> tuple[Array, Array]:
    """Extremes over axes and their first indices there, both of the shape that is left."""
    left = [i for i in range(x.ndim) if i not in axes]
    rows = contiguous(x.transpose(*left, *axes))
    shape = tuple(x.shape[i] for i in left)
    y, where = empty(shape, x.dtype), empty(shape, np.dtype(np.int64))
    run = kernel("reduce.cu", "row_extremes", x.dtype)
    launch(run, y.size, rows, y, where, x.size // max(y.size, 1), int(largest))
    return y, where


def extreme(x: Array, axes: tuple[int, ...], largest: bool, keepdims: bool) -> Array:
    """Maximum or minimum over axes; NaN wins."""
    ones = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    y, _ = _extremes(x, axes, largest)
    return y.reshape(ones) if keepdims else y


def check_probabilities(op: str, x: Array) -> None:
    """Nothing: values on a GPU are not read for it, and others than those in [0, 1] give NaN."""


def argextreme(x: Array, axis: int | None, largest: bool) -> Array:
    """Index of the first extreme along an axis (of the flattened x: None), int64."""
    axes = tuple(range(x.ndim)) if axis is None else (axis % x.ndim,)
    return _extremes(x, axes, largest)[1]
