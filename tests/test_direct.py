"""Convolution by panels on the CPU: against windows in float64, drawn shapes, how work is cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
import minidl.functional as F
from minidl import config
from minidl.backend import cpu
from minidl.backend.cpu import conv

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
NEAR = st.sampled_from(
    [1, 3, 15, 16, 17, 31, 32, 33, 50]
)  # channels about one panel, two and three


def oracle(x, w, g, stride, padding, dilation, groups):
    """The convolution, and its adjoints at a function g of its shape, tap by tap."""
    wide = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    n, k, (r, s) = len(x), len(w), w.shape[2:]
    out = [(m - d * (t - 1) - 1) // q + 1
           for m, t, q, d in zip(wide.shape[2:], (r, s), stride, dilation)]  # fmt: skip
    y, dx, dw = np.zeros((n, k, *out)), np.zeros_like(wide), np.zeros_like(w)
    g, taps = g(y.shape), w.reshape(groups, k // groups, -1, r, s)
    for a, b in np.ndindex(r, s):
        rows, columns = (slice(i * d, i * d + q * (m - 1) + 1, q)
                         for i, d, q, m in zip((a, b), dilation, stride, out))  # fmt: skip
        part = wide[:, :, rows, columns].reshape(n, groups, -1, *out)
        of = g.reshape(n, groups, -1, *out)
        y += np.einsum("ngchw,gkc->ngkhw", part, taps[..., a, b]).reshape(y.shape)
        back = np.einsum("ngkhw,gkc->ngchw", of, taps[..., a, b])
        dx[:, :, rows, columns] += back.reshape(n, -1, *out)
        dw[:, :, a, b] = np.einsum("ngkhw,ngchw->gkc", of, part).reshape(k, -1)
    inside = [slice(p, p + m) for p, m in zip(padding, x.shape[2:])]
    return g, y, dx[:, :, inside[0], inside[1]], dw


def passes(x, w, bias, g, window):
    """The three passes of the backend."""
    return (cpu.conv2d(x, w, bias, *window), cpu.conv2d_input_grad(g, w, x.shape, *window),
            cpu.conv2d_weight_grad(g, x, w.shape, *window))  # fmt: skip


@given(
    n=st.integers(1, 3), c=NEAR, k=NEAR, groups=st.integers(1, 2), taps=PAIRS, stride=PAIRS,
    dilation=PAIRS, padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    more=st.tuples(st.integers(0, 12), st.integers(0, 12)), biased=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]), seed=st.integers(0, 99),
)  # fmt: skip
def test_all_passes_at_any_size(
    n, c, k, groups, taps, stride, dilation, padding, more, biased, dtype, seed
):
    rng = np.random.default_rng(seed)
    h, w = (d * (t - 1) + 1 + m for d, t, m in zip(dilation, taps, more))
    x = rng.standard_normal((n, c * groups, h, w))
    weights, bias = rng.standard_normal((k * groups, c, *taps)), rng.standard_normal(k * groups)
    window = (stride, padding, dilation, groups)
    g, *wanted = oracle(x, weights, rng.standard_normal, *window)
    wanted[0] += bias[:, None, None] * biased
    given = [a.astype(dtype) for a in (x, weights, bias, g)]
    found = passes(given[0], given[1], given[2] if biased else None, given[3], window)
    bound = 40 * np.finfo(dtype).eps
    for want, got in zip(wanted, found, strict=True):
        assert got.dtype == dtype and got.shape == want.shape
        assert np.abs(got - want).max() <= bound * max(np.abs(want).max(), 1)


@pytest.mark.parametrize("n, c, h, w, k", [
    (1, 20, 64, 300, 24), (5, 33, 17, 9, 40), (16, 40, 7, 7, 16), (61, 16, 1, 5, 33),
    (300, 8, 1, 1, 8),
])  # fmt: skip
def test_windows_of_one_pixel(n, c, h, w, k):
    """Enough pixels to go by panels, in rows that need not be a picture's."""
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((n, c, h, w)), rng.standard_normal((k, c, 1, 1))
    window = ((1, 1), (0, 0), (1, 1), 1)
    g, *wanted = oracle(x, weights, rng.standard_normal, *window)
    for want, got in zip(wanted, passes(x, weights, None, g, window), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())
    before, seen = config.threads(), []
    try:
        for threads in (1, 2, 3):
            config.set_num_threads(threads)
            seen.append(passes(x, weights, None, g, window))
    finally:
        config.set_num_threads(before)
    assert all((a == b).all() for other in seen for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("shape", [(1, 64, 512, 512), (16, 64, 7, 7), (2, 64, 1, 900)])
def test_one_large_picture_is_shared_out(shape):
    """A regression: its pixels were one row, of one thread, and copied all at once."""
    v, cut = conv._in_rows(conv._sizes(shape, (8, 64, 1, 1), (1, 1), (0, 0), (1, 1), 1))
    assert v.n * v.h * v.w == shape[0] * shape[2] * shape[3]
    assert cut.total >= min(8, shape[0] * shape[2]) and cut.room <= 1 << 17


@pytest.mark.parametrize("groups, c, k, taps", [(4, 8, 8, (1, 1)), (4, 4, 4, (3, 1)),
                                                (2, 1, 8, (4, 1)), (3, 5, 16, (2, 1))])  # fmt: skip
def test_groups_whose_outputs_fill_panels(groups, c, k, taps):
    """Windows one column wide were taken for those of a picture's colours: memory was overrun."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, c * groups, 9, 7))
    weights, window = rng.standard_normal((k * groups, c, *taps)), ((1, 1), (0, 0), (1, 1), groups)
    g, *wanted = oracle(x, weights, rng.standard_normal, *window)
    for want, got in zip(wanted, passes(x, weights, None, g, window), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())


@given(
    stride=PAIRS, dilation=st.tuples(st.integers(1, 5), st.integers(1, 5)), taps=PAIRS,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), groups=st.integers(1, 2),
    share=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), seed=st.integers(0, 99),
)  # fmt: skip
def test_transposed_convolution(stride, dilation, taps, padding, groups, share, seed):
    """Each pixel times the weights, where they fall; output_padding up to stride or dilation."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, 2 * groups, 3, 4)), rng.standard_normal((2 * groups, 3, *taps))
    more = tuple(int(u * max(a, d)) for u, a, d in zip(share, stride, dilation))
    sizes = [a * (m - 1) + d * (t - 1) + 1
             for m, t, a, d in zip(x.shape[2:], taps, stride, dilation)]  # fmt: skip
    if any(m + e <= 2 * p for m, e, p in zip(sizes, more, padding)):
        return
    wide = np.zeros((2, 3 * groups, *(m + e for m, e in zip(sizes, more))))
    for i, j, a, b in np.ndindex(3, 4, *taps):
        row, column = i * stride[0] + a * dilation[0], j * stride[1] + b * dilation[1]
        pixel = x[:, :, i, j].reshape(2, groups, 2)
        each = np.einsum("ngc,gck->ngk", pixel, w[..., a, b].reshape(groups, 2, 3))
        wide[:, :, row, column] += each.reshape(2, -1)
    inside = (slice(p, m - p + e) for p, m, e in zip(padding, sizes, more))
    want = wide[(slice(None), slice(None), *inside)]
    leaves = [ml.tensor(a, requires_grad=True) for a in (x, w)]
    window = (None, stride, padding, more, groups, dilation)
    y = F.conv_transpose2d(*leaves, *window)
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=0, atol=1e-12)
    g = rng.standard_normal(want.shape)
    y.backward(ml.tensor(g))
    for leaf, array in zip(leaves, (x, w)):  # linear in each: <dy/da g, a> = <g, y>
        assert leaf.grad.shape == leaf.shape
        np.testing.assert_allclose((leaf.grad.numpy() * array).sum(), (g * want).sum(), atol=1e-10)
