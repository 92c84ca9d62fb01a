"""Pooling against naive loops."""

import numpy as np
import pytest
from directional import backward_of, check_gradients, check_threads, layouts, tensor
from hypothesis import given
from hypothesis import strategies as st

import minidl.functional as F
from minidl.backend.cpu import pool
from minidl.errors import ShapeError

rng = np.random.default_rng(3)


def out_size(n, k, s, p, d, ceil):
    """PyTorch's rule: with ceil_mode a window must start inside the image or its left padding."""
    exact = (n + 2 * p - d * (k - 1) - 1) / s
    o = int(np.ceil(exact) if ceil else np.floor(exact)) + 1
    return o - 1 if ceil and (o - 1) * s >= n + p else o


def windows(x, kernel, stride, padding, dilation, ceil):
    """Yield (place of the output, positions and values of the window that are in the image)."""
    h, w = x.shape[2:]
    args = list(zip((h, w), kernel, stride, padding, dilation))
    oh, ow = (out_size(*a, ceil) for a in args)
    for i in range(oh):
        for j in range(ow):
            rows = [i * stride[0] - padding[0] + a * dilation[0] for a in range(kernel[0])]
            columns = [j * stride[1] - padding[1] + a * dilation[1] for a in range(kernel[1])]
            yield i, j, [(r, c) for r in rows for c in columns if 0 <= r < h and 0 <= c < w]


def naive_max(x, *args):
    found = {}
    for i, j, places in windows(x, *args):
        for n in range(x.shape[0]):
            for c in range(x.shape[1]):
                best, where = -np.inf, 0
                for k, (r, q) in enumerate(places):
                    v = x[n, c, r, q]
                    if k == 0 or v > best or np.isnan(v):
                        best, where = v, r * x.shape[3] + q
                found[n, c, i, j] = best, where
    shape = tuple(m + 1 for m in max(found)[:2]) + tuple(
        max(k[a] for k in found) + 1 for a in (2, 3)
    )
    y, index = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    for key, (v, k) in found.items():
        y[key], index[key] = v, k
    return y, index


def naive_mean(x, kernel, stride, padding, ceil, with_pad, divisor):
    h, w = x.shape[2:]
    found = list(windows(x, kernel, stride, padding, (1, 1), ceil))
    shape = (*x.shape[:2], max(f[0] for f in found) + 1, max(f[1] for f in found) + 1)
    y = np.zeros(shape)
    for i, j, places in found:
        total = sum((x[:, :, r, c].astype(np.float64) for r, c in places), np.zeros(x.shape[:2]))
        r0, c0 = i * stride[0] - padding[0], j * stride[1] - padding[1]
        tall = min(r0 + kernel[0], h + padding[0]) - r0
        wide = min(c0 + kernel[1], w + padding[1]) - c0
        y[:, :, i, j] = total / (divisor or (tall * wide if with_pad else len(places)))
    return y


@st.composite
def pools(draw, dilated=True):
    """x in some layout, and a window that fits."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    h, w = draw(st.integers(3, 8)), draw(st.integers(3, 8))
    both = lambda lo, hi: tuple(draw(st.integers(lo, hi)) for _ in range(2))  # noqa: E731
    kernel, stride = both(1, 3), both(1, 3)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    dilation = both(1, 2) if dilated else (1, 1)
    dilation = tuple(
        d if d * (k - 1) < n + 2 * p else 1 for d, k, n, p in zip(dilation, kernel, (h, w), padding)
    )
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 17])), h, w)
    # few different values: ties are common
    x = np.random.default_rng(draw(st.integers(0, 999))).integers(-3, 4, shape).astype(dtype)
    x = draw(st.sampled_from(layouts(x)))
    return x, kernel, stride, padding, dilation, draw(st.booleans())


@given(pools())
def test_max_pool2d(case):
    x, kernel, stride, padding, dilation, ceil = case
    want, index = naive_max(x, kernel, stride, padding, dilation, ceil)
    args = (kernel, stride, padding, dilation, ceil)
    y, k = F.max_pool2d(tensor(x, False), *args, return_indices=True)
    assert k.dtype == np.int64 and y.dtype == x.dtype
    np.testing.assert_array_equal(y.numpy(), want)
    np.testing.assert_array_equal(k.numpy(), index)
    got, dx = backward_of(lambda x: F.max_pool2d(x, *args), x)
    g = np.random.default_rng(1).normal(size=got.shape).astype(x.dtype)
    flat = np.zeros((*x.shape[:2], x.shape[2] * x.shape[3]))
    lead = np.ogrid[: x.shape[0], : x.shape[1]]
    np.add.at(flat, (lead[0][..., None], lead[1][..., None], index.reshape(*x.shape[:2], -1)),
              g.reshape(*x.shape[:2], -1))  # fmt: skip
    np.testing.assert_allclose(dx, flat.reshape(x.shape), atol=1e-5)


@given(pools(dilated=False), st.booleans(), st.sampled_from([None, 5]))
def test_avg_pool2d(case, with_pad, divisor):
    x, kernel, stride, padding, _, ceil = case
    want = naive_mean(x, kernel, stride, padding, ceil, with_pad, divisor)
    y = F.avg_pool2d(tensor(x, False), kernel, stride, padding, ceil, with_pad, divisor)
    assert y.dtype == x.dtype
    np.testing.assert_allclose(y.numpy(), want, atol=1e-6)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 9), st.integers(1, 9))
def test_adaptive(oh, ow, h, w):
    x = rng.normal(size=(2, 3, h, w))
    mean = np.empty((2, 3, oh, ow))
    for i in range(oh):
        for j in range(ow):
            rows = slice(i * h // oh, -(-(i + 1) * h // oh))
            area = x[:, :, rows, j * w // ow : -(-(j + 1) * w // ow)]
            mean[:, :, i, j] = area.mean((2, 3))
    t = tensor(x, False)
    np.testing.assert_allclose(F.adaptive_avg_pool2d(t, (oh, ow)).numpy(), mean, atol=1e-12)


def test_nan_wins_and_nothing_is_minus_infinity():
    x = np.zeros((1, 2, 2, 4), np.float32)
    x[0, 0, 0, 1] = x[0, 0, 1, 0] = np.nan
    x[0, 1] = -np.inf
    y, k = F.max_pool2d(tensor(x), 2, return_indices=True)
    np.testing.assert_array_equal(y.detach().numpy()[0, :, 0], [[np.nan, 0], [-np.inf, -np.inf]])
    np.testing.assert_array_equal(k.numpy()[0, :, 0], [[4, 2], [0, 2]])  # the last NaN, as PyTorch
    dx = backward_of(lambda x: F.max_pool2d(x, 2), x)[1]
    assert (dx != 0).sum() == 4


def test_large_windows():
    """More than 256 places in a window: the place does not fit into a byte."""
    x = rng.normal(size=(1, 2, 18, 19))
    y, k = F.max_pool2d(tensor(x), (17, 18), 1, return_indices=True)
    want, index = naive_max(x, (17, 18), (1, 1), (0, 0), (1, 1), False)
    np.testing.assert_array_equal(y.detach().numpy(), want)
    np.testing.assert_array_equal(k.numpy(), index)
    check_gradients(lambda x: F.max_pool2d(x, (17, 18), 1), x)


def distinct(*shape):
    """Values far enough apart that differences do not change which is the largest."""
    return rng.permutation(int(np.prod(shape))).reshape(shape) / 7.0


GRADIENTS = {
    "max": lambda x: F.max_pool2d(x, 3, 2, 1) ** 2,
    "max dilated": lambda x: F.max_pool2d(x, 2, 1, 1, 2, True) ** 2,
    "mean": lambda x: F.avg_pool2d(x, 3, 2, 1, True, False) ** 2,
    "mean divided": lambda x: F.avg_pool2d(x, 2, (1, 2), divisor_override=3) ** 2,
    "adaptive mean": lambda x: F.adaptive_avg_pool2d(x, (3, 2)) ** 2,
    "global mean": lambda x: F.adaptive_avg_pool2d(x, 1) ** 2,
    "sequence max": lambda x: F.max_pool1d(x.flatten(2), 3, 2) ** 2,
    "sequence mean": lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1) ** 2,
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    check_gradients(GRADIENTS[name], distinct(2, 3, 5, 6), tol=1e-5)


def test_unbatched_and_sequences():
    x = distinct(3, 5, 6)
    y, k = F.max_pool2d(tensor(x), 2, return_indices=True)
    z, m = F.max_pool2d(tensor(x[None]), 2, return_indices=True)
    assert y.shape == k.shape == (3, 2, 3)
    np.testing.assert_array_equal(y.detach().numpy(), z.detach().numpy()[0])
    np.testing.assert_array_equal(k.numpy(), m.numpy()[0])
    y, k = F.max_pool1d(tensor(x), 3, 1, return_indices=True)
    want = np.lib.stride_tricks.sliding_window_view(x, 3, 2)
    np.testing.assert_array_equal(y.detach().numpy(), want.max(3))
    np.testing.assert_array_equal(k.numpy(), want.argmax(3) + np.arange(4))
    assert F.adaptive_avg_pool1d(tensor(x[0]), 2).shape == (5, 2)
    assert F.avg_pool2d(tensor(np.zeros((0, 3, 4, 4))), 2).shape == (0, 3, 2, 2)


def test_threads():
    x = rng.normal(size=(3, 16, 33, 30)).astype(np.float32)
    check_threads(lambda: backward_of(lambda x: F.max_pool2d(x, 3, 2, 1), x))
    check_threads(lambda: backward_of(lambda x: F.avg_pool2d(x, 3, 2, 1), x))
    y, dx = backward_of(
        lambda x: F.max_pool2d(x, 2), np.moveaxis(x, 1, -1).copy().transpose(0, 3, 1, 2)
    )
    assert (
        y.transpose(0, 2, 3, 1).flags.c_contiguous and dx.transpose(0, 2, 3, 1).flags.c_contiguous
    )


def test_mistakes():
    x = tensor(np.ones((1, 2, 4, 4)))
    with pytest.raises(ShapeError, match="max_pool2d: padding must be at most half"):
        F.max_pool2d(x, 2, padding=2)
    with pytest.raises(ShapeError, match="avg_pool2d: the window must fit"):
        F.avg_pool2d(x, 5)
    with pytest.raises(ShapeError, match="kernel_size must be one or two ints >= 1"):
        F.max_pool2d(x, 0)
    with pytest.raises(ShapeError, match="x must have 4 axes"):
        F.max_pool2d(tensor(np.ones((4, 4))), 2)
    with pytest.raises(ShapeError, match="divisor_override must be positive"):
        F.avg_pool2d(x, 2, divisor_override=0)


def test_windows_of_two_by_two_agree_with_the_general_kernel(monkeypatch):
    """Values, places (the first of equal ones, NaN) and gradients, bit for bit."""
    x = np.round(rng.standard_normal((3, 6, 8, 21)) * 2).astype(np.float32).transpose(0, 3, 1, 2)
    x[0, 0, 0, 1] = np.nan
    window = ((2, 2), (2, 2), (0, 0), (1, 1))
    g, found = rng.standard_normal((3, 21, 3, 4)).astype(np.float32), []
    for halves in (pool._halves, lambda *window: False):
        monkeypatch.setattr(pool, "_halves", halves)
        y, place = pool.max_pool2d(x, *window, (3, 4))
        found.append((y, place, pool.max_pool2d_grad(g, place, (6, 8), *window)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
