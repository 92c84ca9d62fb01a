"""The CUDA backend where there is no GPU: arrays, sums, rows, tables, products, updates."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cuda_stand_in import EMULATED, FLOATS, NEEDED, agree, gpu, layouts, there
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl as ml
from minidl.backend import cpu, cuda
from minidl.backend.cuda import runtime
from minidl.errors import DeviceError, DTypeError, RangeError
from simt import cupy as stand_in

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 3, 4, 5), (0, 3)])
def test_arrays_go_movedand_back(shape):
    """Values and the order of axes in memory survive; so do copies, casts and C order."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for z in layouts(x):
        y = cuda.from_host(z)
        assert y.shape == shape and (y.strides == z.strides or not x.size)
        np.testing.assert_array_equal(cuda.to_host(y), x)
        for made in (cuda.copy(y), cuda.contiguous(y), cuda.empty_like(y), cuda.full_like(y, 2)):
            assert made.shape == shape
        np.testing.assert_array_equal(cuda.to_host(cuda.copy(y)), x)
        assert cuda.copy(y).strides == cpu.copy(z).strides or not x.size
        assert cuda.contiguous(y).flags.c_contiguous
        np.testing.assert_array_equal(cuda.to_host(cuda.full_like(y, 2)), np.full(shape, 2))
        for dtype in (np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_):
            made = cuda.cast(cuda.from_host(np.abs(z)), np.dtype(dtype))
            np.testing.assert_array_equal(cuda.to_host(made), np.abs(x).astype(dtype))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tensors_are_filled_with_numbers_of_numpy_and_of_tensors(device):
    """full takes its dtype from them, as PyTorch does; full_like keeps its own."""
    x, two = ml.ones(3, device=device), ml.tensor(2, device=device)
    values = (np.int64(2), np.int64), (np.float32(2), np.float32), (two, np.int64), (2, np.int64)
    for value, kind in values:
        made, like = ml.full((3,), value, device=device), ml.full_like(x, value)
        assert made.dtype == kind and like.dtype == np.float32
        assert made.tolist() == like.tolist() == [2, 2, 2]
    for make in (lambda: ml.full((3,), x, device=device), lambda: ml.full_like(x, x)):
        with pytest.raises(ValueError, match="must be a number"):
            make()


def test_integers_are_copied_exactly():
    x = np.array([[2**62 + 1, -(2**53) - 1], [5, 2**40]])
    np.testing.assert_array_equal(cuda.to_host(cuda.copy(cuda.from_host(x.T))), x.T)
    np.testing.assert_array_equal(cuda.to_host(cuda.cast(cuda.from_host(x), np.dtype(np.int32))),
                                  x.astype(np.int32))  # fmt: skip


@FLOATS
def test_joins_and_padding(dtype):
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal((2, n, 3, 5)).astype(dtype) for n in (1, 4, 2)]
    for xs in zip(*(layouts(x) for x in parts)):
        y = cuda.cat([cuda.from_host(x) for x in xs], 1)
        np.testing.assert_array_equal(cuda.to_host(y), np.concatenate(xs, 1))
        assert y.strides == cpu.cat(xs, 1).strides
    x = parts[1]
    for widths in (((0, 0), (0, 0), (1, 2), (0, 3)), ((0, 0), (0, 0), (-1, 1), (2, -1))):
        y = cuda.pad(cuda.from_host(x), widths, 0.5)
        np.testing.assert_array_equal(cuda.to_host(y), cpu.pad(x, widths, 0.5))


@EMULATED
def test_a_copy_is_never_made_by_the_array_itself():
    """The pretended GPU refuses arithmetic and silent copies to the host."""
    x = cuda.from_host(np.ones((2, 3), np.float32))
    for use in (lambda: x + 1, lambda: np.add(x, 1), lambda: np.asarray(x), lambda: bool(x)):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(AssertionError, match="copy"):
        x.T.reshape(6)


# ---- sums and rows -------------------------------------------------------------------------------


@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    axes=st.integers(1, 15), layout=st.integers(0, 2), keep=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_sums(shape, axes, layout, keep, dtype):
    x = np.random.default_rng(2).standard_normal(shape).astype(dtype)
    x = layouts(x)[layout % len(layouts(x))]
    chosen = tuple(i for i in range(x.ndim) if axes >> i & 1)
    agree("sum", dtype, x, chosen, keep)


@pytest.mark.parametrize("shape, axes", [((3, 20001), (1,)), ((1301, 40), (0,)), ((70000,), (0,))])
def test_long_sums_are_the_same_in_any_order_of_threads(shape, axes):
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    agree("sum", np.float32, x, axes)
    agree("sum", np.float32, np.zeros((0, 3), np.float32), (0,))
    for values in (x > 0, (x * 100).astype(np.int32)):
        y = cuda.to_host(cuda.sum(cuda.from_host(values), axes))
        np.testing.assert_array_equal(y, values.sum(axes))
        assert y.dtype == np.int64


@FLOATS
@pytest.mark.parametrize("shape", [(300, 72), (3, 170, 24), (2, 1000, 8)])
def test_sums_of_columns_do_not_depend_on_where_they_lie(shape, dtype):
    """Columns are read in packs where these start at their size: the same bits as one by one."""
    x = np.random.default_rng(4).standard_normal(shape).astype(dtype)
    agree("sum", dtype, x, (len(shape) - 2,))
    behind = there(np.append(np.zeros(1, dtype), x.reshape(-1)))[1:].reshape(shape)
    sums = [cuda.to_host(cuda.sum(a, (len(shape) - 2,))) for a in (there(x), behind)]
    np.testing.assert_array_equal(*sums)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), axes=st.integers(1, 7),
    layout=st.integers(0, 1), largest=st.booleans(), keep=st.booleans(),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_extremes(shape, axes, layout, largest, keep):
    """Among many ties, infinities and NaN."""
    rng = np.random.default_rng(20)
    x = rng.choice([-np.inf, -1.0, 0.0, 0.0, 2.0, np.inf, np.nan], shape)
    x = layouts(x)[layout]
    chosen = tuple(i for i in range(x.ndim) if axes >> i & 1) or (0,)
    for dtype in (np.float32, np.float64, np.int64):
        z = np.nan_to_num(x, posinf=9, neginf=-9) if dtype == np.int64 else x
        z = z.astype(dtype)
        moved = cuda.from_host(z)
        y = cuda.to_host(cuda.extreme(moved, chosen, largest, keep))
        np.testing.assert_array_equal(y, cpu.extreme(z, chosen, largest, keep))
        for axis in (None, chosen[0], -1):
            where = cuda.to_host(cuda.argextreme(moved, axis, largest))
            np.testing.assert_array_equal(where, cpu.argextreme(z, axis, largest))


@FLOATS
@pytest.mark.parametrize("n", [1, 5, 300, 1030])
def test_softmax(dtype, n):
    rng = np.random.default_rng(4)
    x, g = 3 * rng.standard_normal((2, 3, n)), rng.standard_normal((2, 3, n))
    for axis in (-1, 1, 0) if n < 9 else (2,):
        for name in ("softmax", "log_softmax"):
            y = agree(name, dtype, x, axis)[0].astype(np.float64)
            agree(f"{name}_grad", dtype, g, y, axis)


def test_softmax_of_infinities():
    x = np.array([[-np.inf, 0.0, 1.0], [np.inf, 0, 0], [-np.inf] * 3, [np.nan, 0, 0]])
    with np.errstate(invalid="ignore"):
        agree("softmax", np.float32, x, 1)


@FLOATS
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(dtype, weighted, smoothing):
    rng = np.random.default_rng(5)
    for m, n in ((1, 2), (7, 10), (300, 3), (2, 700)):
        x, label = 2 * rng.standard_normal((m, n)), rng.integers(0, n, m)
        label[m // 2] = -100
        weight = rng.uniform(0.5, 2, n) if weighted else None
        for mean in (False, True) if m > 1 else (False,):
            given = (x, label, weight)
            _, *kept = agree("cross_entropy", dtype, *given, -100, smoothing, mean)
            g = np.asarray(rng.standard_normal(() if mean else m))
            agree("cross_entropy_grad", dtype, g, *given, *kept, -100, smoothing)


@FLOATS
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(dtype, centre, affine):
    rng = np.random.default_rng(6)
    for rows, n in ((1, 2), (5, 7), (130, 33), (3, 1000)):
        x, g = 2 + rng.standard_normal((rows, n)), rng.standard_normal((rows, n))
        w, b = rng.standard_normal((2, n)) if affine else (None, None)
        _, *kept = agree("layer_norm", dtype, x, w, b, n, 1e-5, centre)
        if n > 2:  # else all that is left of the gradient is rounding
            agree("layer_norm_grad", dtype, g, x, w, *kept, n, centre)


@FLOATS
def test_rows_of_tables(dtype):
    rng = np.random.default_rng(7)
    for rows, n, count in ((5, 3, 4), (11, 300, 700), (3, 1, 1)):
        table, index = rng.standard_normal((rows, n)), rng.integers(0, rows, (count, 2))
        agree("take_rows", dtype, table, index)
        g = rng.standard_normal((count, 2, n))
        agree("add_rows", dtype, g, index, rows)
        agree("add_rows", dtype, g, index, rows, 1)


def test_indices_out_of_range_are_reported_when_values_are_read():
    """Nothing is read outside the table; the next value read on the host raises, and once."""
    table = cuda.from_host(np.ones((4, 3), np.float32))
    for wrong in (4, -1, 2**40):
        index = cuda.from_host(np.array([0, wrong, 2]))
        cuda.check_indices("embedding", index, 4)
        y = cuda.take_rows(table, index)
        with pytest.raises(RangeError, match=rf"embedding: .* lie in \[0, 4\); got index {wrong}"):
            cuda.to_host(y)
        np.testing.assert_array_equal(cuda.to_host(y), [[1] * 3, [0] * 3, [1] * 3])
    cuda.check_indices("nll", cuda.from_host(np.array([1, -100])), 4, -100)
    cuda.to_host(table)
    with pytest.raises(DTypeError, match="must be integers"):
        cuda.check_indices("nll", table, 4)


# ---- products ------------------------------------------------------------------------------------


@FLOATS
def test_products(dtype):
    rng = np.random.default_rng(8)
    for a, b in (
        ((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((3, 0), (0, 2)),
        ((1, 4), (4, 1)), ((6, 2, 3, 4), (4, 2)),
    ):  # fmt: skip
        x, y = rng.standard_normal(a), rng.standard_normal(b)
        for u in (x, np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2), x[..., ::-1, :]):
            for v in (y, np.ascontiguousarray(y.swapaxes(-1, -2)).swapaxes(-1, -2)):
                agree("matmul", dtype, u, v)
        agree("matmul", dtype, x, y, rng.standard_normal(b[-1]))
    agree("linear", dtype, rng.standard_normal((2, 3, 4)), rng.standard_normal((5, 4)), None)
    with pytest.raises(DTypeError, match="floats only"):
        cuda.matmul(*[cuda.from_host(np.ones((2, 2), np.int64))] * 2)


def test_updates():
    """One optimizer kernel over more rows than a launch takes, of many sizes and layouts."""
    rng = np.random.default_rng(11)
    shapes = [(n,) for n in range(1, 50)] + [(70, 70), (3, 4, 2, 2)]
    model = [ml.tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]
    for p in model:
        p.grad = ml.tensor(rng.standard_normal(p.shape))
    seen: list[tuple] = []
    update = cpu.update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "update", lambda *a: (seen.append(a), update(*a))[1])
        before = [np.array(p.array) for p in model]
        ml.optim.AdamW(model, lr=0.1).step()
    ((program, rows, scalars, inplace),) = seen
    grads = [p.grad.array for p in model]
    fresh = [[b, g, *map(np.zeros_like, row[2:])] for b, g, row in zip(before, grads, rows)]
    ours = [list(map(there, row)) for row in fresh]
    cuda.update(program, ours, scalars, inplace)
    for row, expected in zip(ours, rows, strict=True):
        for k in inplace:
            np.testing.assert_allclose(cuda.to_host(row[k]), expected[k], rtol=1e-12, atol=1e-14)


# ---- without a GPU -------------------------------------------------------------------------------


@EMULATED
def test_no_device_says_what_is_missing(monkeypatch):
    """Neither CuPy nor a GPU, or one that lacks what kernels need: an error that names the fix."""

    def refused() -> int:
        raise stand_in.CUDARuntimeError("cudaErrorInsufficientDriver: the driver is too old")

    fix = "CuPy is made for CUDA 13.0: nvidia-smi shows the driver's"
    for count, words in ((refused, f"no GPU can be used .*the driver is too old.; {fix}"),
                         (lambda: 0, "no GPU is there; use device='cpu'")):  # fmt: skip
        monkeypatch.setattr(stand_in.cuda.runtime, "getDeviceCount", count)
        runtime.cupy.cache_clear()
        with pytest.raises(DeviceError, match=f"cuda: {words}"):
            cuda.empty((2,))
    monkeypatch.undo()
    monkeypatch.setattr(stand_in.cuda.runtime, "getDeviceProperties", lambda device: {"major": 7})
    with pytest.raises(DeviceError, match="older than Ampere .* use device='cpu'"):
        cuda.empty((2,))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match="cuda: CuPy is not installed; pip install 'minidl"):
        cuda.empty((2,))
    monkeypatch.undo()
    runtime.cupy.cache_clear()
    assert cuda.empty((2,)).shape == (2,)


@EMULATED
def test_a_full_memory_says_what_fills_it(monkeypatch):
    """What was asked for, what is free, the largest tensors."""
    kept = cuda.zeros((1234, 3))
    monkeypatch.setattr(stand_in, "limit", [100_000])
    words = r"out of memory: \(50000,\) float32, 200,000 bytes, .*; 7 of 11 are free and 5 idle .*"
    with pytest.raises(DeviceError, match=words + r"tensors: .*\(1234, 3\) float32"):
        cuda.empty((50_000,))
    assert kept.shape == (1234, 3)
