"""Indexing, order and running sums for a GPU, emulated, against NumPy and the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_stand_in import EPS, FLOATS, NEEDED, agree, gpu, layouts, there
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl as ml
import minidl.functional as F
from minidl import config
from minidl.backend import cpu, cuda
from minidl.backend.cuda import runtime
from minidl.errors import GraphError, RangeError, ShapeError

__all__ = ["gpu"]  # the fixture
ORDERED = [np.float32, np.float64, np.float16, np.int8, np.uint16, np.int64, np.uint64, np.bool_]
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]


# ---- order and running sums ----------------------------------------------------------------------


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Values with many ties, extremes of the type, and what floats have besides numbers."""
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if np.issubdtype(dtype, np.integer):
        ends = np.iinfo(dtype)
        return rng.choice(np.array([ends.min, ends.max, 0, 1, 2, ends.max // 2], dtype), shape)
    tiny = np.finfo(dtype).smallest_subnormal
    some = [np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, tiny, -tiny, 1, -1, 2.5]
    x = rng.choice(np.array(some, dtype), shape)
    return np.where(rng.random(shape) < 0.4, rng.standard_normal(shape).astype(dtype), x)


@pytest.mark.parametrize("dtype", ORDERED)
def test_order(dtype):
    """Bit for bit the CPU's, in both directions, with NaN, infinities, denormals and both zeros."""
    rng = np.random.default_rng(0)
    shapes = [(3, 70), (2, 3, 4), (1,), (2,), (5, 3), (0,), (3, 0), (0, 3)]
    for shape in shapes[: 8 if dtype == np.float32 else 2]:
        x = drawn(rng, shape, dtype)
        for axis in range(-1, x.ndim):
            for z in layouts(x):
                for descending in (False, True):
                    y = cuda.to_host(cuda.argsort(cuda.from_host(z), axis, descending))
                    assert y.dtype == np.int64
                    np.testing.assert_array_equal(y, cpu.argsort(x, axis, descending))


@pytest.mark.parametrize("shape", [(3, 1024), (2, 1025), (2, 2500), (1, 4600), (70, 33)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_of_rows_longer_than_a_block_sorts(shape, dtype):
    """Whole and broken runs, with one or several passes behind the first."""
    x = drawn(np.random.default_rng(1), shape, dtype)
    for descending in (False, True):
        y = cuda.to_host(cuda.argsort(cuda.from_host(x), -1, descending))
        np.testing.assert_array_equal(y, cpu.argsort(x, -1, descending))


@FLOATS
def test_running_sums(dtype):
    rng = np.random.default_rng(2)
    shapes = ((1,), (33,), (3, 512), (2, 513), (2, 1700), (9, 3, 2), (0, 3), (3, 0))
    for shape in shapes:
        for x in layouts(rng.standard_normal(shape)):
            for axis in range(-1, x.ndim):
                agree("cumsum", dtype, x, axis)


def test_long_running_sums():
    """Pieces of pieces, their sums and infinities carried on; integers and bools in int64."""
    rng = np.random.default_rng(3)
    n = 512 * 512 + 700
    counts = rng.integers(0, 9, n).astype(np.uint8)
    for x in (counts, counts[:3000].astype(np.int64) << 40, counts[:1200] > 3):
        y = cuda.to_host(cuda.cumsum(cuda.from_host(x), 0))
        np.testing.assert_array_equal(y, cpu.cumsum(x, 0))
        assert y.dtype == np.int64
    x = np.ones((2, 1300), np.float32)
    x[0, 600], x[1, 7] = np.inf, np.nan
    y = cuda.to_host(cuda.cumsum(cuda.from_host(x), 1))
    np.testing.assert_array_equal(y, cpu.cumsum(x, 1))


# ---- x[key] --------------------------------------------------------------------------------------


@st.composite
def keys(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple]:
    """A shape and a key that fits it: ints, slices, None, …, masks and arrays of indices."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    kinds = draw(st.lists(st.sampled_from("int slice none array array mask plane".split()),
                          max_size=6))  # fmt: skip
    dots = draw(st.integers(0, 9))
    key: list = []
    axis = 0
    for i, kind in enumerate(kinds):
        if i == dots:  # the rest of the key takes the last axes
            key.append(Ellipsis)
            axis += draw(st.integers(0, len(shape) - axis))
        taken = {"none": 0, "plane": 2}.get(kind, 1)
        if axis + taken > len(shape):
            continue
        n = shape[axis : axis + taken]
        axis += taken
        if kind == "none":
            key.append(None)
        elif kind == "int":
            key.append(draw(st.integers(-n[0], n[0] - 1)))
        elif kind == "slice":
            key.append(slice(draw(st.none() | st.integers(-6, 6)), None, draw(st.integers(1, 3))))
        elif kind == "array":
            rows = draw(st.sampled_from([(2,), (3, 1), (3, 2), (1,)]))
            dtype = draw(st.sampled_from([np.int64, np.int32, np.int8]))
            key.append(rng.integers(-n[0], n[0], rows).astype(dtype))
        else:  # as many places as indices have, or one
            mask = np.zeros(n, bool)
            mask.reshape(-1)[rng.permutation(mask.size)[:2]] = True
            key.append(mask)
    if any(k is Ellipsis for k in key):
        shape = shape[:axis]  # all that … was not meant to take
    return shape, tuple(key)


def sent(key: tuple, which: int) -> tuple:
    """The key with some of its arrays on the GPU."""
    return tuple([there(k) if which >> i & 1 else k for i, k in enumerate(key)])


@given(drawn=keys(), which=st.integers(0, 63), layout=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_picking(drawn, which, layout):
    shape, key = drawn
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1
    seen = [*layouts(x), np.flip(x)]
    x = seen[layout % len(seen)]
    y = cuda.pick(cuda.from_host(x), sent(key, which))
    np.testing.assert_array_equal(cuda.to_host(y), x[key])
    assert y.shape == x[key].shape


@given(
    drawn=keys(), which=st.integers(0, 63), layout=st.integers(0, 1), cut=st.integers(0, 4),
    dtype=st.sampled_from([np.float32, np.float16, np.int64]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_writing_and_adding(drawn, which, layout, cut, dtype):
    """The last of repeated places stays, or all of them add up; values broadcast and are cast."""
    shape, key = drawn
    rng = np.random.default_rng(5)
    x = layouts(rng.integers(-9, 9, shape).astype(dtype))[layout]
    picked = x[key].shape
    own = [1 if i == cut else n for i, n in enumerate(picked)][max(cut - 2, 0) :]
    v = rng.integers(-9, 9, own).astype(np.float32 if cut % 2 else dtype)
    for name, write in (("put", lambda y, v: y.__setitem__(key, v)),
                        ("add_at", lambda y, v: np.add.at(y, key, v))):  # fmt: skip
        y = cuda.from_host(x)
        getattr(cuda, name)(y, sent(key, which), there(v))
        expected = x.copy(order="K")
        write(expected, v.astype(dtype))
        np.testing.assert_array_equal(cuda.to_host(y), expected)
    y = cuda.from_host(x)
    cuda.put(y, sent(key, which), 7)
    expected = x.copy(order="K")
    expected[key] = 7
    np.testing.assert_array_equal(cuda.to_host(y), expected)
    g = rng.integers(-9, 9, picked).astype(dtype)
    y = cuda.pick_grad(there(g), sent(key, which), shape)
    np.testing.assert_array_equal(cuda.to_host(y), cpu.pick_grad(g, key, shape))


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.bool_])
def test_picking_and_writing_other_types(dtype):
    rng = np.random.default_rng(6)
    x = drawn(rng, (6, 5), dtype)
    index = np.array([[4, -1], [0, 4]])
    moved = cuda.from_host(x)
    np.testing.assert_array_equal(cuda.to_host(cuda.pick(moved, (index,))), x[index])
    v = drawn(rng, (2, 2, 5), dtype)
    cuda.put(moved, (there(index),), there(v))
    x[index] = v
    np.testing.assert_array_equal(cuda.to_host(moved), x)
    small = rng.integers(0, 3, (6, 5)).astype(dtype)
    moved = cuda.from_host(small)
    cuda.add_at(moved, (index,), there(v.astype(bool).astype(dtype)))
    np.add.at(small, index, v.astype(bool).astype(dtype))
    np.testing.assert_array_equal(cuda.to_host(moved), small)


RUNS = [  # places, columns, how many different places
    (31, 3, 1), (32, 1, 2), (33, 5, 1), (64, 2, 3), (97, 1, 1), (600, 1, 4), (1100, 2, 90),
]  # fmt: skip


@FLOATS
@pytest.mark.parametrize("count, n, places", RUNS)
def test_runs_across_pieces(dtype, count, n, places):
    """Runs of equal places that end in, at and far behind the pieces that threads add up."""
    rng = np.random.default_rng(7)
    x, v = rng.standard_normal((2 * places, n)), rng.standard_normal((count, n))
    index = 2 * rng.integers(0, places, count) + 1
    for order in (index, np.sort(index)):
        moved = there(x.astype(dtype))
        cuda.add_at(moved, (there(order),), there(v.astype(dtype)))
        expected = x.astype(dtype).astype(np.float64)
        np.add.at(expected, order, v.astype(dtype).astype(np.float64))
        y = cuda.to_host(moved)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(y, expected, rtol=EPS[dtype], atol=EPS[dtype] * scale)
        np.testing.assert_array_equal(y[::2], x.astype(dtype)[::2])  # not a sign of a zero
    moved = there(x.astype(dtype))
    cuda.put(moved, (there(index),), there(v.astype(dtype)))
    expected = x.astype(dtype)
    expected[index] = v.astype(dtype)
    np.testing.assert_array_equal(cuda.to_host(moved), expected)


def test_sums_of_integers_are_exact():
    x, v = np.array([2**60, 1]), np.array([2**53 + 1, 1, 1])
    moved = there(x)
    cuda.add_at(moved, (np.array([0, 0, 1]),), there(v))
    np.testing.assert_array_equal(cuda.to_host(moved), [2**60 + 2**53 + 2, 2])
    cuda.add_at(moved, (slice(1, 2),), there(v[:1]))
    np.testing.assert_array_equal(cuda.to_host(moved), [2**60 + 2**53 + 2, 2**53 + 3])


def test_nothing_to_pick():
    """Arrays of no elements and indices of no places."""
    none, x = np.zeros((0, 2), np.int64), np.ones((3, 4), np.float32)
    for k in (none, there(none)):
        assert cuda.pick(there(x), (k,)).shape == (0, 2, 4)
        assert cuda.pick(there(x[:, :0]), (slice(None), k)).shape == (3, 0, 2)
        moved = there(x)
        cuda.put(moved, (k,), 3)
        cuda.add_at(moved, (k,), there(x[0]))
        np.testing.assert_array_equal(cuda.to_host(moved), x)
        y = cuda.add_rows(there(np.ones((0, 2, 5), np.float32)), there(none), 3)
        np.testing.assert_array_equal(cuda.to_host(y), np.zeros((3, 5)))
    assert cuda.pick(there(x[:, :0]), (there(np.array([2, 1])),)).shape == (2, 0)
    assert cuda.pick(there(x), (False,)).shape == (0, 3, 4)
    assert cuda.pick(there(x), (np.True_, Ellipsis, 1)).shape == (1, 3)
    assert cuda.pick(there(np.float32(3)), ()).shape == ()


def test_where_the_axes_of_indices_go():
    """To their place if these stand side by side, ints among them; else first."""
    x, i = np.arange(120.0).reshape(2, 3, 4, 5), np.array([[1], [0]])
    for key in (
        (slice(None), i, 2), (slice(None), 0, i), (0, slice(None), i), (slice(None), i, None, i),
        (i, i, ..., i, i), (slice(None), i, ..., i, slice(None)), (None, 1, i, i), (..., i, True),
        (slice(None), np.ones((3, 4), bool)), (slice(None), i, slice(None), 3),
    ):  # fmt: skip
        y = cuda.pick(there(x), sent(key, 1))
        np.testing.assert_array_equal(cuda.to_host(y), x[key], str(key))


def test_views_are_views_and_scalars_on_the_gpu_are_indices():
    x = np.arange(12.0).reshape(3, 4)
    moved = there(x)
    cuda.put(cuda.pick(moved, (slice(1, None), None, np.int8(-1))), (Ellipsis,), 50)
    x[1:, -1] = 50
    np.testing.assert_array_equal(cuda.to_host(moved), x)
    k = there(np.array(-1))
    np.testing.assert_array_equal(cuda.to_host(cuda.pick(moved, (k, slice(1, 3)))), x[-1, 1:3])
    np.testing.assert_array_equal(cuda.to_host(cuda.pick(moved, (2, k))), x[2, -1])


WRONG = [
    ((3,), r"index 3 is out of bounds for axis 0 with size 3"),
    ((slice(None), -5), r"index -5 is out of bounds for axis 1 with size 4"),
    ((0, 0, 0), r"too many indices for array: array is 2-dimensional, but 3 were indexed"),
    ((np.array([0, 7]),), r"index 7 is out of bounds for axis 0 with size 3"),
    ((Ellipsis, np.array([-9])), r"index -9 is out of bounds for axis 1 with size 4"),
    ((np.array([0, 1]), np.zeros(3, int)), r"shape mismatch: indexing arrays could not be broad"),
    ((np.ones(2, bool),), r"boolean index did not match indexed array along axis 0; size of axis "
                          r"is 3 but size of corresponding boolean axis is 2"),
]  # fmt: skip


@pytest.mark.parametrize("key, text", WRONG)
def test_keys_that_do_not_fit(key, text):
    """The words are NumPy's."""
    x = np.ones((3, 4), np.float32)
    with pytest.raises(IndexError, match=text):
        x[key]
    with pytest.raises(RangeError, match=text):
        cuda.pick(there(x), key)


def test_values_that_do_not_fit():
    x = there(np.ones((3, 4), np.float32))
    for f in (cuda.put, cuda.add_at):
        for key in ((np.array([0, 1]),), (0,)):
            with pytest.raises(ShapeError, match="index: the value must broadcast to the places"):
                f(x, key, there(np.ones((2, 3), np.float32)))
    deep = there(np.ones((3,) * 10, np.int8))
    with pytest.raises(ShapeError, match="index: takes up to 8 axes"):
        cuda.pick(deep, (slice(2),) * 9 + (np.array([0]),))


def test_indices_on_the_gpu_out_of_range():
    """They read zeros and write nothing; the next value read on the host raises, and once."""
    x = np.arange(1.0, 13).reshape(3, 4)
    for wrong in (3, -4, 2**62, -(2**63)):
        k = there(np.array([0, wrong, -1]))
        for use in (
            lambda k=k: cuda.pick(there(x), (k,)),
            lambda k=k: cuda.put(there(x), (k,), 7),
            lambda k=k: cuda.add_at(there(x), (k, 1), there(np.ones(()))),
        ):
            use()
            with pytest.raises(RangeError, match=rf"index: .* 3\); got index {wrong}"):
                cuda.to_host(there(x))
            cuda.to_host(there(x))
    y = cuda.pick(there(x), (there(np.array([0, 5, -1])),))
    moved = there(x)
    cuda.put(moved, (there(np.array([5, 5, 1])),), there(np.full((3, 4), 9.0)))
    cuda.add_at(moved, (there(np.array([5, 2, -9])),), there(np.full((3, 4), 9.0)))
    with pytest.raises(RangeError, match="got index -9"):
        cuda.to_host(y)
    np.testing.assert_array_equal(cuda.to_host(y), [x[0], 0 * x[0], x[2]])
    np.testing.assert_array_equal(cuda.to_host(moved), [x[0], 0 * x[0] + 9, x[2] + 9])
    with pytest.raises(RangeError, match="index is out of bounds for axis 0 with size 0"):
        cuda.pick(there(x[:0]), (there(np.array([0])),))


def test_a_mask_is_not_read_while_recording(monkeypatch):
    x, mask = np.arange(3.0), np.array([True, False, True])
    moved, read = there(x), there(mask)
    for k in (mask, read):
        np.testing.assert_array_equal(cuda.to_host(cuda.pick(moved, (k,))), x[mask])
    monkeypatch.setattr(runtime, "recording", lambda: True)
    with pytest.raises(GraphError, match="index: a mask's count is not known while a function"):
        cuda.pick(moved, (read,))
    assert cuda.pick(moved, (mask,)).shape == (2,)  # its indices were sent before


# ---- rows of a table -----------------------------------------------------------------------------


@FLOATS
def test_adding_rows_in_any_order(dtype, monkeypatch):
    """Where deterministic algorithms are turned off, within rounding the same."""
    rng = np.random.default_rng(8)
    g, index = rng.standard_normal((50, 2, 7)), rng.integers(0, 5, (50, 2))
    ordered = agree("add_rows", dtype, g, index, 6, 3)
    again = agree("add_rows", dtype, g, index, 6, 3)
    np.testing.assert_array_equal(ordered, again)
    assert config.deterministic()
    monkeypatch.setattr(config, "_deterministic", False)
    agree("add_rows", dtype, g, index, 6, 3)


def test_rows_out_of_range_are_not_added(monkeypatch):
    g, index = np.ones((4, 2), np.float32), np.array([1, 5, -1, 1])
    for ordered in (True, False):
        monkeypatch.setattr(config, "_deterministic", ordered)
        y = cuda.to_host(cuda.add_rows(there(g), there(index), 3, 7))
        np.testing.assert_array_equal(y, [[0, 0], [2, 2], [0, 0]])


def test_writing_what_lies_in_the_same_memory():
    """Threads raced where a tensor was written from another part of itself."""
    order = np.random.default_rng(0).permutation(300)
    for dtype in (np.float32, np.int64):
        rows = np.arange(300, dtype=dtype)
        square = np.arange(36, dtype=dtype).reshape(6, 6)
        for own, change in (
            (rows, lambda x: x.__setitem__(slice(1, None), x[:-1])),
            (rows, lambda x: x.__setitem__(slice(None, -1), x[1:])),
            (rows, lambda x: x.__setitem__(ml.tensor(order[:200], device=x.device), x[:200])),
            (square, lambda x: x.copy_(x.t())),
            (square, lambda x: x.copy_(x)),
        ):
            here, gone = ml.tensor(own), ml.tensor(own, device="cuda")
            change(here), change(gone)
            assert gone.tolist() == here.tolist()


def test_a_replay_names_its_index_after_many_others():
    """Its flag had become that of the next op and length, or nobody's, after 256 of them."""
    table, x = ml.ones(5, 4, device="cuda"), ml.ones(300, device="cuda")

    def index(i: int) -> ml.Tensor:
        return ml.tensor([0, i], device="cuda")

    pick = ml.capture(lambda i: F.embedding(i, table))
    for i in range(4):
        pick(index(i))
    for n in range(1, 300):
        x[:n][index(n - 1)]
    y = pick(index(9))
    with pytest.raises(RangeError, match=r"embedding: every index must lie in \[0, 5\); .* 9"):
        y.cpu()
    assert (y.cpu().numpy() == [[1] * 4, [0] * 4]).all()


def test_diagonals_and_windows_are_views_there_too():
    drawn = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32)
    found = []
    for device in ("cpu", "cuda"):
        x = ml.tensor(drawn, device=device, requires_grad=True)
        y = x * 1
        y.diagonal(1, 0, 2).mul_(3.0)
        y.unfold(2, 2, 3)[:, 1].mul_(y[:, 0, 3:].unsqueeze(1).detach() * 2)
        (y * y).sum().backward()
        found.append(np.stack([y.detach().cpu().numpy(), x.grad.cpu().numpy()]))
        with pytest.raises(ShapeError, match="overlapping .*tensor cannot be changed in place"):
            x.detach().unfold(2, 2, 1).fill_(0.0)
    np.testing.assert_allclose(*found, rtol=1e-6)
