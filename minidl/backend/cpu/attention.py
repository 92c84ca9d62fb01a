"""Scaled dot-product attention without a (T, T) array: y = softmax(scale q kᵀ + mask) v.

Forward: a chunk is one block of at most 64 query rows of one head. Its scores live in scratch that
fits the L2 cache (BLAS, masking, exponentials, BLAS); y is divided by the rows' sums at the end,
and the rows' log-sum-exp is kept for backward. Backward: a chunk is one head of k and v with all
the query heads that share it, so that dk and dv are summed in a fixed order. Each block's scores
are made again; dv += pᵀ dy, dp = dy vᵀ, ds = p (dp - Σ p dp), dq = scale ds k, dk += scale dsᵀ q.
Under a causal mask the keys after a block's last row are skipped. Bytes: q and y once, k and v once
a block. Sums are in the arrays' own precision. A row that sees no key gives zeros, as in PyTorch.
"""

import math

import numpy as np

# isort: off
from minidl.backend.cpu.jit import (
    ALONE, R, Scratch, at, device, dot, exp, gemm, kernel, launch, log, zero,
)  # fmt: skip

# isort: on
from minidl.backend.cpu.layout import copy_into
from minidl.backend.cpu.memory import Array, Maybe, address_of, contiguous, empty
from minidl.backend.cpu.softmax import largest
from minidl.backend.looping import strides_of_thirds

_ROWS = 64  # query rows of a block, fewer where its scores would leave the cache
_SCRATCH = 1 << 19  # bytes of a block's scores
_INF = math.inf
_UNSEEN = np.zeros(1, np.uint8)
# Words of the table of sizes: four strides for the mask, three (batch, head, row) for each array.
_HEADS, _SHARED, _TQ, _TK, _D, _DV, _CAUSAL, _MASK, _BLOCK, _BLOCKS, _SLOT, _BEFORE = range(12)
_M, _Q, _K, _V, _Y, _DQ, _DK, _DVAL = 12, 16, 19, 22, 25, 28, 31, 34  # _Y: y, or its gradient


@device
def start(sizes, which, shared, n, row):
    """Offset of a row of head n (its key head where shared) in the array with strides `which`."""
    heads = sizes[_HEADS]
    b, h = n // heads, n % heads
    if shared:
        h //= sizes[_SHARED]
    return b * sizes[which] + h * sizes[which + 1] + row * sizes[which + 2]


@device
def visible(sizes, i):
    """How many keys query row i may look at."""
    return min(sizes[_TK], sizes[_BEFORE] + i + 1) if sizes[_CAUSAL] else sizes[_TK]


@device
def scores(sizes, scale, q, k, seen, bias, n, first, rows, cols, s):
    """s (rows, cols) = scale q kᵀ, -inf where unseen or plus the bias, from query row `first`."""
    pq, pk = at(q, start(sizes, _Q, 0, n, first)), at(k, start(sizes, _K, 1, n, 0))
    d, tk = sizes[_D], sizes[_TK]
    if rows == 1:  # as in generation: BLAS would first copy k
        for j in range(cols):
            s[j] = scale * dot(pq, at(pk, j * sizes[_K + 2]), d)
    else:
        gemm(0, 1, rows, cols, d, scale, pq, sizes[_Q + 2], pk, sizes[_K + 2], R(0), s, tk)
    step = sizes[_M + 3]
    for r in range(rows if sizes[_MASK] > 0 else 0):
        row, mask = at(s, r * tk), start(sizes, _M, 0, n, first + r)
        for j in range(visible(sizes, first + r)):
            if sizes[_MASK] == 1:
                row[j] = row[j] if seen[mask + j * step] else R(-_INF)
            else:
                row[j] += bias[mask + j * step]


@device
def clear(p, rows, cols, ld):
    for r in range(rows):
        zero(at(p, r * ld), cols)


@device
def mix(rows, dv, cols, s, lds, v, ldv, y, ldy):
    """y (rows, dv) = s (rows, cols) v."""
    if rows > 1:
        gemm(0, 0, rows, dv, cols, R(1), s, lds, v, ldv, R(0), y, ldy)
        return
    zero(y, dv)
    for j in range(cols):
        row, weight = at(v, j * ldv), s[j]
        for c in range(dv):
            y[c] += weight * row[c]


@kernel("i8* R R* R* R* u1* R* R* R* R*", fast=True)
def query_blocks(item, slot, sizes, scale, q, k, v, seen, bias, y, lse, scratch):
    """y and the rows' log-sum-exp for a block of query rows."""
    s = at(scratch, slot * sizes[_SLOT])
    tq, tk, dv, block = sizes[_TQ], sizes[_TK], sizes[_DV], sizes[_BLOCK]
    sums = at(s, block * tk)
    n, first = item // sizes[_BLOCKS], item % sizes[_BLOCKS] * block
    rows = min(block, tq - first)
    cols = visible(sizes, first + rows - 1)
    scores(sizes, scale, q, k, seen, bias, n, first, rows, cols, s)
    for r in range(rows):
        row, here = at(s, r * tk), visible(sizes, first + r)
        m = largest(row, here)
        m = R(0) if m == R(-_INF) else m
        total = R(0)
        for j in range(here):
            e = exp(row[j] - m)
            row[j] = e
            total += e
        zero(at(row, here), cols - here)
        empty = total == R(0)
        sums[r] = R(0) if empty else R(1) / total
        lse[n * tq + first + r] = R(_INF) if empty else m + log(total)
    py, pv = at(y, start(sizes, _Y, 0, n, first)), at(v, start(sizes, _V, 1, n, 0))
    ldy, ldv = sizes[_Y + 2], sizes[_V + 2]
    mix(rows, dv, cols, s, tk, pv, ldv, py, ldy)
    for r in range(rows):
        factor = sums[r]
        for j in range(r * ldy, r * ldy + dv):
            py[j] *= factor


@device
def block_grad(sizes, n, first, rows, cols, lse, p, ds):
    """p = exp(scores - lse) and ds = p (dp - Σ p dp), where p holds the scores and ds holds dp."""
    tk = sizes[_TK]
    for r in range(rows):
        i, pr, dr = first + r, at(p, r * tk), at(ds, r * tk)
        here = visible(sizes, i)
        level = lse[n * sizes[_TQ] + i]
        mean = R(0)
        for j in range(here):
            e = exp(pr[j] - level)
            pr[j] = e
            mean += e * dr[j]
        for j in range(here):
            dr[j] = pr[j] * (dr[j] - mean)
        zero(at(pr, here), cols - here)
        zero(at(dr, here), cols - here)


@kernel("i8* R R* R* R* u1* R* R* R* R* R* R* R*", fast=True)
def head_grads(head, slot, sizes, scale, q, k, v, seen, bias, lse, dy, dq, dk, dvalue, scratch):
    """dq, dk, dv for a key head, with the query heads that share it."""
    tq, tk, d, dv, block = sizes[_TQ], sizes[_TK], sizes[_D], sizes[_DV], sizes[_BLOCK]
    p = at(scratch, slot * sizes[_SLOT])
    ds = at(p, block * tk)
    ldq, ldk, ldv = sizes[_Q + 2], sizes[_K + 2], sizes[_V + 2]
    lddy, lddq, lddk, lddv = sizes[_Y + 2], sizes[_DQ + 2], sizes[_DK + 2], sizes[_DVAL + 2]
    group = head * sizes[_SHARED]
    pk, pv = at(k, start(sizes, _K, 1, group, 0)), at(v, start(sizes, _V, 1, group, 0))
    pdk = at(dk, start(sizes, _DK, 1, group, 0))
    pdv = at(dvalue, start(sizes, _DVAL, 1, group, 0))
    clear(pdk, tk, d, lddk)
    clear(pdv, tk, dv, lddv)
    for item in range(sizes[_SHARED] * sizes[_BLOCKS]):
        n, first = group + item // sizes[_BLOCKS], item % sizes[_BLOCKS] * block
        rows = min(block, tq - first)
        cols = visible(sizes, first + rows - 1)
        pq = at(q, start(sizes, _Q, 0, n, first))
        pdy = at(dy, start(sizes, _Y, 0, n, first))
        pdq = at(dq, start(sizes, _DQ, 0, n, first))
        scores(sizes, scale, q, k, seen, bias, n, first, rows, cols, p)
        gemm(0, 1, rows, cols, dv, R(1), pdy, lddy, pv, ldv, R(0), ds, tk)
        block_grad(sizes, n, first, rows, cols, lse, p, ds)
        gemm(1, 0, cols, dv, rows, R(1), p, tk, pdy, lddy, R(1), pdv, lddv)
        gemm(0, 0, rows, d, cols, scale, ds, tk, pk, ldk, R(0), pdq, lddq)
        gemm(1, 0, cols, d, rows, scale, ds, tk, pq, ldq, R(1), pdk, lddk)


# ---- launchers ---------------------------------------------------------------------------------


def put_rows(room: Array, new: Array, first: Array) -> None:
    """room (..., S, D)[..., first : first + T, :] = new (..., T, D); first (1,) int64."""
    copy_into(room, new, first)


def _four(x: Array) -> Array:
    """x (..., T, D) as (B, H, T, D) with contiguous rows: a view where its strides allow it."""
    size = x.itemsize
    *_, step, last = x.strides
    rows = (x.shape[-1] == 1 or last == size) and (x.shape[-2] == 1 or step >= x.shape[-1] * size)
    if not rows or [s for s in x.strides if s % size]:
        x = contiguous(x)
    return x if x.ndim == 4 else _leading(x)


def _leading(x: Array) -> Array:
    """x with exactly two leading axes."""
    if x.ndim > 4:
        return x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
    return x[(None,) * (4 - x.ndim)]


def _made_like(x: Array, width: int) -> Array:
    """An empty (B, H, T, width) whose rows and heads lie in memory in the order of x's."""
    b, h, t, _ = x.shape
    if x.strides[2] > x.strides[1] > 0:
        return empty((b, t, h, width), x.dtype).transpose(0, 2, 1, 3)
    return empty((b, h, t, width), x.dtype)


def _like_three(*given: Array) -> list[Array]:
    """Empty arrays for the gradients of q, k and v.

    Where those three share out one projection's memory, their gradients share out an array like it,
    so that they need not be put together again.
    """
    q, strides = given[0], strides_of_thirds(given, [address_of(x) for x in given])
    if strides is None:
        return [_made_like(x, x.shape[3]) for x in given]
    return [*np.ndarray((3, *q.shape), q.dtype, empty((3 * q.size,), q.dtype), 0, strides)]


def _plan(arrays: tuple, lead: tuple, mask: Maybe, causal: bool, parts: int) -> tuple:
    """The table of sizes for q, k, v and further arrays, the mask's two pointers, the scratch."""
    q, k, v, *_ = arrays
    (_, h, tq, d), (tk, dv) = q.shape, v.shape[2:]
    block = _ROWS
    while block > 8 and parts * block * tk * q.itemsize > _SCRATCH:
        block //= 2
    block = min(block, tq)
    slot = parts * block * tk + block
    sizes = [h, h // k.shape[1], tq, tk, d, dv, causal, 0, block, -(-tq // block), slot, 0]
    seen, bias, strides = _UNSEEN, q, [0] * 4  # not read
    if mask is not None:
        full = _leading(np.broadcast_to(mask, (*lead, tq, tk)))
        strides = [s // full.itemsize for s in full.strides]
        sizes[_MASK] = 1 if mask.dtype == np.bool_ else 2
        seen, bias = (full, bias) if mask.dtype == np.bool_ else (seen, full)
    for x in arrays:  # in elements; a row's stride is also BLAS's leading dimension
        (image, head, row, _), size = x.strides, x.itemsize
        strides += [image // size, head // size, max(row // size, x.shape[3], 1)]
    return np.array(sizes + strides, np.int64), seen, bias, Scratch(slot)


def attend(q: Array, k: Array, v: Array, mask: Maybe, causal: bool, scale: float,
           before: Maybe = None) -> tuple[Array, Array]:  # fmt: skip
    """softmax(scale q kᵀ + mask) v and its rows' log-sum-exp.

    q (..., H, Tq, D), k (..., G, Tk, D), v (..., G, Tk, E), G dividing H; mask broadcasts to
    (..., H, Tq, Tk): bool (True: take part) or of q's dtype, added. Causal: row t sees the keys
    0..t, or 0..before + t (before (1,) int64, at most Tk - Tq).
    """
    q4, k4, v4 = _four(q), _four(k), _four(v)
    y = _made_like(q4, v.shape[-1])
    lse = empty(q4.shape[:3], q.dtype)
    if not k.shape[-2]:
        y[...] = 0
    elif y.size:
        sizes, seen, bias, scratch = _plan((q4, k4, v4, y), q.shape[:-2], mask, causal, 1)
        if before is not None:
            copy_into(sizes[_BEFORE : _BEFORE + 1], before)
        items = q4.shape[0] * q4.shape[1] * int(sizes[_BLOCKS])
        alone = 2 * q.size * k.shape[-2] <= ALONE
        given = (sizes, float(scale), q4, k4, v4, seen, bias, y, lse, scratch)
        launch(query_blocks, items, items if alone else 1, *given)
    return y.reshape(*q.shape[:-1], v.shape[-1]), lse


def attend_grad(g: Array, q: Array, k: Array, v: Array, mask: Maybe, y: Array, lse: Array,
                causal: bool, scale: float) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gradients of q, k and v from that of y, attend's result.

    y itself is for a backend that does not hold a row's scores at once: Σ p dp is Σ dy y, but does
    not cancel as exactly where a row sees one key.
    """
    q4, k4, v4, g4 = _four(q), _four(k), _four(v), _four(g)
    dq, dk, dv = _like_three(q4, k4, v4)
    if not g.size or not k.size:
        for d in (dq, dk, dv):
            d.fill(0)
    else:
        arrays = (q4, k4, v4, g4, dq, dk, dv)
        sizes, seen, bias, scratch = _plan(arrays, q.shape[:-2], mask, causal, 2)
        given = (sizes, float(scale), q4, k4, v4, seen, bias, lse, g4)
        launch(head_grads, k4.shape[0] * k4.shape[1], 1, *given, dq, dk, dv, scratch)
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape)
