"""Matrix products: BLAS on one thread, called from the team's chunks of rows or columns."""

import math

import numpy as np

from minidl.backend.cpu.jit import R, at, device, gemm, kernel, launch, launch_rows
from minidl.backend.cpu.layout import reshape
from minidl.backend.cpu.memory import Array, Maybe, contiguous, empty
from minidl.backend.cpu.reduce import add_partials

_SMALL = 1 << 18  # multiply-adds below which NumPy's call is as fast
_LEAST = 32  # rows or columns that a chunk should have
_DEEP = 512  # terms that a share of a long sum should have


@kernel("R* R* R* R* i8* i8* i8* int int int int int int int int int int int int")
def _products(
    lo, hi, slot, a, b, c, bias, pa, pb, pc, parts, width, by_row, m, n, k, ta, tb, lda, ldb, ldc,
    biased,
):  # fmt: skip
    """c = a b (+ bias) for the items lo..hi; an item is a share of one product's rows or columns.

    BLAS writes zeros before it adds products, so that rows which start as the bias cost nothing.
    """
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
        if biased:
            start = 0 if by_row else first
            for i in range(rows):
                row = at(z, i * ldc)
                for j in range(columns):
                    row[j] = bias[start + j]
        beta = R(1) if biased else R(0)
        gemm(ta, tb, rows, columns, k, R(1), x, lda, y, ldb, beta, z, ldc)


def matmul(x: Array, y: Array, bias: Maybe = None) -> Array:
    """x (…, M, K) @ y (…, K, N) + bias (N,) -> (…, M, N); the leading axes broadcast."""
    m, k = x.shape[-2:]
    n = y.shape[-1]
    batch = () if x.ndim == y.ndim == 2 else np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    count = math.prod(batch)
    if x.dtype.itemsize == 2 and x.dtype.kind in "fV":
        wide = [None if a is None else a.astype(np.float32) for a in (x, y, bias)]
        return matmul(*wide).astype(x.dtype)  # type: ignore[arg-type]
    if x.dtype.kind != "f" or count * m * n * k < _SMALL or not k:
        out = np.matmul(x, y, out=empty((*batch, m, n), x.dtype))
        return out if bias is None else np.add(out, bias, out=out)
    deep = _deep(m, n, k) if count == 1 and bias is None else 1
    if deep > 1:
        shares = (m, deep, k // deep), (deep, k // deep, n)
        part = matmul(x.reshape(shares[0]).swapaxes(0, 1), y.reshape(shares[1]))
        return add_partials(part).reshape(*batch, m, n)
    out = empty((*batch, m, n), x.dtype)
    x, ta, lda = _operand(x)
    y, tb, ldb = _operand(y)
    offsets = (_offsets(x, batch), _offsets(y, batch), np.arange(count) * (m * n))
    by_row = m >= n
    size = m if by_row else n
    parts = 1 if count >= 16 else max(1, min(-(-16 // count), size // _LEAST))
    width = -(-size // parts)
    parts = -(-size // width)
    sizes = (parts, width, by_row, m, n, k, ta, tb, lda, ldb, n, bias is not None)
    given = (x, y, out, y if bias is None else contiguous(bias), *offsets)
    launch(_products, count * parts, max(1, count // 64), *given, *sizes)
    return out


def _deep(m: int, n: int, k: int) -> int:
    """In how many equal shares a sum of k terms is cut: for a small result, as of a weight's
    gradient, whose operands would otherwise be packed again for every chunk."""
    if k < 2 * max(m, n):
        return 1
    return next((p for p in range(min(k // _DEEP, 8), 1, -1) if k % p == 0), 1)


@device
def dot(x, y, n):
    """Σ x y over n elements (in a fast kernel, vectorised)."""
    s = R(0)
    for p in range(n):
        s += x[p] * y[p]
    return s


@kernel("R* R* int R* R* int", fast=True)
def _row_times(lo, hi, slot, x, w, biased, b, y, k):
    """y[j] = x · w[j] + b[j]; w is read once, at the memory's speed."""
    for j in range(lo, hi):
        y[j] = dot(x, at(w, j * k), k) + (b[j] if biased else R(0))


def linear(x: Array, w: Array, b: Maybe) -> Array:
    """x (…, K) times w (N, K) transposed, plus b (N,) -> (…, N); a single row has its own way."""
    (n, k), rows = w.shape, math.prod(x.shape[:-1])
    if rows != 1 or w.dtype.char not in "fd":
        return matmul(reshape(x, (rows, k)), w.T, b).reshape(*x.shape[:-1], n)
    y = empty((*x.shape[:-1], n), x.dtype)
    w, b, biased = contiguous(w), w if b is None else contiguous(b), b is not None
    launch_rows(_row_times, n, max(k, 1), contiguous(x), w, biased, b, y, k)
    return y


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
