"""Recurrent layers over whole sequences: one input GEMM, then a GEMM and a cell kernel a step.

x is (T, B, I), states (B, H), gates (T, B, G·H). Backward takes the steps from the last, again with
two launches each; the weights' gradients are then one GEMM over all steps.
"""

from collections.abc import Callable, Iterator
from typing import Any

from minidl.backend.cuda import blas
from minidl.backend.cuda.linalg import linear, matmul
from minidl.backend.cuda.memory import cast, cat, contiguous, reshape
from minidl.backend.cuda.plans import IDENTITY, accumulator, code_of, write
from minidl.backend.cuda.printer import TYPES
from minidl.backend.cuda.reduce import sum
from minidl.backend.cuda.runtime import THREADS, Array, Maybe, empty, kernel, launch
from minidl.backend.expression import Graph, Program


def _sum() -> Program:
    graph = Graph()
    x, y = graph.leaf(), graph.leaf()
    return Program([x, y], [x + y])


_SUM = _sum()


def _step(name: str, y: Array) -> Callable[..., None]:
    """What launches a kernel on a step of y (T, B, H): a thread a unit, their number last."""
    units = y.shape[1] * y.shape[2]
    run = kernel("recurrent.cu", f"{name}<{TYPES[code_of(y.dtype)]}>")
    return lambda *args: launch(run, -(-units // THREADS), *args, units)


def _bias(b_ih: Maybe, b_hh: Maybe, out: Array) -> Array:
    """out (rows,) = b_ih + b_hh, zeros for a missing one."""
    write(_SUM, [0 if b is None else b for b in (b_ih, b_hh)], out)
    return out


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


def _through_input(dgates: Array, x: Array, w: Array, need_x: bool, need_w: bool) -> tuple:
    """Gradients of x (T, B, I) and W_ih from those of the pre-activations (T, B, G·H)."""
    rows = x.shape[0] * x.shape[1]
    flat = dgates.reshape(rows, len(w))
    dx = matmul(flat, w).reshape(x.shape) if need_x else None
    return dx, matmul(flat.T, reshape(x, (rows, w.shape[1]))) if need_w else None


def _through_state(dgates: Array, y: Array, h0: Array, reverse: bool) -> Array:
    """W_hh's gradient (G·H, H): the sum over steps of dgates[t]ᵀ times the state before."""
    first = h0.reshape(1, *h0.shape)
    before = cat((y[1:], first) if reverse else (first, y[:-1]), 0)
    rows = y.shape[0] * y.shape[1]
    return matmul(dgates.reshape(rows, dgates.shape[2]).T, before.reshape(rows, y.shape[2]))


def lstm(x: Array, h0: Array, c0: Array, w_ih: Array, w_hh: Array, b_ih: Maybe, b_hh: Maybe,
         reverse: bool) -> tuple[Array, Array, Array]:  # fmt: skip
    """Run an LSTM: x (T, B, I) -> y, c (T, B, H) and the activated gates (T, B, 4H) i, f, g, o."""
    gates, wide, hidden = linear(x, w_ih, None), accumulator(x.dtype), w_hh.shape[1]
    y, c = (empty((*x.shape[:2], hidden), x.dtype) for _ in range(2))
    state, bias = _start(c0, c0, wide), _bias(b_ih, b_hh, empty((4 * hidden,), wide))
    step = _step("lstm_step", y)
    for t, product in _forward(y, h0, w_hh, reverse):
        step(gates[t], product, bias, state, c[t], y[t], hidden)
    return y, c, gates


def lstm_grad(gy: Maybe, gh: Maybe, gc: Maybe, x: Array, h0: Array, c0: Array, w_ih: Array,
              w_hh: Array, y: Array, c: Array, gates: Array, reverse: bool,
              need: tuple) -> tuple:  # fmt: skip
    """Gradients of x, h0, c0, w_ih, w_hh, b_ih, b_hh from those of y, the last h, the last c."""
    dh, dc = _start(gh, h0, y.dtype), _start(gc, c0, accumulator(y.dtype))
    dy, given = y if gy is None else contiguous(gy), int(gy is not None)
    dgates, step = empty(gates.shape, y.dtype), _step("lstm_step_grad", y)
    for t, before in _backward(dh, dgates, w_hh, c, contiguous(c0), reverse):
        step(dy[t], given, dh, gates[t], before, c[t], dc, dgates[t], y.shape[2])
    dx, dw_ih = _through_input(dgates, x, w_ih, need[0], need[3])
    dw_hh, bias = _through_state(dgates, y, h0, reverse), sum(dgates, (0, 1))
    return dx, dh, cast(dc, y.dtype), dw_ih, dw_hh, bias, bias


def gru(
    x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: Maybe, b_hh: Maybe, reverse: bool
) -> tuple[Array, Array]:
    """Run a GRU: x (T, B, I) -> y (T, B, H), and r, z, n, W_hn h + b_hn as gates (T, B, 4H)."""
    part, wide, hidden = linear(x, w_ih, None), accumulator(x.dtype), w_hh.shape[1]
    y, gates = (empty((*x.shape[:2], n), x.dtype) for n in (hidden, 4 * hidden))
    state, bias, n = _start(h0, h0, wide), empty((4 * hidden,), wide), 2 * hidden
    parts = [(None, None) if b is None else (b[:n], b[n:]) for b in (b_ih, b_hh)]
    (both, last), (more, own) = parts
    _bias(both, more, bias[:n])
    _bias(last, None, bias[n : 3 * hidden])
    _bias(own, None, bias[3 * hidden :])  # stays with its product, which r multiplies
    step = _step("gru_step", y)
    for t, product in _forward(y, h0, w_hh, reverse):
        step(part[t], product, bias, state, gates[t], y[t], hidden)
    return y, gates


def gru_grad(gy: Maybe, gh: Maybe, x: Array, h0: Array, w_ih: Array, w_hh: Array, y: Array,
             gates: Array, reverse: bool, need: tuple) -> tuple:  # fmt: skip
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""
    dh, kept = _start(gh, h0, y.dtype), _start(None, h0, accumulator(y.dtype))
    dy, given = y if gy is None else contiguous(gy), int(gy is not None)
    hidden, step = y.shape[2], _step("gru_step_grad", y)
    dinput, dstate = (empty((*y.shape[:2], 3 * hidden), y.dtype) for _ in range(2))
    for t, before in _backward(dh, dstate, w_hh, y, contiguous(h0), reverse):
        step(dy[t], given, dh, gates[t], before, kept, dinput[t], dstate[t], hidden)
    dh0 = empty(h0.shape, y.dtype)
    write(_SUM, [kept, dh], dh0)
    dx, dw_ih = _through_input(dinput, x, w_ih, need[0], need[2])
    dw_hh = _through_state(dstate, y, h0, reverse)
    return dx, dh0, dw_ih, dw_hh, sum(dinput, (0, 1)), sum(dstate, (0, 1))


def rnn(x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: Maybe, b_hh: Maybe, relu: bool,
        reverse: bool) -> Array:  # fmt: skip
    """Run a plain recurrent layer with tanh or relu: x (T, B, I) -> y (T, B, H)."""
    y, hidden = linear(x, w_ih, None), w_hh.shape[1]
    bias = _bias(b_ih, b_hh, empty((hidden,), accumulator(x.dtype)))
    step = _step("rnn_step", y)
    for t, product in _forward(y, h0, w_hh, reverse):
        step(y[t], product, bias, int(relu), hidden)
    return y


def rnn_grad(gy: Maybe, gh: Maybe, x: Array, h0: Array, w_ih: Array, w_hh: Array, y: Array,
             relu: bool, reverse: bool, need: tuple) -> tuple:  # fmt: skip
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""
    dh, dgates = _start(gh, h0, y.dtype), empty(y.shape, y.dtype)
    dy, given = y if gy is None else contiguous(gy), int(gy is not None)
    step = _step("rnn_step_grad", y)
    for t, _ in _backward(dh, dgates, w_hh, y, h0, reverse):
        step(dy[t], given, dh, y[t], dgates[t], int(relu))
    dx, dw_ih = _through_input(dgates, x, w_ih, need[0], need[2])
    dw_hh, bias = _through_state(dgates, y, h0, reverse), sum(dgates, (0, 1))
    return dx, dh, dw_ih, dw_hh, bias, bias
