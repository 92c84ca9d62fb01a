"""LSTM, GRU and RNN for a GPU, emulated, against the CPU's in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import EMULATED, EPS, FLOATS, NEEDED, agree, gpu, there
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.backend import cpu, cuda
from minidl.backend.cuda import blas
from minidl.errors import DTypeError
from minidl.ops import recurrent as ops
from simt import cupy as stand_in

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]
KINDS = pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "relu"])
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "relu": 1}
SIZES = (3, 5, 70)  # T, B, H: more units than a block's threads
FEW = (3, 2, 5)
Arrays = list[Any]


def drawn(kind: str, sizes: tuple, bias: bool = True) -> Arrays:
    """What a backend takes: what the inputs give to the gates, states, W_hh, a GRU's bias b_hn."""
    (t, b, h), rows = sizes, GATES[kind] * sizes[2]
    rng = np.random.default_rng(t + b + h)
    args: Arrays = [rng.standard_normal((t, b, rows))]
    args += [rng.standard_normal((b, h)) for _ in range(1 + (kind == "lstm"))]
    args += [rng.standard_normal((rows, h)) / max(h, 1) ** 0.5]
    return args + [rng.standard_normal(h) if bias else None] * (kind == "gru")


def cotangents(kind: str, sizes: tuple, missing: int = 0) -> Arrays:
    """Gradients of y and of the last states; the bits of `missing` say which are not there."""
    t, b, h = sizes
    shapes = [(t, b, h), (b, h), (b, h)][: 3 if kind == "lstm" else 2]
    rng = np.random.default_rng(1)
    made = [rng.standard_normal(s) for s in shapes]
    return [None if missing >> k & 1 else g for k, g in enumerate(made)]


def each(function: Callable, arrays: Arrays) -> Arrays:
    """A function of the arrays that are there."""
    return [a if a is None else function(a) for a in arrays]


def run(
    be: Any, kind: str, args: Arrays, g: Arrays, reverse: bool = False
) -> tuple[Arrays, Arrays]:
    """y (and c) from a backend, and the gradients of all arguments."""
    name = "rnn" if kind == "relu" else kind
    flags = (kind == "relu", reverse) if name == "rnn" else (reverse,)
    made = getattr(be, name)(*args, *flags)
    made = made if isinstance(made, tuple) else (made,)
    states = args[1 : 4 if name == "lstm" else 3]
    grads = getattr(be, f"{name}_grad")(*g, *states, *made, *flags)
    return [*made[: 2 if kind == "lstm" else 1]], [*grads]


def compare(kind: str, dtype: type, args: Arrays, g: Arrays, reverse: bool,
            laid: Callable = np.ascontiguousarray) -> None:  # fmt: skip
    """A GPU's results and gradients in dtype against the CPU's of the same numbers in float64.

    Rounding of a few steps is allowed, relative to an array's largest element.
    """
    args, g = (each(lambda a: a.astype(dtype), some) for some in (args, g))
    wide = [each(lambda a: a.astype(np.float64), some) for some in (args, g)]
    ours = run(cuda, kind, *(each(lambda a: there(laid(a)), some) for some in (args, g)), reverse)
    for some, theirs in zip(ours, run(cpu, kind, *wide, reverse), strict=True):
        for y, expected in zip(each(cuda.to_host, some), theirs, strict=True):
            assert y.shape == expected.shape and y.dtype == dtype
            eps, scale = EPS[dtype], np.abs(expected).max(initial=1e-30)
            np.testing.assert_allclose(
                y.astype(np.float64), expected, rtol=eps, atol=eps * scale, strict=True
            )


@FLOATS
@KINDS
@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_gradients(kind, dtype, reverse):
    compare(kind, dtype, drawn(kind, SIZES), cotangents(kind, SIZES), reverse)


@given(
    kind=st.sampled_from([*GATES]), reverse=st.booleans(), bias=st.booleans(),
    missing=st.integers(0, 7), t=st.integers(1, 5), b=st.integers(0, 4),
    h=st.sampled_from([0, 1, 3, 16, 33]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_odd_sizes(kind, reverse, bias, missing, t, b, h):
    """Empty axes, single ones, no bias, and gradients that did not arrive."""
    sizes = (t, b, h)
    args, g = drawn(kind, sizes, bias), cotangents(kind, sizes, missing)
    compare(kind, np.float64, args, g, reverse)


@KINDS
def test_arrays_as_they_lie(kind):
    """Every argument with its axes in another order in memory."""
    args, g = drawn(kind, FEW), cotangents(kind, FEW)
    compare(kind, np.float32, args, g, True, lambda a: np.asarray(a.T, order="C").T)


@FLOATS
def test_kept_gates(dtype):
    """Activated, in the order that the CPU keeps them in."""
    agree("lstm", dtype, *drawn("lstm", FEW), False)
    agree("gru", dtype, *drawn("gru", FEW), True)


@KINDS
def test_results_are_the_same_every_time(kind):
    """Bit for bit, in whatever order blocks and threads run."""
    args, g = (each(there, each(np.float32, a)) for a in (drawn(kind, FEW), cotangents(kind, FEW)))
    one, other = (run(cuda, kind, args, g) for _ in range(2))
    for some, same in zip(one, other, strict=True):
        for y, z in zip(some, same, strict=True):
            np.testing.assert_array_equal(cuda.to_host(y), cuda.to_host(z))


@EMULATED
@KINDS
def test_launches(kind, monkeypatch):
    """A product and a kernel a step, in both directions; nothing goes to the host or comes."""
    launched: list[Callable] = []

    def counted(function: Callable) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            launched.append(function)
            return function(*args, **options)

        return call

    totals, sizes = [], (FEW, (FEW[0] + 1, *FEW[1:]))
    given = [[each(there, a) for a in (drawn(kind, s), cotangents(kind, s))] for s in sizes]
    monkeypatch.setattr(stand_in.Function, "__call__", counted(stand_in.Function.__call__))
    monkeypatch.setattr(blas, "gemm", counted(blas.gemm))
    monkeypatch.delattr(stand_in.ndarray, "get")
    monkeypatch.delattr(stand_in, "asarray")
    for args, g in given:
        launched.clear()
        run(cuda, kind, args, g)
        totals.append(len(launched))
    assert totals[1] - totals[0] == 4


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_states_of_half_types_go_on_in_float(kind):
    """Steps too small for a half type add up: c or h moves from 0.9 towards 1 by 3e-5 a step."""
    steps, slow = 64, 8.0  # sigmoid(8) = 1 - 3.4e-4
    gates = [-slow, slow, 20, 20] if kind == "lstm" else [0, slow, 20]
    args: Arrays = [np.full((steps, 1, len(gates)), gates)]
    args += [np.full((1, 1), 0.9)] * (1 + (kind == "lstm")) + [np.zeros((len(gates), 1))]
    args += [None] * (kind == "gru")
    given = each(lambda a: a.astype(np.float16), args)
    made = getattr(cuda, kind)(*each(there, given), False)[1 if kind == "lstm" else 0]
    expected = getattr(cpu, kind)(*each(lambda a: a.astype(np.float64), given), False)
    expected = expected[1 if kind == "lstm" else 0]
    assert abs(expected[-1] - expected[0]).item() > 4 * 2**-11
    np.testing.assert_allclose(cuda.to_host(made).astype(float), expected, rtol=2**-11)


def test_relu_keeps_nan():
    """And passes gradients through it, as on the CPU."""
    args, g = drawn("relu", FEW), cotangents("relu", FEW)
    args[0][1, 0] = np.nan
    ours, theirs = run(cuda, "relu", each(there, args), each(there, g)), run(cpu, "relu", args, g)
    y = cuda.to_host(ours[0][0])
    assert np.isnan(y[1, 0]).all() and not np.isnan(y[0]).any() and not np.isnan(y[1:, 1]).any()
    for a, expected in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(cuda.to_host(a), expected, rtol=1e-12, atol=1e-12)


@FLOATS
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_saturated_gates_stay_finite(kind, dtype):
    args = drawn(kind, FEW)
    args[0] *= 1e4
    g = cotangents(kind, FEW)
    args, g = (each(lambda a: there(a.astype(dtype)), some) for some in (args, g))
    for some in run(cuda, kind, args, g):
        assert all(np.isfinite(cuda.to_host(a)).all() for a in some)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_a_gpu_takes_half_types(name):
    """Which the CPU refuses; and no backend takes integers."""
    steps, batch, hidden = FEW
    shapes = [(steps, batch, 4), *[(batch, hidden)] * (1 + (name == "lstm"))]
    shapes += [(GATES[name] * hidden, width) for width in (4, hidden)]
    args = [np.ones(shape, np.float16) for shape in shapes]
    with pytest.raises(DTypeError, match=f"{name}: x must be float32 or float64; got"):
        getattr(ops, name)(*args)
    y, last, *_ = getattr(ops, name)(*each(there, args), reverse=True)
    assert y.dtype == last.dtype == np.float16 and y.shape == FEW
    np.testing.assert_array_equal(cuda.to_host(y)[0], cuda.to_host(last))
    for move, kinds in ((np.copy, "float32 or float64"), (there, "bfloat16 or float16 or float32")):
        whole = each(move, each(lambda a: a.astype(np.int64), args))
        with pytest.raises(DTypeError, match=f"{name}: x must be {kinds}"):
            getattr(ops, name)(*whole)
