"""The SIMT emulator: conversions, tensor cores and collectives against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import simt
from simt.device import REAL
from simt.numbers import from_bfloat16, to_bfloat16, to_tf32
from simt.toys import load

missing = None if REAL else simt.available()
pytestmark = pytest.mark.skipif(missing is not None, reason=str(missing))

SEEDS = st.integers(0, 2**32)
EVERY = np.arange(2**16, dtype=np.uint32)  # all 16-bit patterns
LANES = np.arange(32)
FORMATS = pytest.mark.parametrize("name", ["f16", "bf16", "tf32"])


# ---- Conversions


def hard_floats() -> np.ndarray:
    """Random bits, the ties of every format with their neighbours, subnormal halves, infinities."""
    rng = np.random.default_rng(0)
    ties = np.concatenate([EVERY << 16 | 0x8000, (EVERY << 13) + 0x38001000, EVERY << 16 | 0x1000])
    small = np.arange(2**11, dtype=np.float32) * np.float32(2**-25)
    bits = [rng.integers(0, 2**32, 20000, np.uint32), ties - 1, ties, ties + 1]
    x = np.concatenate([*bits, small.view(np.uint32), [0x7F800000, 0xFF800000]])
    x = x.astype(np.uint32).view(np.float32)
    x = x[~np.isnan(x)]
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)  # they are flushed


def test_conversions_to_narrow_floats():
    """float to half, bfloat16 and tf32."""
    x = hard_floats()
    h, b = np.empty(x.size, np.float16), np.empty(x.size, np.uint16)
    t = np.empty(x.size, np.uint32)
    run = load("narrow.cu", check=False).get_function("narrow")
    run((-(-x.size // 256),), (256,), (x, h, b, t, np.int32(x.size)))
    with np.errstate(over="ignore", under="ignore"):
        assert np.array_equal(h.view(np.uint16), x.astype(np.float16).view(np.uint16))
    assert np.array_equal(b, to_bfloat16(x))
    assert np.array_equal(t.view(np.float32), to_tf32(x))


def test_conversions_from_narrow_floats():
    """All halves and bfloat16 numbers to float."""
    bits = EVERY.astype(np.uint16)
    x, y = np.empty(2**16, np.float32), np.empty(2**16, np.float32)
    run = load("narrow.cu", check=False).get_function("widen")
    run((256,), (256,), (bits.view(np.float16), bits, x, y))
    assert np.array_equal(x, bits.view(np.float16).astype(np.float32), equal_nan=True)
    assert np.array_equal(y.view(np.uint32), EVERY << 16)


def test_nan_stays_nan():
    """NaN of any payload becomes NaN in every format."""
    x = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000, 0xFF810000], np.uint32).view(np.float32)
    h, b, t = np.empty(4, np.float16), np.empty(4, np.uint16), np.empty(4, np.uint32)
    load("narrow.cu", check=False).get_function("narrow")((1,), (4,), (x, h, b, t, np.int32(4)))
    assert np.isnan(h).all() and np.isnan(from_bfloat16(b)).all()
    assert np.isnan(t.view(np.float32)).all()


# ---- Tensor cores


def fragments(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, column) of each lane's items of a, b and d: the figures of the PTX ISA, mma.m16n8k*."""
    group, thread = LANES // 4, LANES % 4
    a, b = np.empty((32, 8, 2), int), np.empty((32, 4, 2), int)
    d = np.empty((32, 4, 2), int)
    for i in range(8):
        row = group + 8 * (i in (2, 3, 6, 7))
        a[:, i] = np.stack([row, thread * 2 + (i & 1) + 8 * (i >= 4)], 1)
    for i in range(4):
        b[:, i] = np.stack([thread * 2 + (i & 1) + 8 * (i >= 2), group], 1)
        d[:, i] = np.stack([group + 8 * (i >= 2), thread * 2 + (i & 1)], 1)
    if name == "tf32":
        a, b = np.empty((32, 4, 2), int), np.empty((32, 2, 2), int)
        for i in range(4):
            a[:, i] = np.stack([group + 8 * (i in (1, 3)), thread + 4 * (i >= 2)], 1)
        for i in range(2):
            b[:, i] = np.stack([thread + 4 * i, group], 1)
    return a, b, d


def take(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(matrix[places[..., 0], places[..., 1]])


def operands(name: str, seed: int, integers: bool) -> tuple[np.ndarray, ...]:
    """a, b and d of one product, exact in the format, and a and b as it stores them."""
    rng = np.random.default_rng(seed)
    k = 8 if name == "tf32" else 16

    def matrix(*shape: int) -> np.ndarray:
        numbers = rng.integers(-8, 9, shape) if integers else rng.standard_normal(shape)
        return numbers.astype(np.float32)

    a, b, d = matrix(16, k), matrix(k, 8), matrix(16, 8)
    if name == "tf32":
        a, b = to_tf32(a), to_tf32(b)
        return a, b, d, a, b
    if name == "bf16":
        stored = to_bfloat16(a), to_bfloat16(b)
        return from_bfloat16(stored[0]), from_bfloat16(stored[1]), d, *stored
    stored = a.astype(np.float16), b.astype(np.float16)
    return stored[0].astype(np.float32), stored[1].astype(np.float32), d, *stored


@FORMATS
@given(seed=SEEDS, integers=st.booleans())
def test_mma_multiplies_the_fragments_of_a_warp(name, seed, integers):
    """Bit for bit the sum in double, in the order of k, rounded once; exact for small integers.

    A GPU's tensor cores align the products of a step before they add them and cut off the rest, in
    an order that NVIDIA does not say: there, what is not integers agrees to a float's rounding of
    the largest of a sum's terms, a term.
    """
    a, b, d, stored_a, stored_b = operands(name, seed, integers)
    at_a, at_b, at_d = fragments(name)
    lane_a, lane_b = take(stored_a, at_a).view(np.uint32), take(stored_b, at_b).view(np.uint32)
    lane_d = take(d, at_d)
    load("mma.cu").get_function(f"mma_{name}")((1,), (32,), (lane_a, lane_b, lane_d))
    expected = d.astype(np.float64)
    for i in range(a.shape[1]):
        expected = expected + np.outer(a[:, i].astype(np.float64), b[i].astype(np.float64))
    if REAL and not integers:
        most = np.abs(a).astype(np.float64) @ np.abs(b) + np.abs(d)
        assert (np.abs(lane_d - take(expected, at_d)) <= take(most * 2.0**-22, at_d)).all()
    else:
        assert np.array_equal(lane_d, take(expected.astype(np.float32), at_d))
    if integers:
        assert np.array_equal(lane_d, take(a @ b + d, at_d))


def test_mma_of_tf32_ignores_the_lower_bits():
    """Operands that were not rounded are cut off, as the hardware does."""
    at_a, at_b, at_d = fragments("tf32")
    a, b, d = np.full((16, 8), 1.9999, np.float32), np.eye(8, dtype=np.float32), np.zeros((16, 8))
    lane_d = take(d, at_d).astype(np.float32)
    args = take(a, at_a).view(np.uint32), take(b, at_b).view(np.uint32), lane_d
    load("mma.cu").get_function("mma_tf32")((1,), (32,), args)
    assert np.array_equal(lane_d, np.full((32, 4), 2 - 2**-10, np.float32))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "trans"])
@given(seed=SEEDS)
def test_ldmatrix(count, transposed, seed):
    """Lane l gets items 2 (l % 4) and the next one of row l // 4, of matrices given by rows."""
    rng = np.random.default_rng(seed)
    memory = rng.permutation(64 * 8).astype(np.uint16).reshape(64, 8)
    rows = rng.permutation(64)[:32].astype(np.int32)
    out = np.empty((32, count), np.uint32)
    name = f"load_x{count}" + "_trans" * transposed
    load("mma.cu").get_function(name)((1,), (32,), (memory, rows, out))
    matrices = memory[rows].reshape(4, 8, 8)[:count]
    if transposed:
        matrices = matrices.transpose(0, 2, 1)
    pairs = np.ascontiguousarray(matrices).view(np.uint32).reshape(count, 8, 4)
    assert np.array_equal(out, pairs[:, LANES // 4, LANES % 4].T)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_cp_async_fills_up_with_zeros(size):
    """All numbers of source bytes."""
    x = np.random.default_rng(0).integers(1, 256, size * (size + 1), np.uint8)
    y = np.full_like(x, 255)
    run = load("mma.cu").get_function(f"copy_{size}")
    run((1,), (size + 1,), (x, y))
    rows = x.reshape(size + 1, size)
    expected = np.where(np.arange(size) < np.arange(size + 1)[:, None], rows, 0)
    assert np.array_equal(y.reshape(rows.shape), expected)


def test_store16_writes_four_words():
    x = np.random.default_rng(0).integers(0, 2**32, 4 * 40, np.uint32)
    y = np.zeros_like(x)
    load("mma.cu").get_function("store_16")((1,), (40,), (x, y))
    assert np.array_equal(x, y)


# ---- Collectives


@given(seed=SEEDS, log_width=st.integers(0, 5), amount=st.integers(0, 31))
def test_shuffles(seed, log_width, amount):
    """Lanes read within segments; up, down and xor keep their own value beyond the segment."""
    width = 2**log_width
    x = np.random.default_rng(seed).integers(-(2**31), 2**31, 32).astype(np.int32)
    out = np.empty((4, 32), np.int32)
    args = (x, out, np.int32(amount), np.int32(width))
    load("collectives.cu").get_function("shuffles")((1,), (32,), args)
    first, last = LANES // width * width, LANES // width * width + width - 1
    up, down, across = LANES - amount, LANES + amount, LANES ^ amount
    sources = [
        first + amount % width,
        np.where(up >= first, up, LANES),
        np.where(down <= last, down, LANES),
        np.where(across <= last, across, LANES),
    ]
    assert np.array_equal(out, x[np.array(sources)])


@given(seed=SEEDS, threads=st.integers(1, 70))
def test_votes_and_reductions(seed, threads):
    """Over the lanes that are there, also in the last warp of an odd block."""
    x = np.random.default_rng(seed).integers(-3, 4, threads).astype(np.int32)
    out = np.empty((threads, 9), np.int32)
    load("collectives.cu").get_function("votes")((1,), (threads,), (x, out))
    for start in range(0, threads, 32):
        w = x[start : start + 32]
        ballot = sum(int(v > 0) << i for i, v in enumerate(w))
        same = np.array([sum(int(v == u) << i for i, v in enumerate(w)) for u in w])
        lanes = out[start : start + 32].astype(np.int64)
        assert np.all(lanes[:, 0] & 0xFFFFFFFF == ballot)
        assert np.all(lanes[:, 1] == (w > 0).any()) and np.all(lanes[:, 2] == (w > 0).all())
        assert np.all(lanes[:, 3] & 0xFFFFFFFF == same)
        assert np.all(lanes[:, 4:7] == [w.sum(), w.min(), w.max()])
    assert np.all(out[:, 7] == (x > 0).sum()) and np.all(out[:, 8] == (x > 0).all())


@given(seed=SEEDS)
def test_atomics(seed):
    """Every operation of integers, and sums of floats and pairs of halves."""
    x = np.random.default_rng(seed).integers(0, 1000, 96).astype(np.int32)
    ints = np.array([0, 0, 2**31 - 1, -1, 0, 0, -1, 7, 10000], np.int32)
    floats, longs = np.zeros(1, np.float32), np.zeros(1, np.uint64)
    halves = np.zeros(2, np.float16)
    args = (x, ints, floats, longs, halves)
    load("collectives.cu").get_function("atomics")((3,), (32,), args)
    assert list(ints[:4]) == [x.sum(), x.max(), x.min(), np.bitwise_and.reduce(x)]
    assert list(ints[4:6]) == [np.bitwise_or.reduce(x), np.bitwise_xor.reduce(x)]
    assert ints[6] in x and ints[7] == 7 + 96 and ints[8] == 10000 - x.sum()
    assert floats[0] == x.sum() and longs[0] == x.astype(np.uint64).sum()
    assert list(halves) == [96, 192]


def test_integer_intrinsics():
    """Counts of bits, high halves of products, reversals and permutations of bytes."""
    x = np.random.default_rng(0).integers(0, 2**32, 1000, np.uint32)
    x[:3] = [0, 1, 2**32 - 1]
    out = np.empty((x.size, 7), np.uint32)
    run = load("collectives.cu").get_function("integers")
    run((10,), (100,), (x, out))
    for value, row in zip(x.tolist(), out.tolist()):
        bits = f"{value:032b}"
        lowest = 32 - bits.rindex("1") if value else 0
        assert row[:4] == [bits.count("1"), lowest, 32 - value.bit_length(), int(bits[::-1], 2)]
        assert row[4] == value * 0x9E3779B9 >> 32
        assert row[5] == int.from_bytes(value.to_bytes(4, "little"), "big")
        assert row[6] == (value << 7 | value >> 25) & 0xFFFFFFFF


def test_denormal_floats_count_as_zero():
    """As under CuPy's -ftz=true, and not with -ftz=false."""
    tiny = np.array([2.0**-140], np.float32)
    for options, expected in (((), 0.0), (("-ftz=false",), 2.0**-139)):
        out = np.full(1, np.nan, np.float32)
        run = load("narrow.cu", options=options, check=False).get_function("twice")
        run((1,), (1,), (tiny, out))
        assert out[0] == expected


def test_products_and_sums_become_fma():
    """a * b + c is rounded once, unless the intrinsics or -fmad=false say otherwise."""
    a = np.array([1 + 2**-12], np.float32)
    exact = 2.0**-11 + 2.0**-24  # a * a - 1
    for options, expected in (((), exact), (("-fmad=false",), 2.0**-11)):
        out = np.empty(2, np.float32)
        run = load("narrow.cu", options=options, check=False).get_function("square_less_one")
        run((1,), (1,), (a, out))
        assert list(out) == [expected, 2.0**-11]


def test_float_functions():
    """Each against NumPy, within a few units in the last place of float."""
    x = np.linspace(0.1, 3.1, 32, dtype=np.float32)
    out = np.empty((38, 32), np.float32)
    load("functions.cu").get_function("float_functions")((1,), (32,), (x, out, np.int32(32)))
    v, erf = x.astype(np.float64), np.vectorize(math.erf)
    square, both = v * v, np.sin(np.pi * v) + np.cos(np.pi * v)
    expected = [
        np.exp(v), np.log(v), np.log2(v), np.log10(v), np.sin(v), np.cos(v), v**1.5, 1 / v, 1 / v,
        v**0.5, v**-0.5, v**-0.5, np.clip(v - 1, 0, 1), (1 + erf(v / 2**0.5)) / 2, v + 1, v - 1,
        square, v / 3, square + 1, square + 1, 2**v, np.expm1(v), np.log1p(v), np.tanh(v), erf(v),
        np.sin(np.pi * v), np.cos(np.pi * v), both, np.sin(v) + np.cos(v), np.maximum(v, 1),
        np.minimum(v, 1), np.maximum(v, 1), np.minimum(v, 1), v, -v, np.exp(v), v**0.5, v,
    ]  # fmt: skip
    np.testing.assert_allclose(out, np.array(expected), rtol=1e-6, atol=3e-7)


def test_conversions_between_numbers():
    """Conversions to integers round as named, saturate, and take NaN to 0."""
    x = np.array([-2.5, -0.5, 0.5, 1.5, 2.5, 2.7, 3e9, -3e9, 5e9, np.nan], np.float32)
    out = np.empty((22, x.size), np.int64)
    args = x, out, np.int32(x.size)
    load("functions.cu").get_function("other_functions")((1,), (x.size,), args)
    assert np.array_equal(out[0], x.view(np.int32)) and np.array_equal(out[1], x.view(np.uint32))
    assert np.all(out[2] == 7) and np.all(out[3] == 9) and np.all(out[[5, 12, 13, 14, 15, 16]] == 1)
    assert np.array_equal(out[4][:-1], x[:-1].astype(np.float64).view(np.int64))
    value = np.nan_to_num(x.astype(np.float64))
    for row, rounded in zip(out[6:10], (np.rint, np.trunc, np.floor, np.ceil)):
        assert np.array_equal(row, np.clip(rounded(value), -(2**31), 2**31 - 1))
    for row, rounded in zip(out[10:12], (np.rint, np.trunc)):
        assert np.array_equal(row, np.clip(rounded(value), 0, 2**32 - 1))
    assert np.all(out[17] == 2 + 4 + 63) and np.all(out[18] == 2 + 2) and np.all(out[19] == 3)
    assert np.array_equal(out[20], [max(i, 3) + min(3, i) + 3 for i in range(x.size)])


def test_arithmetic_of_narrow_floats():
    out, stored = np.empty(4, np.int32), np.empty(4, np.float32)
    load("functions.cu").get_function("narrow")((1,), (1,), (out,))
    load("functions.cu").get_function("stores")((1,), (1,), (stored,))
    scalars = 5 + 1 + 6 + 1.5 - 3 + 3 + 9 + 3 + 2 + 1
    pairs = (1 + 2) * (1 - 2) + max(1 * 2, 1) + (2 + 2) * (2 - 2) + max(2 * 2, 2)
    assert list(out) == [int(scalars + pairs)] * 2 + [15, 3 + 4 + 5 + 6 + 1 + 1]
    assert list(stored) == [1, 2, 3, 4]
