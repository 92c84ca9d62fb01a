"""Depthwise convolution's kernels: against sums over taps in float64, drawn shapes, any threads."""

import time

import numpy as np
import pytest

from minidl import config
from minidl.backend import cpu
from minidl.backend.cpu import depthwise


def drawn(seed):
    """Arrays, and the window, of a depthwise convolution in which the window fits."""
    rng = np.random.default_rng(seed)
    n, c, r, s = rng.integers(1, [4, 40, 8, 10])
    stride, dilation = (tuple(map(int, rng.integers(1, 4, 2))) for _ in range(2))
    padding = tuple(map(int, rng.integers(0, [r + 1, s + 1])))
    h, w = (int(d * (k - 1)) + int(rng.integers(1, 40)) for d, k in zip(dilation, (r, s)))
    x, taps = rng.standard_normal((n, c, h, w)), rng.standard_normal((c, 1, r, s))
    return x, taps, rng.standard_normal(c), (stride, padding, dilation, int(c))


def shifted(x, a, b, out, stride, dilation):
    """View of the padded x that tap (a, b) meets."""
    rows, columns = (slice(k * d, k * d + t * (n - 1) + 1, t)
                     for k, d, t, n in zip((a, b), dilation, stride, out))  # fmt: skip
    return x[:, :, rows, columns]


def oracle(x, w, bias, g, stride, padding, dilation, groups):
    """The convolution and its two adjoints at g (a function of the output's shape)."""
    wide = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    sizes = zip(wide.shape[2:], w.shape[2:], stride, dilation)
    out = [(m - d * (k - 1) - 1) // t + 1 for m, k, t, d in sizes]
    y = np.zeros((*x.shape[:2], *out)) + bias[:, None, None]
    dx, dw, g = np.zeros_like(wide), np.zeros_like(w), g(y.shape)
    for a, b in np.ndindex(w.shape[2:]):
        f = w[:, 0, a, b][:, None, None]
        y += shifted(wide, a, b, out, stride, dilation) * f
        shifted(dx, a, b, out, stride, dilation)[...] += g * f
        dw[:, 0, a, b] = (shifted(wide, a, b, out, stride, dilation) * g).sum((0, 2, 3))
    inside = tuple(slice(p, p + m) for p, m in zip(padding, x.shape[2:]))
    return y, dx[:, :, inside[0], inside[1]], dw, g


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 3e-6), (np.float64, 1e-14)])
def test_depthwise_convolution_and_its_adjoints(seed, dtype, tolerance):
    x, w, bias, window = drawn(seed)
    draw = np.random.default_rng(seed + 100).standard_normal
    y, dx, dw, g = oracle(x, w, bias, draw, *window)
    x, w, bias, g = (a.astype(dtype) for a in (x, w, bias, g))
    found = (cpu.conv2d(x, w, bias, *window), cpu.conv2d_input_grad(g, w, x.shape, *window),
             cpu.conv2d_weight_grad(g, x, w.shape, *window))  # fmt: skip
    for want, got in zip((y, dx, dw), found, strict=True):
        assert got.dtype == dtype
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def test_depthwise_gradients_do_not_depend_on_the_threads():
    x, w, bias, window = drawn(3)
    g = np.random.default_rng(0).standard_normal(cpu.conv2d(x, w, bias, *window).shape)
    before, found = config.threads(), []
    try:
        for threads in (1, 2, 3):
            config.set_num_threads(threads)
            found.append((cpu.conv2d_input_grad(g, w, x.shape, *window).tobytes(),
                          cpu.conv2d_weight_grad(g, x, w.shape, *window).tobytes()))  # fmt: skip
    finally:
        config.set_num_threads(before)
    assert found == found[:1] * 3


@pytest.mark.parametrize("body", [depthwise._forward, depthwise._weight_grad])
def test_a_made_kernel_compiles_within_two_seconds(body, tmp_path, monkeypatch):
    """The largest one; the first try also loads the compiler."""
    seconds = []
    for attempt in range(4):
        monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / str(attempt)))
        made = depthwise._special.__wrapped__(body, 7, 2, 1)
        start = time.process_time()
        made.address("f4")
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2, seconds


def test_channels_by_powers_of_two_are_as_others():
    """Where a row goes through memory of its own, for the cache's sake, the bits stay."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 512, 5, 24)), rng.standard_normal((512, 1, 3, 3))
    bias, window = rng.standard_normal(512), ((1, 1), (1, 1), (1, 1))
    whole = cpu.conv2d(x, w, bias, *window, 512)
    part = cpu.conv2d(x[:, :480], w[:480], bias[:480], *window, 480)
    np.testing.assert_array_equal(whole[:, :480], part)
