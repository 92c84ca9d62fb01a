"""Normalisation kernels: batch, group and instance norm by columns, layer and RMS norm by rows.

Columns: x is (segments, rows, C) with C contiguous; a segment is the whole batch (batch norm) or
one sample (group norm). Rows are taken in pieces of some 16,000 elements and at most 64 rows. A
piece's moments come from sums of deviations from its first row, so that memory is read once: the
square of that row's distance from the mean of n rows is at most n - 1 variances, so that a variance
loses a factor of 64 of its precision at most. Pieces are combined in order, in double (Chan et al.
1979). Narrow tensors are folded: f adjacent rows are treated as one row of f*C columns, so that the
inner loops vectorise.
"""

import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

# isort: off
from minidl.backend.cpu.jit import (
    PIECE, SUM, Kernel, R, at, fetch, kernel, launch, sqrt, sum_of, zero,
)  # fmt: skip

# isort: on
from minidl.backend.cpu.memory import Array, Maybe, contiguous, empty, nhwc, vector, zeros
from minidl.backend.cpu.replay import made, note

Three = tuple[Array, Array, Array]
_WIDE = 256  # columns up to which rows are folded
_AHEAD = 1024  # numbers between what a gradient reads and what it asks for
BY_RESULT, BY_INPUT = 1, 2  # how a relu's gradient is gated


@kernel("R* R* int int int int")
def column_moments(t, x, part, rows, width, step, pieces):
    """part[piece] = mean, sum of squared deviations, of each column over the piece's rows."""
    first = (t % pieces) * step
    n = min(step, rows - first)
    src = at(x, (t // pieces * rows + first) * width)
    mean = at(part, t * 2 * width)
    m2 = at(mean, width)
    zero(mean, 2 * width)
    n4 = n // 4 * 4
    for i in range(0, n4, 4):
        x0, x1 = at(src, i * width), at(src, (i + 1) * width)
        x2, x3 = at(src, (i + 2) * width), at(src, (i + 3) * width)
        for c in range(width):
            d0, d1, d2, d3 = x0[c] - src[c], x1[c] - src[c], x2[c] - src[c], x3[c] - src[c]
            mean[c] += (d0 + d1) + (d2 + d3)
            m2[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
    for i in range(n4, n):
        x0 = at(src, i * width)
        for c in range(width):
            d = x0[c] - src[c]
            mean[c] += d
            m2[c] += d * d
    for c in range(width):
        v = m2[c] - mean[c] * (mean[c] / R(n))
        m2[c] = R(0) if v < R(0) else v  # NaN stays
        mean[c] = src[c] + mean[c] / R(n)


@kernel("R* f8* f8* int int int int int")
def combine_moments(s, part, mean, m2, rows, step, pieces, fold, c):
    """mean, m2 (segments, C), zeros so far, += the pieces' moments, in their order."""
    u, v = at(mean, s * c), at(m2, s * c)
    part = at(part, s * pieces * 2 * fold * c)
    for i in range(pieces * fold):
        p = at(part, (i + i // fold * fold) * c)
        share = min(step, rows - i // fold * step) / (rows * fold)
        for j in range(c):
            u[j] += share * p[j]
    for i in range(pieces * fold):
        p = at(part, (i + i // fold * fold) * c)
        n, q = np.float64(min(step, rows - i // fold * step)), at(p, fold * c)
        for j in range(c):
            d = p[j] - u[j]
            v[j] += q[j] + n * d * d


@kernel("R* R* R* R* R* R* int R int int int int")
def column_affine(t, x, more, y, mean, scale, shift, added, top, rows, width, step, pieces):
    """y = (x - mean) * scale + shift (+ more), with one value a segment and column.

    If top is not 0, y is kept within [0, top].
    """
    s, first = t // pieces, (t % pieces) * step
    u, a, b = at(mean, s * width), at(scale, s * width), at(shift, s * width)
    for i in range(s * rows + first, s * rows + min(first + step, rows)):
        src, dst, r = at(x, i * width), at(y, i * width), at(more, i * width)
        for c in range(width):
            v = (src[c] - u[c]) * a[c] + b[c]
            v = v + r[c] if added else v
            if top > R(0):  # NaN stays
                v = R(0) if v <= R(0) else top if v > top else v
            dst[c] = v


@kernel("R* R* R* R* R* R* R* R* int R int int int int")
def column_grad_sums(
    t, g, x, y, gated, mean, scale, shift, part, gate, top, rows, width, step, pieces
):
    """part[piece] = sum of g, sum of g * (x - mean), of each column over the piece's rows.

    gate: g counts only where y lies in (0, top), and is written to gated (BY_RESULT), or only where
    (x - mean) * scale + shift, as in column_affine, does (BY_INPUT).
    """
    s, first = t // pieces, (t % pieces) * step
    u, a, b = at(mean, s * width), at(scale, s * width), at(shift, s * width)
    p = at(part, t * 2 * width)
    q = at(p, width)
    zero(p, 2 * width)
    for i in range(s * rows + first, s * rows + min(first + step, rows)):
        gi, xi = at(g, i * width), at(x, i * width)
        fetch(at(gi, _AHEAD), width)
        fetch(at(xi, _AHEAD), width)
        if gate == BY_RESULT:
            yi, dst = at(y, i * width), at(gated, i * width)
            for c in range(width):
                dst[c] = R(0) if yi[c] <= R(0) or yi[c] >= top else gi[c]
            gi = dst
        for c in range(width):
            d = xi[c] - u[c]
            z = d * a[c] + b[c]
            v = R(0) if gate == BY_INPUT and (z <= R(0) or z >= top) else gi[c]
            p[c] += v
            q[c] += v * d


@kernel("R* f8* int int int")
def add_pieces(s, part, out, pieces, fold, c):
    """out (segments, 2, C) += sum of part (segments, pieces, 2, fold, C), in double, in order."""
    for k in range(pieces * 2 * fold):
        p = at(part, (s * pieces * 2 * fold + k) * c)
        dst = at(out, (s * 2 + k // fold % 2) * c)
        for j in range(c):
            dst[j] += p[j]


@kernel("R* R* R* R* R* R* R* R* R* int R int int int int")
def column_grad(t, g, x, dx, mean, scale, shift, k1, k2, k3, gate, top, rows, width, step, pieces):
    """dx = k1 * g + k2 * (x - mean) + k3, with one value a segment and column; gate: as above."""
    s, first = t // pieces, (t % pieces) * step
    u, a, b = at(mean, s * width), at(scale, s * width), at(shift, s * width)
    w1, w2, w3 = at(k1, s * width), at(k2, s * width), at(k3, s * width)
    for i in range(s * rows + first, s * rows + min(first + step, rows)):
        gi, xi, dst = at(g, i * width), at(x, i * width), at(dx, i * width)
        fetch(at(gi, _AHEAD), width)
        fetch(at(xi, _AHEAD), width)
        for c in range(width):
            d = xi[c] - u[c]
            z = d * a[c] + b[c]
            v = R(0) if gate == BY_INPUT and (z <= R(0) or z >= top) else gi[c]
            dst[c] = w1[c] * v + (w2[c] * d + w3[c])


@kernel("R* R* R* R* R* R* int R int", fast=True)
def norm_rows(i, x, w, b, y, mean, rstd, n, eps, centre):
    """y = (x - mean) * rstd * w + b over rows of n; without centre the mean counts as 0."""
    src, dst = at(x, i * n), at(y, i * n)
    u = R(sum_of(src, n) / n) if centre else R(0)
    total = 0.0
    for j0 in range(0, n, SUM):
        s = R(0)
        for j in range(j0, min(j0 + SUM, n)):
            d = src[j] - u
            s += d * d
        total += s
    r = R(1) / sqrt(R(total / n) + eps)
    mean[i] = u
    rstd[i] = r
    for j in range(n):
        dst[j] = (src[j] - u) * r * w[j] + b[j]


@kernel("R* R* R* R* R* R* R* int int int", fast=True)
def norm_rows_grad(lo, hi, slot, g, x, w, mean, rstd, dx, part, n, chunk, centre):
    """dx of norm_rows, and the chunk's sums of g and of g * xhat in part (chunks, 2, n)."""
    p = at(part, lo // chunk * 2 * n)
    q = at(p, n)
    zero(p, 2 * n)
    for i in range(lo, hi):
        gi, xi, dst = at(g, i * n), at(x, i * n), at(dx, i * n)
        u, r = mean[i], rstd[i]
        s1, s2 = 0.0, 0.0
        for j0 in range(0, n, SUM):
            a, b = R(0), R(0)
            for j in range(j0, min(j0 + SUM, n)):
                gw = gi[j] * w[j]
                a += gw
                b += gw * (xi[j] - u)
            s1 += a
            s2 += b
        k3 = R(s1 / n) if centre else R(0)
        k2 = r * r * R(s2 / n)
        for j in range(n):
            dst[j] = r * (gi[j] * w[j] - k3 - (xi[j] - u) * k2)
        for j in range(n):
            p[j] += gi[j]
        for j in range(n):
            q[j] += gi[j] * ((xi[j] - u) * r)


class Plan(namedtuple("Plan", "segments rows width step pieces fold c")):
    """How a (segments, rows, C) array is cut: folded rows, columns, rows a piece, pieces."""

    def run(self, k: Kernel, *args: Any) -> None:
        """Launch a column kernel, whose last four arguments are the plan's."""
        total = self.segments * self.pieces
        launch(k, total, 1 + (total >> 16), *args, self.rows, self.width, self.step, self.pieces)

    def spread(self, v: Array, dtype: np.dtype) -> Array:
        """v (segments or 1, C) for every folded column: (segments, width)."""
        y = np.empty((self.segments, self.fold, self.c), dtype)
        note(y.__setitem__, ..., v[:, None])
        return y.reshape(self.segments, self.width)


def plan(segments: int, rows: int, c: int) -> Plan:
    """Cut a (segments, rows, C) array; depends on the shape alone."""
    fold = 1
    while 2 * fold * c <= _WIDE and rows % (2 * fold) == 0 and rows:
        fold *= 2
    width = fold * c
    step = min(max(PIECE // max(width, 1), 8), 64)
    return Plan(segments, rows // fold, width, step, -(-rows // fold // step), fold, c)


def columns(x: Array) -> Array:
    """x (N, C, ...) as a contiguous (N, S, C) array: a view of channels-last memory, or a copy."""
    n, c = x.shape[:2]
    y = nhwc(x) if x.ndim == 4 else contiguous(np.moveaxis(x, 1, -1))
    return y.reshape(n, math.prod(x.shape[2:]), c)


def uncolumns(y: Array, shape: tuple[int, ...]) -> Array:
    """The inverse view of `columns`: an (N, C, ...) array over channels-last memory."""
    return np.moveaxis(y.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def _columns_norm(x: Array, w: Maybe, b: Maybe, segments: int, groups: int, eps: float,
                  more: Maybe = None, top: float = 0.0) -> Three:  # fmt: skip
    """y, mean and biased variance (segments, groups) of x (N, C, ...); a segment is some images.

    With more (like x), and with a top, y is normalised x + more within [0, top].
    """
    v, c = columns(x), x.shape[1]
    rows = v.shape[0] * v.shape[1] // max(segments, 1)
    p = plan(segments, rows, c)
    part = empty((segments * p.pieces, 2, p.width), x.dtype)
    p.run(column_moments, v, part)
    means, m2 = zeros((2, segments, groups, c // groups), np.float64)
    sizes = (p.rows, p.step, p.pieces, p.fold, c)
    launch(combine_moments, segments, 1 + (segments >> 8), part, means, m2, *sizes)
    weights, count = vector(w, 1, c, x.dtype).reshape(groups, -1), max(rows * c // groups, 1)
    mean = made(lambda: means.mean(2, keepdims=True))
    exact = made(lambda: (m2 + rows * (means - mean) ** 2).sum(2, keepdims=True) / count)
    var = made(exact.astype, x.dtype)  # backward finds the same scale
    scale = made(lambda: weights / np.sqrt(var.astype(np.float64) + eps))
    y = empty(v.shape, x.dtype)
    vectors = (made(np.repeat, mean, c // groups, 2), scale, vector(b, 0, c, x.dtype))
    spread = (p.spread(u.reshape(-1, c), x.dtype) for u in vectors)
    added = v if more is None else columns(more)
    p.run(column_affine, v, added, y, *spread, more is not None, top)
    return uncolumns(y, x.shape), made(mean[..., 0].astype, x.dtype), var[..., 0]


def _columns_grad(
    g: Array, x: Array, mean: Array, rstd: Array, slopes: Callable, gate: int = 0, top: float = 0.0,
    y: Maybe = None, affine: tuple[Maybe, Maybe] = (None, None),
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """dx, dw, db; slopes gives k1, k2, k3 of `column_grad` from the sums of g and g * (x - mean).

    mean, rstd and k1 … k3 are (segments, C), the sums (2, segments, C) in double. gate: of a relu
    behind it, by its result y or by the input and the affine vectors. g, gated by y, comes fourth.
    """
    v, gv, segments, c = columns(x), columns(g), *mean.shape
    gated = empty(v.shape, x.dtype) if gate == BY_RESULT else gv
    p = plan(segments, v.shape[0] * v.shape[1] // max(segments, 1), c)
    part = empty((segments * p.pieces, 2, p.width), x.dtype)
    spread, ys = p.spread(mean, x.dtype), v if y is None else columns(y)
    vectors = [spread if a is None else p.spread(a[None], x.dtype) for a in affine]
    p.run(column_grad_sums, gv, v, ys, gated, spread, *vectors, part, gate, top)
    out = np.zeros((segments, 2, c))
    launch(add_pieces, segments, 1 + (segments >> 8), part, out, p.pieces, p.fold, c)
    sums = out.transpose(1, 0, 2)
    dx = empty(v.shape, x.dtype)
    factors = (p.spread(k, x.dtype) for k in slopes(sums))
    p.run(column_grad, gated, v, dx, spread, *vectors, *factors, gate, top)
    dw, db = (a.sum(0).astype(x.dtype) for a in (sums[1] * rstd, sums[0]))
    return uncolumns(dx, x.shape), dw, db, uncolumns(gated, x.shape)


def batch_norm(x: Array, w: Maybe, b: Maybe, more: Maybe, eps: float, top: float) -> Three:
    """y, mean (C,) and biased variance (C,) of x (N, C, ...), normalised over all axes but C.

    y is normalised x + more, which is like x or None, within [0, top] if top is not 0.
    """
    y, mean, var = _columns_norm(x, w, b, 1, x.shape[1], eps, more, top)
    return y, mean[0], var[0]


def batch_norm_grad(g: Array, x: Array, w: Maybe, b: Maybe, mean: Array, var: Array, y: Maybe,
                    eps: float, top: float) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Gradients of batch_norm's x, w, b and more; y: its result, if more was added."""
    rstd = 1 / np.sqrt(var[None].astype(np.float64) + eps)
    k1 = vector(w, 1, len(mean), x.dtype) * rstd
    rows = x.size // max(len(mean), 1) or 1

    def slopes(sums: Array) -> tuple:
        return k1, -k1 * rstd * rstd * sums[1] / rows, -k1 * sums[0] / rows

    gate = 0 if not top else BY_INPUT if y is None else BY_RESULT
    affine = (k1[0], vector(b, 0, len(mean), x.dtype))
    return _columns_grad(g, x, mean[None], rstd, slopes, gate, top, y, affine)


def group_norm(x: Array, w: Maybe, b: Maybe, groups: int, eps: float) -> Three:
    """y, mean and biased variance (N, groups) of x (N, C, ...), normalised group by group."""
    return _columns_norm(x, w, b, len(x), groups, eps)


def group_norm_grad(g: Array, x: Array, w: Maybe, mean: Array, var: Array, eps: float) -> Three:
    """Gradients of group_norm's x, w and b."""
    (n, c), groups = x.shape[:2], mean.shape[1]
    per, weights = c // groups, vector(w, 1, c, x.dtype)
    rstd = np.repeat(1 / np.sqrt(var.astype(np.float64) + eps), per, 1)
    count = max(math.prod(x.shape[2:]) * per, 1)

    def slopes(sums: Array) -> tuple:
        totals = (sums * weights).reshape(2, n, groups, per).sum(3) / count
        s1, s2 = np.repeat(totals, per, axis=2)
        return weights * rstd, -(rstd**3) * s2, -rstd * s1

    return _columns_grad(g, x, np.repeat(mean, per, 1), rstd, slopes)[:3]


def layer_norm(x: Array, w: Maybe, b: Maybe, n: int, eps: float, centre: bool) -> Three:
    """y, mean and 1 / standard deviation of each row of n elements; RMS norm without centre."""
    rows = x.size // max(n, 1)
    y, mean, rstd = empty(x.shape, x.dtype), empty((rows,), x.dtype), empty((rows,), x.dtype)
    affine = (vector(w, 1, n, x.dtype), vector(b, 0, n, x.dtype))
    args = (contiguous(x), *affine, y, mean, rstd, n, eps, centre)
    launch(norm_rows, rows, _row_chunk(rows, n), *args)
    return y, mean, rstd


def layer_norm_grad(g: Array, x: Array, w: Maybe, mean: Array, rstd: Array, n: int,
                    centre: bool) -> Three:  # fmt: skip
    """Gradients of layer_norm's x, w and b, the last two as (n,)."""
    rows = mean.size
    chunk = _row_chunk(rows, n)
    dx = empty(x.shape, x.dtype)
    part = empty((-(-rows // chunk), 2, n), x.dtype)
    weights = vector(w, 1, n, x.dtype)
    args = (contiguous(g), contiguous(x), weights, mean, rstd, dx, part, n, chunk, centre)
    launch(norm_rows_grad, rows, chunk, *args)
    out = np.zeros((2, n))
    launch(add_pieces, 1, 1, part, out, len(part), 1, n)
    db, dw = out.astype(x.dtype)
    return dx, dw, db


def _row_chunk(rows: int, n: int) -> int:
    """Rows a chunk: enough work to share out, at most 64 chunks' worth of partial sums."""
    return min(max(PIECE // max(n, 1), 1 + rows // 64), 256)
