"""Rows of a table by index, and their adjoint: adding rows into a table, in the indices' order."""

import numpy as np

from minidl.backend.cpu.jit import at, kernel, launch, launch_rows, move, zero
from minidl.backend.cpu.memory import Array, contiguous, empty
from minidl.backend.cpu.replay import note
from minidl.errors import DTypeError, RangeError, require

_CHUNKS = 32  # of a table: each looks at all indices for those of its rows


@kernel("R* i8* R* int")
def _take_rows(i, table, index, y, n):
    """y[i] = table[index[i]]."""
    move(at(y, i * n), at(table, index[i] * n), n)


@kernel("R* i8* R* int int int")
def _add_rows(lo, hi, slot, g, index, table, count, n, skip):
    """table[index[i]] += g[i] from zero, for rows lo..hi; index `skip` adds nothing."""
    zero(at(table, lo * n), (hi - lo) * n)
    for i in range(count):
        if index[i] >= lo and index[i] < hi and index[i] != skip:
            src, dst = at(g, i * n), at(table, index[i] * n)
            for j in range(n):
                dst[j] += src[j]


def take_rows(table: Array, index: Array) -> Array:
    """table (V, D) at index (...) int64 in [0, V): (..., D)."""
    n = table.shape[1]
    y = empty((*index.shape, n), table.dtype)
    launch_rows(_take_rows, index.size, n, contiguous(table), contiguous(index), y, n)
    return y


def add_rows(g: Array, index: Array, rows: int, skip: int = -1) -> Array:
    """Sum of the rows of g (..., D) by index (...): (rows, D); index `skip` adds nothing."""
    n = g.shape[-1]
    table = empty((rows, n), g.dtype)
    args = (contiguous(g), contiguous(index), table, index.size, n, skip)
    launch(_add_rows, rows, -(-rows // _CHUNKS), *args)
    return table


def check_indices(op: str, index: Array, n: int, ignore: int | None = None) -> None:
    """Raise, naming op, range and value, if an index lies outside [0, n) and is not `ignore`."""
    require(index.dtype.kind in "iu", op, "indices must be integers", error=DTypeError, index=index)
    note(_check_range, op, index, n, ignore)


def _check_range(op: str, index: Array, n: int, ignore: int | None) -> None:
    unsigned = index.view(f"u{index.itemsize}")  # negative ones become the largest
    if index.size and np.maximum.reduce(unsigned, None) >= n:
        bad = index[((index < 0) | (index >= n)) & (index != ignore)]
        rule = f"every index must lie in [0, {n})"
        require(not bad.size, op, rule, error=RangeError, index=int(bad.flat[0]) if bad.size else 0)
