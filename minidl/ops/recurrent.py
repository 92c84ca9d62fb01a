"""Recurrent layers over whole sequences: LSTM, GRU, RNN, with PyTorch's formulas and gate order.

x (T, B, I), states (B, H), w_ih (G·H, I), w_hh (G·H, H), biases (G·H,) or None for both; G is 4
for an LSTM (i, f, g, o), 3 for a GRU (r, z, n), 1 for an RNN. With `reverse` the steps are taken
from the last to the first, and the last state belongs to step 0. Where the steps take rows of a
table, as characters those of an embedding, x may be the table (V, I) and `tokens` (T, B) name the
rows: products with w_ih are then V instead of T·B. The kernels begin with what the inputs give to
the gates, a (T, B, G·H).
"""

from collections.abc import Callable
from typing import Any

from minidl import backend
from minidl.autograd import op, raw
from minidl.errors import DTypeError, require, require_one_of
from minidl.ops import pointwise as pw
from minidl.ops.index import embedding
from minidl.ops.join import chunk, pad_constant, split, stack, unbind
from minidl.ops.linalg import affine, linear

_NAMES = "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh"


def _check(name: str, gates: int, sizes: tuple[int, int], tokens: Any, x: Any, *given: Any) -> None:
    """Raise unless all shapes and dtypes fit cells with sizes = (hidden units, features put out).

    given: h0, c0 (None for cells without), w_ih, w_hh, b_ih, b_hh.
    """
    table, steps = tokens is not None, x if tokens is None else tokens
    rule = "x must be (V, I) and tokens (T, B)" if table else "x must be (T, B, I)"
    fits = (x.ndim, steps.ndim) == ((2, 2) if table else (3, 3)) and len(steps) > 0
    require(fits, name, rule + " with at least one step", x=x, tokens=tokens)
    floats = backend.of(raw(x)).FLOATS
    rule = "x must be " + " or ".join(sorted(floats))
    require(x.dtype.name in floats, name, rule, error=DTypeError, x=x)
    batch, inputs, (hidden, width) = steps.shape[1], x.shape[-1], sizes
    rows = gates * hidden
    shapes = (batch, width), (batch, hidden), (rows, inputs), (rows, width), (rows,), (rows,)
    for key, a, shape in zip(_NAMES, given, shapes, strict=True):
        if a is not None and (a.shape != shape or a.dtype != x.dtype):
            rule = f"{key} must be {shape}, as x and the weights say"
            require(a.shape == shape, name, rule, x=x, **{key: a})
            require(False, name, "all dtypes must be x's", error=DTypeError, x=x, **{key: a})


def _sizes(state: Any) -> tuple[int, int]:
    return (state.shape[-1],) * 2 if state.ndim else (0, 0)


def _given(x: Any, w_ih: Any, b_ih: Any, b_hh: Any, tokens: Any) -> Any:
    """a (T, B, G·H) = x w_ihᵀ + the biases, or the rows of that which are named by tokens."""
    a = affine(x, w_ih, b_hh if b_ih is None else b_ih if b_hh is None else pw.add(b_ih, b_hh))
    return a if tokens is None else embedding(tokens, a)


def _run(step: Callable, a: Any, state: tuple, reverse: bool) -> tuple:
    """All steps' first states (T, B, H) and the last states; step(a[t], *state)."""
    states, order = [], slice(None, None, -1 if reverse else 1)
    for now in unbind(a)[order]:
        state = step(now, *state)
        states.append(state[0])
    return (stack(states[order]), *state)


def lstm(x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None,
         w_hr: Any = None, *, reverse: bool = False,
         tokens: Any = None) -> tuple[Any, ...]:  # fmt: skip
    """One LSTM layer: (y (T, B, H), the last h (B, H), the last c (B, H)).

    i, f, o = σ(…), g = tanh(…) of x w_ihᵀ + b_ih + h w_hhᵀ + b_hh; c = f c + i g; h = o tanh(c).
    w_hr (P, H) projects h to P features (arXiv 1402.1128): then y, h0 and h have P, w_hh (4H, P).
    """
    require(w_hr is None or w_hr.ndim == 2, "lstm", "w_hr must be (P, H)", w_hr=w_hr)
    sizes = _sizes(c0) if w_hr is None else w_hr.shape[::-1]
    _check("lstm", 4, sizes, tokens, x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    a = _given(x, w_ih, b_ih, b_hh, tokens)
    if w_hr is None:
        return lstm_steps(a, h0, c0, w_hh, reverse=reverse)
    return lstm_by_elementary_ops(a, h0, c0, w_hh, w_hr, reverse=reverse)


def lstm_by_elementary_ops(a: Any, h0: Any, c0: Any, w_hh: Any, w_hr: Any = None, *,
                           reverse: bool) -> tuple[Any, ...]:  # fmt: skip
    """The LSTM as a loop over steps."""

    def step(a: Any, h: Any, c: Any) -> tuple[Any, Any]:
        i, f, g, o = chunk(pw.add(a, linear(h, w_hh)), 4, -1)
        c = pw.add(pw.mul(pw.sigmoid(f), c), pw.mul(pw.sigmoid(i), pw.tanh(g)))
        h = pw.mul(pw.sigmoid(o), pw.tanh(c))
        return h if w_hr is None else linear(h, w_hr), c

    return _run(step, a, (h0, c0), reverse)


@op(definition=lstm_by_elementary_ops)
def lstm_steps(a: Any, h0: Any, c0: Any, w_hh: Any, *, reverse: bool) -> Any:
    """The LSTM without projection. Saves the states, w_hh, y, and per step c and the four gates."""
    be, last = backend.of(a), 0 if reverse else -1
    y, c, gates = be.lstm(a, h0, c0, w_hh, reverse)
    out, saved = (y, be.copy(y[last]), be.copy(c[last])), (h0, c0, w_hh, y, c, gates)
    return out, saved, lambda g, need, *kept: be.lstm_grad(*g, *kept, reverse)


def gru(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, *,
        reverse: bool = False, tokens: Any = None) -> tuple[Any, ...]:  # fmt: skip
    """One GRU layer: (y (T, B, H), the last h (B, H)).

    r, z = σ(…), n = tanh(w_in x + b_in + r (w_hn h + b_hn)), h = (1 - z) n + z h.
    """
    _check("gru", 3, _sizes(h0), tokens, x, h0, None, w_ih, w_hh, b_ih, b_hh)
    hidden, own = h0.shape[1], None
    if b_hh is not None:  # b_hn stays with its product, which r multiplies
        first, own = split(b_hh, (2 * hidden, hidden))
        b_hh = pad_constant(first, widths=((0, hidden),))
    return gru_steps(_given(x, w_ih, b_ih, b_hh, tokens), h0, w_hh, own, reverse=reverse)


def gru_by_elementary_ops(a: Any, h0: Any, w_hh: Any, b_hn: Any, *,
                          reverse: bool) -> tuple[Any, ...]:  # fmt: skip
    """The GRU as a loop over steps."""

    def step(a: Any, h: Any) -> tuple[Any]:
        (r, z, n), (hr, hz, hn) = chunk(a, 3, -1), chunk(linear(h, w_hh), 3, -1)
        r, z = pw.sigmoid(pw.add(r, hr)), pw.sigmoid(pw.add(z, hz))
        n = pw.tanh(pw.add(n, pw.mul(r, hn if b_hn is None else pw.add(hn, b_hn))))
        return (pw.add(n, pw.mul(z, pw.sub(h, n))),)

    return _run(step, a, (h0,), reverse)


@op(definition=gru_by_elementary_ops)
def gru_steps(a: Any, h0: Any, w_hh: Any, b_hn: Any, *, reverse: bool) -> Any:
    """The GRU, b_hn (H,) or None. Saves h0, w_hh, y, and per step r, z, n and w_hn h + b_hn."""
    be = backend.of(a)
    y, gates = be.gru(a, h0, w_hh, b_hn, reverse)
    out, saved = (y, be.copy(y[0 if reverse else -1])), (h0, w_hh, y, gates)
    return out, saved, lambda g, need, *kept: be.gru_grad(*g, *kept, reverse)


def rnn(x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, *,
        nonlinearity: str = "tanh", reverse: bool = False,
        tokens: Any = None) -> tuple[Any, ...]:  # fmt: skip
    """One plain recurrent layer: (y (T, B, H), the last h (B, H)).

    h = tanh or relu of x w_ihᵀ + b_ih + h w_hhᵀ + b_hh.
    """
    _check("rnn", 1, _sizes(h0), tokens, x, h0, None, w_ih, w_hh, b_ih, b_hh)
    require_one_of("rnn", ("tanh", "relu"), nonlinearity=nonlinearity)
    a, relu = _given(x, w_ih, b_ih, b_hh, tokens), nonlinearity == "relu"
    return rnn_steps(a, h0, w_hh, relu=relu, reverse=reverse)


def rnn_by_elementary_ops(a: Any, h0: Any, w_hh: Any, *, relu: bool,
                          reverse: bool) -> tuple[Any, ...]:  # fmt: skip
    """The plain recurrent layer as a loop over steps."""

    def step(a: Any, h: Any) -> tuple[Any]:
        return ((pw.relu if relu else pw.tanh)(pw.add(a, linear(h, w_hh))),)

    return _run(step, a, (h0,), reverse)


@op(definition=rnn_by_elementary_ops)
def rnn_steps(a: Any, h0: Any, w_hh: Any, *, relu: bool, reverse: bool) -> Any:
    """The plain recurrent layer. Saves h0, w_hh and y."""
    be = backend.of(a)
    y = be.rnn(a, h0, w_hh, relu, reverse)
    out, saved = (y, be.copy(y[0 if reverse else -1])), (h0, w_hh, y)
    return out, saved, lambda g, need, *kept: be.rnn_grad(*g, *kept, relu, reverse)
