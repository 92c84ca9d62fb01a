"""Normalisation against naive float64 formulas."""

import numpy as np
import pytest
from directional import backward_of, check_gradients, check_threads, layouts, tensor
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
import minidl.functional as F
from minidl import nn
from minidl.backend import cpu
from minidl.errors import DTypeError, ShapeError
from minidl.ops.norm import batch_norm_with

EPS = 1e-5
rng = np.random.default_rng(7)


def standardised(x, axes, eps=EPS, centre=True):
    """(x - mean) / sqrt(var + eps) in float64."""
    x = x.astype(np.float64)
    m = x.mean(axes, keepdims=True) if centre else 0.0
    return (x - m) / np.sqrt(((x - m) ** 2).mean(axes, keepdims=True) + eps)


def scaled(y, w, b):
    shape = (1, -1) + (1,) * (y.ndim - 2)
    y = y if w is None else y * w.reshape(shape)
    return y if b is None else y + b.reshape(shape)


def close(got, want, dtype, x=None, axes=None):
    """Within some ten roundings; those of x and of its mean are divided by the deviation."""
    assert got.dtype == dtype and got.shape == want.shape
    size = max(1.0, np.abs(want).max(initial=0))
    if x is not None:
        size *= 1 + np.abs(x).max() / np.sqrt(x.astype(np.float64).var(axes).min() + EPS)
    np.testing.assert_allclose(got, want, rtol=0, atol=10 * np.finfo(dtype).eps * size)


@st.composite
def images(draw):
    """x (N, C, ...) of 2 to 5 axes in some layout, w and b or None."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    c = draw(st.sampled_from([1, 2, 3, 6, 16, 130]))
    shape = (draw(st.integers(1, 4)), c, *draw(st.lists(st.integers(1, 7), max_size=3)))
    values = np.random.default_rng(draw(st.integers(0, 999)))
    x = values.normal(3, 2, shape).astype(dtype)
    w, b = (values.normal(size=c).astype(dtype) if draw(st.booleans()) else None for _ in range(2))
    return draw(st.sampled_from(layouts(x))), w, b


def wrapped(*arrays):
    return [a if a is None else tensor(a, False) for a in arrays]


@given(images())
def test_batch_norm(case):
    x, w, b = case
    if x.size == x.shape[1]:
        return
    axes = (0, *range(2, x.ndim))
    mean, var = np.zeros(x.shape[1], x.dtype), np.ones(x.shape[1], x.dtype)
    tx, tm, tv, tw, tb = wrapped(x, mean, var, w, b)
    y = F.batch_norm(tx, tm, tv, tw, tb, True, 0.3).numpy()
    close(y, scaled(standardised(x, axes), w, b), x.dtype, x, axes)
    wide = x.astype(np.float64)
    close(tm.numpy(), 0.3 * wide.mean(axes), x.dtype)
    close(tv.numpy(), 0.7 + 0.3 * wide.var(axes, ddof=1), x.dtype)
    y = F.batch_norm(tx, tm, tv, tw, tb).numpy()
    shape = (1, -1) + (1,) * (x.ndim - 2)
    m, v = (a.numpy().astype(np.float64).reshape(shape) for a in (tm, tv))
    close(y, scaled((x - m) / np.sqrt(v + EPS), w, b), x.dtype, x, axes)


@given(images(), st.integers(1, 3))
def test_group_norm(case, groups):
    x, w, b = case
    if x.shape[1] % groups:
        groups = x.shape[1]
    tx, tw, tb = wrapped(x, w, b)
    apart = x.reshape(x.shape[0], groups, -1)
    want = scaled(standardised(apart, (2,)).reshape(x.shape), w, b)
    close(F.group_norm(tx, groups, tw, tb).numpy(), want, x.dtype, apart, 2)
    if x.ndim > 2 and np.prod(x.shape[2:]) > 1:
        axes = tuple(range(2, x.ndim))
        want = scaled(standardised(x, axes), w, b)
        close(F.instance_norm(tx, weight=tw, bias=tb).numpy(), want, x.dtype, x, axes)


@given(images(), st.integers(1, 2))
def test_layer_norm(case, count):
    x = case[0]
    shape, axes = x.shape[-count:], tuple(range(x.ndim - count, x.ndim))
    w, b = (rng.normal(size=shape).astype(x.dtype) for _ in range(2))
    tx, tw, tb = wrapped(x, w, b)
    want = standardised(x, axes)
    close(F.layer_norm(tx, shape, tw, tb).numpy(), want * w + b, x.dtype, x, axes)
    close(F.layer_norm(tx, list(shape)).numpy(), want, x.dtype, x, axes)
    want = standardised(x, axes, 0.01, centre=False)
    close(F.rms_norm(tx, shape, tw, 0.01).numpy(), want * w, x.dtype)
    close(F.rms_norm(tx, shape, eps=0.01).numpy(), want, x.dtype)


X = rng.normal(1, 2, (3, 4, 3, 2))
W, B = rng.normal(size=4), rng.normal(size=4)
MEAN, VAR = rng.normal(size=4), rng.uniform(0.5, 2, 4)
BATCH = (None, None)  # the batch's own statistics


def activated(act, x, w, b, more=None):
    """Batch norm with the activation behind it, in one pass."""
    return batch_norm_with(more, act, x, *BATCH, w, b, True, 0.1, 1e-5)


OPS = {
    "batch": lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    "relu": lambda x, w, b: activated("relu", x, w, b),
    "relu6": lambda x, w, b: activated("relu6", x, w * 5, b + 3),
    "more": lambda x, w, b: activated("relu", x, w, b, x.flip(0)),
    "more6": lambda x, w, b: activated("relu6", x, w * 5, b + 3, x.flip(0)),
    "eval": lambda x, w, b: F.batch_norm(x, MEAN, VAR, w, b, False),
    "group": lambda x, w, b: F.group_norm(x, 2, w, b),
    "instance": lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
    "layer": lambda x, w, b: F.layer_norm(x.permute(0, 2, 3, 1), 4, w, b),
    "rms": lambda x, w, b: F.rms_norm(x.permute(0, 2, 3, 1), 4, w) + b,
}


@pytest.mark.parametrize("name", OPS)
def test_gradients(name):
    """First and second derivatives, with and without weights."""
    check_gradients(OPS[name], X, W, B)
    check_gradients(lambda x: OPS[name](x, tensor(W, False), tensor(B, False)), X)


@pytest.mark.parametrize("act, top", [("relu", np.inf), ("relu6", 6)])
@pytest.mark.parametrize("c", [3, 16, 300])
def test_the_gradient_is_gated_just_where_the_result_is_cut_off(c, act, top):
    """Backward finds the result again from the input, to the last bit."""
    x, g = (rng.normal(size=(32, c, 20, 20)).astype(np.float32) for _ in range(2))
    w, b = rng.normal(0, 4, c).astype(np.float32), tensor(rng.normal(size=c).astype(np.float32))
    y = activated(act, tensor(x), tensor(w), b)
    y.backward(tensor(g, False))
    y = y.detach().numpy()
    assert 0 < (y == 6).mean() < 0.2 if act == "relu6" else y.max() > 6
    gated = np.where((y > 0) & (y < top), g, 0).astype(np.float64)
    np.testing.assert_allclose(b.grad.numpy(), gated.sum((0, 2, 3)), atol=2e-3)


@pytest.mark.parametrize("act", ["relu", "relu6"])
def test_no_gradient_passes_where_the_result_is_just_zero_or_the_top(act):
    """A channel without variance, of which bias alone comes out."""
    b = tensor(np.array([0.0, 6.0, 5.0]))
    x, w = tensor(np.full((2, 3, 4, 4), 2.0)), tensor(np.ones(3))
    activated(act, x, w, b).backward(tensor(np.arange(96.0).reshape(x.shape), False))
    passes = np.array([False, act == "relu", True])
    np.testing.assert_array_equal(b.grad.numpy() != 0, passes)
    np.testing.assert_array_equal(x.grad.numpy().any((0, 2, 3)), passes)


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
def test_batch_norm_and_relu_in_one_pass(act):
    """A Sequential joins them, and not where hooks wait; the numbers are those of both apart."""
    net = nn.Sequential(nn.BatchNorm2d(3), act(), nn.ReLU(), nn.BatchNorm2d(3))
    nn.init.constant_(net[0].weight, 9)
    x = ml.randn(4, 3, 5, 5)
    y, calls = net(x), []
    handle = net[0].register_forward_hook(lambda module, args, result: calls.append(result))
    apart = net(x)
    assert len(calls) == 1 and calls[0].detach().numpy().min() < 0
    np.testing.assert_allclose(y.detach().numpy(), apart.detach().numpy(), atol=1e-6)
    handle.remove()
    net[1].register_forward_pre_hook(lambda module, args: calls.append(args))
    np.testing.assert_allclose(net(x).detach().numpy(), y.detach().numpy(), atol=1e-6)
    assert len(calls) == 2


@pytest.mark.parametrize("name", OPS)
def test_threads_and_sizes(name):
    """Bits do not depend on threads where there are many pieces; gradients agree with float64."""
    x = rng.normal(1, 2, (3, 32, 37, 20))
    w, b = rng.normal(size=32), rng.normal(size=32)
    f = OPS[name]
    if name == "eval":
        m, v = rng.normal(size=32), rng.uniform(0.5, 2, 32)
        f = lambda x, w, b: F.batch_norm(x, m.astype(x.dtype), v.astype(x.dtype), w, b)  # noqa: E731
    if name in ("layer", "rms"):
        norm = F.layer_norm if name == "layer" else F.rms_norm
        f = lambda x, w, b: norm(x.permute(0, 2, 3, 1), 32, w) + b  # noqa: E731
    single = [a.astype(np.float32) for a in (x, w, b)]
    check_threads(lambda: backward_of(f, *single))
    for a, want in zip(backward_of(f, *single), backward_of(f, x, w, b), strict=True):
        np.testing.assert_allclose(a, want, rtol=0, atol=3e-6 * max(1, np.abs(want).max()))


def test_long_rows():
    """Rows longer than a block of the summation, and more rows than one chunk."""
    x, w, b = rng.normal(5, 1, (3, 5000)), rng.normal(size=5000), rng.normal(size=5000)
    check_gradients(lambda x, w, b: F.layer_norm(x, 5000, w, b), x, w, b, order=1)
    x, w = rng.normal(size=(700, 40)), rng.normal(size=40)
    check_gradients(lambda x, w: F.rms_norm(x, 40, w), x, w, order=1)


def test_variance_of_large_mean():
    """No cancellation in float32."""
    x = (1000 + rng.normal(size=(64, 3, 8, 8))).astype(np.float32)
    wide = x.astype(np.float64)
    for got, axes in (
        (F.batch_norm(tensor(x), None, None, training=True), (0, 2, 3)),
        (F.group_norm(tensor(x), 1), (1, 2, 3)),
        (F.layer_norm(tensor(x), (3, 8, 8)), (1, 2, 3)),
    ):
        np.testing.assert_allclose(got.detach().numpy(), standardised(wide, axes), atol=4e-4)


@pytest.mark.parametrize("rows, c", [(64, 256), (1021, 5), (3, 300)])
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_moments_beside_a_first_row_far_off(rows, c, far):
    """Deviations are summed from a piece's first row: its rows are the factor that may be lost."""
    x = np.random.default_rng(rows).normal(size=(rows, c)).astype(np.float32)
    x[0] += np.float32(far)
    _, mean, var = cpu.batch_norm(x[:, :, None, None], None, None, None, 0.0, 0.0)
    wide, eps = x.astype(np.float64), np.finfo(np.float32).eps
    np.testing.assert_allclose(var, wide.var(0), rtol=4 * 64 * eps)
    np.testing.assert_allclose(mean, wide.mean(0), rtol=0, atol=8 * eps * np.abs(wide).max())
    same = np.full((rows, c, 1, 1), 0.1, np.float32)
    y, mean, var = cpu.batch_norm(same, None, None, None, 1e-5, 0.0)
    assert not y.any() and not var.any() and (mean == np.float32(0.1)).all()


def test_moments_keep_nan():
    x = np.zeros((8, 4, 3, 3), np.float32)
    x[5, 1, 0, 2] = np.nan
    y, mean, var = cpu.batch_norm(x, None, None, None, 1e-5, np.inf)
    for a in (y[:, 1], mean[1], var[1]):
        assert np.isnan(a).all()
    assert not np.isnan(var[[0, 2, 3]]).any()


def test_empty_batches():
    mean, var = tensor(np.zeros(3, np.float32), False), tensor(np.ones(3, np.float32), False)
    x = tensor(np.zeros((0, 3, 2, 2), np.float32))
    assert F.batch_norm(x, mean, var, training=True).shape == (0, 3, 2, 2)
    assert not mean.numpy().any() and (var.numpy() == 1).all()
    assert F.group_norm(x, 3).shape == F.layer_norm(x, (2, 2)).shape == (0, 3, 2, 2)
    got = backward_of(lambda x: F.layer_norm(x, 2), np.zeros((0, 2), np.float32))
    assert got[1].shape == (0, 2)


@pytest.mark.parametrize("shape", [(0, 4, 2, 2), (0, 4, 3), (3, 4, 0)])
@pytest.mark.parametrize("name", ["batch", "group", "instance"])
def test_gradients_of_weights_over_no_values_are_zero(name, shape):
    """Regression: NaN, from means over nothing."""
    w, b = tensor(np.ones(4)), tensor(np.ones(4))
    norms = {
        "batch": lambda x: F.batch_norm(x, None, None, w, b, True),
        "group": lambda x: F.group_norm(x, 2, w, b),
        "instance": lambda x: F.instance_norm(x, None, None, w, b),
    }
    norms[name](tensor(np.zeros(shape))).sum().backward()
    assert (w.grad.numpy() == 0).all()
    assert (b.grad.numpy() == 0).all()


def test_channels_last_is_kept():
    x = np.moveaxis(rng.normal(size=(2, 5, 4, 3)), -1, 1)
    for y in backward_of(lambda x: F.batch_norm(x, None, None, training=True), x):
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous


def test_normalize():
    x = rng.normal(size=(2, 5, 3))
    got = F.normalize(tensor(x), 3.0, 2)
    want = x / (np.abs(x) ** 3).sum(2, keepdims=True) ** (1 / 3)
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-12)
    check_gradients(lambda x: F.normalize(x), x)


@pytest.mark.parametrize("shape", [(2, 0), (2, 0, 3), (2, 0, 4, 4), (0, 0, 4, 4)])
def test_batch_norm_of_no_channels_gives_none(shape):
    """Regression: a bare ZeroDivisionError."""
    x, w = tensor(np.ones(shape)), tensor(np.ones(0))
    mean, var = tensor(np.zeros(0), False), tensor(np.ones(0), False)
    y = F.batch_norm(x, mean, var, w, w, training=True)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape and w.grad.shape == mean.shape == (0,)
    assert F.batch_norm(x, mean, var, w, w).shape == shape


def test_mistakes():
    x, ones = tensor(np.ones((2, 3, 4))), np.ones(4)
    with pytest.raises(ShapeError, match="batch_norm: weight must have shape"):
        F.batch_norm(x, None, None, tensor(ones), training=True)
    with pytest.raises(ShapeError, match="more than one value per channel"):
        F.batch_norm(tensor(np.ones((1, 3))), None, None, training=True)
    with pytest.raises(ShapeError, match="running_mean and running_var are needed"):
        F.batch_norm(x, None, None)
    with pytest.raises(ShapeError, match="group_norm: C must be divisible"):
        F.group_norm(x, 2)
    with pytest.raises(ShapeError, match=r"layer_norm: the last axes of x must be .* \(3,\)"):
        F.layer_norm(x, 3)
    with pytest.raises(DTypeError, match="dtypes must be equal"):
        F.layer_norm(x, 4, tensor(np.ones(4, np.float32)))
    with pytest.raises(DTypeError, match="must be floating point"):
        F.rms_norm(tensor(np.ones((2, 4), np.int64), False), 4)
