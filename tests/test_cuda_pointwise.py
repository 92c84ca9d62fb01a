"""Pointwise programs as they are printed for a GPU, emulated, against the CPU's."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from cases import CASES
from cuda_stand_in import EPS, NEEDED, gpu, layouts, there

import minidl as ml
import minidl.functional as F
from minidl import fusion
from minidl.backend import cpu, cuda, looping
from minidl.backend.cuda import plans, printer, runtime
from minidl.errors import DTypeError, ShapeError
from simt.device import REAL

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]


def programs() -> dict[tuple, tuple]:
    """Every pointwise program that the table of cases runs, forward and backward, with operands."""
    found: dict[tuple, tuple] = {}
    plan = cpu.plan_pointwise

    def noted(program: Any, operands: Any, dtype: Any) -> Any:
        if dtype == np.float64:
            kinds = tuple((a.ndim, a.strides) if hasattr(a, "dtype") else None for a in operands)
            found.setdefault((program.key, kinds), (program, [*operands]))
        return plan(program, operands, dtype)

    gc.unfreeze()  # see conftest.py
    for op in gc.get_objects():
        if isinstance(op, fusion.Pointwise):
            op._records.clear()  # so that everything is planned again
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "plan_pointwise", noted)
        for case in CASES:
            args = [ml.tensor(a, requires_grad=True) for a in case.draw(np.random.default_rng(9))]
            y = case.call(*args)
            (y * y).sum().backward()
    return found


def test_pointwise_programs_agree(monkeypatch):
    """All programs of the table of cases, as they are printed, give the CPU's values in float64."""
    writers = []
    for program, on_host in programs().values():
        operands = [there(a) for a in on_host]
        signature = plans.signature_of(operands)
        shape = np.broadcast_shapes(*(s[1] for s in signature if s is not None))
        loop = looping.plan_loop(program, signature, np.dtype(np.float64), shape)
        if 0 not in shape:
            writer = plans.Writer(program, signature, loop, [np.dtype(np.float64)])
            writers.append((writer, on_host, operands, loop, shape))
    shapes = list(dict.fromkeys((w.program, s) for w, *_ in writers for s in w.shapes[-1:]))
    made = {}
    for start in range(0, len(shapes), 60):  # many kernels a module: building one costs seconds
        some = shapes[start : start + 60]
        names = [f"k{start + i}" for i in range(len(some))]
        texts = [printer.print_kernel(p, s, name) for (p, s), name in zip(some, names)]
        fast = {} if REAL else {"check": False}
        module = runtime.cupy().RawModule(code="\n".join(texts), **fast)
        made |= {key: module.get_function(name) for key, name in zip(some, names)}
    monkeypatch.setattr(plans, "compiled", lambda program, shape: made[program, shape])
    for writer, on_host, operands, loop, shape in writers:
        writer.width = min(writer.width, 1) or 1
        writer.shapes = writer.shapes[-1:]
        outs = [runtime.strided(shape, s, t) for t, s in zip(loop.dtypes, loop.strides)]
        writer(operands, tuple(outs))
        expected = cpu.plan_pointwise(writer.program, on_host, np.dtype(np.float64))(on_host)
        for y, z in zip(outs, expected, strict=True):
            np.testing.assert_allclose(cuda.to_host(y), z, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_pointwise_layouts_and_types(dtype):
    """Packs, odd sizes, misaligned views, broadcasting, transposed and strided operands."""
    rng = np.random.default_rng(10)
    silu = fusion.pointwise(lambda x, y: x * fusion.sigmoid(y) + 0.5)

    def check(*arrays: np.ndarray) -> None:
        got = cuda.to_host(silu(*map(there, arrays)))
        x, y = (a.astype(np.float64) for a in arrays)
        expected = x / (1 + np.exp(-y)) + 0.5
        np.testing.assert_allclose(got, expected, rtol=EPS[dtype], atol=EPS[dtype])

    for shape in ((64,), (61,), (3, 40), (2, 4, 3, 8), (1,), ()):
        x, y = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        check(x, y)
        for u, v in zip(layouts(x), layouts(y)):
            check(u, v)
    x = rng.standard_normal((6, 8)).astype(dtype)
    check(x, x[0])
    check(x, x[:, :1])
    check(x, np.asarray(x[0, 0]))
    h = rng.standard_normal((9, 8)).astype(dtype)
    line, grid = cuda.from_host(h.reshape(-1)), cuda.from_host(h)
    for u, v, y in (
        (h.reshape(-1)[1:], h.reshape(-1)[:-1], silu(line[1:], line[:-1])),  # not aligned to a pack
        (h[1:, ::2], h[:-1, 1::2], silu(grid[1:, ::2], grid[:-1, 1::2])),
    ):
        expected = u.astype(np.float64) / (1 + np.exp(-v.astype(np.float64))) + 0.5
        np.testing.assert_allclose(cuda.to_host(y), expected, rtol=EPS[dtype], atol=EPS[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("columns, taken, rank, packs", [
    (32, slice(16), 2, True), (32, slice(8, 32), 2, True), (32, slice(None), 0, True),
    (32, slice(1, 17), 2, False), (32, slice(15), 2, False), (31, slice(16), 2, False),
])  # fmt: skip
def test_packs_of_rows(dtype, columns, taken, rank, packs, monkeypatch):
    """Rows that lie apart are taken in packs, unless they or their starts are no whole packs."""
    rng, seen, made = np.random.default_rng(11), [], plans.compiled
    silu = fusion.pointwise(lambda x, y: x * fusion.sigmoid(y) + 0.5)

    def noted(program: Any, shape: printer.Shape) -> Any:
        seen.append((shape.rank, shape.width))
        return made(program, shape)

    monkeypatch.setattr(plans, "compiled", noted)
    x, y = rng.standard_normal((2, 3, 8, columns)).astype(dtype)
    one = slice(1)
    for other in ((Ellipsis, taken), (one, one, taken), (Ellipsis, one)):  # or a row, or a column
        seen.clear()
        got = cuda.to_host(silu(there(x)[..., taken], there(y)[other]))
        u, v = x[..., taken].astype(np.float64), y[other].astype(np.float64)
        expected = u / (1 + np.exp(-v)) + 0.5
        np.testing.assert_allclose(got, expected, rtol=EPS[dtype], atol=EPS[dtype])
        width = 16 // x.itemsize if packs else 1
        assert seen[0] == (2 if other[-1] is one or other[0] is one else rank, width)


@pytest.mark.parametrize("columns", [16, 14])
def test_rows_written_in_packs(columns):
    """What lies beside the rows of a view stays as it was, be they whole packs or not."""
    rng = np.random.default_rng(12)
    x, y = rng.standard_normal((2, 6, 32)).astype(np.float32)
    moved = there(y)
    plans.write(plans.IDENTITY, [there(x)[:, :columns]], moved[:, :columns])
    y[:, :columns] = x[:, :columns]
    np.testing.assert_array_equal(cuda.to_host(moved), y)


def test_places_of_many_elements():
    """Threads' numbers are divided in 32 bits as long as those suffice."""
    program = plans.IDENTITY
    for columns, kind in (((1 << 16) - 8, "unsigned"), (1 << 16, "long long")):
        shape = (1 << 16, columns)
        signature = ((np.dtype(np.float32), shape, (0, 4)),)
        loop = looping.plan_loop(program, signature, np.dtype(np.float32), shape)
        packs, _ = plans.Writer(program, signature, loop, [np.dtype(np.float32)]).shapes
        assert packs.width == 4 and f"{kind} rest = i0;" in printer.print_kernel(program, packs)


def test_whole_numbers_are_exact_beside_integers():
    """They went to kernels as doubles."""
    big = 2**53 + 1
    for device in ("cpu", "cuda"):
        x = ml.tensor([1, -3], device=device)
        assert (x + big).tolist() == [big + 1, big - 3] and (x * big).tolist() == [big, -3 * big]
        assert ml.full((2,), big, dtype=ml.int64, device=device).tolist() == [big, big]
        assert ml.where(x > 0, x, big).tolist() == [1, big]


def test_bools_squared_are_integers_and_close_tensors_are_close():
    """Regression: a square of bools was bools there, and `allclose` asked the array itself."""
    for device in ("cpu", "cuda"):
        y = ml.tensor([True, False], device=device).square()
        assert y.dtype == ml.int64 and y.tolist() == [1, 0]
        x = ml.tensor([1.0, float("nan")], device=device, requires_grad=True)
        assert x.allclose(x + 1e-7, equal_nan=True) is True and ml.allclose(x, x) is False


def test_no_channels():
    """They are divided by, too; a convolution of none is refused."""
    x, w = ml.ones(2, 0, 4, 4, device="cuda"), ml.ones(3, 0, 2, 2, device="cuda")
    assert F.max_pool2d(x, 2).shape == F.avg_pool2d(x, 2).shape == (2, 0, 2, 2)
    with pytest.raises(ShapeError, match="conv2d: a GPU convolves at least one channel"):
        F.conv2d(x, w)


def test_powers_of_integers():
    """Of negative exponents what is left of 1 / x ** n, as in PyTorch."""
    x = ml.tensor([2, -3, 1, -1, -1, 0], device="cuda")
    n = ml.tensor([-1, -2, -5, -3, -4, 3], device="cuda")
    assert (x**n).tolist() == [0, 0, 1, -1, 1, 0] and (x**3).tolist() == [8, -27, 1, -1, -1, 0]


def test_numbers_are_cut_off_there_too():
    """Regression: a kernel wrapped them round."""
    x = ml.tensor([0, 9], dtype=ml.uint8, device="cuda")
    assert (
        x.masked_fill(x > 1, 2.5).tolist() == [0, 2] and x.clone().fill_(-1).tolist() == [255] * 2
    )
    assert (x > 1).masked_fill(x == 0, 7).tolist() == [True, True]
    places = ml.tensor([0], device="cuda")
    writes = [x.fill_, lambda v: x.masked_fill(x > 1, v), lambda v: x.scatter(0, places, v)]
    for write in (*writes, x.clamp, lambda v: F.pad(x, (1, 1), value=v)):
        with pytest.raises(DTypeError, match="the number must fit into uint8; got value 256"):
            write(256)


def test_numbers_beside_small_integers_wrap_round():
    """As on the CPU: uint8 > -1 compared with -1, and uint8 // -1 divided by it."""
    for dtype in (ml.uint8, ml.int8, ml.int32):
        host = ml.tensor([0, 1, 250 if dtype == ml.uint8 else 100], dtype=dtype)
        x = host.to("cuda")
        for number in (-1, 256, 257, 300, -3):
            for name in ("add", "sub", "mul", "floor_divide", "remainder", "lt", "gt", "eq", "ne"):
                act = getattr(ml, name)
                if dtype.itemsize > 1 or number != 256 or name not in ("floor_divide", "remainder"):
                    assert act(x, number).tolist() == act(host, number).tolist(), (name, number)
