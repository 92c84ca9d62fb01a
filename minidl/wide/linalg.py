"""Wide functions of matrices: products with sums, contractions over any axes."""

import math
from typing import Any

from minidl.errors import require
from minidl.ops.arguments import axis_of
from minidl.ops.linalg import bmm, matmul, mm


def _added(input: Any, product: Any, beta: float, alpha: float) -> Any:
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else (input if beta == 1 else input * beta) + product


def addmm(input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta input + alpha mat1 @ mat2; with beta 0 the input counts for nothing, NaN included."""
    return _added(input, mm(mat1, mat2), beta, alpha)


def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """`addmm` of batches (B, N, K) and (B, K, M)."""
    return _added(input, bmm(batch1, batch2), beta, alpha)


def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """Sums of products over dims: two lists of axes, or how many last ones of a and first of b."""
    given = (range(a.ndim - dims, a.ndim), range(dims)) if isinstance(dims, int) else dims
    left, right = ([axis_of(d, t.ndim, "tensordot") for d in axes]
                   for t, axes in zip((a, b), given, strict=True))  # fmt: skip
    sizes = [a.shape[i] for i in left]
    fits = sizes == [b.shape[i] for i in right]
    require(fits, "tensordot", "the axes summed over must have equal sizes", a=a, b=b, dims=dims)
    kept = [i for i in range(a.ndim) if i not in left]
    others = [i for i in range(b.ndim) if i not in right]
    n, shape = math.prod(sizes), [*(a.shape[i] for i in kept), *(b.shape[i] for i in others)]
    rows = a.permute(*kept, *left).reshape(math.prod(a.shape[i] for i in kept), n)
    columns = b.permute(*right, *others).reshape(n, math.prod(b.shape[i] for i in others))
    return matmul(rows, columns).reshape(shape)
