"""`panel`, the product with its sums in registers, against NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend.cpu import panel as made
from minidl.backend.cpu.jit import R, at, kernel, launch, panel
from minidl.backend.cpu.panel import BLOCK


@kernel("int int int R* int int R* int int R* int int")
def multiply(lo, hi, slot, m, n, k, a, up, over, b, apart, ldb, c, ldc, add):
    panel(m, n, k, a, up, over, b, apart, ldb, c, ldc, add != 0)


@kernel("int R* R* R*")
def multiply_and_halve(lo, hi, slot, m, a, b, c):
    """Beside other code, whose names and declarations must not clash."""
    panel(m, 1, 2, a, 2, 1, b, 0, BLOCK, c, BLOCK, False)
    panel(m, 1, 2, a, 2, 1, b, 0, BLOCK, at(c, m * BLOCK), BLOCK, False)
    for e in range(2 * m * BLOCK):
        c[e] = c[e] * R(0.5)


sizes = st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(0, 40))


@given(sizes, st.integers(0, 5), st.integers(0, 5), st.booleans(), st.booleans(), st.booleans(),
       st.sampled_from("fd"), st.integers(0, 99))  # fmt: skip
def test_products_of_any_size_and_stride(size, apart, more, joined, turned, add, dtype, seed):
    """Just m rows of n panels are written, and the sum is that of k products in sequence.

    joined: rows of b are contiguous over its panels, else panel lies behind panel.
    """
    (m, n, k), rng = size, np.random.default_rng(seed)
    lda, ldc = (m if turned else k) + apart, n * BLOCK + more
    ldb = (n if joined else 1) * BLOCK + apart
    a = rng.normal(size=(k if turned else m, lda)).astype(dtype)
    b = rng.normal(size=(k, ldb) if joined else (n, k, ldb)).astype(dtype)
    c = rng.normal(size=(m + 1, ldc)).astype(dtype)
    found, columns = c.copy(), n * BLOCK
    up, over = (1, lda) if turned else (lda, 1)
    between = BLOCK if joined else k * ldb
    launch(multiply, 1, 1, m, n, k, a, up, over, b, between, ldb, found, ldc, add)
    x = (a[:, :m].T if turned else a[:, :k]).astype(np.float64)
    y = b if joined else b[:, :, :BLOCK].transpose(1, 0, 2).reshape(k, columns)
    y, start = y[:, :columns].astype(np.float64), c[:m, :columns] * float(add)
    bound = (k + 2) * np.finfo(dtype).eps * (np.abs(x) @ np.abs(y) + np.abs(start))
    assert (np.abs(found[:m, :columns] - (x @ y + start)) <= bound).all()
    found[:m, :columns] = c[:m, :columns]
    assert (found == c).all()


@pytest.mark.parametrize("dtype", "fd")
def test_a_result_does_not_depend_on_those_beside_it(dtype):
    """Tiles of any height and panels in pairs or not give the same bits."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(29, 30)).astype(dtype), rng.normal(size=(3, 30, BLOCK)).astype(dtype)
    c, one = np.empty((29, 3 * BLOCK), dtype), np.empty((1, BLOCK), dtype)
    launch(multiply, 1, 1, 29, 3, 30, a, 30, 1, b, 30 * BLOCK, BLOCK, c, 3 * BLOCK, False)
    for i in range(29):
        for j in range(3):
            launch(multiply, 1, 1, 1, 1, 30, a[i], 30, 1, b[j], 0, BLOCK, one, BLOCK, False)
            assert (one[0] == c[i, j * BLOCK : (j + 1) * BLOCK]).all()


def test_beside_other_code():
    a, b = np.ones((3, 2), np.float32), np.ones((2, BLOCK), np.float32)
    c = np.empty((6, BLOCK), np.float32)
    launch(multiply_and_halve, 1, 1, 3, a, b, c)
    assert (c == 1).all()


@pytest.mark.parametrize("wide", [False, True])
def test_the_machine_code_of_every_processor_is_valid(wide):
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(made.library(wide))
    module.verify()
    names = {f.name for f in module.functions if not f.is_declaration}
    kinds = (made.WIDE if wide else made.NARROW)["float"]
    tiles = {f"ml_panel_f32_{panels}_{rows}" for panels, rows in kinds.items()}
    assert {"ml_panel_f32", "ml_panel_f64"} | tiles <= names
