"""Recurrent layers over whole sequences: one input GEMM, then one launch of a cell kernel a step.

x is (T, B, I), states (B, H), gates (T, B, G·H). Backward takes the steps from the last; the
weights' gradients are then one GEMM over all steps. Tiles depend on shapes alone.
"""

from __future__ import annotations

import numpy as np

from minidl.backend.cpu import memory, team
from minidl.backend.cpu.cells import (
    ROWS,
    gru_step,
    gru_step_grad,
    lstm_step,
    lstm_step_grad,
    rnn_step,
    rnn_step_grad,
)
from minidl.backend.cpu.jit import Kernel, R, at, gemm, kernel, launch, table

Array = np.ndarray
State = Array | None
_WORTHWHILE = 1 << 16  # multiply-adds of one gate in a chunk, some 5 us of work


# ---- products of whole sequences ---------------------------------------------------------------


@kernel("int int int int int int int R* int R* int R int R* R* int")
def gemm_tiles(lo, hi, slot, mt, nt, ta, tb, m, n, k, a, lda, b, ldb, beta, biased, bias, c, ldc):
    """c = op(a) op(b) + beta c (or + bias, a row), in tiles of mt by nt; each sums all of k."""
    across = (n + nt - 1) // nt
    for tile in range(lo, hi):
        i, j = tile // across * mt, tile % across * nt
        rows, cols = min(mt, m - i), min(nt, n - j)
        keep = beta
        if biased:
            keep = R(1)
            for r in range(i, i + rows):
                for q in range(j, j + cols):
                    c[r * ldc + q] = bias[q]
        pa, pb = at(a, i if ta else i * lda), at(b, j * ldb if tb else j)
        gemm(ta, tb, rows, cols, k, R(1), pa, lda, pb, ldb, keep, at(c, i * ldc + j), ldc)


def _product(
    c: Array,
    a: Array,
    b: Array,
    *,
    ta: int = 0,
    tb: int = 0,
    beta: float = 0.0,
    bias: Array | None = None,
) -> Array:
    """c = op(a) op(b) + beta c or + bias; c's, a's and b's rows are contiguous."""
    (m, n), k = c.shape, a.shape[0] if ta else a.shape[1]
    if k == 0:
        if bias is not None or not beta:
            c[...] = 0 if bias is None else bias
        return c
    mt, nt = min(m, 256), min(n, 256)
    while -(-m // max(mt, 1)) * -(-n // max(nt, 1)) < 8 and max(mt, nt) > 64:
        if mt >= nt:
            mt = -(-mt // 2)
        else:
            nt = -(-nt // 2)
    tiles = -(-m // mt) * -(-n // nt) if c.size else 0
    lda, ldb, ldc = (max(v.strides[0] // v.itemsize, v.shape[1]) for v in (a, b, c))
    row = c if bias is None else bias
    launch(
        gemm_tiles, tiles, 1, mt, nt, ta, tb, m, n, k, a, lda, b, ldb, float(beta),
        bias is not None, row, c, ldc,
    )  # fmt: skip
    return c


# ---- a sequence --------------------------------------------------------------------------------


def _order(steps: int, reverse: bool) -> Array:
    """The steps in the order in which the recurrence takes them."""
    return np.arange(steps)[:: -1 if reverse else 1]


def _at(a: Array, order: Array, edge: Array | None = None) -> Array:
    """Addresses of a's (T, …) entry at each step taken; with an edge, at the step taken before."""
    here = a.ctypes.data + order * a.strides[0]
    return here if edge is None else np.append(edge.ctypes.data, here[:-1])


def _later(a: Array, order: Array) -> Array:
    """Addresses of a's entry at the step taken after each one; the last one's is not read."""
    return np.roll(_at(a, order), -1)


def _tile_columns(hidden: int) -> int:
    return 32 if hidden <= 256 else 64


def _run(kernel: Kernel, args: tuple, moving: dict[int, Array], *, back: bool = False) -> None:
    """Launch the kernel at every step; moving[i] are the addresses that word i takes.

    args begin with batch, hidden, tile columns; back goes from the last step taken to the first,
    and then word 3 says which launch is the first.
    """
    batch, hidden, columns = args[:3]
    tiles = -(-batch // ROWS) * -(-hidden // columns)
    if not tiles:
        return
    steps = len(next(iter(moving.values())))
    words = np.tile(table(args), (steps, 1))
    for i, addresses in moving.items():
        words[:, i] = addresses
    if back:
        words[:, 3] = 0
        words[-1, 3] = 1
        words = words[::-1]
    real = next(a for a in args if isinstance(a, Array)).dtype.str[1:]
    entry = kernel.address(real)
    # Tiles too small to be worth waking a thread for go together.
    chunk = -(-_WORTHWHILE // (min(batch, ROWS) * columns * hidden))
    for row in words:
        team.run(entry, row.ctypes.data, tiles, chunk)


def _inputs(x: Array, w: Array, b_ih: Array | None, b_hh: Array | None, out: Array) -> None:
    """out[:, :G·H] of (T, B, …) = x w_ihᵀ + b_ih + b_hh, for all steps at once."""
    biases = [b for b in (b_ih, b_hh) if b is not None]
    bias = memory.contiguous(sum(biases[1:], biases[0])) if biases else None
    rows = x.shape[0] * x.shape[1]
    made = out.reshape(rows, out.shape[2])[:, : len(w)]
    flat = memory.contiguous(x).reshape(rows, x.shape[2])
    _product(made, flat, memory.contiguous(w), tb=1, bias=bias)


def _recurrent(w_hh: Array, steps: int, batch: int) -> tuple[Array, int, int]:
    """W_hh as the steps read it, whether its rows are gates, and its row length.

    Its transpose multiplies faster; short or single-row sequences would not earn the copy back.
    """
    if batch == 1 or steps < 4:
        return memory.contiguous(w_hh), 1, w_hh.shape[1]
    return memory.contiguous(w_hh.T), 0, w_hh.shape[0]


def _cotangent(g: State, like: Array) -> Array:
    return memory.zeros(like.shape, like.dtype) if g is None else memory.contiguous(g)


def _start(g: State, like: Array) -> Array:
    """A working copy of the gradient of a last state."""
    if g is None:
        return memory.zeros(like.shape, like.dtype)
    return np.array(g, like.dtype, order="C")


def _through_input(dgates: Array, x: Array, w: Array, need_x: bool, need_w: bool) -> tuple:
    """Gradients of x (T, B, I) and W_ih from those of the pre-activations (T, B, G·H)."""
    rows = x.shape[0] * x.shape[1]
    flat = dgates.reshape(rows, len(w))
    dx = dw = None
    if need_x:
        dx = memory.empty(x.shape, x.dtype)
        _product(dx.reshape(rows, w.shape[1]), flat, memory.contiguous(w))
    if need_w:
        dw = memory.empty(w.shape, w.dtype)
        _product(dw, flat, memory.contiguous(x).reshape(rows, w.shape[1]), ta=1)
    return dx, dw


def _through_state(dw: Array, dgates: Array, y: Array, h0: Array, reverse: bool) -> Array:
    """dw (G·H, H) = Σ dgates[t]ᵀ h[t-1]; dgates (T, B, G·H) may be a slice of columns."""
    steps, batch, width = dgates.shape
    _product(dw, dgates[steps - 1 if reverse else 0], memory.contiguous(h0), ta=1)
    if steps > 1:
        later, states = (dgates[:-1], y[1:]) if reverse else (dgates[1:], y[:-1])
        rows = (steps - 1) * batch
        _product(dw, later.reshape(rows, width), states.reshape(rows, y.shape[2]), ta=1, beta=1.0)
    return dw


def _bias_sums(like: Array, gates: int) -> Array:
    """Zeros for the bias gradient's partial sums, one row for each row of tiles."""
    _, batch, hidden = like.shape
    return np.zeros((-(-batch // ROWS), gates * hidden))


def lstm(
    x: Array, h0: Array, c0: Array, w_ih: Array, w_hh: Array, b_ih: State, b_hh: State,
    reverse: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Run an LSTM: x (T, B, I) -> y, c (T, B, H) and the activated gates (T, B, 4H) i, f, g, o."""
    steps, batch, _ = x.shape
    hidden = w_hh.shape[1]
    gates = memory.empty((steps, batch, 4 * hidden), x.dtype)
    y, c = (memory.empty((steps, batch, hidden), x.dtype) for _ in range(2))
    _inputs(x, w_ih, b_ih, b_hh, gates)
    h0, c0 = memory.contiguous(h0), memory.contiguous(c0)
    w, tb, ldw = _recurrent(w_hh, steps, batch)
    order = _order(steps, reverse)
    args = (batch, hidden, _tile_columns(hidden), tb, ldw, w, h0, c0, gates, y, c)
    moving = {6: _at(y, order, h0), 7: _at(c, order, c0)}
    moving |= {8: _at(gates, order), 9: _at(y, order), 10: _at(c, order)}
    _run(lstm_step, args, moving)
    return y, c, gates


def lstm_grad(
    gy: State, gh: State, gc: State, x: Array, h0: Array, c0: Array, w_ih: Array, w_hh: Array,
    y: Array, c: Array, gates: Array, reverse: bool, need: tuple,
) -> tuple:  # fmt: skip
    """Gradients of x, h0, c0, w_ih, w_hh, b_ih, b_hh from those of y, the last h, the last c."""
    steps, batch, hidden = y.shape
    dy, dh, dc = _cotangent(gy, y), _start(gh, h0), _start(gc, c0)
    dgates = memory.empty(gates.shape, gates.dtype)
    db = _bias_sums(y, 4)
    c0, w = memory.contiguous(c0), memory.contiguous(w_hh)
    order = _order(steps, reverse)
    args = (batch, hidden, _tile_columns(hidden), 0, w, dgates, dy, gates, c0, c, dh, dc)
    moving = {5: _later(dgates, order), 6: _at(dy, order), 7: _at(gates, order)}
    moving |= {8: _at(c, order, c0), 9: _at(c, order), 12: _at(dgates, order)}
    _run(lstm_step_grad, (*args, dgates, db), moving, back=True)
    dx, dw_ih = _through_input(dgates, x, w_ih, need[0], need[3])
    dw_hh = _through_state(memory.empty(w_hh.shape, w_hh.dtype), dgates, y, h0, reverse)
    bias = db.sum(0).astype(y.dtype)
    return dx, _product(dh, dgates[order[0]], w, beta=1.0), dc, dw_ih, dw_hh, bias, bias


def gru(
    x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: State, b_hh: State,
    reverse: bool,
) -> tuple[Array, Array]:  # fmt: skip
    """Run a GRU: x (T, B, I) -> y (T, B, H), and r, z, n, W_hn h + b_hn as gates (T, B, 4H)."""
    steps, batch, _ = x.shape
    hidden = w_hh.shape[1]
    gates = memory.empty((steps, batch, 4 * hidden), x.dtype)
    y = memory.empty((steps, batch, hidden), x.dtype)
    last = memory.zeros((hidden,), x.dtype)  # b_hn stays with its product, which r multiplies
    if b_hh is not None:
        last, b_hh = memory.contiguous(b_hh[2 * hidden :]), b_hh.copy()
        b_hh[2 * hidden :] = 0
    _inputs(x, w_ih, b_ih, b_hh, gates)
    h0 = memory.contiguous(h0)
    w, tb, ldw = _recurrent(w_hh, steps, batch)
    order = _order(steps, reverse)
    args = (batch, hidden, _tile_columns(hidden), tb, ldw, w, last, h0, gates, y)
    _run(gru_step, args, {7: _at(y, order, h0), 8: _at(gates, order), 9: _at(y, order)})
    return y, gates


def gru_grad(
    gy: State, gh: State, x: Array, h0: Array, w_ih: Array, w_hh: Array, y: Array, gates: Array,
    reverse: bool, need: tuple,
) -> tuple:  # fmt: skip
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""
    steps, batch, hidden = y.shape
    dy, dh = _cotangent(gy, y), _start(gh, h0)
    dgates = memory.empty(gates.shape, gates.dtype)
    db = _bias_sums(y, 4)
    h0, w = memory.contiguous(h0), memory.contiguous(w_hh)
    order = _order(steps, reverse)
    args = (batch, hidden, _tile_columns(hidden), 0, w, dgates, dy, gates, h0, dh, dgates, db)
    moving = {5: _later(dgates, order), 6: _at(dy, order), 7: _at(gates, order)}
    moving |= {8: _at(y, order, h0), 10: _at(dgates, order)}
    _run(gru_step_grad, args, moving, back=True)
    dx, dw_ih = _through_input(dgates[:, :, : 3 * hidden], x, w_ih, need[0], need[2])
    dw_hh = memory.empty(w_hh.shape, w_hh.dtype)
    edge, bias = dgates[order[0]], db.sum(0).astype(y.dtype)
    for rows, columns in ((slice(2 * hidden), slice(2 * hidden)),
                          (slice(2 * hidden, None), slice(3 * hidden, None))):  # fmt: skip
        _through_state(dw_hh[rows], dgates[:, :, columns], y, h0, reverse)
        _product(dh, edge[:, columns], w[rows], beta=1.0)
    return (
        dx, dh, dw_ih, dw_hh, bias[: 3 * hidden],
        np.concatenate((bias[: 2 * hidden], bias[3 * hidden :])),
    )  # fmt: skip


def rnn(
    x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: State, b_hh: State,
    relu: bool, reverse: bool,
) -> Array:  # fmt: skip
    """Run a plain recurrent layer with tanh or relu: x (T, B, I) -> y (T, B, H)."""
    steps, batch, _ = x.shape
    hidden = w_hh.shape[1]
    y = memory.empty((steps, batch, hidden), x.dtype)
    _inputs(x, w_ih, b_ih, b_hh, y)
    h0 = memory.contiguous(h0)
    w, tb, ldw = _recurrent(w_hh, steps, batch)
    order = _order(steps, reverse)
    args = (batch, hidden, _tile_columns(hidden), tb, ldw, relu, w, h0, y)
    _run(rnn_step, args, {7: _at(y, order, h0), 8: _at(y, order)})
    return y


def rnn_grad(
    gy: State, gh: State, x: Array, h0: Array, w_ih: Array, w_hh: Array, y: Array, relu: bool,
    reverse: bool, need: tuple,
) -> tuple:  # fmt: skip
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""
    steps, batch, hidden = y.shape
    dy, dh = _cotangent(gy, y), _start(gh, h0)
    dgates = memory.empty(y.shape, y.dtype)
    db = _bias_sums(y, 1)
    w = memory.contiguous(w_hh)
    order = _order(steps, reverse)
    args = (batch, hidden, _tile_columns(hidden), 0, relu, w, dgates, dy, y, dh, dgates, db)
    moving = {6: _later(dgates, order), 7: _at(dy, order), 8: _at(y, order)}
    _run(rnn_step_grad, args, moving | {10: _at(dgates, order)}, back=True)
    dx, dw_ih = _through_input(dgates, x, w_ih, need[0], need[2])
    dw_hh = _through_state(memory.empty(w_hh.shape, w_hh.dtype), dgates, y, h0, reverse)
    bias = db.sum(0).astype(y.dtype)
    return dx, _product(dh, dgates[order[0]], w, beta=1.0), dw_ih, dw_hh, bias, bias
