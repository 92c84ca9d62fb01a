"""Batch norm, pooling and convolutions for a GPU, emulated, against the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_stand_in import FLOATS, NEEDED, agree, gpu, layouts, there

from minidl.backend import cpu, cuda
from minidl.backend.cuda import conv, plans
from minidl.errors import ShapeError

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]


@FLOATS
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (5, 40, 3, 3), (600, 3), (1, 1, 6), (3, 8, 9, 20)])
def test_batch_norm(dtype, shape):
    """With and without affine vectors, an addend, a relu and a top; forward and backward."""
    rng = np.random.default_rng(15)
    c = shape[1]
    for affine in (True, False):
        for more in (None, rng.standard_normal(shape)):
            for top in (0.0, np.inf, 0.5):
                x, g = 3 + rng.standard_normal(shape), rng.standard_normal(shape)
                w, b = rng.standard_normal((2, c)) if affine else (None, None)
                y, *kept = agree("batch_norm", dtype, x, w, b, more, 1e-5, top)
                gate = np.asarray(y) if top and more is not None else None
                if top and more is None:  # where rounding cannot move the mask
                    z = cpu.batch_norm(x, w, b, None, 1e-5, 0.0)[0]
                    g *= (np.abs(z) > 1e-2) & (np.abs(z - top) > 1e-2)
                agree("batch_norm_grad", dtype, g, x, w, b, *kept, gate, 1e-5, top)


GROUPED = [  # shape, groups
    ((2, 6, 3, 3), 2), ((3, 40, 5, 5), 4), ((2, 3, 20, 30), 3), ((2, 70, 1), 1), ((5, 8), 2),
    ((1, 4, 600), 2), ((0, 4, 3, 3), 2),
]  # fmt: skip


@FLOATS
@pytest.mark.parametrize("shape, groups", GROUPED)
def test_group_norm(dtype, shape, groups):
    """Of C order and other layouts, with and without affine vectors; some cut into pieces."""
    rng = np.random.default_rng(18)
    for affine in (True, False):
        x, g = 3 + rng.standard_normal(shape), rng.standard_normal(shape)
        w, b = rng.standard_normal((2, shape[1])) if affine else (None, None)
        for z in layouts(x):
            _, *kept = agree("group_norm", dtype, z, w, b, groups, 1e-5)
        agree("group_norm_grad", dtype, g, x, w, *kept, 1e-5)


POOLS = [  # kernel, stride, padding, dilation
    ((2, 2), (2, 2), (0, 0), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((3, 2), (1, 2), (1, 0), (1, 2)),
]  # fmt: skip


@FLOATS
@pytest.mark.parametrize("window", POOLS, ids=str)
def test_pooling(dtype, window):
    kernel, stride, padding, dilation = window
    rng = np.random.default_rng(16)
    x = rng.permutation(2 * 3 * 7 * 8).reshape(2, 3, 7, 8) / 64.0  # no ties, exact in half
    if kernel == (2, 2):
        x = x[:, :, :6]
    sizes = zip(x.shape[2:], kernel, stride, padding, dilation)
    out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    y, place = agree("max_pool2d", dtype, x, *window, out)
    g = rng.standard_normal(y.shape)
    agree("max_pool2d_grad", dtype, g, place, x.shape[2:], *window)
    out = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.shape[2:], *window[:3]))
    for padded, divisor in ((True, 0), (False, 0), (True, 5)):
        more = (kernel, stride, padding)
        agree("avg_pool2d", dtype, x, *more, out, padded, divisor)
        g = rng.standard_normal((*x.shape[:2], *out))
        agree("avg_pool2d_grad", dtype, g, x.shape[2:], *more, padded, divisor)


def test_a_window_in_the_padding_has_no_largest_value():
    """-inf, and no gradient; NaN wins elsewhere."""
    x, window = np.array([[[[1.0, np.nan]]]]), ((1, 2), (1, 1), (0, 1), (1, 3))
    y, place = agree("max_pool2d", np.float32, x[..., :1], *window, (1, 1))
    agree("max_pool2d_grad", np.float32, np.ones(y.shape), place, (1, 1), *window)
    _, place = agree("max_pool2d", np.float32, x, (1, 2), (1, 1), (0, 1), (1, 1), (1, 3))
    assert np.array_equal(place, [[[[1, 1, 0]]]])


@FLOATS
@pytest.mark.parametrize("window", [*POOLS, ((2, 1), (3, 2), (1, 0), (3, 1))], ids=str)
def test_windows_as_columns(dtype, window):
    """unfold and fold of any layout, and the positions of the largest values."""
    kernel, stride, padding, dilation = window
    rng = np.random.default_rng(17)
    for shape in ((2, 3, 6, 9), (0, 3, 6, 9), (2, 0, 6, 9)):
        sizes = zip(shape[2:], *window)
        out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        x = rng.standard_normal(shape)
        for z in layouts(x):
            (y,) = agree("unfold", dtype, z, *window, out)
        g = rng.standard_normal(y.shape)
        for z in layouts(g):
            agree("fold", dtype, z, shape[2:], *window, out)
        place = rng.integers(0, kernel[0] * kernel[1], (*shape[:2], *out))
        for kind in (np.uint8, np.int32):
            for z in layouts(place.astype(kind)):
                agree("max_pool2d_indices", dtype, z, shape[2:], *window)


CONVOLUTIONS = [  # N, C, K, size, taps, stride, padding, dilation, groups
    (2, 8, 16, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (1, 3, 5, (7, 9), (3, 3), (2, 2), (1, 1), (1, 1), 1),
    (3, 16, 8, (5, 5), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    (2, 8, 136, (4, 4), (1, 1), (2, 2), (0, 0), (1, 1), 1),
    (1, 40, 8, (9, 8), (5, 3), (2, 1), (2, 0), (1, 2), 1),
    (2, 16, 32, (6, 6), (3, 3), (1, 1), (1, 1), (1, 1), 2),
    (1, 6, 9, (6, 7), (2, 2), (1, 2), (0, 1), (2, 1), 3),
    (130, 8, 8, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (1, 8, 5, (11, 9), (5, 4), (3, 2), (2, 1), (2, 3), 1),  # taps of a phase are 3 and 2 apart
    (2, 8, 8, (8, 9), (2, 1), (3, 2), (0, 0), (1, 1), 1),  # places that no tap meets
    (1, 8, 12, (9, 8), (3, 2), (2, 4), (3, 2), (1, 1), 2),
    (1, 9, 8, (5, 4), (1, 1), (2, 1), (1, 0), (1, 1), 1),
    (1, 72, 7, (4, 5), (2, 2), (1, 1), (0, 0), (1, 1), 1),
]


@FLOATS
@pytest.mark.parametrize("sizes", CONVOLUTIONS, ids=str)
def test_convolutions(dtype, sizes):
    n, c, k, size, taps, stride, padding, dilation, groups = sizes
    rng = np.random.default_rng(12)
    x, w = rng.standard_normal((n, c, *size)), rng.standard_normal((k, c // groups, *taps))
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    more = (stride, padding, dilation, groups)
    (y,) = agree("conv2d", dtype, x, w, rng.standard_normal(k), *more)
    agree("conv2d", dtype, x, w, None, *more)
    g = rng.standard_normal(y.shape)
    agree("conv2d_input_grad", dtype, g, w, x.shape, *more)
    agree("conv2d_weight_grad", dtype, g, x, w.shape, *more)


@pytest.mark.parametrize("taps", [(1, 126), (1, 127), (130, 2), (1, 260)])
def test_more_taps_than_a_kernel_knows(taps):
    """They are those of several convolutions, whose results are added."""
    rng = np.random.default_rng(15)
    size = (taps[0] + 2, taps[1] + 4)
    x, w = rng.standard_normal((2, 8, *size)), rng.standard_normal((3, 8, *taps))
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    more = ((2, 1), (1, 3), (1, 1), 1)
    for dtype in (np.float64, np.float32):
        (y,) = agree("conv2d", dtype, x, w, rng.standard_normal(3), *more)
        g = rng.standard_normal(y.shape)
        agree("conv2d_input_grad", dtype, g, w, x.shape, *more)
        agree("conv2d_weight_grad", dtype, g, x, w.shape, *more)


def test_windows_that_lie_too_far_apart(monkeypatch):
    """Distances that do not fit in 32 bits are refused, not wrapped round; large images have none.

    The reach is no less than what a drawn convolution's blocks span.
    """
    assert (
        conv._reach((1 << 15, 1 << 15), (1 << 15, 1 << 15), 3, ((1, 1), (1, 1), (1, 1))) < 1 << 18
    )
    rng = np.random.default_rng(16)
    for _ in range(300):
        h, w, taps, step, dilation = (int(rng.integers(1, top)) for top in (40, 9, 5, 6, 4))
        padding = int(rng.integers(0, taps * dilation))
        span = dilation * (taps - 1) + 1
        if h + 2 * padding < span:
            continue
        oh, n = (h + 2 * padding - span) // step + 1, 600
        begins = [(i * h + y * step - padding) * w + x
                  for i in range(n) for y in range(oh) for x in range(w)][:600]  # fmt: skip
        most = max(begins[i : i + 256][-1] - begins[i] for i in range(0, len(begins), 256))
        window = ((step, 1), (padding, 0), (dilation, 1))
        assert most + (taps - 1) * dilation * w <= conv._reach((h, w), (oh, w), taps, window)
    monkeypatch.setattr(conv, "_reach", lambda *a: 1 << 28)
    x, w = np.zeros((1, 8, 3, 3), np.float32), np.zeros((8, 8, 2, 2), np.float32)
    with pytest.raises(ShapeError, match=r"a GPU takes pixels and distances below 2\*\*31"):
        cuda.conv2d(there(x), there(w), None, (1, 1), (0, 0), (1, 1), 1)


def test_a_weight_gradient_is_split_over_many_pixels():
    rng = np.random.default_rng(13)
    for c, k in ((8, 8), (5, 3)):  # whole chunks, and padded ones
        x, g = rng.standard_normal((5, c, 20, 20)), rng.standard_normal((5, k, 20, 20))
        for dtype in (np.float32, np.float16):
            agree("conv2d_weight_grad", dtype, g, x, (k, c, 3, 3), (1, 1), (1, 1), (1, 1), 1)


def test_division_by_a_known_number():
    """The multiplier and shift divide every number below 2**31."""
    rng = np.random.default_rng(14)
    for d in (1, 2, 3, 5, 7, 10, 12, 127, 128, 129, 1000, 2**30 + 1, 2**31 - 1):
        _, m, s = plans._divisor(d)
        n = np.concatenate([rng.integers(0, 2**31, 1000), [0, d - 1, d, 2**31 - 1]])
        assert m < 2**32 and np.array_equal(((n * m >> 32) + n) >> s, n // d)
