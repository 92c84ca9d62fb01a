"""Recurrent layers over whole sequences: a GEMM and a cell kernel a step.

a (T, B, G·H) is what the inputs give to the gates, states are (B, H). Backward takes the steps from
the last, again with two launches each; W_hh's gradient is then one GEMM over all steps.
"""

from collections.abc import Callable, Iterator
from typing import Any

from minidl.backend.cuda import blas
from minidl.backend.cuda.linalg import matmul
from minidl.backend.cuda.memory import cast, cat, contiguous, given_or
from minidl.backend.cuda.plans import IDENTITY, SUM, accumulator, write
from minidl.backend.cuda.reduce import sum
from minidl.backend.cuda.runtime import THREADS, Array, Maybe, empty, kernel, launch


def _step(name: str, y: Array) -> Callable[..., None]:
    """What launches a kernel on a step of y (T, B, H): a thread a unit, their number last."""
    units = y.shape[1] * y.shape[2]
    run = kernel("recurrent.cu", name, y.dtype)
    return lambda *args: launch(run, -(-units // THREADS), *args, units)


def _start(a: Maybe, like: Array, dtype: Any) -> Array:
    """A working copy of a state or of its gradient in C order; zeros if there is none."""
    made = empty(like.shape, dtype)
    write(IDENTITY, [0 if a is None else a], made)
    return made


def _order(steps: int, reverse: bool) -> range:
    """The steps as they are taken."""
    return range(steps)[:: -1 if reverse else 1]


def _forward(y: Array, h0: Array, w_hh: Array, reverse: bool) -> Iterator[tuple[int, Array]]:
    """Each step t with the product of the state before and W_hhᵀ (B, G·H).

    y[t] must be written before the next is asked for.
    """
    (steps, batch, hidden), rows = y.shape, len(w_hh)
    h, w, product = contiguous(h0), contiguous(w_hh), empty((batch, rows), y.dtype)
    for t in _order(steps if y.size else 0, reverse):
        blas.gemm(0, 1, (batch, rows, hidden), h, hidden, w, hidden, product)
        yield t, product
        h = y[t]


def _backward(dh: Array, dgates: Array, w_hh: Array, kept: Array, first: Array,
              reverse: bool) -> Iterator[tuple[int, Array]]:  # fmt: skip
    """Each step t, from the last taken, with the state before it, of `kept` (T, B, H) or `first`.

    dh (B, H) is then what reaches h of step t through the product behind it, and in the end what
    reaches h0. dgates[t] must be written before the next is asked for.
    """
    (batch, hidden), rows, w = dh.shape, len(w_hh), contiguous(w_hh)
    order = _order(len(kept) if kept.size else 0, reverse)
    for t, before in zip(order[::-1], (*order[-2::-1], None)):
        yield t, first if before is None else kept[before]
        blas.gemm(0, 0, (batch, hidden, rows), dgates[t], rows, w, hidden, dh)


def _through_state(dgates: Array, y: Array, h0: Array, reverse: bool) -> Array:
    """W_hh's gradient (G·H, H): the sum over steps of dgates[t]ᵀ times the state before."""
    first = h0.reshape(1, *h0.shape)
    before = cat((y[1:], first) if reverse else (first, y[:-1]), 0)
    rows = y.shape[0] * y.shape[1]
    return matmul(dgates.reshape(rows, dgates.shape[2]).T, before.reshape(rows, y.shape[2]))


def lstm(a: Array, h0: Array, c0: Array, w_hh: Array, reverse: bool) -> tuple[Array, Array, Array]:
    """Run an LSTM: a (T, B, 4H) -> y, c (T, B, H) and the activated gates (T, B, 4H) i, f, g, o."""
    a, gates, hidden = contiguous(a), empty(a.shape, a.dtype), w_hh.shape[1]
    y, c = (empty((*a.shape[:2], hidden), a.dtype) for _ in range(2))
    state, step = _start(c0, c0, accumulator(a.dtype)), _step("lstm_step", y)
    for t, product in _forward(y, h0, w_hh, reverse):
        step(a[t], product, state, gates[t], c[t], y[t], hidden)
    return y, c, gates


def lstm_grad(gy: Maybe, gh: Maybe, gc: Maybe, h0: Array, c0: Array, w_hh: Array, y: Array,
              c: Array, gates: Array, reverse: bool) -> tuple:  # fmt: skip
    """Gradients of a, h0, c0, w_hh from those of y, the last h, the last c."""
    dh, dc = _start(gh, h0, y.dtype), _start(gc, c0, accumulator(y.dtype))
    dy, given = given_or(gy, y)
    dgates, step = empty(gates.shape, y.dtype), _step("lstm_step_grad", y)
    for t, before in _backward(dh, dgates, w_hh, c, contiguous(c0), reverse):
        step(dy[t], given, dh, gates[t], before, c[t], dc, dgates[t], y.shape[2])
    return dgates, dh, cast(dc, y.dtype), _through_state(dgates, y, h0, reverse)


def gru(a: Array, h0: Array, w_hh: Array, b_hn: Maybe, reverse: bool) -> tuple[Array, Array]:
    """Run a GRU: a (T, B, 3H) -> y (T, B, H), and r, z, n, W_hn h + b_hn as gates (T, B, 4H)."""
    a, hidden = contiguous(a), w_hh.shape[1]
    y, gates = (empty((*a.shape[:2], n), a.dtype) for n in (hidden, 4 * hidden))
    state, step = _start(h0, h0, accumulator(a.dtype)), _step("gru_step", y)
    bias = given_or(b_hn, h0)
    for t, product in _forward(y, h0, w_hh, reverse):
        step(a[t], product, *bias, state, gates[t], y[t], hidden)
    return y, gates


def gru_grad(gy: Maybe, gh: Maybe, h0: Array, w_hh: Array, y: Array, gates: Array,
             reverse: bool) -> tuple:  # fmt: skip
    """Gradients of a, h0, w_hh, b_hn from those of y and the last h."""
    dh, kept = _start(gh, h0, y.dtype), _start(None, h0, accumulator(y.dtype))
    dy, given = given_or(gy, y)
    hidden, step = y.shape[2], _step("gru_step_grad", y)
    da, dstate = (empty((*y.shape[:2], 3 * hidden), y.dtype) for _ in range(2))
    for t, before in _backward(dh, dstate, w_hh, y, contiguous(h0), reverse):
        step(dy[t], given, dh, gates[t], before, kept, da[t], dstate[t], hidden)
    dh0 = empty(h0.shape, y.dtype)
    write(SUM, [kept, dh], dh0)
    dw = _through_state(dstate, y, h0, reverse)
    return da, dh0, dw, sum(dstate[:, :, 2 * hidden :], (0, 1))


def rnn(a: Array, h0: Array, w_hh: Array, relu: bool, reverse: bool) -> Array:
    """Run a plain recurrent layer with tanh or relu: a (T, B, H) -> y (T, B, H)."""
    a, y = contiguous(a), empty(a.shape, a.dtype)
    step = _step("rnn_step", y)
    for t, product in _forward(y, h0, w_hh, reverse):
        step(a[t], product, y[t], int(relu))
    return y


def rnn_grad(gy: Maybe, gh: Maybe, h0: Array, w_hh: Array, y: Array, relu: bool,
             reverse: bool) -> tuple:  # fmt: skip
    """Gradients of a, h0, w_hh from those of y and the last h."""
    dh, dgates = _start(gh, h0, y.dtype), empty(y.shape, y.dtype)
    dy, given = given_or(gy, y)
    step = _step("rnn_step_grad", y)
    for t, _ in _backward(dh, dgates, w_hh, y, h0, reverse):
        step(dy[t], given, dh, y[t], dgates[t], int(relu))
    return dgates, dh, _through_state(dgates, y, h0, reverse)
