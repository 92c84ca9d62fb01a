"""`ml.linalg`: inverses, factorizations and norms of matrices (…, M, N), by LAPACK or cuSOLVER.

Gradients are written with ops over the results, so that they can be differentiated again (Giles
2008; Townsend 2016). For float32 and float64.
"""

import functools
from collections import namedtuple
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import op, raw
from minidl.errors import DTypeError, RangeError, require, require_one_of, reworded
from minidl.ops import pointwise as pw
from minidl.ops.arguments import axes_of, broadcast_shapes
from minidl.ops.index import diag_embed, diagonal, tril, triu
from minidl.ops.join import cat, narrow
from minidl.ops.linalg import matmul
from minidl.ops.shape import squeeze, to_dtype, transpose, unsqueeze

SVD = namedtuple("SVD", ["U", "S", "Vh"])
Eigen = namedtuple("Eigen", ["eigenvalues", "eigenvectors"])
LogDeterminant = namedtuple("LogDeterminant", ["sign", "logabsdet"])
LeastSquares = namedtuple("LeastSquares", ["solution", "residuals", "rank", "singular_values"])
QR = namedtuple("QR", ["Q", "R"])


def _made(name: str, *xs: Any, full: bool = False) -> tuple:
    with reworded(RangeError, f"linalg.{name}", np.linalg.LinAlgError):
        found = backend.of(xs[0]).lapack(name, xs, full)
    return tuple(np.asarray(y) if isinstance(y, np.generic) else y for y in found)


def _check(name: str, x: Any, square: bool = True) -> None:
    fits = x.ndim >= 2 and (not square or x.shape[-1] == x.shape[-2])
    require(fits, f"linalg.{name}", f"needs {'square ' * square}matrices (…, M, N)", x=x)
    rule = "needs float32 or float64"
    require(x.dtype in (np.float32, np.float64), f"linalg.{name}", rule, error=DTypeError, x=x)


def _t(x: Any) -> Any:
    return transpose(x, -2, -1)


def _apart(values: Any) -> Any:
    """1 / (v_j - v_i), 0 on the diagonal, of values (…, N): (…, N, N)."""
    be, n = backend.of(raw(values)), values.shape[-1]
    same = be.constant(np.eye(n, dtype=bool))
    away = pw.sub(unsqueeze(values, -2), unsqueeze(values, -1))
    return pw.where(same, 0.0, pw.reciprocal(pw.where(same, 1.0, away)))


def _skew(x: Any) -> Any:
    return pw.sub(x, _t(x))


# ---- equations -----------------------------------------------------------------------------------


@op
def solution(a: Any, b: Any) -> Any:
    """The x of a x = b: a (…, N, N), b (…, N, K) with the same leading axes. Saves a and x."""
    (x,) = _made("solve", a, b)

    def vjp(g: Any, need: Any, a: Any, x: Any) -> Any:
        gb = solution(_t(a), g)
        return pw.neg(matmul(gb, _t(x))) if need[0] else None, gb

    return x, (a, x), vjp


def solve(A: Any, B: Any) -> Any:
    """The X of A X = B: A (…, N, N), B (…, N, K), or vectors (…, N)."""
    _check("solve", A)
    vector = B.ndim == 1 or (B.ndim == A.ndim - 1 and B.shape == A.shape[:-1])
    b = unsqueeze(B, -1) if vector else B
    fits = b.ndim >= 2 and b.shape[-2] == A.shape[-1] and b.dtype == A.dtype
    require(fits, "linalg.solve", "B must be (…, N, K) or (…, N) of A's dtype", A=A, B=B)
    lead = broadcast_shapes(A.shape[:-2], b.shape[:-2], name="linalg.solve")
    a, b = A.expand(*lead, *A.shape[-2:]), b.expand(*lead, *b.shape[-2:])
    return squeeze(solution(a, b), -1) if vector else solution(a, b)


@op
def inverse(x: Any) -> Any:
    """The inverse of x (…, N, N). Saves it."""
    (y,) = _made("inv", x)

    def vjp(g: Any, need: Any, y: Any) -> Any:
        return (pw.neg(matmul(matmul(_t(y), g), _t(y))),)

    return y, (y,), vjp


def inv(A: Any) -> Any:
    """The inverse of A (…, N, N); RangeError for singular ones (NaN on a GPU)."""
    _check("inv", A)
    return inverse(A)


@op
def determinant(x: Any) -> Any:
    """The determinant of x (…, N, N): (…). Saves both; its gradient needs an inverse."""
    (y,) = _made("det", x)

    def vjp(g: Any, need: Any, x: Any, y: Any) -> Any:
        return (pw.mul(unsqueeze(unsqueeze(pw.mul(g, y), -1), -1), _t(inverse(x))),)

    return y, (x, y), vjp


def det(A: Any) -> Any:
    """The determinant of A (…, N, N): (…)."""
    _check("det", A)
    return determinant(A)


@op
def log_determinant(x: Any) -> Any:
    """The sign (…) of the determinant of x (…, N, N) and the logarithm of its size. Saves x."""
    sign, size = _made("slogdet", x)

    def vjp(g: Any, need: Any, x: Any) -> Any:
        if g[1] is None:
            return (None,)
        return (pw.mul(unsqueeze(unsqueeze(g[1], -1), -1), _t(inverse(x))),)

    return (sign, size), (x,), vjp


def slogdet(A: Any) -> LogDeterminant:
    """(sign, logabsdet) of the determinant of A (…, N, N), which may be beyond all numbers."""
    _check("slogdet", A)
    return LogDeterminant(*log_determinant(A))


def logdet(A: Any) -> Any:
    """The logarithm of the determinant of A (…, N, N), NaN where that is negative."""
    sign, size = slogdet(A)
    return pw.where(sign < 0, np.nan, size)


def matrix_power(A: Any, n: int) -> Any:
    """A (…, N, N) times itself, n factors, or of its inverse for n < 0."""
    _check("matrix_power", A)
    A, n = (inv(A), -n) if n < 0 else (A, n)
    if n == 0:
        size, be = A.shape[-1], backend.of(raw(A))
        one, everywhere = np.eye(size, dtype=A.dtype), np.ones((size, size), np.bool_)
        return pw.where(be.constant(everywhere), be.constant(one), A)
    y = A
    for bit in f"{n:b}"[1:]:
        y = matmul(y, y)
        y = matmul(y, A) if bit == "1" else y
    return y


# ---- factorizations ------------------------------------------------------------------------------


@op
def cholesky_factor(x: Any) -> Any:
    """The lower triangle y with y yᵀ = x (…, N, N). Saves it."""
    (y,) = _made("cholesky", x)

    def vjp(g: Any, need: Any, y: Any) -> Any:
        inner = tril(matmul(_t(y), g))
        inner = pw.sub(inner, pw.mul(0.5, diag_embed(diagonal(inner, 0, -2, -1))))
        both = _t(solution(_t(y), _t(solution(_t(y), inner))))
        return (pw.mul(0.5, pw.add(both, _t(both))),)

    return y, (y,), vjp


def cholesky(A: Any, *, upper: bool = False) -> Any:
    """The triangle L with L Lᵀ = A, positive definite (RangeError if not); upper: Lᵀ."""
    _check("cholesky", A)
    return _t(cholesky_factor(A)) if upper else cholesky_factor(A)


@op
def symmetric_eigen(x: Any) -> Any:
    """Eigenvalues (…, N) in order and eigenvectors (…, N, N) of x. Saves both."""
    w, v = _made("eigh", x)

    def vjp(g: Any, need: Any, w: Any, v: Any) -> Any:
        gw, gv = g
        inner = None if gv is None else pw.mul(matmul(_t(v), gv), _apart(w))
        if gw is not None:
            inner = diag_embed(gw) if inner is None else pw.add(inner, diag_embed(gw))
        return (matmul(matmul(v, inner), _t(v)),)

    return (w, v), (w, v), vjp


def eigh(A: Any, UPLO: str = "L") -> Eigen:
    """(eigenvalues in order, eigenvectors in columns) of symmetric matrices.

    The lower triangle is read, or the upper ("U"). Gradients of eigenvectors need distinct
    eigenvalues.
    """
    _check("eigh", A)
    require_one_of("linalg.eigh", ("L", "U"), UPLO=UPLO)
    return Eigen(*symmetric_eigen(A if UPLO == "L" else _t(A)))


@op
def singular_values(x: Any, *, full: bool) -> Any:
    """u (…, M, K), s (…, K), vh (…, K, N) with u s vh = x, K the smaller of M and N. Saves them.

    full: u (…, M, M), vh (…, N, N); gradients of what is beyond K do not count.
    """
    u, s, vh = _made("svd", x, full=full)
    k = s.shape[-1]

    def first(a: Any, dim: int) -> Any:
        return a if a is None or a.shape[dim] == k else narrow(a, dim, 0, k)

    def vjp(g: Any, need: Any, u: Any, s: Any, vh: Any) -> Any:
        gu, gs, gv = first(g[0], -1), g[1], first(g[2], -2)
        u, vh, gv = first(u, -1), first(vh, -2), None if gv is None else _t(gv)
        v, apart, row = _t(vh), _apart(pw.square(s)), unsqueeze(s, -2)
        inner = [] if gs is None else [diag_embed(gs)]
        outer = []
        if gu is not None:
            inner.append(pw.mul(pw.mul(_skew(matmul(_t(u), gu)), apart), row))
            rest = pw.sub(gu, matmul(u, matmul(_t(u), gu)))
            outer.append(matmul(pw.div(rest, row), vh))
        if gv is not None:
            inner.append(pw.mul(unsqueeze(s, -1), pw.mul(_skew(matmul(vh, gv)), apart)))
            rest = pw.sub(gv, matmul(v, matmul(vh, gv)))
            outer.append(matmul(u, _t(pw.div(rest, row))))
        total = matmul(matmul(u, functools.reduce(pw.add, inner)), vh)
        return (functools.reduce(pw.add, [total, *outer]),)

    return (u, s, vh), (u, s, vh), vjp


def svd(A: Any, full_matrices: bool = True) -> SVD:
    """(U, S, Vh) with U S Vh = A (…, M, N), S falling; U and Vh are square with full_matrices.

    Gradients of U and Vh need distinct singular values.
    """
    _check("svd", A, square=False)
    return SVD(*singular_values(A, full=full_matrices))


@op
def orthogonal_triangular(x: Any) -> Any:
    """q (…, M, N) with orthonormal columns, r (…, N, N) upper: q r = x, M >= N. Saves both."""
    q, r = _made("qr", x)

    def vjp(g: Any, need: Any, q: Any, r: Any) -> Any:
        gq, gr = g
        inner = None if gr is None else matmul(gr, _t(r))
        if gq is not None:
            less = matmul(_t(q), gq)
            inner = pw.neg(less) if inner is None else pw.sub(inner, less)
        inner = triu(inner)
        inner = pw.sub(pw.add(inner, _t(inner)), diag_embed(diagonal(inner, 0, -2, -1)))
        total = matmul(q, inner)
        return (_t(solution(r, _t(total if gq is None else pw.add(total, gq)))),)

    return (q, r), (q, r), vjp


def qr(A: Any, mode: str = "reduced") -> QR:
    """(Q, R) with Q R = A (…, M, N): min(M, N) orthonormal columns, an upper triangle."""
    _check("qr", A, square=False)
    require_one_of("linalg.qr", ("reduced",), mode=mode)
    m, more = A.shape[-2], A.shape[-1] - A.shape[-2]
    q, r = orthogonal_triangular(A if more <= 0 else narrow(A, -1, 0, m))
    return QR(q, r if more <= 0 else cat([r, matmul(_t(q), narrow(A, -1, m, more))], -1))


def eigvalsh(A: Any, UPLO: str = "L") -> Any:
    """The eigenvalues, in order, of symmetric matrices."""
    return eigh(A, UPLO).eigenvalues


def svdvals(A: Any) -> Any:
    """The singular values, falling, of A (…, M, N)."""
    return svd(A, full_matrices=False).S


def _counting(s: Any, A: Any, atol: float | None, rtol: float | None) -> Any:
    """Which singular values are not 0 beside the largest, or beside atol."""
    eps = max(A.shape[-2:]) * float(np.finfo(A.dtype).eps) if atol is None else 0.0
    return s > (s[..., :1] * (eps if rtol is None else rtol)).clamp(min=atol or 0.0)  # they fall


def matrix_rank(A: Any, *, atol: float | None = None, rtol: float | None = None,
                hermitian: bool = False) -> Any:  # fmt: skip
    """How many singular values of A (…, M, N) exceed rtol times the largest, and atol."""
    return _counting(svdvals(A), A, atol, rtol).sum(-1)


def pinv(A: Any, *, atol: float | None = None, rtol: float | None = None,
         hermitian: bool = False) -> Any:  # fmt: skip
    """The pseudoinverse (…, N, M) of A (…, M, N); its gradient needs distinct singular values."""
    u, s, vh = svd(A, full_matrices=False)
    there = _counting(s, A, atol, rtol)
    inverses = pw.where(there, pw.reciprocal(pw.where(there, s, 1.0)), 0.0)
    return matmul(pw.mul(_t(vh), unsqueeze(inverses, -2)), _t(u))


def lstsq(A: Any, B: Any, rcond: float | None = None, *, driver: Any = None) -> LeastSquares:
    """The X of least |A X - B|, of least norm: A (…, M, N), B (…, M, K).

    By `pinv`, whatever the driver; residuals (…, K), and the singular values, always come.
    """
    fits = B.ndim >= 2 and B.shape[-2] == A.shape[-2]
    require(fits, "linalg.lstsq", "B must be (…, M, K)", A=A, B=B)
    x, rank = matmul(pinv(A, rtol=rcond), B), matrix_rank(A, rtol=rcond)
    return LeastSquares(x, pw.square(matmul(A, x) - B).sum(-2), rank, svdvals(A))


# ---- norms ---------------------------------------------------------------------------------------


def norm(
    A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """A norm of vectors (dim an int, or A one) or matrices (dim two axes, or ord given and A one).

    ord: None (2, of all elements without dim) or a number for vectors; "fro", "nuc", 2, -2, 1, -1,
    inf, -inf for matrices.
    """
    A = to_dtype(A, dtype)
    axes = axes_of(dim, A.ndim, "linalg.norm")
    if ord is None or len(axes) < 2:
        return A.norm(ord, axes, keepdim)
    require(len(axes) == 2, "linalg.norm", "a norm with ord is one of vectors or matrices", A=A)
    require_one_of("linalg.norm", ("fro", "nuc", 2, -2, 1, -1, np.inf, -np.inf), ord=ord)
    if ord == "fro":
        return A.norm(2, axes, keepdim)
    x = A.movedim(dim if dim is not None else axes, (-2, -1))
    if ord in ("nuc", 2, -2):
        s = svd(x, full_matrices=False).S
        y = s.sum(-1) if ord == "nuc" else s.amax(-1) if ord == 2 else s.amin(-1)
    else:
        sums = x.abs().sum(-2 if abs(ord) == 1 else -1)
        y = sums.amax(-1) if ord > 0 else sums.amin(-1)
    for axis in axes if keepdim else ():
        y = unsqueeze(y, axis)
    return y


def vector_norm(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *,
                dtype: Any = None) -> Any:  # fmt: skip
    """The norm of vectors along one or several axes, or of all elements."""
    return to_dtype(x, dtype).norm(ord, dim, keepdim)


def matrix_norm(A: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *,
                dtype: Any = None) -> Any:  # fmt: skip
    """The norm of matrices in two axes."""
    return norm(A, ord, dim, keepdim, dtype=dtype)
