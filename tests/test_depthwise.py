"""Depthwise convolution's kernels: against sums over taps in float64, drawn shapes, any threads."""

import time

import numpy as np
import pytest

from minidl import config
from minidl.backend import cpu
from minidl.backend.cpu import depthwise, jit


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


def agree(x, w, bias, window, dtype):
    """All passes agree with the oracle: both adjoints one by one and in one pass."""
    y, dx, dw, g = oracle(x, w, bias, np.random.default_rng(100).standard_normal, *window)
    x, w, bias, g = (a.astype(dtype) for a in (x, w, bias, g))
    found = (cpu.conv2d(x, w, bias, *window), cpu.conv2d_input_grad(g, w, x.shape, *window),
             cpu.conv2d_weight_grad(g, x, w.shape, *window),
             *cpu.conv2d_grads(g, x, w, *window))  # fmt: skip
    for want, got in zip((y, dx, dw, dx, dw), found, strict=True):
        assert got.dtype == dtype
        assert np.abs(got - want).max() <= 25 * np.finfo(dtype).eps * np.abs(want).max()


@pytest.mark.parametrize("near", [0, depthwise.NEAR])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_depthwise_convolution_and_its_adjoints(seed, dtype, near, monkeypatch):
    """near 0: results go past the cache."""
    monkeypatch.setattr(depthwise, "NEAR", near)
    agree(*drawn(seed), dtype)


@pytest.mark.parametrize("n, c, size, taps, padding", [
    (2, 2 * depthwise.WIDE + 17, (5, 6), (3, 3), (1, 1)),
    (1, 17, (4, 13), (2, 11), (1, 5)),  # taps by one
    (1, 16, (4, 30), (2, 20), (0, 6)),  # and by five
    (2 * depthwise.PARTS + 3, 3, (2, 5), (1, 3), (0, 1)),  # spans of three images, one of one
    (2, 24, (6, 9), (3, 3), (1, 1)),  # half a line of channels
    (2, 5, (3, 4), (1, 3), (2, 5)),  # padding beyond the taps
])  # fmt: skip
@pytest.mark.parametrize("stride, dilation", [((1, 1), (1, 1)), ((2, 1), (1, 2))])
def test_sizes_that_are_not_drawn(n, c, size, taps, padding, stride, dilation, monkeypatch):
    """More than WIDE channels, one group of taps in a row, or one image in a span."""
    monkeypatch.setattr(depthwise, "NEAR", 0)
    rng = np.random.default_rng(c)
    x, w = rng.standard_normal((n, c, *size)), rng.standard_normal((c, 1, *taps))
    agree(x, w, rng.standard_normal(c), (stride, padding, dilation, c), np.float32)


@pytest.mark.parametrize("seed, padding", [*((seed, None) for seed in range(4)), (0, (30, 50))])
def test_scratch_memory_may_hold_anything_and_is_not_overrun(seed, padding, monkeypatch):
    """By one thread; padding may reach beyond all taps."""
    made, guard = [], 1 << 14

    def guarded(shape, dtype):
        made.append(np.full(shape[0] + 2 * guard, np.nan, dtype))
        return made[-1][guard:-guard]

    monkeypatch.setattr(jit, "empty", guarded)
    *arrays, (stride, drawn_padding, *more) = drawn(seed)
    before = config.threads()
    try:
        config.set_num_threads(1)
        agree(*arrays, (stride, padding or drawn_padding, *more), np.float64)
    finally:
        config.set_num_threads(before)
    assert len(made) == 4
    for memory in made:
        assert np.isnan(memory[:guard]).all() and np.isnan(memory[-guard:]).all()


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


@pytest.mark.parametrize("c", [16, 20, 32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_result_past_the_cache_is_the_same(c, dtype, monkeypatch):
    """Whole lines or not; in every row its bits are those of one that stays in the cache."""
    rng = np.random.default_rng(c)
    x, w = (rng.standard_normal(s).astype(dtype) for s in ((3, c, 40, 40), (c, 1, 3, 3)))
    window, found = ((1, 1), (1, 1), (1, 1), c), []
    for near in (0, 1 << 60):
        monkeypatch.setattr(depthwise, "NEAR", near)
        found.append([cpu.conv2d(x, w, None, *window), *cpu.conv2d_grads(x, x, w, *window)])
    for past, kept in zip(*found, strict=True):
        np.testing.assert_array_equal(past, kept)


@pytest.mark.parametrize("grads", [False, True])
def test_a_made_kernel_compiles_within_two_seconds(grads, tmp_path, monkeypatch):
    """The largest one; the first try also loads the compiler."""
    seconds = []
    for attempt in range(4):
        monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / str(attempt)))
        made = depthwise._special.__wrapped__(grads, 9, 2, 1)
        start = time.process_time()
        made.address("f4")
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2, seconds


def test_channels_by_powers_of_two_are_as_others():
    """Pixels of the copy lie an odd number of blocks apart; the bits are the same."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 512, 5, 24)), rng.standard_normal((512, 1, 3, 3))
    bias, window = rng.standard_normal(512), ((1, 1), (1, 1), (1, 1))
    whole = cpu.conv2d(x, w, bias, *window, 512)
    part = cpu.conv2d(x[:, :480], w[:480], bias[:480], *window, 480)
    np.testing.assert_array_equal(whole[:, :480], part)
