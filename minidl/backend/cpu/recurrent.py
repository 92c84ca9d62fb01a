"""Recurrent layers over whole sequences: one input GEMM, then one launch of a cell kernel a step.

x is (T, B, I), states (B, H), gates (T, B, G·H). Backward takes the steps from the last; the
weights' gradients are then one GEMM over all steps. Tiles depend on shapes alone.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minidl.backend.cpu import cells, team
from minidl.backend.cpu.jit import Kernel, kernel, launch
from minidl.backend.cpu.layout import copy, copy_into
from minidl.backend.cpu.linalg import linear, matmul, panels
from minidl.backend.cpu.memory import Array, Maybe, address_of, contiguous, empty, zeros
from minidl.backend.cpu.panel import BLOCK
from minidl.backend.cpu.replay import note

_WORTHWHILE = 1 << 16  # multiply-adds of one gate in a chunk, some 5 us of work


class _Each(NamedTuple):
    """An argument that moves: the entry of a (T, …) array that belongs to the step taken.

    before: the entry of the step taken before, this one before the first; after: that of the step
    taken after, which the last one taken must not read.
    """

    array: Array
    before: Maybe = None
    after: bool = False


@functools.cache
def _columns(hidden: int) -> int:
    """Hidden columns of a tile: the largest divisor up to 64, all where that is too narrow."""
    most = max(n for n in range(1, 65) if hidden % n == 0)
    return most if most >= 16 else hidden


def _run(cell: Kernel, y: Array, reverse: bool, *args: Any, back: bool = False) -> None:
    """Launch a cell's kernel at every step of y (T, B, H).

    Its first arguments are batch, hidden and tile columns. back goes from the last step taken to
    the first, and then a fourth argument says which launch is the first.
    """
    if not y.size:
        return
    steps, batch, hidden = y.shape
    columns, sign, words, strides = _columns(hidden), -1 if reverse else 1, [], []
    for a in (batch, hidden, columns, *([0] if back else []), *args):
        if type(a) is _Each:
            step = a.array.strides[0]
            words.append(address_of(a.array) + sign * step * (a.after - (a.before is not None)))
        else:
            step = 0
            words.append(address_of(a) if type(a) is np.ndarray else int(a))
        strides.append(step)
    table = np.array([words])
    if steps > 1:
        table = table + np.arange(steps)[::sign, None] * np.array(strides)
    for i, a in enumerate(args, len(words) - len(args)):
        if type(a) is _Each and a.before is not None:
            table[0, i] = address_of(a.before)
    if back:
        table[-1, 3] = 1
        table = table[::-1]
    entry, crew, row = cell.address(y.dtype.str[1:]), team.current(), address_of(table)
    # Tiles too small to be worth waking a thread for go together.
    tiles = -(-batch // cells.ROWS) * (hidden // columns)
    chunk = -(-_WORTHWHILE // (min(batch, cells.ROWS) * columns * hidden))
    kept = table, args
    for _ in range(steps):
        crew.run(entry, row, tiles, chunk, kept)
        row += table.strides[0]


def _made(x: Array, *widths: int) -> Iterator[Array]:
    """Empty arrays (T, B, width) for the steps of x (T, B, …)."""
    return (empty((*x.shape[:2], width), x.dtype) for width in widths)


@kernel("R* R* R*")
def _add(lo, hi, slot, a, b, y):
    """y = a + b."""
    for j in range(lo, hi):
        y[j] = a[j] + b[j]


def _inputs(x: Array, w: Array, b_ih: Maybe, b_hh: Maybe) -> Array:
    """x w_ihᵀ + b_ih + b_hh (T, B, G·H), for all steps at once."""
    if b_ih is None or b_hh is None:
        return linear(x, w, b_hh if b_ih is None else b_ih)
    bias = empty(b_ih.shape, b_ih.dtype)
    launch(_add, bias.size, bias.size, contiguous(b_ih), contiguous(b_hh), bias)
    return linear(x, w, bias)


def _worth_a_copy(y: Array) -> bool:
    """Whether the steps of y multiply by a copy of W_hh in the order that does so fastest."""
    return y.size > 0 and y.shape[1] > 1 and len(y) >= 4


def _tiled(y: Array) -> bool:
    """Whether an LSTM's gates lie tile after tile: where tiles are whole panels."""
    return _worth_a_copy(y) and _columns(y.shape[2]) % BLOCK == 0


def _recurrent(w_hh: Array, y: Array) -> tuple[int, int, Array]:
    """Whether W_hh's rows are gates as the steps read it, its row length, and W_hh so."""
    if _worth_a_copy(y):
        return 0, w_hh.shape[0], contiguous(w_hh.T)
    return 1, w_hh.shape[1], contiguous(w_hh)


def _regrouped(w: Any, groups: int, y: Array) -> Any:
    """w (4H, …) from gate after gate (4 groups) to tile after tile, where that pays, or back."""
    if w is None or not _tiled(y):
        return w
    columns = _columns(y.shape[2])
    apart = w.reshape(groups, len(w) // (groups * columns), columns, *w.shape[1:])
    return contiguous(apart.swapaxes(0, 1)).reshape(w.shape)


def _start(g: Maybe, like: Array) -> Array:
    """A working copy of a gradient; zeros if there is none."""
    return zeros(like.shape, like.dtype) if g is None else np.array(g, like.dtype, order="C")


def _backward_arrays(gy: Maybe, y: Array, gates: int) -> tuple[Array, Array, Array]:
    """dy; room for the pre-activations' gradients; zeros for the biases', a row a row of tiles."""
    _, batch, hidden = y.shape
    dy = zeros(y.shape, y.dtype) if gy is None else contiguous(gy)
    (dgates,) = _made(y, gates * hidden)
    return dy, dgates, np.zeros((-(-batch // cells.ROWS), gates * hidden))


def _through_input(dgates: Array, x: Array, w: Array, need_x: bool, need_w: bool) -> tuple:
    """Gradients of x (T, B, I) and W_ih from those of the pre-activations (T, B, G·H)."""
    rows = x.shape[0] * x.shape[1]
    flat = dgates.reshape(rows, len(w))
    dx = matmul(flat, w).reshape(x.shape) if need_x else None
    return dx, matmul(flat.T, x.reshape(rows, w.shape[1])) if need_w else None


def _through_state(dh: Array, w: Array, dgates: Array, y: Array, h0: Array, reverse: bool) -> Array:
    """Σ dgates[t]ᵀ h[t-1] (G·H, H); dh += dgates[first] w. dgates may be some columns."""
    steps, batch, width = dgates.shape
    edge = dgates[steps - 1 if reverse else 0]
    dh += matmul(edge, w)
    dw = matmul(edge.T, h0)
    if steps > 1:
        later, states = (dgates[:-1], y[1:]) if reverse else (dgates[1:], y[:-1])
        rows = (steps - 1) * batch
        dw += matmul(later.reshape(rows, width).T, states.reshape(rows, y.shape[2]))
    return dw


def lstm(x: Array, h0: Array, c0: Array, w_ih: Array, w_hh: Array, b_ih: Maybe, b_hh: Maybe,
         reverse: bool) -> tuple[Array, Array, Array]:  # fmt: skip
    """Run an LSTM: x (T, B, I) -> y, c (T, B, H) and the activated gates (T, B, 4H) i, f, g, o.

    Where they pay, the gates are tiled (cells.py).
    """
    hidden = w_hh.shape[1]
    y, c = _made(x, hidden, hidden)
    w_ih, w, b_ih, b_hh = (_regrouped(a, 4, y) for a in (w_ih, w_hh, b_ih, b_hh))
    gates = _inputs(x, w_ih, b_ih, b_hh)
    w = panels(w, 1, 4 * hidden, hidden, 1, hidden, 1) if _tiled(y) else contiguous(w)
    before = _Each(y, contiguous(h0)), _Each(c, contiguous(c0))
    args = (_tiled(y), w, *before, _Each(gates), _Each(y), _Each(c))
    _run(cells.lstm_step, y, reverse, *args)
    return y, c, gates


def lstm_grad(gy: Maybe, gh: Maybe, gc: Maybe, x: Array, h0: Array, c0: Array, w_ih: Array,
              w_hh: Array, y: Array, c: Array, gates: Array, reverse: bool,
              need: tuple) -> tuple:  # fmt: skip
    """Gradients of x, h0, c0, w_ih, w_hh, b_ih, b_hh from those of y, the last h, the last c."""
    dh, dc, tiles = _start(gh, h0), _start(gc, c0), y.shape[2] // max(_columns(y.shape[2]), 1)
    w, w_ih, hidden = contiguous(_regrouped(w_hh, 4, y)), _regrouped(w_ih, 4, y), y.shape[2]
    packed = panels(w, 1, hidden, 4 * hidden, 1, 1, hidden) if _tiled(y) else w
    dy, dgates, db = _backward_arrays(gy, y, 4)
    args = (_tiled(y), packed, _Each(dgates, after=True), _Each(dy), _Each(gates))
    more = (_Each(c, contiguous(c0)), _Each(c), dh, dc, _Each(dgates), db)
    _run(cells.lstm_step_grad, y, reverse, *args, *more, back=True)
    dx, dw_ih = _through_input(dgates, x, w_ih, need[0], need[3])
    dw_hh = _through_state(dh, w, dgates, y, h0, reverse)
    dw_ih, dw_hh, bias = (_regrouped(a, tiles, y) for a in (dw_ih, dw_hh, db.sum(0)))
    bias = bias.astype(y.dtype)
    return dx, dh, dc, dw_ih, dw_hh, bias, bias


def gru(
    x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: Maybe, b_hh: Maybe, reverse: bool
) -> tuple[Array, Array]:
    """Run a GRU: x (T, B, I) -> y (T, B, H), and r, z, n, W_hn h + b_hn as gates (T, B, 4H)."""
    hidden = w_hh.shape[1]
    gates, y = _made(x, 4 * hidden, hidden)
    last = zeros((hidden,), x.dtype)  # b_hn stays with its product, which r multiplies
    if b_hh is not None:
        last, b_hh = contiguous(b_hh[2 * hidden :]), copy(b_hh)
        note(b_hh[2 * hidden :].fill, 0)
    copy_into(gates[:, :, : 3 * hidden], _inputs(x, w_ih, b_ih, b_hh))
    args = (*_recurrent(w_hh, y), last, _Each(y, contiguous(h0)), _Each(gates), _Each(y))
    _run(cells.gru_step, y, reverse, *args)
    return y, gates


def gru_grad(gy: Maybe, gh: Maybe, x: Array, h0: Array, w_ih: Array, w_hh: Array, y: Array,
             gates: Array, reverse: bool, need: tuple) -> tuple:  # fmt: skip
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""
    hidden, dh, w = y.shape[2], _start(gh, h0), contiguous(w_hh)
    dy, dgates, db = _backward_arrays(gy, y, 4)
    args = (w, _Each(dgates, after=True), _Each(dy), _Each(gates), _Each(y, contiguous(h0)))
    _run(cells.gru_step_grad, y, reverse, *args, dh, _Each(dgates), db, back=True)
    dx, dw_ih = _through_input(dgates[:, :, : 3 * hidden], x, w_ih, need[0], need[2])
    bias, n, m = db.sum(0).astype(y.dtype), 2 * hidden, 3 * hidden  # where n's and m's rows begin
    parts = (w[:n], dgates[:, :, :n]), (w[n:], dgates[:, :, m:])
    dw_hh = np.concatenate([_through_state(dh, *part, y, h0, reverse) for part in parts])
    return dx, dh, dw_ih, dw_hh, bias[:m], np.concatenate((bias[:n], bias[m:]))


def rnn(x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: Maybe, b_hh: Maybe, relu: bool,
        reverse: bool) -> Array:  # fmt: skip
    """Run a plain recurrent layer with tanh or relu: x (T, B, I) -> y (T, B, H)."""
    y = _inputs(x, w_ih, b_ih, b_hh)
    args = (*_recurrent(w_hh, y), relu, _Each(y, contiguous(h0)), _Each(y))
    _run(cells.rnn_step, y, reverse, *args)
    return y


def rnn_grad(gy: Maybe, gh: Maybe, x: Array, h0: Array, w_ih: Array, w_hh: Array, y: Array,
             relu: bool, reverse: bool, need: tuple) -> tuple:  # fmt: skip
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""
    dh, w = _start(gh, h0), contiguous(w_hh)
    dy, dgates, db = _backward_arrays(gy, y, 1)
    args = (relu, w, _Each(dgates, after=True), _Each(dy), _Each(y), dh, _Each(dgates), db)
    _run(cells.rnn_step_grad, y, reverse, *args, back=True)
    dx, dw_ih = _through_input(dgates, x, w_ih, need[0], need[2])
    dw_hh = _through_state(dh, w, dgates, y, h0, reverse)
    bias = db.sum(0).astype(y.dtype)
    return dx, dh, dw_ih, dw_hh, bias, bias
