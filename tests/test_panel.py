"""`panel`, the product with its sums in registers, against NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend.cpu import panel as made
from minidl.backend.cpu.jit import R, at, kernel, launch, panel
from minidl.backend.cpu.panel import BLOCK


@kernel("int int R* int int R* int R* int int")
def multiply(lo, hi, slot, m, k, a, up, over, b, ldb, c, ldc, add):
    panel(m, k, a, up, over, b, ldb, c, ldc, add != 0)


@kernel("int R* R* R*")
def multiply_and_halve(lo, hi, slot, m, a, b, c):
    """Beside other code, whose names and declarations must not clash."""
    panel(m, 2, a, 2, 1, b, BLOCK, c, BLOCK, False)
    panel(m, 2, a, 2, 1, b, BLOCK, at(c, m * BLOCK), BLOCK, False)
    for e in range(2 * m * BLOCK):
        c[e] = c[e] * R(0.5)


sizes = st.tuples(st.integers(0, 20), st.integers(0, 40), st.integers(0, 5), st.integers(0, 5))


@given(sizes, st.booleans(), st.booleans(), st.sampled_from("fd"), st.integers(0, 99))
def test_products_of_any_size_and_stride(size, turned, add, dtype, seed):
    """Just m rows of BLOCK numbers are written, and the sum is that of k products in sequence."""
    (m, k, apart, more), rng = size, np.random.default_rng(seed)
    lda, ldb, ldc = (m if turned else k) + apart, BLOCK + apart, BLOCK + more
    a = rng.normal(size=(k if turned else m, lda)).astype(dtype)
    b, c = rng.normal(size=(k, ldb)).astype(dtype), rng.normal(size=(m + 1, ldc)).astype(dtype)
    found = c.copy()
    up, over = (1, lda) if turned else (lda, 1)
    launch(multiply, 1, 1, m, k, a, up, over, b, ldb, found, ldc, add)
    x = (a[:, :m].T if turned else a[:, :k]).astype(np.float64)
    y, start = b[:, :BLOCK].astype(np.float64), c[:m, :BLOCK] * float(add)
    bound = (k + 2) * np.finfo(dtype).eps * (np.abs(x) @ np.abs(y) + np.abs(start))
    assert (np.abs(found[:m, :BLOCK] - (x @ y + start)) <= bound).all()
    found[:m, :BLOCK] = c[:m, :BLOCK]
    assert (found == c).all()


@pytest.mark.parametrize("dtype", "fd")
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype):
    """Tiles of any height give the same bits."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(19, 30)).astype(dtype), rng.normal(size=(30, BLOCK)).astype(dtype)
    c, one = np.empty((19, BLOCK), dtype), np.empty((1, BLOCK), dtype)
    launch(multiply, 1, 1, 19, 30, a, 30, 1, b, BLOCK, c, BLOCK, False)
    for i in range(19):
        launch(multiply, 1, 1, 1, 30, a[i], 30, 1, b, BLOCK, one, BLOCK, False)
        assert (one[0] == c[i]).all()


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
    rows = made.WIDE_ROWS if wide else made.ROWS
    assert {"ml_panel_f32", "ml_panel_f64", f"ml_panel_f32_{rows}"} <= names
