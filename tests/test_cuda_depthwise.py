"""Depthwise convolution for a GPU, emulated, against the CPU's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cuda_stand_in import NEEDED, agree, gpu, there
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend import cpu, cuda
from minidl.backend.cuda import depthwise

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]

HALF, SINGLE, DOUBLE = np.float16, np.float32, np.float64
CASES = [  # N, C, outputs a channel, size, taps, stride, padding, dilation; dtypes
    ((2, 16, 1, (6, 13), (3, 3), (1, 1), (1, 1), (1, 1)), HALF, SINGLE, DOUBLE),
    ((3, 8, 1, (9, 11), (3, 3), (2, 2), (1, 1), (1, 1)), HALF, SINGLE, DOUBLE),
    ((1, 7, 1, (5, 70), (3, 2), (1, 2), (0, 2), (1, 1)), SINGLE),
    ((2, 4, 1, (7, 12), (5, 5), (2, 1), (2, 4), (2, 2)), HALF),
    ((1, 40, 1, (8, 8), (7, 7), (1, 1), (3, 3), (1, 1)), SINGLE),
    ((5, 6, 1, (1, 20), (1, 4), (1, 1), (0, 3), (1, 1)), DOUBLE),
    ((2, 3, 2, (6, 7), (3, 3), (2, 1), (1, 1), (1, 1)), HALF, SINGLE, DOUBLE),
    ((1, 5, 3, (4, 9), (1, 11), (1, 3), (0, 5), (1, 1)), SINGLE),
    ((70, 8, 1, (3, 2), (2, 2), (2, 2), (0, 0), (1, 1)), HALF),
    ((0, 8, 1, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1)), SINGLE),
]


@pytest.mark.parametrize("case, dtype", [(c, d) for c, *some in CASES for d in some], ids=str)
def test_depthwise_convolution(case, dtype):
    """Forward with and without a bias, and both gradients, one by one and together."""
    n, c, share, size, taps, stride, padding, dilation = case
    rng, more = np.random.default_rng(21), (stride, padding, dilation, c)
    x = rng.standard_normal((n, *size, c)).transpose(0, 3, 1, 2)
    w = rng.standard_normal((share * c, 1, *taps))
    (y,) = agree("conv2d", dtype, x, w, rng.standard_normal(len(w)), *more)
    agree("conv2d", dtype, x, w, None, *more)
    g = rng.standard_normal(y.shape)
    agree("conv2d_input_grad", dtype, g, w, x.shape, *more)
    agree("conv2d_weight_grad", dtype, g, x, w.shape, *more)
    agree("conv2d_grads", dtype, g, x, w, *more)


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_a_weight_gradient_is_split_over_many_rows(dtype):
    """In pieces and slices of them, whose last ones are not full."""
    rng = np.random.default_rng(22)
    x, g = rng.standard_normal((2, 5, 8, 29, 34))
    agree("conv2d_weight_grad", dtype, g, x, (8, 1, 3, 3), (1, 1), (1, 1), (1, 1), 8)


def test_packs_are_read_where_they_lie_aligned_only():
    """Arrays that begin anywhere in memory, and in any layout."""
    rng = np.random.default_rng(23)
    flat = cuda.from_host(rng.standard_normal(1 + 2 * 6 * 7 * 8).astype(SINGLE))
    x = flat[1:].reshape(2, 6, 7, 8).transpose(0, 3, 1, 2)
    w = rng.standard_normal((8, 1, 3, 3)).astype(SINGLE)
    window = ((1, 1), (1, 1), (1, 1), 8)
    expected = cpu.conv2d(cuda.to_host(x), w, None, *window)
    for z in (x, cuda.contiguous(x)):
        y = cuda.to_host(cuda.conv2d(z, there(w), None, *window))
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 80), st.sampled_from([4, 8]))
def test_a_row_is_cut_into_taps_that_divide_it(taps, stride, dilation, most):
    """And whose packs fit into a thread's registers, of which 7 of stride 1 do."""
    tile, group = depthwise._cut(taps, most, stride, dilation)
    met = {j * stride + e * dilation for j in range(tile) for e in range(group)}
    assert taps % group == 0 and tile in (most, most // 2)
    assert group == 1 or group + tile + len(met) <= depthwise._PACKS and max(met) < 64
    assert (taps > 7 or stride + dilation > 2) or group == taps


@given(st.tuples(*[st.integers(1, 600)] * 3))
def test_a_block_has_threads_for_what_there_is(most):
    """All 256 if there is enough, and no more than is needed along an axis."""
    made = depthwise._shape(most, (8, 4, 8))
    assert math.prod(made) <= 256 and all(m & (m - 1) == 0 for m in made)
    assert all(m < 2 * n for m, n in zip(made, most))
    assert math.prod(made) == 256 or all(m >= n for m, n in zip(made, most))
