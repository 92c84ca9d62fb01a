"""Pointwise maths: tracing, gradients, dtypes, layouts, broadcasting, updates."""

import gc
import math
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl as ml
import minidl.functional as F
from minidl import config
from minidl.backend.cpu import plans
from minidl.dtypes import result_type
from minidl.errors import DTypeError, GraphError, ShapeError
from minidl.fusion import exp, log, pointwise, sigmoid, sqrt, update, where
from minidl.ops import pointwise as pw

# ---- dtypes --------------------------------------------------------------------------------------

KINDS = "f2d f20 f4d f40 f8d f80 i1d i10 u1d u10 i2d i20 i4d i40 i8d i80 b1d b10".split()
# torch.result_type (2.13) of each kind (d: with dimensions, 0: 0-d) with every kind up to itself,
# then with a Python bool, int and float.
PROMOTION = {
    "f2d": "f2 f2 f2 f2",
    "f20": "f2 f2 f2 f2 f2",
    "f4d": "f4 f4 f4 f4 f4 f4",
    "f40": "f2 f4 f4 f4 f4 f4 f4",
    "f8d": "f8 f8 f8 f8 f8 f8 f8 f8",
    "f80": "f2 f8 f4 f8 f8 f8 f8 f8 f8",
    "i1d": "f2 f2 f4 f4 f8 f8 i1 i1 i1 f4",
    "i10": "f2 f2 f4 f4 f8 f8 i1 i1 i1 i1 f4",
    "u1d": "f2 f2 f4 f4 f8 f8 i2 u1 u1 u1 u1 f4",
    "u10": "f2 f2 f4 f4 f8 f8 i1 i2 u1 u1 u1 u1 f4",
    "i2d": "f2 f2 f4 f4 f8 f8 i2 i2 i2 i2 i2 i2 i2 f4",
    "i20": "f2 f2 f4 f4 f8 f8 i1 i2 u1 i2 i2 i2 i2 i2 f4",
    "i4d": "f2 f2 f4 f4 f8 f8 i4 i4 i4 i4 i4 i4 i4 i4 i4 f4",
    "i40": "f2 f2 f4 f4 f8 f8 i1 i4 u1 i4 i2 i4 i4 i4 i4 i4 f4",
    "i8d": "f2 f2 f4 f4 f8 f8 i8 i8 i8 i8 i8 i8 i8 i8 i8 i8 i8 f4",
    "i80": "f2 f2 f4 f4 f8 f8 i1 i8 u1 i8 i2 i8 i4 i8 i8 i8 i8 i8 f4",
    "b1d": "f2 f2 f4 f4 f8 f8 i1 i1 u1 u1 i2 i2 i4 i4 i8 i8 b1 b1 i8 f4",
    "b10": "f2 f2 f4 f4 f8 f8 i1 i1 u1 u1 i2 i2 i4 i4 i8 i8 b1 b1 b1 i8 f4",
}


def code(text):
    return np.dtype("?" if text == "b1" else text)


def sample(kind):
    return np.ones((2,) if kind[-1] == "d" else (), code(kind[:-1]))


def rows():
    for i, kind in enumerate(KINDS):
        others = [*map(sample, KINDS[: i + 1]), True, 3, 2.5]
        for other, want in zip(others, PROMOTION[kind].split(), strict=True):
            yield sample(kind), other, code(want)


def test_result_type_is_pytorchs():
    for a, b, want in rows():
        assert result_type(a, b) == result_type(b, a) == want, (a.dtype, a.shape, b)


@pytest.mark.parametrize("op", [pw.mul, pw.maximum, pw.add])
def test_binary_results_have_the_promoted_dtype(op):
    for a, b, want in rows():
        assert op(a, b).dtype == want and isinstance(op(a, b), np.ndarray)


def test_real_functions_of_integers_give_float32_and_comparisons_bool():
    x = np.array([1, 2, 4])
    assert pw.exp(x).dtype == pw.div(x, x).dtype == pw.silu(x).dtype == np.float32
    assert pw.div(x, 3).dtype == np.float32 and pw.gt(x, 1.5).dtype == bool
    assert pw.floor(x).dtype == x.dtype and pw.pow(x, 2).dtype == x.dtype
    np.testing.assert_array_equal(pw.pow(x, 2), [1, 4, 16])
    np.testing.assert_array_equal(pw.remainder(np.array([-3, 3]), 2), [1, 1])
    with pytest.raises(DTypeError, match="pow: integers have no negative powers"):
        pw.pow(x, -1)
    with pytest.raises(DTypeError, match="sub: not defined for bool"):
        pw.sub(np.array([True]), np.array([True]))


def test_large_integers_compare_exactly():
    x = np.array([2**53, 2**53 + 1])
    assert pw.eq(x, 2**53).tolist() == [True, False]


def test_half_is_computed_in_float32_and_stored_as_half():
    x = np.linspace(-4, 4, 6001).astype(np.float16)
    y = pw.silu(x)
    wide = x.astype(np.float32)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, pw.silu(wide).astype(np.float16))


def test_gradients_have_the_dtype_and_shape_of_their_input():
    a = ml.tensor(np.ones((3, 4), np.float32), requires_grad=True)
    b = ml.tensor(np.ones((4,), np.float64), requires_grad=True)
    c = ml.tensor(np.ones((), np.float64), requires_grad=True)
    found = ml.grad(a * b * c, (a, b, c), ml.tensor(np.ones((3, 4))))
    (a * b * c).backward(ml.tensor(np.ones((3, 4))))
    for t, g in zip((a, b, c), found):
        assert t.grad.dtype == g.dtype == t.dtype and t.grad.shape == g.shape == t.shape
    assert c.grad.item() == 12


# ---- kinks, infinities, NaN ----------------------------------------------------------------------

INF, NAN = math.inf, math.nan
# Gradients of PyTorch 2.13 in float64 at the points where they are a matter of convention.
KINKS = [
    (F.relu, [0.0, -0.0, NAN], [0, 0, 1]),
    (pw.abs, [0.0, NAN], [0, 0]),
    (lambda x: pw.clamp(x, -1, 2), [-1.0, 2.0, -1.1, NAN], [1, 1, 0, 0]),
    (lambda x: pw.clamp(x, min=1), [1.0, 0.9], [1, 0]),
    (F.hardtanh, [-1.0, 1.0, 0.5], [0, 0, 1]),
    (F.relu6, [0.0, 6.0, 3.0], [0, 0, 1]),
    (F.leaky_relu, [0.0], [0.01]),
    (F.elu, [0.0], [1]),
    (F.hardshrink, [0.5, -0.5, 0.6], [0, 0, 1]),
    (F.softshrink, [0.5, -0.5, 0.6], [0, 0, 1]),
    (F.hardsigmoid, [-3.0, 3.0, 0.0], [0, 0, 1 / 6]),
    (F.hardswish, [-3.0, 3.0, 0.0], [0, 1, 0.5]),
    (F.silu, [-100.0, 0.0, 100.0], [-99 * math.exp(-100), 0.5, 1]),
    (F.softplus, [-100.0, 100.0], [math.exp(-100), 1]),
    (pw.floor, [0.5, 1.0], [0, 0]),
    (pw.sign, [0.0, 2.0], [0, 0]),
    (pw.sqrt, [0.0, 4.0], [INF, 0.25]),
    (lambda x: pw.pow(x, 0.0), [0.0, 2.0], [0, 0]),
    (lambda x: pw.pow(x, 2), [0.0, 3.0], [0, 6]),
    (lambda x: pw.maximum(x, x), [1.0], [1]),
]


@pytest.mark.parametrize("function, points, want", KINKS)
def test_gradients_at_kinks_are_pytorchs(function, points, want):
    x = ml.tensor(np.array(points), requires_grad=True)
    function(x).backward(ml.tensor(np.ones(len(points))))
    np.testing.assert_allclose(x.grad.numpy(), want, rtol=1e-12)


def test_ties_share_the_gradient():
    x, y = (ml.tensor([1.0, 2.0, NAN], requires_grad=True) for _ in range(2))
    pw.maximum(x, y).backward(ml.tensor([1.0, 1.0, 1.0]))
    assert x.grad.tolist()[:2] == y.grad.tolist()[:2] == [0.5, 0.5]


@pytest.mark.parametrize("size", [4, 5000])
def test_nan_and_infinity_survive(size):
    x = np.resize(np.array([NAN, INF, -INF, 1.0], np.float32), size)
    with np.errstate(all="raise"):
        assert np.isnan(pw.relu(x)[0]) and np.isnan(pw.maximum(x, 0)[0]) and pw.relu(x)[1] == INF
        assert np.isnan(pw.minimum(0, x)[0]) and np.isnan(pw.clamp(x, 0, 1)[0])
        assert np.isnan(pw.mul(x, 0.0)[:3]).all() and np.isnan(pw.sub(x, x)[:3]).all()
        assert pw.exp(x)[2] == 0 and pw.sigmoid(x)[2] == 0 and pw.tanh(x)[1] == 1
        assert pw.isnan(x).tolist()[:4] == [True, False, False, False]


@pytest.mark.parametrize("size", [3, 5000])
def test_where_gives_the_branch_not_taken_no_gradient(size):
    @pointwise
    def safe(x):
        return where(x > 0, sqrt(x) * log(x) / x, 0.0)

    x = ml.tensor(np.resize(np.array([-1.0, 0.0, 4.0]), size), requires_grad=True)
    (g,) = ml.grad(safe(x), x, ml.tensor(np.ones(size)), create_graph=True)
    (h,) = ml.grad(g, x, ml.tensor(np.ones(size)))
    first = (2 - math.log(4)) / 16
    np.testing.assert_allclose(g.array[:3], [0, 0, first], rtol=1e-12)
    assert np.isfinite(h.numpy()).all()


# ---- tracing -------------------------------------------------------------------------------------


def test_python_control_flow_on_traced_scalars_is_refused():
    @pointwise
    def bad(x):
        return x if x > 0 else -x

    with pytest.raises(GraphError, match="where"):
        bad(np.ones(3))
    for refuse in (float, int, len, math.exp):

        def ask(x):
            return refuse(x)  # noqa: B023

        with pytest.raises(GraphError, match="traced scalar"):
            pointwise(ask)(np.ones(3))
    with pytest.raises(GraphError, match="only traced scalars and numbers"):
        pointwise(lambda x: x + np.ones(3), name="bad")(np.ones(3))


def test_ops_work_inside_a_trace():
    @pointwise
    def f(x, y, *, scale=2.0):
        return ml.clamp(ml.sigmoid(x) * y, -1, 1) * scale, ml.where(x > y, x, y)

    x, y = np.float32([1, -2, 3]), np.float32([4, 5, -6])
    a, b = f(x, y)
    np.testing.assert_allclose(a, np.clip(y / (1 + np.exp(-x)), -1, 1) * 2, rtol=1e-6)
    np.testing.assert_array_equal(b, np.maximum(x, y))
    np.testing.assert_allclose(f(x, y, scale=4.0)[0], 2 * a)


def test_derivatives_of_any_order_of_a_users_function():
    @pointwise
    def f(x, y):
        return sigmoid(x * y) * exp(-x * x), x * y * y

    rng = np.random.default_rng(0)
    given = [rng.standard_normal((3, 1)), rng.standard_normal(4)]
    weights = [rng.standard_normal((3, 4)) for _ in range(2)]

    def value(order, x, y):
        ts = [ml.tensor(v, requires_grad=True) for v in (x, y)]
        s = sum((o * ml.tensor(w)).sum() for o, w in zip(f(*ts), weights))
        for k in range(order):
            s = sum((g * (k + 1.5)).sum() for g in ml.grad(s, ts, create_graph=True))
        return s, ts

    for order in range(3):
        s, ts = value(order, *given)
        grads = ml.grad(s, ts)
        directions = [rng.standard_normal(v.shape) for v in given]
        step = 1e-5
        ahead, behind = (
            value(order, *[v + sign * step * d for v, d in zip(given, directions)])[0].item()
            for sign in (1, -1)
        )
        along = sum(float((g.numpy() * d).sum()) for g, d in zip(grads, directions))
        assert along == pytest.approx((ahead - behind) / (2 * step), rel=1e-6, abs=1e-8)


def test_changed_scalars_compile_nothing(monkeypatch):
    @pointwise
    def f(x, y, *, slope):
        return x * slope + y

    x = np.ones(10_000, np.float32)
    f(x, 1.0, slope=2.0)
    monkeypatch.setattr(plans.compiler, "compile_ir", None)
    assert f(x, 3.0, slope=4.0)[0] == 7 and f(x + 1, 5, slope=1)[0] == 7


def test_a_dropped_function_leaves_nothing_behind():
    gc.collect()
    gc.disable()
    try:
        f = pointwise(lambda x: x * x + 1, name="gone")
        x = ml.tensor(np.ones(3), requires_grad=True)
        f(x).sum().backward()
        graph = weakref.ref(f._traces[()].graph)
        y = weakref.ref(f(x))
        assert y() is None
        del f
        plans.plan_of.cache_clear()
    finally:
        gc.enable()
    gc.collect()
    assert graph() is None


def test_a_call_with_numbers_left_out_keeps_no_array():
    """Regression: what fetches the arguments kept the first call's arrays of every shape."""
    f = pointwise(lambda x, *, slope, shift=1.0: x * slope + shift, name="kept")
    x = np.ones(3, np.float32)
    kept = weakref.ref(x)
    f(x, slope=2.0)
    del x
    assert kept() is None


def test_wrong_arguments_are_refused():
    with pytest.raises(ShapeError, match=r"add: shapes must broadcast; got x \(3,\) float64, y"):
        pw.add(np.ones(3), np.ones(4))
    with pytest.raises(DTypeError, match="takes tensors and numbers"):
        pw.mul(np.ones(3), [1, 2, 3])
    with pytest.raises(DTypeError, match="condition must be bool"):
        pw.where(np.ones(3), 1.0, 2.0)
    with pytest.raises(DTypeError, match="masked_fill: the number must fit into int64"):
        pw.masked_fill(np.ones(3, int), np.ones(3, bool), np.inf)
    with pytest.raises(ShapeError, match="needs min or max"):
        pw.clamp(np.ones(3))


# ---- shapes and layouts --------------------------------------------------------------------------


@pytest.fixture
def kernels_only(monkeypatch):
    """Small arrays, too, go through printed kernels."""
    plans.plan_of.cache_clear()
    monkeypatch.setitem(plans.LIMITS, "pointwise_by_numpy", -1)
    yield
    plans.plan_of.cache_clear()


@pytest.mark.usefixtures("kernels_only")
@given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=4), st.data())
def test_broadcasting_of_strided_arrays(shapes, data):
    f = pointwise(lambda x, y, z: (x * y - z, x < z), name="f")
    rng = np.random.default_rng(0)
    arrays = []
    for shape in shapes.input_shapes:
        order = data.draw(st.permutations(range(len(shape))))
        base = rng.standard_normal([2 * shape[i] for i in order]).astype(np.float32)
        step = data.draw(st.sampled_from([1, 2, -1]))
        cut = base[tuple(slice(None, None, step) for _ in order)]
        cut = cut[tuple(slice(0, shape[i]) for i in order)]
        arrays.append(cut.transpose(np.argsort(order)) if order else cut)
    x, y, z = arrays
    got, less = f(x, y, z)
    assert got.shape == less.shape == shapes.result_shape
    np.testing.assert_allclose(got, x * y - z, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(less, np.broadcast_to(x < z, less.shape))


def order(a):
    return [i for i in np.argsort([-s for s in a.strides], kind="stable") if a.shape[i] > 1]


def channels_last(*shape):
    n, c, h, w = shape
    return np.random.default_rng(0).standard_normal((n, h, w, c)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("size", [3, 30])
def test_channels_last_wins_and_other_orders_stay(size):
    x = channels_last(2, 8, size, size)
    plain, bias = np.ascontiguousarray(x), np.ones((1, 8, 1, 1))
    for y in (pw.relu(x), pw.add(x, plain), pw.mul(plain, x), pw.add(x, bias), pw.sub(bias, x)):
        assert order(y) == [0, 2, 3, 1]
    assert order(pw.silu(plain)) == [0, 1, 2, 3] == order(pw.add(plain, bias))
    assert order(pw.silu(x[:, :, ::2])) == [0, 2, 3, 1]
    assert order(pw.exp(np.ones((4, 5)).T)) == [1, 0]
    assert order(pw.add(np.ones((4, 5)).T, np.ones((5, 4)))) == [0, 1]
    assert order(pw.gt(x, 0)) == [0, 2, 3, 1]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)])
def test_empty_and_single_elements(shape):
    x = ml.tensor(np.ones(shape, np.float32), requires_grad=True)
    y = F.silu(x * 2.0 + x)
    assert y.shape == shape and isinstance(y.array, np.ndarray)
    y.backward(ml.tensor(np.ones(shape, np.float32)))
    assert x.grad.shape == shape


def test_small_and_large_arrays_agree():
    """NumPy's ufuncs below SMALL elements, kernels above: within 4 + 4 ulp."""
    x = np.linspace(-3, 3, 5000).astype(np.float32)
    for name, op in vars(pw).items():
        if isinstance(op, pw.f.Pointwise) and len(op.signature.parameters) == 1:
            few, many = op(x[:1000]), op(x)[:1000]
            assert few.dtype == many.dtype, name
            np.testing.assert_allclose(few, many, rtol=1e-6, atol=1e-7, err_msg=name)


def test_results_do_not_depend_on_the_number_of_threads():
    x = np.random.default_rng(0).standard_normal((500, 301)).astype(np.float32)
    y = np.random.default_rng(1).standard_normal(301).astype(np.float32)
    before, results = config.threads(), []
    try:
        for n in (1, 2, 5):
            config.set_num_threads(n)
            results.append(pw.logaddexp(x, y))
    finally:
        config.set_num_threads(before)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


# ---- updates in place ----------------------------------------------------------------------------


@update(inplace=("p", "m"))
def momentum(p, g, m, *, lr, decay, nesterov):
    m = decay * m + g
    return p - lr * (g + decay * m if nesterov else m), m


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_update_of_many_rows_in_one_launch(dtype, monkeypatch):
    rng = np.random.default_rng(0)

    def array(*shape):
        return rng.standard_normal(shape).astype(dtype)

    rows = [tuple(array(*s) for _ in range(3)) for s in [(40_000,), (3, 5), (), (0, 2), (17,)]]
    rows.append((array(6, 5).T, array(5, 6), array(5, 6)))
    rows.append((array(8, 6)[:, ::2], array(8, 3), array(8, 3)))
    launches = []
    run = plans.team.Team.run
    monkeypatch.setattr(plans.team.Team, "run", lambda *a: (launches.append(a), run(*a)))
    for lr, nesterov in ((0.1, False), (0.2, True)):
        want = []
        for p, g, m in rows:
            new = 0.9 * m + g
            want.append((p - lr * (g + 0.9 * new if nesterov else new), g.copy(), new))
        launches.clear()
        momentum.apply_(rows, lr=lr, decay=0.9, nesterov=nesterov)
        assert len(launches) == 1
        for row, expected in zip(rows, want):
            for a, b in zip(row, expected):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_update_wants_its_keywords_and_matching_rows():
    with pytest.raises(DTypeError, match="needs exactly its keywords"):
        momentum.apply_([(np.ones(2),) * 3], lr=0.1)
    with pytest.raises(ShapeError, match="must have one shape"):
        momentum.apply_([(np.ones(2), np.ones(3), np.ones(2))], lr=1, decay=1, nesterov=True)
