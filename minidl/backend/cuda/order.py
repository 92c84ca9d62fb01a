"""Order and running sums along an axis on the GPU (src/order.cu)."""

import numpy as np

from minidl.backend.cuda.plans import accumulator
from minidl.backend.cuda.printer import TYPES
from minidl.backend.cuda.rows import rows_along
from minidl.backend.cuda.runtime import THREADS, Array, empty, kernel, launch

_TILE = 1024  # items that a block sorts
_PIECE = 512  # elements whose running sums a warp takes
_WARPS = THREADS // 32


def argsort(x: Array, axis: int, descending: bool) -> Array:
    """Indices that sort along an axis, stable in both directions; NaN counts as largest."""
    moved, rows, n, back = rows_along(x, axis)
    y = empty(moved.shape, np.dtype(np.int64))
    wide = x.dtype.itemsize == 8 or n >= 1 << 31
    key = TYPES["u8" if wide else "u4"]
    width = min(_TILE, 1 << (n - 1).bit_length()) if n else 1
    runs = -(-n // width)
    items = [empty((rows * n, 1 + wide), np.dtype(np.uint64)) for _ in range(min(runs - 1, 2))]

    def kind(last: bool) -> str:
        return TYPES["i8"] if last else f"Item<{key}>"

    def target(width: int) -> Array:  # swaps the two
        items.reverse()
        return y if width >= n else items[0]

    to = target(width)
    sort = kernel("order.cu", "sort_runs", x.dtype, key, kind(width >= n))
    given = (moved, to, rows, n, width, runs, int(descending))
    launch(sort, -(-rows * runs * width // _TILE), *given)
    while width < n:
        merged = target(2 * width)
        merge = kernel("order.cu", "merge_runs", key, kind(2 * width >= n))
        launch(merge, -(-rows * n // THREADS), to, merged, rows, n, width)
        to, width = merged, 2 * width
    return y.transpose(back)


def cumsum(x: Array, axis: int) -> Array:
    """Running sums along an axis."""
    moved, rows, n, back = rows_along(x, axis)
    y = empty(moved.shape, np.dtype(np.int64) if x.dtype.kind in "iub" else x.dtype)
    _running_sums(moved, y, rows, n)
    return y.transpose(back)


def _running_sums(x: Array, y: Array, rows: int, n: int) -> None:
    """y = the running sums of x (rows, n), by pieces of the rows from those of the pieces' sums."""
    pieces, wide = max(1, -(-n // _PIECE)), accumulator(x.dtype)
    before = empty((rows * pieces if pieces > 1 else 0,), wide)
    blocks = -(-rows * pieces // _WARPS) if n else 0
    if pieces > 1:
        sums = empty(before.shape, wide)
        launch(kernel("order.cu", "piece_sums", x.dtype), blocks, x, sums, rows, n, pieces)
        _running_sums(sums, before, rows, pieces)
    run = kernel("order.cu", "running_sums", x.dtype, y.dtype)
    launch(run, blocks, x, before, y, rows, n, pieces)
