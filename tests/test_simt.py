"""The SIMT emulator: its kernels give what NumPy gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import simt
from simt.numbers import from_bfloat16, to_bfloat16
from simt.toys import load

pytestmark = pytest.mark.skipif(simt.available() is not None, reason=str(simt.available()))

SEEDS = st.integers(0, 2**32)
CHECKED = pytest.mark.parametrize("check", [True, False], ids=["checked", "plain"])


def draw_array(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return values.astype(np.float32)


def poisoned(*shape: int) -> np.ndarray:
    return simt.poison(np.empty(shape, np.float32))


# ---- Kernels against NumPy


@CHECKED
@given(n=st.integers(0, 3000), blocks=st.integers(1, 5), warps=st.integers(1, 8), seed=SEEDS)
def test_sum_by_shuffles(check, n, blocks, warps, seed):
    module = load("reduce.cu", check=check)
    module.seed = seed
    x, out = draw_array(seed, n), np.zeros(1, np.float32)
    module.get_function("block_sum")((blocks,), (32 * warps,), (x, out, np.int32(n)))
    assert abs(out[0] - x.sum(dtype=np.float64)) <= 1e-6 * np.abs(x).sum() + 1e-30


@CHECKED
@given(m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 40), seed=SEEDS)
def test_matmul_by_tiles_in_shared_memory(check, m, n, k, seed):
    module = load("matmul.cu", check=check)
    module.seed = seed
    a, b, c = draw_array(seed, m, k), draw_array(seed + 1, k, n), poisoned(m, n)
    sizes = [np.int32(s) for s in (m, n, k)]
    grid = (-(-n // 16), -(-m // 16))
    module.get_function("matmul")(grid, (16, 16), (a, b, c, *sizes))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert np.all(np.abs(c - exact) <= 1e-6 * (np.abs(a) @ np.abs(b)) * k)


@CHECKED
@pytest.mark.parametrize("half", [True, False], ids=["half", "bfloat16"])
@given(m=st.integers(1, 90), n8=st.integers(1, 11), k8=st.integers(1, 12), seed=SEEDS)
def test_matmul_by_tensor_cores(check, half, m, n8, k8, seed):
    module = load("tensor.cu", options=("-DHALF",) if half else (), check=check)
    module.seed = seed
    n, k = 8 * n8, 8 * k8
    a, b, c = draw_array(seed, m, k), draw_array(seed + 1, k, n), poisoned(m, n)
    narrow = [x.astype(np.float16) if half else to_bfloat16(x) for x in (a, b)]
    wide = [x.astype(np.float64) if half else from_bfloat16(x).astype(np.float64) for x in narrow]
    sizes = [np.int32(s) for s in (m, n, k)]
    shared = 2 * 2 * (64 * 40 + 32 * 72)
    grid = (-(-n // 64), -(-m // 64))
    run = module.get_function("tensor_matmul")
    run(grid, (128,), (*narrow, c, *sizes), shared_mem=shared)
    assert np.all(np.abs(c - wide[0] @ wide[1]) <= 1e-6 * (np.abs(wide[0]) @ np.abs(wide[1])))


@CHECKED
@given(n=st.integers(0, 2000), bins=st.integers(1, 300), blocks=st.integers(1, 4), seed=SEEDS)
def test_histogram_by_atomics(check, n, bins, blocks, seed):
    module = load("histogram.cu", check=check)
    module.seed = seed
    x = np.random.default_rng(seed).integers(0, bins, n, np.int32)
    counts = np.zeros(bins, np.uint32)
    args = (x, counts, np.int32(n), np.int32(bins))
    module.get_function("histogram")((blocks,), (96,), args, shared_mem=4 * bins)
    assert np.array_equal(counts, np.bincount(x, minlength=bins))


@CHECKED
@given(n=st.integers(1, 600), seed=SEEDS)
def test_copy_by_vectors_with_a_tail(check, n, seed):
    module = load("copy.cu", check=check)
    module.seed = seed
    x, y = draw_array(seed, n), poisoned(n)
    module.get_function("copy")((-(-n // 256),), (64,), (x, y, np.int32(n)))
    assert np.array_equal(x, y)


@CHECKED
@given(rows=st.integers(1, 9), columns=st.integers(1, 100), seed=SEEDS)
def test_softmax_of_rows(check, rows, columns, seed):
    module = load("softmax.cu", check=check)
    module.seed = seed
    x, y = draw_array(seed, rows, columns, scale=10.0), poisoned(rows, columns)
    args = (x, y, np.int32(rows), np.int32(columns))
    module.get_function("softmax")((-(-rows // 4),), (32, 4), args)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=5e-6, atol=1e-37)


@given(n=st.integers(1, 200), blocks=st.integers(1, 20), seed=SEEDS)
def test_last_block_adds_what_the_others_left(n, blocks, seed):
    module = load("ticket.cu")
    module.seed = seed
    x, counter = draw_array(seed, n), np.zeros(1, np.uint32)
    parts, out = poisoned(blocks), poisoned(1)
    args = (x, parts, out, counter, np.int32(n))
    module.get_function("ticket_sum")((blocks,), (64,), args)
    by_block = [np.float32(0)] * blocks
    for i, value in enumerate(x):
        by_block[i % blocks] += value
    assert out[0] == np.cumsum(by_block, dtype=np.float32)[-1] and counter[0] == 0
