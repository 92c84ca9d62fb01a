"""Rows of a table by index on the GPU, and their adjoint, in the indices' order.

Rows are added after the stable order of their indices (indexing.add_runs), or where deterministic
algorithms were turned off, as they come.

An index out of range reads as zeros and sets a flag on the GPU, which is looked at when values are
next read on the host: RangeError then names the op that was given it.
"""

import numpy as np

from minidl import config
from minidl.backend.cuda.indexing import Index, add_runs, order_places, walk
from minidl.backend.cuda.memory import cast, contiguous, flag, index_rule, zeros
from minidl.backend.cuda.plans import accumulator
from minidl.backend.cuda.rows import width_of
from minidl.backend.cuda.runtime import THREADS, Array, empty, kernel, launch
from minidl.errors import DTypeError, RangeError, require


def take_rows(table: Array, index: Array) -> Array:
    """table (V, D) at index (...) int64 in [0, V): (..., D)."""
    (rows, n), table, index = table.shape, contiguous(table), contiguous(index)
    y = empty((*index.shape, n), table.dtype)
    wide = width_of(n, table, y)
    team = min(THREADS, 1 << max(-(-n // wide) - 1, 0).bit_length())  # a power of two
    run = kernel("embedding.cu", "take_rows", table.dtype, wide)
    launch(run, -(-index.size * team // THREADS), table, index, y, rows, n, index.size, team)
    return y


def add_rows(g: Array, index: Array, rows: int, skip: int = -1) -> Array:
    """Sum of the rows of g (..., D) by index (...): (rows, D); index `skip` adds nothing."""
    n, g, index = g.shape[-1], contiguous(g), contiguous(index)
    if not config.deterministic():
        sums = zeros((rows, n), accumulator(g.dtype))
        run = kernel("embedding.cu", "add_rows", g.dtype)
        launch(run, index.size, g, index, sums, rows, n, skip)
        return cast(sums, g.dtype)
    table, count = zeros((rows, n), g.dtype), index.size
    taken = Index(index.reshape(count), rows, n, 0, skip=skip)
    along = walk((count,), (0,), (n,), [(taken, (1,))])
    places, columns = order_places(along, count), walk((n,), (1,), (1,))
    add_runs(table, g, places, along, columns, count, n, width_of(n, g), fresh=True)
    return table


def check_indices(op: str, index: Array, n: int, ignore: int | None = None) -> None:
    """Set a flag if an index lies outside [0, n) and is not `ignore`; see memory.raise_flags."""
    require(index.dtype.kind in "iu", op, "indices must be integers", error=DTypeError, index=index)
    require(n > 0 or not index.size, op, index_rule(n), error=RangeError, length=n)
    given = (contiguous(cast(index, np.dtype(np.int64))), flag(op, n), index.size, n)
    ignoring = (0, 0) if ignore is None else (ignore, 1)
    launch(kernel("embedding.cu", "check_indices"), -(-index.size // THREADS), *given, *ignoring)
