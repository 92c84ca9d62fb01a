"""Matrix products: BLAS on one thread, called from the team's chunks of rows or columns."""

import math

import numpy as np

from minidl.backend.cpu.jit import R, at, gemm, kernel, launch
from minidl.backend.cpu.memory import Array, contiguous, empty

_SMALL = 1 << 18  # multiply-adds below which NumPy's call is as fast
_LEAST = 32  # rows or columns that a chunk should have


@kernel("R* R* R* i8* i8* i8* int int int int int int int int int int int")
def _products(
    lo, hi, slot, a, b, c, pa, pb, pc, parts, width, by_row, m, n, k, ta, tb, lda, ldb, ldc
):
    """c = a b for the items lo..hi; an item is a share of the rows (or columns) of one product."""
    for item in range(lo, hi):
        e, first = item // parts, item % parts * width
        x, y, z = at(a, pa[e]), at(b, pb[e]), at(c, pc[e])
        rows, columns = m, n
        if by_row:
            rows = min(width, m - first)
            x, z = at(x, first if ta else first * lda), at(z, first * ldc)
        else:
            columns = min(width, n - first)
            y, z = at(y, first * ldb if tb else first), at(z, first)
        gemm(ta, tb, rows, columns, k, R(1), x, lda, y, ldb, R(0), z, ldc)


def matmul(x: Array, y: Array) -> Array:
    """x (…, M, K) @ y (…, K, N) -> (…, M, N); the leading axes broadcast."""
    m, k = x.shape[-2:]
    n = y.shape[-1]
    batch = () if x.ndim == y.ndim == 2 else np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    count = math.prod(batch)
    if x.dtype.itemsize == 2 and x.dtype.kind in "fV":
        return matmul(x.astype(np.float32), y.astype(np.float32)).astype(x.dtype)
    out = empty((*batch, m, n), x.dtype)
    if x.dtype.kind != "f" or count * m * n * k < _SMALL or not k:
        return np.matmul(x, y, out=out)
    x, ta, lda = _operand(x)
    y, tb, ldb = _operand(y)
    offsets = (_offsets(x, batch), _offsets(y, batch), np.arange(count) * (m * n))
    by_row = m >= n
    size = m if by_row else n
    parts = 1 if count >= 16 else max(1, min(-(-16 // count), size // _LEAST))
    width = -(-size // parts)
    parts = -(-size // width)
    sizes = (parts, width, by_row, m, n, k, ta, tb, lda, ldb, n)
    launch(_products, count * parts, max(1, count // 64), x, y, out, *offsets, *sizes)
    return out


def _operand(x: Array) -> tuple[Array, int, int]:
    """x (a copy if need be), whether BLAS must transpose it, and its leading dimension."""
    size = x.itemsize
    rows, columns = x.strides[-2] // size, x.strides[-1] // size
    m, n = x.shape[-2:]
    if all(s >= 0 for s in x.strides[:-2]):
        if (columns == 1 or n == 1) and (rows >= n or m == 1) and x.strides[-2] >= 0:
            return x, 0, max(rows, n) if m > 1 else max(n, 1)
        if (rows == 1 or m == 1) and (columns >= m or n == 1) and x.strides[-1] >= 0:
            return x, 1, max(columns, m) if n > 1 else max(m, 1)
    return contiguous(x), 0, max(n, 1)


def _offsets(x: Array, batch: tuple[int, ...]) -> Array:
    """Offset in elements of every matrix of x, broadcast to the batch."""
    strides = [s // x.itemsize for s in x.strides[:-2]]
    places = np.zeros((), np.int64)
    for n, s in zip(x.shape[:-2], strides):
        places = places[..., None] + np.arange(n, dtype=np.int64) * s
    return np.ascontiguousarray(np.broadcast_to(places, batch)).reshape(-1)
