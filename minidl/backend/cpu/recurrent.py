"""Recurrent layers over whole sequences: one launch of a cell kernel a step.

a (T, B, G·H) is what the inputs give to the gates, states are (B, H). Backward takes the steps from
the last; W_hh's gradient is then one GEMM over all steps. Tiles depend on shapes alone.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minidl.backend.cpu import cells, team
from minidl.backend.cpu.jit import Kernel
from minidl.backend.cpu.linalg import matmul, panels
from minidl.backend.cpu.memory import Array, Maybe, address_of, contiguous, empty, vector, zeros
from minidl.backend.cpu.panel import BLOCK
from minidl.backend.cpu.reduce import sum

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
    for _ in range(steps):
        crew.run(entry, row, tiles, chunk, (table, args))
        row += table.strides[0]


def _made(a: Array, *widths: int) -> Iterator[Array]:
    """Empty arrays (T, B, width) for the steps of a (T, B, …)."""
    return (empty((*a.shape[:2], width), a.dtype) for width in widths)


def _weights(w_hh: Array, y: Array, back: bool = False) -> tuple[int, Array]:
    """The form (cells.py) in which the steps of y, or (back) of its gradient, read W_hh, and that.

    Panels, for tiles of whole ones, pay where several rows meet them several times; its transpose,
    for BLAS, from 32 rows on.
    """
    steps, batch, hidden = y.shape
    whole = hidden > 0 and _columns(hidden) % BLOCK == 0
    if batch < 2 or steps < 4 or not (whole or (batch >= 32 and not back)):
        return 0, contiguous(w_hh)
    if whole:
        return cells.PANELS, panels(w_hh, back)
    return cells.TURNED, contiguous(w_hh.T)


def _start(g: Maybe, like: Array) -> Array:
    """A working copy of a gradient; zeros if there is none."""
    return zeros(like.shape, like.dtype) if g is None else np.array(g, like.dtype, order="C")


def _backward_arrays(gy: Maybe, y: Array, gates: int) -> tuple[Array, ...]:
    """dy, and room for the gradients of so many gates."""
    dy = zeros(y.shape, y.dtype) if gy is None else contiguous(gy)
    return dy, *_made(y, gates * y.shape[2])


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


def lstm(a: Array, h0: Array, c0: Array, w_hh: Array, reverse: bool) -> tuple[Array, Array, Array]:
    """Run an LSTM: a (T, B, 4H) -> y, c (T, B, H) and the activated gates (T, B, 4H) i, f, g, o."""
    hidden = w_hh.shape[1]
    y, c, gates = _made(a, hidden, hidden, 4 * hidden)
    before = _Each(y, contiguous(h0)), _Each(c, contiguous(c0))
    args = (*_weights(w_hh, y), _Each(contiguous(a)), *before, _Each(gates), _Each(y), _Each(c))
    _run(cells.lstm_step, y, reverse, *args)
    return y, c, gates


def lstm_grad(gy: Maybe, gh: Maybe, gc: Maybe, h0: Array, c0: Array, w_hh: Array, y: Array,
              c: Array, gates: Array, reverse: bool) -> tuple:  # fmt: skip
    """Gradients of a, h0, c0, w_hh from those of y, the last h, the last c."""
    dh, dc, (dy, dgates) = _start(gh, h0), _start(gc, c0), _backward_arrays(gy, y, 4)
    args = (*_weights(w_hh, y, True), _Each(dgates, after=True), _Each(dy), _Each(gates))
    more = (_Each(c, contiguous(c0)), _Each(c), dh, dc, _Each(dgates))
    _run(cells.lstm_step_grad, y, reverse, *args, *more, back=True)
    return dgates, dh, dc, _through_state(dh, w_hh, dgates, y, h0, reverse)


def gru(a: Array, h0: Array, w_hh: Array, b_hn: Maybe, reverse: bool) -> tuple[Array, Array]:
    """Run a GRU: a (T, B, 3H) -> y (T, B, H), and r, z, n, W_hn h + b_hn as gates (T, B, 4H)."""
    hidden = w_hh.shape[1]
    y, gates = _made(a, hidden, 4 * hidden)
    bias = vector(b_hn, 0, hidden, a.dtype)
    args = (*_weights(w_hh, y), _Each(contiguous(a)), bias, _Each(y, contiguous(h0)))
    _run(cells.gru_step, y, reverse, *args, _Each(gates), _Each(y))
    return y, gates


def gru_grad(gy: Maybe, gh: Maybe, h0: Array, w_hh: Array, y: Array, gates: Array,
             reverse: bool) -> tuple:  # fmt: skip
    """Gradients of a, h0, w_hh, b_hn from those of y and the last h."""
    hidden, dh, (dy, dgates) = y.shape[2], _start(gh, h0), _backward_arrays(gy, y, 4)
    args = (*_weights(w_hh, y, True), _Each(dgates, after=True), _Each(dy), _Each(gates))
    more = (_Each(y, contiguous(h0)), dh, _Each(dgates))
    _run(cells.gru_step_grad, y, reverse, *args, *more, back=True)
    n, m = 2 * hidden, 3 * hidden  # where n's and m's columns begin
    parts = (w_hh[:n], dgates[:, :, :n]), (w_hh[n:], dgates[:, :, m:])
    dw = np.concatenate([_through_state(dh, *part, y, h0, reverse) for part in parts])
    return dgates[:, :, :m], dh, dw, sum(dgates[:, :, m:], (0, 1))


def rnn(a: Array, h0: Array, w_hh: Array, relu: bool, reverse: bool) -> Array:
    """Run a plain recurrent layer with tanh or relu: a (T, B, H) -> y (T, B, H)."""
    y = empty(a.shape, a.dtype)
    form, w = _weights(w_hh, y)
    args = (form, relu, w, _Each(contiguous(a)), _Each(y, contiguous(h0)), _Each(y))
    _run(cells.rnn_step, y, reverse, *args)
    return y


def rnn_grad(gy: Maybe, gh: Maybe, h0: Array, w_hh: Array, y: Array, relu: bool,
             reverse: bool) -> tuple:  # fmt: skip
    """Gradients of a, h0, w_hh from those of y and the last h."""
    dh, (dy, dgates) = _start(gh, h0), _backward_arrays(gy, y, 1)
    form, w = _weights(w_hh, y, True)
    args = (form, relu, w, _Each(dgates, after=True), _Each(dy), _Each(y), dh, _Each(dgates))
    _run(cells.rnn_step_grad, y, reverse, *args, back=True)
    return dgates, dh, _through_state(dh, w_hh, dgates, y, h0, reverse)
