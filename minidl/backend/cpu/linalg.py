"""Matrix products, by BLAS in the team's chunks; and weights packed for kernels with `panel`."""

import math
from collections.abc import Sequence

import numpy as np

from minidl.backend.cpu import jit
from minidl.backend.cpu.choice import LIMITS
from minidl.backend.cpu.jit import R, at, device, dot, gemm, kernel, launch, move, move_rows, panel
from minidl.backend.cpu.layout import reshape
from minidl.backend.cpu.memory import Array, Maybe, contiguous, empty
from minidl.backend.cpu.panel import BLOCK
from minidl.backend.cpu.reduce import add_partials
from minidl.backend.cpu.replay import note, recording
from minidl.backend.looping import matrix_form
from minidl.errors import GraphError, require

_SHARES = 8  # of a product at most: BLAS packs the other operand in each
_LEAST = 32  # rows or columns that a chunk should have
_SUMS = 1 << 23  # numbers of partial sums: 32 MiB


@kernel("R* R* R* R* i8* i8* i8* i8*" + " int" * 11)
def _products(
    item, a, b, c, bias, pa, pb, pc, depth, parts, width, by_row, m, n, ta, tb, lda, ldb,
    ldc, biased,
):  # fmt: skip
    """c = a b (+ bias) for an item: a share of one product's rows or columns.

    BLAS writes zeros before it adds products, so that rows which start as the bias cost nothing.
    """
    e, first = item // parts, item % parts * width
    x, y, z = at(a, pa[e]), at(b, pb[e]), at(c, pc[e])
    rows, columns = m, n
    if by_row:
        rows = min(width, m - first)
        x, z = at(x, first if ta else first * lda), at(z, first * ldc)
    else:
        columns = min(width, n - first)
        y, z = at(y, first * ldb if tb else first), at(z, first)
    move_rows(z, ldc, at(bias, 0 if by_row else first), 0, rows if biased else 0, columns)
    gemm(ta, tb, rows, columns, depth[e], R(1), x, lda, y, ldb, R(1) if biased else R(0), z, ldc)


@kernel("R* R* int int int int int int")
def _pack(i, w, y, blocks, outputs, inputs, taps, across, along):
    """Block i of y (groups, blocks, taps, inputs, BLOCK), weights as the panels of outputs.

    In w a group's outputs and inputs are `across` and `along` apart, and its taps side by side.
    """
    g, first = i // blocks, i % blocks * BLOCK
    of = at(w, g * outputs * inputs * taps)
    for t in range(taps):
        for j in range(inputs):
            to = at(y, ((i * taps + t) * inputs + j) * BLOCK)
            if across == 1 and first + BLOCK <= outputs:
                move(to, at(of, first + j * along + t), BLOCK)
                continue
            for o in range(BLOCK):
                there = first + o < outputs
                to[o] = of[(first + o) * across + j * along + t] if there else R(0)


@device
def multiply(m, n, k, deep, a, lda, b, apart, c, ldc, add):
    """`panel` for rows of a that lie lda apart, `deep` terms at a time, so that b stays in L1."""
    for p in range(0, k, deep):
        panel(m, n, min(deep, k - p), at(a, p), lda, 1, at(b, p * BLOCK), apart, BLOCK, c, ldc,
              add or p > 0)  # fmt: skip


def panels(w: Array, turned: bool, groups: int = 1) -> Array:
    """w (K, C/groups, ...) packed for `panel`, with K outputs or (turned) with C.

    (groups * blocks, taps, inputs, BLOCK), see `_pack`.
    """
    outputs, inputs, taps = len(w) // groups, w.shape[1], math.prod(w.shape[2:])
    across, along = inputs * taps, taps
    if turned:
        outputs, inputs, across, along = inputs, outputs, along, across
    blocks = -(-outputs // BLOCK)
    made = empty((groups * blocks, taps, inputs, BLOCK), w.dtype)
    given = (contiguous(w), made, blocks, outputs, inputs, taps, across, along)
    launch(_pack, len(made), 1, *given)
    return made


def matmul(x: Array, y: Array, bias: Maybe = None) -> Array:
    """x (…, M, K) @ y (…, K, N) + bias (N,) -> (…, M, N); the leading axes broadcast."""
    m, k = x.shape[-2:]
    n = y.shape[-1]
    batch = () if x.ndim == y.ndim == 2 else np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    count = math.prod(batch)
    if x.dtype.itemsize == 2 and x.dtype.kind in "fV":
        wide = [None if a is None else a.astype(np.float32) for a in (x, y, bias)]
        return matmul(*wide).astype(x.dtype)  # type: ignore[arg-type]
    if x.dtype.kind != "f" or count * m * n * k < LIMITS["product_by_numpy"] or not k:
        out = empty((*batch, m, n), x.dtype)
        note(np.matmul, x, y, out)
        if bias is not None:
            note(np.add, out, bias, out)
        return out
    x, ta, lda = _operand(x)
    y, tb, ldb = _operand(y)
    parts = min(_SHARES, _SUMS // (m * n)) if count == 1 and k >= 2 * max(m, n) else 1
    if parts >= _SHARES // 2 and bias is None:
        return _long_sums(x, ta, lda, y, tb, ldb, (m, n, k), -(-k // parts)).reshape(*batch, m, n)
    out = empty((*batch, m, n), x.dtype)
    offsets = (_offsets(x, batch), _offsets(y, batch), np.arange(count) * (m * n))
    by_row = m >= n
    size = m if by_row else n
    parts = 1 if count >= 16 else max(1, min(-(-_SHARES // count), size // _LEAST))
    width = -(-size // parts)
    parts = -(-size // width)
    sizes = (parts, width, by_row, m, n, ta, tb, lda, ldb, n, bias is not None)
    given = (x, y, out, y if bias is None else contiguous(bias), *offsets, np.full(count, k))
    launch(_products, count * parts, max(1, count // 64), *given, *sizes)
    return out


def _long_sums(x: Array, ta: int, lda: int, y: Array, tb: int, ldb: int, sizes: tuple,
               span: int) -> Array:  # fmt: skip
    """One product (m, n) of few sums of many terms, as of a weight's gradient, `span` at a time.

    The spans' sums are added up in order; so BLAS packs no operand twice.
    """
    m, n, k = sizes
    first = np.arange(0, k, span)
    part = empty((len(first), m, n), x.dtype)
    offsets = first * (lda if ta else 1), first * (1 if tb else ldb), np.arange(len(part)) * (m * n)
    given = (x, y, part, y, *offsets, np.minimum(k - first, span))
    launch(_products, len(part), 1, *given, 1, m, True, m, n, ta, tb, lda, ldb, n, False)
    return add_partials(part)


@kernel("R* R* int R* R* int", fast=True)
def _row_times(j, x, w, biased, b, y, k):
    """y[j] = x · w[j] + b[j]; w is read once, at the memory's speed."""
    y[j] = dot(x, at(w, j * k), k) + (b[j] if biased else R(0))


def linear(x: Array, w: Array, b: Maybe) -> Array:
    """x (…, K) times w (N, K) transposed, plus b (N,) -> (…, N); a single row has its own way."""
    (n, k), rows = w.shape, math.prod(x.shape[:-1])
    if rows != 1 or w.dtype.char not in "fd":
        flat = x if x.ndim == 2 else reshape(x, (rows, k))
        return matmul(flat, w.T, b).reshape(*x.shape[:-1], n)
    y = empty((*x.shape[:-1], n), x.dtype)
    w, b, biased = contiguous(w), w if b is None else contiguous(b), b is not None
    chunk = n if n * k <= jit.ALONE else max(jit.PIECE // k, 1)
    launch(_row_times, n, chunk, contiguous(x), w, biased, b, y, k)
    return y


def _operand(x: Array) -> tuple[Array, int, int]:
    """x (a copy if need be), whether BLAS must transpose it, and its leading dimension."""
    form = matrix_form(x)
    return (contiguous(x), 0, max(x.shape[-1], 1)) if form is None else (x, *form)


def _offsets(x: Array, batch: tuple[int, ...]) -> Array:
    """Offset in elements of every matrix of x, broadcast to the batch."""
    if not batch:
        return np.zeros(1, np.int64)
    strides = np.broadcast_to(x, (*batch, *x.shape[-2:])).strides[:-2]
    return np.tensordot(strides, np.indices(batch), 1).reshape(-1) // x.itemsize


def lapack(name: str, xs: Sequence[Array], full: bool) -> tuple[Array, ...]:
    """What NumPy.linalg's function of that name gives; full: svd's square matrices.

    By LAPACK; raises NumPy's LinAlgError for singular matrices and the like.
    """
    rule = "a factorization cannot be captured"
    require(not recording(), f"linalg.{name}", rule, error=GraphError)
    found = getattr(np.linalg, name)(*xs, **{"full_matrices": full} if name == "svd" else {})
    return tuple(found) if isinstance(found, tuple) else (found,)
