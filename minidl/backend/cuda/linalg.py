"""Matrix products on the GPU, by cuBLAS."""

import math
from typing import Any

import numpy as np

from minidl.backend.cuda import blas
from minidl.backend.cuda.memory import contiguous, reshape, zeros
from minidl.backend.cuda.plans import IDENTITY, plan_pointwise, write
from minidl.backend.cuda.runtime import Array, Maybe, empty
from minidl.backend.expression import Graph, Program
from minidl.backend.looping import matrix_form, merged, repeated
from minidl.errors import DTypeError, require


def _sum() -> Program:
    graph = Graph()
    x, y = graph.leaf(), graph.leaf()
    return Program([x, y], [x + y])


_SUM = _sum()


def matmul(x: Array, y: Array, bias: Maybe = None) -> Array:
    """x (…, M, K) @ y (…, K, N) + bias (N,) -> (…, M, N); the leading axes broadcast."""
    require(x.dtype.kind in "fV", "matmul", "a GPU multiplies matrices of floats only",
            error=DTypeError, x=x, y=y)  # fmt: skip
    (m, k), n = x.shape[-2:], y.shape[-1]
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    if not (k and m and n and math.prod(batch)):
        out = zeros((*batch, m, n), x.dtype)
    else:
        out = empty((*batch, m, n), x.dtype)
        (x, ta, lda, sx), (y, tb, ldb, sy) = _operand(x, batch), _operand(y, batch)
        blas.gemm(ta, tb, (m, n, k), x, lda, y, ldb, out, math.prod(batch), (sx, sy, m * n))
    return out if bias is None else plan_pointwise(_SUM, [out, bias], out.dtype)([out, bias])[0]


def linear(x: Array, w: Array, b: Maybe) -> Array:
    """x (…, K) times w (N, K) transposed, plus b (N,) -> (…, N)."""
    flat = x if x.ndim == 2 else reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    return matmul(flat, w.T, b).reshape(*x.shape[:-1], len(w))


def _operand(x: Array, batch: tuple[int, ...]) -> tuple[Array, int, int, int]:
    """x (a copy if need be), whether it is transposed, its rows' and its matrices' distance."""
    form = matrix_form(x)
    if form is None:
        x = contiguous(x)
        form = 0, max(x.shape[-1], 1)
    lead: Any = (None, x.shape[:-2], x.strides[:-2])
    sizes, steps = merged(batch, range(len(batch)), [repeated(lead, batch)])
    if len(sizes) > 1:  # not one distance from each matrix to the next
        whole = empty((*batch, *x.shape[-2:]), x.dtype)
        write(IDENTITY, [x], whole)
        return whole, 0, max(x.shape[-1], 1), math.prod(x.shape[-2:])
    return x, *form, steps[0][0] // x.itemsize if sizes else 0
