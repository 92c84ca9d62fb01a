"""Kernels that take 16 bytes at a time, emulated: ways of sharing rows out, against the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_stand_in import NEEDED, agree, gpu

from minidl.backend import cpu, cuda
from minidl.backend.cuda import norm, rows

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]

# Rows that a block reads in parts, and half types held by a warp; test_cuda.py has others.
LENGTHS = [(np.float32, 4100), (np.float16, 1024)]


def misaligned(x: np.ndarray) -> Any:
    """The array on the GPU, channels-last, from an address that is no multiple of 16."""
    order = [0, 2, 3, 1] if x.ndim == 4 else range(x.ndim)
    flat = x.transpose(order).reshape(-1)
    there = cuda.from_host(np.concatenate([flat[:1], flat]))[1:]
    return there.reshape([x.shape[i] for i in order]).transpose(np.argsort(order).tolist())


def test_cuts():
    """Packs only of whole rows that start at multiples of them; held as long as a block can."""
    x, y = (cuda.from_host(np.ones((2, 8), t)) for t in (np.float16, np.float64))
    assert str(rows.cut_of(8, [x, x])) == "Cut<8, 8, 32, true>"
    assert rows.cut_of(9, [x]) == (1, 8, 32, True)
    assert rows.cut_of(1024, [x]) == (8, 32, 32, True)
    assert rows.cut_of(1023, [x]) == (1, 16, 256, True)
    assert rows.cut_of(4096, [x]) == (8, 16, 256, True)
    assert rows.cut_of(1024, [y]) == (2, 8, 256, True)
    assert rows.cut_of(2050, [y]) == (2, 8, 256, False)
    assert rows.cut_of(4104, [x]) == (8, 16, 256, False)
    assert rows.cut_of(8, [x, misaligned(np.ones((2, 8), np.float16))]).wide == 1
    for n in range(0, 5000, 7):
        cut = rows.cut_of(n, [x])
        assert cut.each <= 16 * cut.wide and (not cut.held or n <= cut.team * cut.each)


@pytest.mark.parametrize("dtype, n", LENGTHS)
def test_softmax_and_cross_entropy(dtype, n):
    rng = np.random.default_rng(0)
    x, g = (3 * rng.standard_normal((2, 3, n))).astype(dtype).astype(np.float64)
    agree("softmax_grad", dtype, g, *agree("softmax", dtype, x, 1), 1)
    label, weight = np.array([n - 1, -100, 1]), rng.uniform(0.5, 2, n)
    _, *rest = agree("cross_entropy", dtype, x, label, weight, -100, 0.1, False)
    agree("cross_entropy_grad", dtype, g[:, 0], x, label, weight, *rest, -100, 0.1)


def test_a_long_row_of_infinities():
    """Where most threads, or all, have only -inf; where NaN is, the row is NaN."""
    x = np.full((4, 4100), -np.inf)
    x[0, 4099], x[1, 3], x[2, 7:10] = 1, np.inf, (5, np.nan, 6)
    with np.errstate(invalid="ignore"):
        agree("softmax", np.float32, x, 1)


@pytest.mark.parametrize("dtype, n", LENGTHS)
def test_layer_norm(dtype, n, monkeypatch):
    """With several rows a team, the last of them fewer than teams."""
    monkeypatch.setattr(norm, "_BLOCKS", 1)
    rng = np.random.default_rng(1)
    x, g = 2 + rng.standard_normal((2, 5, n))
    w, b = rng.standard_normal((2, n))
    _, *statistics = agree("layer_norm", dtype, x, w, b, n, 1e-5, True)
    agree("layer_norm_grad", dtype, g, x, w, *statistics, n, True)


@pytest.mark.parametrize("dtype, c", [(np.float32, 8), (np.float16, 8)])
def test_max_pool_of_packs(dtype, c):
    """Windows of 4, 6 and 9, beside each other, apart and overlapping, with many ties."""
    rng = np.random.default_rng(3)
    x = rng.integers(-9, 9, (2, c, 7, 9)) / 8.0
    for window in (
        ((2, 2), (2, 2), (0, 0), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1)),
        ((2, 3), (3, 1), (1, 1), (3, 2)),
    ):  # fmt: skip
        sizes = zip(x.shape[2:], *window)
        out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        y, place = agree("max_pool2d", dtype, x, *window, out)
        agree("max_pool2d_grad", dtype, rng.standard_normal(y.shape), place, (7, 9), *window)


def test_rows_added_in_packs():
    """Runs within pieces, over two and over many of them; rows that nothing is added to."""
    rng, dtype, n = np.random.default_rng(4), np.float16, 16
    for count, table in ((37, 90), (330, 9), (700, 2)):
        index, g = rng.integers(0, table, count), rng.standard_normal((count, n))
        agree("add_rows", dtype, g, index, table + 3, 1)


def test_arrays_that_are_not_aligned():
    """The same results from addresses that are no multiple of 16."""
    rng = np.random.default_rng(5)
    x, g = rng.standard_normal((2, 4, 8, 6, 6)).astype(np.float32)
    window = ((2, 2), (2, 2), (0, 0), (1, 1))

    def close(name: str, arrays: tuple, *more: Any) -> None:
        wide = [a.astype(np.float64) for a in arrays]
        expected = getattr(cpu, name)(*wide, *more)
        got = getattr(cuda, name)(*map(misaligned, arrays), *more)
        pairs = zip(got, expected) if isinstance(got, tuple) else [(got, expected)]
        for y, z in pairs:
            np.testing.assert_allclose(cuda.to_host(y), z, rtol=1e-5, atol=1e-5)

    rows_of = x[0].reshape(-1, 36)
    close("softmax", (rows_of,), -1)
    close("layer_norm", (rows_of, rows_of[0], rows_of[1]), 36, 1e-5, True)
    close("batch_norm", (x, x[0, :, 0, 0], x[1, :, 0, 0]), None, 1e-5, False)
    close("max_pool2d", (x,), *window, (3, 3))
    y = cuda.add_rows(misaligned(g[0, 0, :, :4]), cuda.from_host(np.arange(6)), 6)
    np.testing.assert_array_equal(cuda.to_host(y), g[0, 0, :, :4])
