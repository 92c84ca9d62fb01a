"""Winograd's convolution: any size and padding, its error beside plain sums, when it is chosen."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import config
from minidl.backend import cpu
from minidl.backend.cpu import winograd

PASSES = ("forward", "input gradient", "weight gradient")


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def problem(seed, n, c, k, h, w, ph, pw):
    """x (N, C, H, W), w (K, C, 3, 3), g like the output."""
    shapes = (n, c, h, w), (k, c, 3, 3), (n, k, h + 2 * ph - 2, w + 2 * pw - 2)
    return [drawn(seed + i, *s) for i, s in enumerate(shapes)]


def nhwc(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def by_winograd(x, w, g, padding, bias=None):
    """All three passes, in PyTorch's shapes; outputs are poisoned first."""
    y, dx = (np.full(nhwc(a).shape, np.nan, np.float32) for a in (g, x))
    winograd.correlate(nhwc(x), w, bias, y, padding)
    left = (2 - padding[0], 2 - padding[1])
    winograd.correlate(nhwc(g), w, None, dx, left, turned=True)
    dw = winograd.weight_grad(nhwc(g), nhwc(x), padding)
    return y.transpose(0, 3, 1, 2), dx.transpose(0, 3, 1, 2), dw


def terms(x, w, g, padding):
    """What each pass adds up: pairs (rows, M, T) and (T, N) of which every product is a sum.

    Forward: windows by weights; input gradient: windows of padded g by turned weights; weight
    gradient: g by windows.
    """
    (ph, pw), k, c = padding, *w.shape[:2]

    def windows(a, p, q):
        a = np.pad(a, ((0, 0), (0, 0), (p, p), (q, q)))
        v = np.lib.stride_tricks.sliding_window_view(a, (3, 3), (2, 3)).transpose(0, 2, 3, 1, 4, 5)
        return v.reshape(-1, a.shape[1] * 9)

    rows = windows(x, ph, pw)
    turned = w[:, :, ::-1, ::-1].transpose(0, 2, 3, 1).reshape(k * 9, c)
    yield rows, w.reshape(k, -1).T
    yield windows(g, 2 - ph, 2 - pw), turned
    yield nhwc(g).reshape(-1, k).T, rows


def in_order(a, b):
    """a @ b with each sum taken term by term in float32."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for t in range(len(b)):
        total += a[:, t, None] * b[t]
    return total


def shaped(i, flat, x, w, g):
    """The flat result of pass i in the shape that `by_winograd` gives."""
    if i == 2:
        return flat.reshape(w.shape)
    like = (g, x)[i]
    return flat.reshape(nhwc(like).shape).transpose(0, 3, 1, 2)


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@given(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 14),
    st.integers(1, 14), st.integers(0, 2), st.integers(0, 2), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_all_passes_at_any_size(n, c, k, h, w, ph, pw, biased, few, seed):
    """Whether tiles are few, and go through stages, or not."""
    if min(h + 2 * ph, w + 2 * pw) < 3:
        return
    x, weights, g = problem(seed, n, c, k, h, w, ph, pw)
    bias = drawn(seed, k) if biased else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_LARGE", 0)
        patch.setattr(winograd, "_FEW", 1 << 30 if few else 0)
        found = by_winograd(x, weights, g, (ph, pw), bias)
    for i, (a, b) in enumerate(terms(*(v.astype(np.float64) for v in (x, weights, g)), (ph, pw))):
        want = shaped(i, a @ b, x, weights, g)
        want = want + bias[:, None, None] if biased and i == 0 else want
        limit = 3e-6 * np.abs(a).max() * np.abs(b).max() * len(b)
        assert np.abs(found[i] - want).max() <= limit, PASSES[i]


@pytest.mark.parametrize("few", [True, False], ids=["stages", "blocks"])
@pytest.mark.parametrize("c", [16, 64, 256])
def test_error_beside_plain_sums(c, few, monkeypatch):
    """On N(0, 1): at most 3 times the error of sums taken in order, at most 6 times sgemm's."""
    monkeypatch.setattr(winograd, "_LARGE", 0)
    monkeypatch.setattr(winograd, "_FEW", 1 << 30 if few else 0)
    x, w, g = problem(c, 1, c, c, 13, 12, 1, 1)
    found = by_winograd(x, w, g, (1, 1))
    for i, (a, b) in enumerate(terms(x, w, g, (1, 1))):
        exact = a.astype(np.float64) @ b.astype(np.float64)
        error = relative(found[i], shaped(i, exact, x, w, g))
        assert error <= 3 * relative(in_order(a, b), exact), PASSES[i]
        assert error <= 6 * relative(np.ascontiguousarray(a) @ b, exact), PASSES[i]


@pytest.mark.parametrize("shape", [(1, 8, 8, 1, 1), (3, 32, 8, 41, 38), (9, 24, 40, 32, 32)])
def test_bits_at_any_number_of_threads(shape):
    before = config.threads()
    n, c, k, h, w = shape
    run = functools.partial(by_winograd, *problem(0, n, c, k, h, w, 1, 1), (1, 1))
    try:
        config.set_num_threads(1)
        one = run()
        for threads in (2, 5):
            config.set_num_threads(threads)
            assert all((a == b).all() for a, b in zip(one, run(), strict=True))
    finally:
        config.set_num_threads(before)


@pytest.mark.parametrize(
    "change, serves",
    [
        ({}, True),
        ({"dtype": np.float64}, False),
        ({"stride": (2, 1)}, False),
        ({"dilation": (1, 2)}, False),
        ({"padding": (3, 1)}, False),
        ({"c": 3}, False),
    ],
)
def test_what_it_serves(change, serves, monkeypatch):
    """Whatever it does not serve goes through windows and GEMM, with the same result."""
    calls = []
    correlate = winograd.correlate
    monkeypatch.setattr(winograd, "correlate", lambda *args: calls.append(1) or correlate(*args))
    c, dtype = change.get("c", 16), change.get("dtype", np.float32)
    window = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    window |= {k: v for k, v in change.items() if k in window}
    x, w = drawn(0, 2, c, 9, 10).astype(dtype), drawn(1, 16, c, 3, 3).astype(dtype)
    y = cpu.conv2d(x, w, None, **window)
    assert bool(calls) == serves
    want = cpu.conv2d(x.astype(np.float64), w.astype(np.float64), None, **window)
    assert relative(y, want) < 2e-6
