"""Depthwise convolution for a GPU, emulated, against the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_stand_in import FLOATS, NEEDED, agree, gpu, there

from minidl.backend import cpu, cuda
from minidl.backend.cuda import depthwise

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]

CASES = [  # N, C, outputs a channel, size, taps, stride, padding, dilation
    (2, 16, 1, (6, 13), (3, 3), (1, 1), (1, 1), (1, 1)),
    (3, 8, 1, (9, 11), (3, 3), (2, 2), (1, 1), (1, 1)),
    (1, 7, 1, (5, 4), (3, 2), (1, 2), (0, 2), (1, 1)),
    (2, 4, 1, (7, 12), (5, 5), (2, 1), (2, 4), (2, 2)),
    (1, 40, 1, (8, 8), (7, 7), (1, 1), (3, 3), (1, 1)),
    (5, 6, 1, (1, 20), (1, 4), (1, 1), (0, 3), (1, 1)),
    (2, 3, 2, (6, 7), (3, 3), (2, 1), (1, 1), (1, 1)),
    (1, 5, 3, (4, 9), (1, 11), (1, 3), (0, 5), (1, 1)),
    (70, 8, 1, (2, 2), (2, 2), (2, 2), (0, 0), (1, 1)),
]


def drawn(case: tuple) -> tuple[np.ndarray, np.ndarray, tuple]:
    """x, w and the arguments behind them."""
    n, c, share, size, taps, stride, padding, dilation = case
    rng = np.random.default_rng(21)
    x = rng.standard_normal((n, *size, c)).transpose(0, 3, 1, 2)
    return x, rng.standard_normal((share * c, 1, *taps)), (stride, padding, dilation, c)


@FLOATS
@pytest.mark.parametrize("case", CASES, ids=str)
def test_depthwise_convolution(dtype, case):
    """Forward with and without a bias, and both gradients."""
    x, w, more = drawn(case)
    rng = np.random.default_rng(22)
    (y,) = agree("conv2d", dtype, x, w, rng.standard_normal(len(w)), *more)
    agree("conv2d", dtype, x, w, None, *more)
    g = rng.standard_normal(y.shape)
    agree("conv2d_input_grad", dtype, g, w, x.shape, *more)
    agree("conv2d_weight_grad", dtype, g, x, w.shape, *more)
