"""Recurrent layers over whole sequences: LSTM, GRU, RNN, with PyTorch's formulas and gate order.

x (T, B, I), states (B, H), w_ih (G·H, I), w_hh (G·H, H), biases (G·H,) or None for both; G is 4
for an LSTM (i, f, g, o), 3 for a GRU (r, z, n), 1 for an RNN. With `reverse` the steps are taken
from the last to the first, and the last state belongs to step 0.
"""

from collections.abc import Callable
from typing import Any

from minidl import backend
from minidl.autograd import op, raw
from minidl.errors import DTypeError, require, require_one_of
from minidl.ops import pointwise as pw
from minidl.ops.join import chunk, stack, unbind
from minidl.ops.linalg import linear

_NAMES = "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh"


def _check(name: str, gates: int, sizes: tuple[int, int], x: Any, *given: Any) -> None:
    """Raise unless all shapes and dtypes fit cells with sizes = (hidden units, features put out).

    given: h0, c0 (None for cells without), w_ih, w_hh, b_ih, b_hh.
    """
    require(x.ndim == 3 and len(x) > 0, name, "x must be (T, B, I) with at least one step", x=x)
    floats = backend.of(raw(x)).FLOATS
    rule = "x must be " + " or ".join(sorted(floats))
    require(x.dtype.name in floats, name, rule, error=DTypeError, x=x)
    (_, batch, inputs), (hidden, width) = x.shape, sizes
    rows = gates * hidden
    shapes = (batch, width), (batch, hidden), (rows, inputs), (rows, width), (rows,), (rows,)
    for key, a, shape in zip(_NAMES, given, shapes, strict=True):
        if a is not None and (a.shape != shape or a.dtype != x.dtype):
            rule = f"{key} must be {shape}, as x and the weights say"
            require(a.shape == shape, name, rule, x=x, **{key: a})
            require(False, name, "all dtypes must be x's", error=DTypeError, x=x, **{key: a})


def _sizes(state: Any) -> tuple[int, int]:
    return (state.shape[-1],) * 2 if state.ndim else (0, 0)


def _run(step: Callable, x: Any, state: tuple, w_ih: Any, b_ih: Any, reverse: bool) -> tuple:
    """All steps' first states (T, B, H) and the last states; step(x w_ihᵀ + b_ih, *state)."""
    states, order = [], slice(None, None, -1 if reverse else 1)
    for a in unbind(linear(x, w_ih, b_ih))[order]:
        state = step(a, *state)
        states.append(state[0])
    return (stack(states[order]), *state)


def lstm(x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None,
         w_hr: Any = None, *, reverse: bool = False) -> tuple[Any, ...]:  # fmt: skip
    """One LSTM layer: (y (T, B, H), the last h (B, H), the last c (B, H)).

    i, f, o = σ(…), g = tanh(…) of x w_ihᵀ + b_ih + h w_hhᵀ + b_hh; c = f c + i g; h = o tanh(c).
    w_hr (P, H) projects h to P features (arXiv 1402.1128): then y, h0 and h have P, w_hh (4H, P).
    """
    if w_hr is None:
        return _lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse=reverse)
    require(w_hr.ndim == 2, "lstm", "w_hr must be (P, H)", w_hr=w_hr)
    _check("lstm", 4, w_hr.shape[::-1], x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    return lstm_by_elementary_ops(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, reverse=reverse)


def lstm_by_elementary_ops(x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any,
                           w_hr: Any = None, *, reverse: bool) -> tuple[Any, ...]:  # fmt: skip
    """The LSTM as a loop over steps."""

    def step(a: Any, h: Any, c: Any) -> tuple[Any, Any]:
        i, f, g, o = chunk(pw.add(a, linear(h, w_hh, b_hh)), 4, -1)
        c = pw.add(pw.mul(pw.sigmoid(f), c), pw.mul(pw.sigmoid(i), pw.tanh(g)))
        h = pw.mul(pw.sigmoid(o), pw.tanh(c))
        return h if w_hr is None else linear(h, w_hr), c

    return _run(step, x, (h0, c0), w_ih, b_ih, reverse)


@op(definition=lstm_by_elementary_ops)
def _lstm(
    x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, *, reverse: bool
) -> Any:
    """The LSTM without projection. Saves its inputs, y, and per step c and the four gates."""
    _check("lstm", 4, _sizes(c0), x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    be = backend.of(x)
    y, c, gates = be.lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse)
    last = 0 if reverse else -1
    saved = (x, h0, c0, w_ih, w_hh, y, c, gates)
    out = (y, be.copy(y[last]), be.copy(c[last]))
    return out, saved, lambda g, need, *kept: be.lstm_grad(*g, *kept, reverse, need)


def gru_by_elementary_ops(
    x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, *, reverse: bool = False
) -> tuple[Any, ...]:
    """The GRU as a loop over steps."""

    def step(a: Any, h: Any) -> tuple[Any]:
        (r, z, n), (hr, hz, hn) = chunk(a, 3, -1), chunk(linear(h, w_hh, b_hh), 3, -1)
        r, z = pw.sigmoid(pw.add(r, hr)), pw.sigmoid(pw.add(z, hz))
        n = pw.tanh(pw.add(n, pw.mul(r, hn)))
        return (pw.add(n, pw.mul(z, pw.sub(h, n))),)

    return _run(step, x, (h0,), w_ih, b_ih, reverse)


@op(definition=gru_by_elementary_ops)
def gru(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, *,
        reverse: bool = False) -> Any:  # fmt: skip
    """One GRU layer: (y (T, B, H), the last h (B, H)).

    r, z = σ(…), n = tanh(w_in x + b_in + r (w_hn h + b_hn)), h = (1 - z) n + z h. Saves its inputs,
    y, and per step r, z, n and w_hn h + b_hn.
    """
    _check("gru", 3, _sizes(h0), x, h0, None, w_ih, w_hh, b_ih, b_hh)
    be = backend.of(x)
    y, gates = be.gru(x, h0, w_ih, w_hh, b_ih, b_hh, reverse)
    out, saved = (y, be.copy(y[0 if reverse else -1])), (x, h0, w_ih, w_hh, y, gates)
    return out, saved, lambda g, need, *kept: be.gru_grad(*g, *kept, reverse, need)


def rnn_by_elementary_ops(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, *,
                          nonlinearity: str = "tanh",
                          reverse: bool = False) -> tuple[Any, ...]:  # fmt: skip
    """The plain recurrent layer as a loop over steps."""

    def step(a: Any, h: Any) -> tuple[Any]:
        return ((pw.tanh if nonlinearity == "tanh" else pw.relu)(pw.add(a, linear(h, w_hh, b_hh))),)

    return _run(step, x, (h0,), w_ih, b_ih, reverse)


@op(definition=rnn_by_elementary_ops)
def rnn(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, *,
        nonlinearity: str = "tanh", reverse: bool = False) -> Any:  # fmt: skip
    """One plain recurrent layer: (y (T, B, H), the last h (B, H)).

    h = tanh or relu of x w_ihᵀ + b_ih + h w_hhᵀ + b_hh. Saves its inputs and y.
    """
    _check("rnn", 1, _sizes(h0), x, h0, None, w_ih, w_hh, b_ih, b_hh)
    require_one_of("rnn", ("tanh", "relu"), nonlinearity=nonlinearity)
    be, relu = backend.of(x), nonlinearity == "relu"
    y = be.rnn(x, h0, w_ih, w_hh, b_ih, b_hh, relu, reverse)
    out, saved = (y, be.copy(y[0 if reverse else -1])), (x, h0, w_ih, w_hh, y)
    return out, saved, lambda g, need, *kept: be.rnn_grad(*g, *kept, relu, reverse, need)
