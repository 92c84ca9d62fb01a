"""LSTM, GRU and RNN against loops in NumPy, differences, their definitions, and PyTorch."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import config
from minidl.autograd import grad, wrap
from minidl.errors import DTypeError, RangeError, ShapeError
from minidl.ops import index, recurrent

GOLDEN = np.load(Path(__file__).parent / "golden" / "recurrent.npz")
KINDS = ("lstm", "gru", "rnn", "relu")
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "relu": 1}
STATES = {"lstm": 2, "gru": 1, "rnn": 1, "relu": 1}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(kind, a, b, h, c):
    """The states after one step; a and b are the input's and the state's products with biases."""
    if kind == "gru":
        (ar, az, an), (br, bz, bn) = np.split(a, 3, -1), np.split(b, 3, -1)
        z = sigmoid(az + bz)
        return (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h, None
    if kind == "lstm":
        i, f, g, o = np.split(a + b, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    return (np.tanh(a + b) if kind == "rnn" else np.maximum(a + b, 0)), None


def oracle(kind, args, reverse):
    """(y, last h[, last c]) by a loop in NumPy, in the arguments' precision."""
    x, h, *rest = args
    c = rest.pop(0) if kind == "lstm" else None
    w_ih, w_hh, b_ih, b_hh, *projection = rest
    y = [None] * len(x)
    for t in range(len(x))[:: -1 if reverse else 1]:
        a, b = x[t] @ w_ih.T, h @ w_hh.T
        a, b = a if b_ih is None else a + b_ih, b if b_hh is None else b + b_hh
        h, c = step(kind, a, b, h, c)
        h = h @ projection[0].T if projection else h
        y[t] = h
    return (np.stack(y), h) + ((c,) if kind == "lstm" else ())


def layer(kind, args, reverse, definition=False, **more):
    """The op, or its definition, on tensors or arrays."""
    name = "rnn" if kind == "relu" else kind
    if name == "rnn":
        more["nonlinearity"] = "relu" if kind == "relu" else "tanh"
    with pytest.MonkeyPatch.context() as patch:
        if definition:
            patch.setattr(
                recurrent, f"{name}_steps", getattr(recurrent, f"{name}_by_elementary_ops")
            )
        return getattr(recurrent, name)(*args, reverse=reverse, **more)


def drawn(kind, rng, t, b, i, h, bias=True, dtype=np.float64):
    """Arguments of a layer: x, states, weights of a trained network's size, biases."""
    rows = GATES[kind] * h
    args = [rng.standard_normal((t, b, i))]
    args += [rng.standard_normal((b, h)) for _ in range(STATES[kind])]
    args += [rng.standard_normal((rows, n)) / max(n, 1) ** 0.5 for n in (i, h)]
    args += [rng.standard_normal(rows) if bias else None for _ in range(2)]
    return [a if a is None else a.astype(dtype) for a in args]


def leaves(args):
    return [a if a is None else wrap(a.copy(), requires_grad=True) for a in args]


def pulled(kind, args, cotangents, reverse, definition=False):
    """Gradients of all arguments (None for a missing one) under the cotangents."""
    tensors = leaves(args)
    outputs = layer(kind, tensors, reverse, definition)
    pairs = [(y, wrap(c)) for y, c in zip(outputs, cotangents, strict=True) if c is not None]
    present = [t for t in tensors if t is not None]
    found = grad([y for y, _ in pairs], present, [c for _, c in pairs], allow_unused=True)
    found = iter(np.zeros(t.shape) if g is None else g.array for g, t in zip(found, present))
    return [None if t is None else next(found) for t in tensors]


def norm(a, b):
    return float(np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64)))


SIZES = {"t": st.integers(1, 5), "b": st.integers(0, 5), "i": st.integers(1, 6),
         "h": st.integers(1, 40)}  # fmt: skip


@given(kind=st.sampled_from(KINDS), reverse=st.booleans(), bias=st.booleans(), **SIZES,
       seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_values_and_gradients(kind, reverse, bias, t, b, i, h, seed):
    """The op equals the loop; its gradient equals differences along a random direction."""
    rng = np.random.default_rng(seed)
    args = drawn(kind, rng, t, b, i, h, bias)
    kept = [a if a is None else a.copy() for a in args]
    expected = oracle(kind, args, reverse)
    for got, want in zip(layer(kind, args, reverse), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    cotangents = [rng.standard_normal(y.shape) for y in expected]
    cotangents[rng.integers(len(cotangents))] = None  # an output that nothing used
    grads = pulled(kind, args, cotangents, reverse)
    along = [a if a is None else rng.standard_normal(a.shape) for a in args]

    def loss(eps):
        moved = [a if a is None else a + eps * v for a, v in zip(args, along)]
        outputs = oracle(kind, moved, reverse)
        return sum((c * y).sum() for c, y in zip(cotangents, outputs) if c is not None)

    eps = 1e-6
    numeric = (loss(eps) - loss(-eps)) / (2 * eps)
    exact = sum((g * v).sum() for g, v in zip(grads, along) if g is not None)
    if kind != "relu":  # a kink may lie between the two points
        assert abs(numeric - exact) <= 1e-6 * max(1, abs(exact))
    for a, k in zip(args, kept):
        np.testing.assert_array_equal(a, k)
    same = pulled(kind, args, cotangents, reverse, definition=True)
    for g, d in zip(grads, same, strict=True):
        if g is not None:
            np.testing.assert_allclose(g, d, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t, b, i, h", [(1, 1, 3, 5), (9, 1, 3, 33), (3, 70, 4, 66), (5, 130, 2, 7),
                                        (4, 3, 2, 300)])  # fmt: skip
def test_tiles(kind, t, b, i, h):
    """Sizes on both sides of every tile of rows and columns, and the path of a single row."""
    rng = np.random.default_rng(h)
    args = drawn(kind, rng, t, b, i, h)
    for reverse in (False, True):
        expected = oracle(kind, args, reverse)
        for got, want in zip(layer(kind, args, reverse), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
        cotangents = [rng.standard_normal(y.shape) for y in expected]
        grads = pulled(kind, args, cotangents, reverse)
        for g, d in zip(grads, pulled(kind, args, cotangents, reverse, definition=True)):
            np.testing.assert_allclose(g, d, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_error(kind):
    """float32 errs at most twice as much as the plain loop in float32, gradients three times."""
    rng = np.random.default_rng(3)
    args = drawn(kind, rng, 12, 33, 20, 48, dtype=np.float32)
    wide = [a.astype(np.float64) for a in args]
    exact = oracle(kind, wide, False)
    for got, plain, true in zip(layer(kind, args, False), oracle(kind, args, False), exact):
        assert got.dtype == np.float32
        assert norm(got, true) <= 2 * norm(plain, true)
    cotangents = [rng.standard_normal(y.shape).astype(np.float32) for y in exact]
    wide_cotangents = [c.astype(np.float64) for c in cotangents]
    true = pulled(kind, wide, wide_cotangents, False, definition=True)
    plain = pulled(kind, args, cotangents, False, definition=True)
    for g, p, d in zip(pulled(kind, args, cotangents, False), plain, true, strict=True):
        assert g.dtype == np.float32
        assert norm(g, d) <= 3 * norm(p, d)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_second_order(kind):
    """A gradient's gradient, through the definition, equals differences of the gradient."""
    rng = np.random.default_rng(5)
    args = drawn(kind, rng, 3, 2, 3, 4)
    cotangents = [rng.standard_normal(y.shape) for y in oracle(kind, args, False)]
    along = [rng.standard_normal(a.shape) for a in args]
    onto = [rng.standard_normal(a.shape) for a in args]
    tensors = leaves(args)
    outputs = layer(kind, tensors, False)
    first = grad(outputs, tensors, [wrap(c) for c in cotangents], create_graph=True)
    second = grad(first, tensors, [wrap(v) for v in along], allow_unused=True)
    exact = sum((g.array * v).sum() for g, v in zip(second, onto) if g is not None)

    def slope(eps):
        moved = [a + eps * v for a, v in zip(args, onto)]
        return sum((g * v).sum() for g, v in zip(pulled(kind, moved, cotangents, False), along))

    numeric = (slope(1e-6) - slope(-1e-6)) / 2e-6
    assert abs(numeric - exact) <= 1e-6 * max(1, abs(exact))


@pytest.mark.parametrize("name", sorted({k.split("/")[0] for k in GOLDEN} - {
    k.split("/")[0] for k in GOLDEN if k.startswith("attention")}))  # fmt: skip
def test_pytorch(name):
    """Outputs and gradients are PyTorch's."""
    part = {
        group: {k.split("/")[2]: GOLDEN[k] for k in GOLDEN if k.startswith(f"{name}/{group}/")}
        for group in ("in", "out", "cot", "grad")
    }
    kind = "relu" if name == "rnn_relu" else name.split("_")[0]
    states = ["h0", "c0"][: STATES[kind]]
    keys = ["x", *states, "w_ih", "w_hh", "b_ih", "b_hh", *(["w_hr"] if kind == "lstm" else [])]
    tensors = leaves([part["in"].get(k) for k in keys])
    outputs = layer(kind, tensors, name.endswith("reverse"))
    for k, y in enumerate(outputs):
        np.testing.assert_allclose(y.array, part["out"][str(k)], rtol=1e-12, atol=1e-13)
    present = [t for t in tensors if t is not None]
    cotangents = [wrap(part["cot"][str(k)]) for k in range(len(outputs))]
    names = [k for k, t in zip(keys, tensors) if t is not None]
    for k, g in zip(names, grad(outputs, present, cotangents), strict=True):
        np.testing.assert_allclose(g.array, part["grad"][k], rtol=1e-11, atol=1e-12, err_msg=k)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_table(kind, reverse):
    """With tokens, x is an embedding's table: values and gradients are the embedding's."""
    rng = np.random.default_rng(4)
    table, *rest = drawn(kind, rng, 1, 7, 5, 6)
    states = [rng.standard_normal((3, 6)) for _ in range(STATES[kind])]
    rest[: STATES[kind]] = states
    tokens = rng.integers(0, 7, (4, 3))

    def grads(through_embedding):
        x, *others = leaves([table[0], *rest])
        if through_embedding:
            outputs = layer(kind, [index.embedding(tokens, x), *others], reverse)
        else:
            outputs = layer(kind, [x, *others], reverse, tokens=tokens)
        cotangents = [wrap(np.cos(np.arange(y.array.size).reshape(y.shape))) for y in outputs]
        return [*outputs, *grad(outputs, [x, *others], cotangents)]

    for a, b in zip(grads(False), grads(True), strict=True):
        np.testing.assert_allclose(a.array, b.array, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("tokens, axes, error, words", [
    (np.zeros((2, 3, 1), int), 2, ShapeError, "x must be (V, I) and tokens (T, B)"),
    (np.zeros((2, 2), int), 3, ShapeError, "x must be (V, I) and tokens (T, B)"),
    (np.zeros((0, 2), int), 2, ShapeError, "at least one step"),
    (np.zeros((2, 3), int), 2, ShapeError, "h0 must be (3, 4)"),
    (np.full((2, 2), 9), 2, RangeError, "[0, 9)"),
])  # fmt: skip
def test_errors_of_tokens(tokens, axes, error, words):
    x, *rest = drawn("gru", np.random.default_rng(1), 9, 2, 3, 4)
    with pytest.raises(error) as caught:
        recurrent.gru(x[:, 0] if axes == 2 else x, *rest, tokens=tokens)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads(kind):
    rng = np.random.default_rng(7)
    args = drawn(kind, rng, 5, 130, 20, 70, dtype=np.float32)
    cotangents = [rng.standard_normal(y.shape).astype(np.float32)
                  for y in oracle(kind, args, False)]  # fmt: skip
    before, seen = config.threads(), []
    try:
        for n in (1, 2, 3, 2):
            config.set_num_threads(n)
            seen.append([*layer(kind, args, False), *pulled(kind, args, cotangents, False)])
    finally:
        config.set_num_threads(before)
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_strided_inputs(kind):
    """Transposed, sliced and broadcast inputs give what contiguous ones do."""
    rng = np.random.default_rng(9)
    args = drawn(kind, rng, 4, 3, 5, 6)
    strided = list(args)
    strided[0] = np.ascontiguousarray(args[0].transpose(1, 0, 2)).transpose(1, 0, 2)
    strided[-3] = np.repeat(args[-3], 2, 1)[:, ::2]
    strided[-4] = np.asfortranarray(args[-4])
    strided[1] = np.broadcast_to(args[1][:1], args[1].shape)
    args[1] = strided[1].copy()
    cotangents = [rng.standard_normal(y.shape) for y in oracle(kind, args, False)]
    for a, b in zip(layer(kind, strided, False), layer(kind, args, False), strict=True):
        np.testing.assert_array_equal(a, b)
    a, b = (pulled(kind, each, cotangents, False) for each in (strided, args))
    for g, h in zip(a, b, strict=True):
        np.testing.assert_array_equal(g, h)


def test_relu_keeps_nan():
    rng = np.random.default_rng(1)
    args = drawn("relu", rng, 2, 2, 3, 4)
    args[0][1, 0, 0] = np.nan
    y, _ = layer("relu", args, False)
    assert np.isnan(y[1, 0]).all() and not np.isnan(y[0]).any() and not np.isnan(y[1, 1]).any()


def test_saturated_gates_stay_finite():
    args = drawn("lstm", np.random.default_rng(1), 3, 2, 3, 4, dtype=np.float32)
    args[3] *= 1e4
    y, h, c = layer("lstm", args, False)
    assert np.isfinite(y).all() and np.isfinite(c).all()
    grads = pulled("lstm", args, [np.ones_like(a) for a in (y, h, c)], False)
    assert all(np.isfinite(g).all() for g in grads)


def test_bias_gradients_are_separate_arrays():
    tensors = leaves(drawn("lstm", np.random.default_rng(1), 3, 2, 3, 4))
    y, *_ = layer("lstm", tensors, False)
    y.backward(wrap(np.ones(y.shape)))
    kept = tensors[-1].grad.array.copy()
    tensors[-2].grad.array[...] = 0
    np.testing.assert_array_equal(tensors[-1].grad.array, kept)


@pytest.mark.parametrize("change, error, words", [
    (lambda a: a | {"x": a["x"][0]}, ShapeError, "x must be (T, B, I)"),
    (lambda a: a | {"x": a["x"][:0]}, ShapeError, "at least one step"),
    (lambda a: a | {"h0": a["h0"][:1]}, ShapeError, "h0 must be (2, 4)"),
    (lambda a: a | {"c0": a["c0"][:, :3]}, ShapeError, "h0 must be (2, 3)"),
    (lambda a: a | {"w_ih": a["w_hh"]}, ShapeError, "w_ih must be (16, 3)"),
    (lambda a: a | {"b_hh": a["b_hh"][:3]}, ShapeError, "b_hh must be (16,)"),
    (lambda a: a | {"w_hh": a["w_hh"].astype(np.float32)}, DTypeError, "all dtypes must be x's"),
])  # fmt: skip
def test_errors(change, error, words):
    names = ["x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh"]
    args = drawn("lstm", np.random.default_rng(1), 3, 2, 3, 4)
    with pytest.raises(error) as caught:
        recurrent.lstm(**change(dict(zip(names, args, strict=True))))
    assert words in str(caught.value)


def test_unknown_nonlinearity():
    args = drawn("rnn", np.random.default_rng(1), 3, 2, 3, 4)
    with pytest.raises(ShapeError, match="one of .'tanh', 'relu'"):
        recurrent.rnn(*args, nonlinearity="gelu")
