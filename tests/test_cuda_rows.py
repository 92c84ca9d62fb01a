"""Kernels that take 16 bytes at a time, emulated: ways of sharing rows out, against the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_stand_in import EPS, NEEDED, agree, gpu, layouts, there

from minidl.backend import cpu, cuda
from minidl.backend.cuda import norm, plans, rows, runtime

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]
BFLOAT16 = pytest.importorskip("ml_dtypes").bfloat16

# Rows that a block reads in parts, in packs and not; half types held by a warp. test_cuda.py has
# others.
LENGTHS = [(np.float32, 4100), (np.float64, 2051), (np.float16, 1024), (BFLOAT16, 40)]
HELD = [(np.float32, 400), (np.float64, 1026), (np.float16, 1030)]  # by two warps, by eight


@pytest.fixture(autouse=True)
def coarser(monkeypatch):
    """bfloat16, as many of its roundings allowed as of float16's."""
    monkeypatch.setitem(EPS, BFLOAT16, 8 * EPS[np.float16])


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


@pytest.mark.parametrize("dtype, n", LENGTHS + HELD)
def test_layer_norm(dtype, n, monkeypatch):
    """With several rows a team, the last of them fewer than teams."""
    monkeypatch.setattr(norm, "_BLOCKS", 1)
    rng = np.random.default_rng(1)
    x, g = 2 + rng.standard_normal((2, 5, n))
    w, b = rng.standard_normal((2, n))
    _, *statistics = agree("layer_norm", dtype, x, w, b, n, 1e-5, True)
    agree("layer_norm_grad", dtype, g, x, w, *statistics, n, True)


@pytest.mark.parametrize("dtype, shape", [
    (np.float32, (2, 132, 7, 11)), (np.float32, (3, 128, 3)), (np.float32, (16, 1, 32, 34)),
    (BFLOAT16, (2, 264, 7, 11)),
])  # fmt: skip
def test_norms_by_columns(dtype, shape):
    """Of one block and more, the last not full; rows of many pieces; one channel in all columns."""
    rng, groups = np.random.default_rng(2), 1 if shape[1] % 3 else 3
    x, g, more = 2 + rng.standard_normal((3, *shape))
    w, b = rng.uniform(0.5, 2, (2, shape[1]))
    _, *statistics = agree("group_norm", dtype, x, w, b, groups, 1e-5)
    agree("group_norm_grad", dtype, g, x, w, *statistics, 1e-5)
    y, *statistics = agree("batch_norm", dtype, x, w, b, more, 1e-5, np.inf)
    agree("batch_norm_grad", dtype, g, x, w, b, *statistics, y, 1e-5, True)


@pytest.mark.parametrize("dtype, c", [(np.float32, 8), (np.float16, 16), (BFLOAT16, 8)])
def test_max_pool_of_packs(dtype, c):
    """Windows of 4 to 21, overlapping, apart, with and without gaps, with many ties and NaN."""
    rng = np.random.default_rng(3)
    x = rng.integers(-9, 9, (2, c, 7, 9)) / 8.0
    x[rng.random(x.shape) < 0.05] = np.nan
    x[:, :2, :3, :3] = -np.inf
    for window in (
        ((2, 2), (2, 2), (0, 0), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1)),
        ((2, 3), (3, 1), (1, 1), (3, 2)), ((7, 3), (7, 3), (0, 0), (1, 1)),
    ):  # fmt: skip
        sizes = zip(x.shape[2:], *window)
        out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        y, place = agree("max_pool2d", dtype, x, *window, out)
        agree("max_pool2d_grad", dtype, rng.standard_normal(y.shape), place, (7, 9), *window)


FIND = """
struct Sizes {
    Divisor h, w, c;
};
extern "C" __global__ void find(long long* found, long long i, const Sizes by) {
    const Place at(i, by.h, by.w, by.c);
    const long long h = by.h.d, w = by.w.d, c = by.c.d;
    found[0] = ((static_cast<long long>(at.image) * h + at.y) * w + at.x) * c + at.c;
    found[1] = at.y < h && at.x < w && at.c < c && at.y >= 0 && at.x >= 0 && at.c >= 0;
}"""


def test_places_beyond_32_bits():
    """A thread of pooling finds its pixel and channel by its number, of any size."""
    find = runtime.compiled(runtime.text_of("pool.cu") + FIND, "find")
    found = cuda.empty((2,), np.int64)
    for i in (0, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40 + 12345):
        runtime.launch(find, 1, found, i, plans.struct((), (7, 300, 1024)), threads=1)
        np.testing.assert_array_equal(cuda.to_host(found), [i, 1])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, BFLOAT16])
def test_rows_added_in_packs(dtype):
    """Runs within pieces, over two and over many of them; rows that nothing is added to."""
    rng, n = np.random.default_rng(4), 16
    for count, table in ((37, 90), (330, 9), (700, 2)):
        index, g = rng.integers(0, table, count), rng.standard_normal((count, n))
        agree("add_rows", dtype, g, index, table + 3, 1)


WINDOW = ((2, 2), (2, 2), (0, 0), (1, 1))


def calls() -> list[tuple]:
    """Functions that take packs, with float32 arguments whose rows are whole packs."""
    rng = np.random.default_rng(5)
    x, g, more = rng.standard_normal((3, 4, 8, 6, 6))
    w, b = x[0, :, 0, 0], g[0, :, 0, 0]
    flat, along, label = x.reshape(32, 36), g.reshape(32, 36), rng.integers(0, 36, 32)
    label[3] = -100
    weight, bias = rng.uniform(0.5, 2, (2, 36))
    norms = cpu.layer_norm(flat, weight, bias, 36, 1e-5, True)
    batch = cpu.batch_norm(x, w, b, more, 1e-5, np.inf)
    losses = cpu.cross_entropy(flat, label, weight, -100, 0.1, False)
    pooled, place = cpu.max_pool2d(x, *WINDOW, (3, 3))
    found = [
        ("softmax", flat, -1), ("softmax_grad", along, cpu.softmax(flat, -1), -1),
        ("log_softmax", flat, -1), ("log_softmax_grad", along, cpu.log_softmax(flat, -1), -1),
        ("cross_entropy", flat, label, weight, -100, 0.1, False),
        ("cross_entropy_grad", along[:, 0], flat, label, weight, *losses[1:], -100, 0.1),
        ("layer_norm", flat, weight, bias, 36, 1e-5, True),
        ("layer_norm_grad", along, flat, weight, *norms[1:], 36, True),
        ("batch_norm", x, w, b, more, 1e-5, np.inf),
        ("batch_norm_grad", g, x, w, b, *batch[1:], batch[0], 1e-5, np.inf),
        ("max_pool2d", x, *WINDOW, (3, 3)),
        ("max_pool2d_grad", g[:, :, :3, :3], place, (6, 6), *WINDOW),
        ("add_rows", along, rng.integers(0, 9, 32), 9, 1),
    ]  # fmt: skip
    return [tuple(map(single, call)) for call in found]


def single(a: Any) -> Any:
    """float64 arrays as float32, anything else as it is."""
    return a.astype(np.float32) if getattr(a, "dtype", None) == np.float64 else a


def close(name: str, args: tuple, given: list) -> None:
    """The CUDA function of `given` gives what the CPU's does of the same `args` in float64."""
    wide = [a.astype(np.float64) if getattr(a, "dtype", None) == np.float32 else a for a in args]
    expected, got = getattr(cpu, name)(*wide), getattr(cuda, name)(*given)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for y, z in pairs:
        np.testing.assert_allclose(cuda.to_host(y), z, rtol=1e-5, atol=1e-5)


def test_arrays_that_are_not_aligned():
    """The same results if one array, each in turn, starts at no multiple of 16 bytes."""
    for name, *args in calls():
        for a in args:
            if isinstance(a, np.ndarray):
                close(name, args, [misaligned(b) if b is a else there(b) for b in args])


def test_rows_that_do_not_lie_side_by_side():
    """The same results from every second column of an array, and from transposed memory."""

    def spread(a: Any) -> Any:  # what is of one axis may be a row's statistics, which are dense
        return cuda.from_host(np.repeat(a, 2, -1))[..., ::2] if np.ndim(a) > 1 else there(a)

    for name, *args in calls():
        close(name, args, list(map(spread, args)))
        turned = [layouts(a)[1] if np.ndim(a) > 1 else a for a in args]
        close(name, args, list(map(there, turned)))


def test_no_rows():
    """Empty arrays, of no rows or of rows of no elements."""
    for shape in ((0, 8), (3, 0)):
        x, w = np.zeros(shape), np.zeros(shape[1])
        for name in ("softmax", "log_softmax"):
            agree(name, np.float32, x, 1)
            agree(f"{name}_grad", np.float32, x, x, 1)
        label = np.zeros(0, np.int64)
        if shape[1]:
            _, *kept = agree("cross_entropy", np.float32, x, label, w, -100, 0.1, False)
            agree("cross_entropy_grad", np.float32, x[:, 0], x, label, w, *kept, -100, 0.1)
            _, *kept = agree("layer_norm", np.float32, x, w, w, 8, 1e-5, True)
            agree("layer_norm_grad", np.float32, x, x, w, *kept, 8, True)
    x = np.zeros((0, 8, 4, 4))
    y, place = agree("max_pool2d", np.float32, x, *WINDOW, (2, 2))
    agree("max_pool2d_grad", np.float32, y, place, (4, 4), *WINDOW)
