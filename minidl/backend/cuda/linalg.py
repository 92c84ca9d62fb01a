"""Matrix products on the GPU: by cuBLAS, and linear layers with a bias by src/linear.cu."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.backend.cuda import blas, choice, runtime
from minidl.backend.cuda.memory import broadcast_to, contiguous, copy, reshape, zeros
from minidl.backend.cuda.plans import SUM, accumulator, plan_pointwise
from minidl.backend.cuda.runtime import MOST, THREADS, Array, Maybe, empty, kernel, launch
from minidl.backend.looping import matrix_form, merged, repeated
from minidl.errors import DTypeError, GraphError, require


def matmul(x: Array, y: Array, bias: Maybe = None) -> Array:
    """x (…, M, K) @ y (…, K, N) + bias (N,) -> (…, M, N); the leading axes broadcast."""
    require(x.dtype.kind in "fV", "matmul", "a GPU multiplies matrices of floats only",
            error=DTypeError, x=x, y=y)  # fmt: skip
    if x.ndim > 2 == y.ndim and x.size and x.flags.c_contiguous:  # one product, not many small ones
        return matmul(x.reshape(-1, x.shape[-1]), y, bias).reshape(*x.shape[:-1], y.shape[1])
    (m, k), n = x.shape[-2:], y.shape[-1]
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    if not (k and m and n and math.prod(batch)):
        out = zeros((*batch, m, n), x.dtype)
    else:
        out = empty((*batch, m, n), x.dtype)
        (x, ta, lda, sx), (y, tb, ldb, sy) = _operand(x, batch), _operand(y, batch)
        blas.gemm(ta, tb, (m, n, k), x, lda, y, ldb, out, math.prod(batch), (sx, sy, m * n))
    return out if bias is None else plan_pointwise(SUM, [out, bias], out.dtype)([out, bias])[0]


def linear(x: Array, w: Array, b: Maybe) -> Array:
    """x (…, K) times w (N, K) transposed, plus b (N,) -> (…, N)."""
    flat = x if x.ndim == 2 else reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    y = None if b is None else _with_bias(flat, w, b)
    return (matmul(flat, w.T, b) if y is None else y).reshape(*x.shape[:-1], len(w))


def _with_bias(x: Array, w: Array, b: Array) -> Maybe:
    """x (M, K) times w (N, K) transposed, plus b (N,), by src/linear.cu; None if it is cuBLAS's.

    Ours are those that choice.own_linear names, if rows of x and w lie in whole chunks, and that
    have a grid.
    """
    (m, k), n, dtype = x.shape, len(w), x.dtype
    if dtype.kind not in "fV" or not (m and n and k) or max(m, k) >> 31 or n > MOST * 64:
        return None
    mine, theirs = _rows(x), _rows(w)
    if mine is None or theirs is None or not choice.own_linear(dtype, (m, n, k)):
        return None
    (x, ldx), (w, ldw) = mine, theirs
    tile, y, b = choice.tile("linear", dtype, (m, n, k), True), empty((m, n), dtype), contiguous(b)
    grid = tile.grid(m, n)
    span, parts = choice.shares(grid[0] * grid[1], k, dtype, tile.most)
    sizes, threads = (m, n, k, ldx, ldw), tile.threads(dtype)
    if parts == 1:
        run = kernel("linear.cu", "linear", dtype, tile.of(dtype))
        launch(run, grid, x, w, b, y, *sizes, threads=threads, shared=tile.shared)
        return y
    part = empty((parts, m, n), accumulator(dtype))
    run = kernel("linear.cu", "linear_parts", dtype, tile.of(dtype))
    launch(run, (*grid, parts), x, w, part, *sizes, span, threads=threads, shared=tile.shared)
    run = kernel("linear.cu", "add_parts", dtype)
    launch(run, -(-m * n // THREADS), part, b, y, m * n, n, parts)
    return y


def _rows(x: Array) -> tuple[Array, int] | None:
    """x with rows of whole chunks, each starting at one, and their distance; None if it has not."""
    form, chunk = matrix_form(x), choice.CHUNK // x.itemsize
    if form is None or form[0] or x.shape[1] % chunk or form[1] % chunk:
        return None
    return (x, form[1]) if x.data.ptr % choice.CHUNK == 0 else (copy(x), x.shape[1])


def _operand(x: Array, batch: tuple[int, ...]) -> tuple[Array, int, int, int]:
    """x (a copy if need be), whether it is transposed, its rows' and its matrices' distance."""
    form = matrix_form(x)
    if form is None:
        x = contiguous(x)
        form = 0, max(x.shape[-1], 1)
    lead: Any = (None, x.shape[:-2], x.strides[:-2])
    sizes, steps = merged(batch, range(len(batch)), [repeated(lead, batch)])
    if len(sizes) > 1:  # not one distance from each matrix to the next
        whole = contiguous(broadcast_to(x, (*batch, *x.shape[-2:])))
        return whole, 0, max(x.shape[-1], 1), math.prod(x.shape[-2:])
    return x, *form, steps[0][0] // x.itemsize if sizes else 0


def lapack(name: str, xs: Sequence[Array], full: bool) -> tuple[Array, ...]:
    """What CuPy.linalg's function of that name gives; full: svd's square matrices.

    By cuSOLVER; singular matrices and the like give NaN.
    """
    require(not runtime.recording(), f"linalg.{name}", "cannot be captured", error=GraphError)
    options = {"full_matrices": full} if name == "svd" else {}
    found = getattr(runtime.cupy().linalg, name)(*xs, **options)
    return tuple(found) if isinstance(found, tuple) else (found,)
