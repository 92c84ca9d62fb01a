"""Recurrent layers over whole sequences: LSTM, GRU, RNN, with PyTorch's formulas and gate order.

x (T, B, I), states (B, H), w_ih (G·H, I), w_hh (G·H, H), biases (G·H,) or None for both; G is 4
for an LSTM (i, f, g, o), 3 for a GRU (r, z, n), 1 for an RNN. With `reverse` the steps are taken
from the last to the first, and the last state belongs to step 0.
"""

from __future__ import annotations

from typing import Any

from minidl import backend
from minidl.autograd import op
from minidl.errors import DTypeError, require
from minidl.ops import pointwise as pw
from minidl.ops.join import chunk, stack, unbind
from minidl.ops.linalg import linear


def lstm(
    x: Any,
    h0: Any,
    c0: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
    w_hr: Any = None,
    *,
    reverse: bool = False,
) -> tuple:
    """One LSTM layer: (y (T, B, H), the last h (B, H), the last c (B, H)).

    i, f, o = σ(…), g = tanh(…) of x w_ihᵀ + b_ih + h w_hhᵀ + b_hh; c = f c + i g; h = o tanh(c).
    w_hr (P, H) projects h to P features (arXiv 1402.1128): then y, h0 and h have P, w_hh (4H, P).
    """
    if w_hr is None:
        return _lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse=reverse)
    wide, hidden = w_hr.shape if w_hr.ndim == 2 else (None, None)
    require(hidden is not None, "lstm", "w_hr must be (P, H)", w_hr=w_hr)
    _check("lstm", 4, x, (h0, wide), (c0, hidden), w_ih, w_hh, b_ih, b_hh)
    return lstm_by_elementary_ops(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, reverse=reverse)


def lstm_by_elementary_ops(
    x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any = None, *,
    reverse: bool,
) -> tuple:  # fmt: skip
    """The LSTM as a loop over steps."""
    h, c, states = h0, c0, []
    for a in unbind(linear(x, w_ih, b_ih))[:: -1 if reverse else 1]:
        i, f, g, o = chunk(pw.add(a, linear(h, w_hh, b_hh)), 4, -1)
        c = pw.add(pw.mul(pw.sigmoid(f), c), pw.mul(pw.sigmoid(i), pw.tanh(g)))
        h = pw.mul(pw.sigmoid(o), pw.tanh(c))
        h = h if w_hr is None else linear(h, w_hr)
        states.append(h)
    return stack(states[:: -1 if reverse else 1]), h, c


@op(definition=lstm_by_elementary_ops)
def _lstm(
    x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, *, reverse: bool
) -> Any:
    """The LSTM without projection. Saves its inputs, y, and per step c and the four gates."""
    hidden = c0.shape[-1] if c0.ndim else 0
    _check("lstm", 4, x, (h0, hidden), (c0, hidden), w_ih, w_hh, b_ih, b_hh)
    be = backend.of(x)
    y, c, gates = be.lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse)
    last = 0 if reverse else -1

    def vjp(g: Any, need: Any, *saved: Any) -> Any:
        return be.lstm_grad(*g, *saved, reverse, need)

    return (y, be.copy(y[last]), be.copy(c[last])), (x, h0, c0, w_ih, w_hh, y, c, gates), vjp


def gru_by_elementary_ops(
    x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, *, reverse: bool = False
) -> tuple:
    """The GRU as a loop over steps."""
    h, states = h0, []
    for a in unbind(linear(x, w_ih, b_ih))[:: -1 if reverse else 1]:
        (r, z, n), (hr, hz, hn) = chunk(a, 3, -1), chunk(linear(h, w_hh, b_hh), 3, -1)
        r, z = pw.sigmoid(pw.add(r, hr)), pw.sigmoid(pw.add(z, hz))
        n = pw.tanh(pw.add(n, pw.mul(r, hn)))
        h = pw.add(n, pw.mul(z, pw.sub(h, n)))
        states.append(h)
    return stack(states[:: -1 if reverse else 1]), h


@op(definition=gru_by_elementary_ops)
def gru(
    x: Any,
    h0: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
    *,
    reverse: bool = False,
) -> Any:
    """One GRU layer: (y (T, B, H), the last h (B, H)).

    r, z = σ(…), n = tanh(w_in x + b_in + r (w_hn h + b_hn)), h = (1 - z) n + z h. Saves its inputs,
    y, and per step r, z, n and w_hn h + b_hn.
    """
    _check("gru", 3, x, (h0, h0.shape[-1] if h0.ndim else 0), None, w_ih, w_hh, b_ih, b_hh)
    be = backend.of(x)
    y, gates = be.gru(x, h0, w_ih, w_hh, b_ih, b_hh, reverse)

    def vjp(g: Any, need: Any, *saved: Any) -> Any:
        return be.gru_grad(*g, *saved, reverse, need)

    return (y, be.copy(y[0 if reverse else -1])), (x, h0, w_ih, w_hh, y, gates), vjp


def rnn_by_elementary_ops(
    x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, *,
    nonlinearity: str = "tanh", reverse: bool = False,
) -> tuple:  # fmt: skip
    """The plain recurrent layer as a loop over steps."""
    h, states = h0, []
    for a in unbind(linear(x, w_ih, b_ih))[:: -1 if reverse else 1]:
        a = pw.add(a, linear(h, w_hh, b_hh))
        h = pw.tanh(a) if nonlinearity == "tanh" else pw.relu(a)
        states.append(h)
    return stack(states[:: -1 if reverse else 1]), h


@op(definition=rnn_by_elementary_ops)
def rnn(
    x: Any,
    h0: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
    *,
    nonlinearity: str = "tanh",
    reverse: bool = False,
) -> Any:
    """One plain recurrent layer: (y (T, B, H), the last h (B, H)).

    h = tanh or relu of x w_ihᵀ + b_ih + h w_hhᵀ + b_hh. Saves its inputs and y.
    """
    _check("rnn", 1, x, (h0, h0.shape[-1] if h0.ndim else 0), None, w_ih, w_hh, b_ih, b_hh)
    rule = "nonlinearity must be 'tanh' or 'relu'"
    require(nonlinearity in ("tanh", "relu"), "rnn", rule, nonlinearity=nonlinearity)
    be, relu = backend.of(x), nonlinearity == "relu"
    y = be.rnn(x, h0, w_ih, w_hh, b_ih, b_hh, relu, reverse)

    def vjp(g: Any, need: Any, *saved: Any) -> Any:
        return be.rnn_grad(*g, *saved, relu, reverse, need)

    return (y, be.copy(y[0 if reverse else -1])), (x, h0, w_ih, w_hh, y), vjp


def _check(
    name: str, gates: int, x: Any, h: tuple, c: tuple | None, w_ih: Any, w_hh: Any, b_ih: Any,
    b_hh: Any,
) -> None:  # fmt: skip
    """Raise unless all shapes and dtypes fit; h and c come with their number of features."""
    require(x.ndim == 3 and len(x) > 0, name, "x must be (T, B, I) with at least one step", x=x)
    _, batch, features = x.shape
    rows = gates * (h if c is None else c)[1]
    for key, state in (("h0", h), ("c0", c)):
        if state is not None:
            rule = f"{key} must be ({batch}, {state[1]}), as x and the weights say"
            require(state[0].shape == (batch, state[1]), name, rule, x=x, **{key: state[0]})
    require(
        w_ih.shape == (rows, features) and w_hh.shape == (rows, h[1]), name,
        f"w_ih must be ({rows}, {features}) and w_hh ({rows}, {h[1]})",
        x=x, h0=h[0], w_ih=w_ih, w_hh=w_hh,
    )  # fmt: skip
    for key, b in (("b_ih", b_ih), ("b_hh", b_hh)):
        rule = f"{key} must be ({rows},) or None"
        require(b is None or b.shape == (rows,), name, rule, **{key: b})
    require(x.dtype in ("float32", "float64"), name, "x must be float32 or float64",
            error=DTypeError, x=x)  # fmt: skip
    others = {"h0": h[0], "w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh}
    for key, a in (others if c is None else others | {"c0": c[0]}).items():
        rule = "all dtypes must be x's"
        require(a is None or a.dtype == x.dtype, name, rule, error=DTypeError, x=x, **{key: a})
