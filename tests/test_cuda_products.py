"""Our own products for a GPU, emulated: linear layers, all tiles, tf32, and what chooses them."""

from __future__ import annotations

import ctypes
import json
import math
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import EMULATED, EPS, FLOATS, NEEDED, agree, gpu, product, there

import minidl as ml
from minidl.backend import cuda
from minidl.backend.cuda import blas, choice, conv, linalg, runtime
from minidl.backend.cuda.choice import TILES, Tile
from minidl.errors import ShapeError
from simt.numbers import from_bfloat16, to_bfloat16

__all__ = ["gpu"]  # the fixture
BFLOAT16 = pytest.importorskip("ml_dtypes").bfloat16
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]
KINDS = {"float32": np.float32, "tf32": np.float32, "float64": np.float64, "float16": np.float16}


@pytest.fixture
def precision():
    """Set the precision of float32 products; put back afterwards."""
    yield ml.set_float32_matmul_precision
    ml.set_float32_matmul_precision("highest")


@pytest.fixture
def own(monkeypatch):
    """Fail where cuBLAS is used."""

    def refuse(*args: Any, **options: Any) -> None:
        pytest.fail("this went to cuBLAS")

    monkeypatch.setattr(blas, "gemm", refuse)


def rounded(x: np.ndarray) -> np.ndarray:
    """float32 rounded to tf32, ties away from zero."""
    bits = x.astype(np.float32).view(np.uint32) + np.uint32(0x1000)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)


def drawn(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(31)
    return [rng.standard_normal(s) for s in shapes]


# ---- linear layers -------------------------------------------------------------------------------


@FLOATS
@pytest.mark.parametrize(
    "m, n, k", [(1, 1, 8), (5, 70, 24), (66, 3, 64), (3, 9, 600), (2, 3, 1104)]
)
def test_linear(dtype, m, n, k, own):
    """Less than a tile and more, K shared out among blocks or not; two leading axes."""
    x, w, b = drawn((m, k), (n, k), (n,))
    agree("linear", dtype, x, w, b)
    agree("linear", dtype, x.reshape(m, 1, k), w, b)


@FLOATS
def test_rows_lie_among_others(dtype, own):
    """Rows some distance apart, columns out of wider ones, and starts between two chunks: what
    lies around them is not read."""
    x, w, b = drawn((7, 40), (5, 40), (9,))
    wide = [np.full((n + 9, 72), np.nan) for n in (7, 5)]
    for array, inner in zip(wide, (x, w)):
        array[3 : 3 + len(inner), 16:56] = inner
    moved = [there(array.astype(dtype))[3 : 3 + n, 16:56] for array, n in zip(wide, (7, 5))]
    expected = agree("linear", dtype, x, w, b[:5])[0]
    bias = there(b.astype(dtype))[2:7]  # starts between two chunks
    same = cuda.linear(*moved, there(b[:5].astype(dtype)))
    np.testing.assert_array_equal(cuda.to_host(same), expected)
    (plain,) = agree("linear", dtype, x, w, b[2:7])
    np.testing.assert_array_equal(cuda.to_host(cuda.linear(*moved, bias)), plain)
    flat = np.concatenate([np.full(3, np.nan), x.ravel()])
    shifted = there(flat.astype(dtype))[3:].reshape(7, 40)
    assert shifted.data.ptr % 16
    y = cuda.linear(shifted, moved[1], there(b[:5].astype(dtype)))
    np.testing.assert_array_equal(cuda.to_host(y), expected)


@EMULATED
@FLOATS
def test_what_our_kernels_do_not_take_goes_to_cublas(dtype, monkeypatch):
    """No bias, rows that are no whole chunks, columns that lie first, rows turned round."""
    seen: list[tuple] = []
    monkeypatch.setattr(blas, "gemm", lambda *a: (seen.append(a), product(*a))[1])
    x, w, b = (there(a.astype(dtype)) for a in drawn((6, 16), (5, 16), (5,)))
    first, columns = (there(a.astype(dtype)).T for a in drawn((16, 6), (16, 5)))
    for given in (
        (x, w, None), (x[:, :13], w[:, :13], b), (first, w, b), (x, columns, b), (x[::-1], w, b),
        (x[:, ::-1], w, b), (x, w[:, ::-1], b),
    ):  # fmt: skip
        count = len(seen)
        y = cuda.to_host(cuda.linear(*given))
        assert len(seen) == count + 1
        u, v = (cuda.to_host(a).astype(np.float64) for a in given[:2])
        expected = u @ v.T + (0 if given[2] is None else cuda.to_host(b).astype(np.float64))
        np.testing.assert_allclose(y, expected, rtol=0, atol=20 * EPS[dtype])


@EMULATED
def test_leading_axes_make_one_product(monkeypatch):
    """Of an array that is dense; else, and where the other side has matrices too, one each."""
    seen: list[tuple] = []
    monkeypatch.setattr(blas, "gemm", lambda *a: (seen.append(a), product(*a))[1])
    x, y, more = (there(a) for a in drawn((2, 3, 4, 5), (5, 6), (3, 5, 6)))
    for given, sizes, count in (
        ((x, y), (24, 6, 5), 1), ((x[:, ::2], y), (4, 6, 5), 4), ((x, more), (4, 6, 5), 6),
        ((x[0, 0], y), (4, 6, 5), 1),
    ):  # fmt: skip
        found = cuda.to_host(cuda.matmul(*given))
        np.testing.assert_allclose(found, np.matmul(*map(cuda.to_host, given)), atol=1e-12)
        assert seen[-1][2] == sizes and seen[-1][8] == count


@FLOATS
def test_empty_linear_layers(dtype, own):
    for m, n, k in ((0, 3, 8), (4, 0, 8), (4, 3, 0)):
        x, w, b = drawn((m, k), (n, k), (n,))
        agree("linear", dtype, x, w, b)


def test_shares_are_added_in_order(own):
    """The same bits every time, and those of the shares' sums in order."""
    x, w, b = [a.astype(np.float32) for a in drawn((4, 600), (3, 600), (3,))]
    span, parts = choice.shares(1, 600, x.dtype, 264)
    assert parts > 1
    y = cuda.to_host(cuda.linear(*map(there, (x, w, b))))
    again = cuda.to_host(cuda.linear(*map(there, (x, w, b))))
    np.testing.assert_array_equal(y, again)
    total = np.zeros((4, 3), np.float32)
    for i in range(parts):
        k = slice(i * span, (i + 1) * span)
        part = cuda.linear(there(x[:, k]), there(w[:, k]), there(np.zeros(3, np.float32)))
        total += cuda.to_host(part)
    np.testing.assert_array_equal(y, total + b)


# ---- tiles and kinds -----------------------------------------------------------------------------

CASES = [
    (TILES[0], "float16"), (TILES[1], "float16"), (TILES[2], "float16"), (TILES[1], "float32"),
    (TILES[1], "tf32"), (TILES[2], "float64"), (TILES[2], "tf32"), (TILES[3], "tf32"),
    (TILES[3], "float32"),
]  # fmt: skip


@pytest.mark.parametrize("tile, kind", CASES, ids=lambda c: c if isinstance(c, str) else str(c[:2]))
def test_every_tile(tile, kind, monkeypatch, precision, own):
    """Products of more than one tile and of parts of one; K along rows and across them.

    Operands of tf32 are rounded to it before, so that products are exact.
    """
    monkeypatch.setattr(choice, "tile", lambda *a: tile)
    monkeypatch.setattr(choice, "shares", lambda blocks, k, *more: (k, 1))
    dtype = KINDS[kind]
    fit = rounded if kind == "tf32" else np.asarray
    precision("high" if kind == "tf32" else "highest")
    deep = 64 // np.dtype(dtype).itemsize  # of a tile: stages are used again, the last in part
    m, n, k = tile.m + 3, 72, 4 * deep + 8
    x, w, b = (np.asarray(fit(a), np.float64) for a in drawn((m, k), (n, k), (n,)))
    agree("linear", dtype, x, w, b)
    x, g = (
        np.asarray(fit(a), np.float64) for a in drawn((1, 8, 9, deep // 2), (1, m, 9, deep // 2))
    )
    agree("conv2d_weight_grad", dtype, g, x, (m, 8, 3, 3), (1, 1), (1, 1), (1, 1), 1)


def test_bfloat16():
    """Through its bits, which the emulator takes for it; the result is rounded once."""
    bits = [to_bfloat16(a) for a in drawn((70, 72), (66, 72), (66,))]
    x, w, b = (from_bfloat16(a).astype(np.float64) for a in bits)
    tile, y = TILES[2], there(np.zeros((70, 66), np.uint16))
    run = runtime.kernel("linear.cu", "linear", np.dtype(BFLOAT16), "Tile<128, 64, 3, false>")
    sizes = (70, 66, 72, 72, 72)
    block = {"threads": 128, "shared": tile.shared}
    runtime.launch(run, tile.grid(70, 66), *map(there, bits), y, *sizes, **block)
    expected = x @ w.T + b
    error = np.abs(from_bfloat16(cuda.to_host(y)) - expected)
    assert (error <= 2**-8 * np.abs(expected) + 1e-4).all()


@pytest.mark.parametrize("tile, kind", [(TILES[1], "tf32"), (TILES[0], "float16")])
def test_convolutions_by_large_tiles(tile, kind, monkeypatch, precision):
    monkeypatch.setattr(choice, "tile", lambda *a: tile)
    precision("high" if kind == "tf32" else "highest")
    fit = rounded if kind == "tf32" else np.asarray
    x, w, b = (np.asarray(fit(a), np.float64) for a in drawn((2, 8, 9, 9), (9, 8, 3, 3), (9,)))
    agree("conv2d", KINDS[kind], x, w, b, (1, 1), (1, 1), (1, 1), 1)
    g = np.asarray(fit(drawn((2, 9, 5, 5))[0]), np.float64)
    agree("conv2d_input_grad", KINDS[kind], g, w, x.shape, (2, 2), (1, 1), (1, 1), 1)


def test_misaligned_convolutions():
    """Images that start between two chunks are copied."""
    x, w = drawn((2, 5, 5, 8), (8, 8, 3, 3))
    flat = np.concatenate([np.full(3, np.nan), x.ravel()]).astype(np.float32)
    shifted = there(flat)[3:].reshape(x.shape).transpose(0, 3, 1, 2)
    plain = there(x.astype(np.float32)).transpose(0, 3, 1, 2)
    more = ((1, 1), (1, 1), (1, 1), 1)
    for name, args in (("conv2d", (there(w.astype(np.float32)), None)),
                       ("conv2d_weight_grad", None)):  # fmt: skip
        made = []
        for a in (shifted, plain):
            given = (a, *args, *more) if args else (plain, a, w.shape, *more)
            made.append(cuda.to_host(getattr(cuda, name)(*given)))
        np.testing.assert_array_equal(*made)


def pretended(dtype: Any, shape: tuple[int, ...]) -> Any:
    """An array so large that nobody has its memory, and nobody may read it."""
    item, size = np.dtype(dtype).itemsize, math.prod(shape)
    steps = [size // math.prod(shape[: i + 1]) * item for i in range(len(shape))]
    return runtime.seen(there(np.zeros(8, dtype)), shape, tuple(steps))


@EMULATED
def test_what_has_no_place_in_32_bits_is_refused():
    """Pixels, distances and sizes wrapped round, and other memory was read and written."""
    w, window = there(np.zeros((8, 3, 3, 8), np.float16)), ((1, 1), (1, 1), (1, 1))
    for n, h, wide in ((2, 1 << 15, 1 << 15), (1, 1 << 16, 1 << 15), (2, 1 << 14, 1 << 14)):
        x, channels = pretended(np.float16, (n, h, wide, 8)), 8 if h > 1 << 14 else 16
        y = pretended(np.float16, (n, h, wide, channels))
        apart = (h * wide * channels, wide * channels, channels)
        with pytest.raises(ShapeError, match=r"a GPU takes pixels and distances below 2\*\*31"):
            conv._correlate(x, 8, w, None, y, apart, window)
    a = cuda.empty((2, 3), np.float32)
    with pytest.raises(ShapeError, match=r"matmul: cuBLAS takes sizes below 2\*\*31"):
        GEMM(0, 0, (2, 1 << 31, 3), a, 3, a, 1 << 31, a)


@EMULATED
def test_linear_layers_of_millions_of_outputs_go_to_cublas():
    """A grid has 65,535 blocks of at most 128 columns along its second axis."""
    x, w, b = (pretended(np.float16, shape) for shape in ((64, 16), (5 << 20, 16), (5 << 20,)))
    assert linalg._with_bias(x, w, b) is None


# ---- tf32 ----------------------------------------------------------------------------------------


def test_precision_of_float32(precision):
    """PyTorch's three words; the third means the second."""
    assert ml.get_float32_matmul_precision() == "highest"
    for given, kept in (("medium", "high"), ("highest", "highest"), ("high", "high")):
        precision(given)
        assert ml.get_float32_matmul_precision() == kept
    with pytest.raises(ValueError, match=r"must be 'highest', 'high' or 'medium'; got .* 'low'"):
        precision("low")
    assert ml.get_float32_matmul_precision() == "high"


def test_tf32_rounds_operands_only(precision, own):
    """Rounded before or not, operands give the same bits, which are not float32's; nothing else
    changes."""
    x, w, b = drawn((5, 24), (7, 24), (7,))
    exact = {t: agree("linear", t, x, w, b)[0] for t in (np.float32, np.float64)}
    given = [a.astype(np.float32) for a in (x, w, b)]
    precision("high")
    y = cuda.to_host(cuda.linear(*map(there, given)))
    same = cuda.to_host(cuda.linear(*map(there, (rounded(given[0]), rounded(given[1]), given[2]))))
    np.testing.assert_array_equal(y, same)
    error = np.abs(y - exact[np.float32]).max()
    assert 1e-5 < error < 24 * 2**-10 * np.abs(x).max() * np.abs(w).max()
    (double,) = agree("linear", np.float64, x, w, b)
    np.testing.assert_array_equal(double, exact[np.float64])


def test_cublas_is_told_the_precision(monkeypatch, precision):
    """Its compute type; types and sizes of the transposed product."""
    calls: list[tuple] = []
    monkeypatch.setattr(blas, "_call", lambda name, *args: calls.append((name, *args)))
    monkeypatch.setattr(blas, "_handle", lambda: (ctypes.c_void_p(), cuda.empty((4,), np.uint8)))
    gemm = GEMM
    for word, kinds in (("highest", {np.float32: 68, np.float64: 70, np.float16: 68}),
                        ("high", {np.float32: 77, np.float64: 70, np.float16: 68})):  # fmt: skip
        precision(word)
        for dtype, compute in kinds.items():
            a, b, c = (cuda.empty(s, dtype) for s in ((2, 3), (3, 4), (2, 4)))
            gemm(0, 0, (2, 4, 3), a, 3, b, 4, c)
            name, _, tb, ta, n, m, k, *rest = calls[-1]
            assert (name, tb, ta, n, m, k) == ("cublasGemmStridedBatchedEx", 0, 0, 4, 2, 3)
            assert rest[-2:] == [compute, -1]


GEMM = blas.gemm  # before the fixture replaces it


# ---- what runs -----------------------------------------------------------------------------------


def test_tiles_fit_the_shape():
    """Large ones where there is work for all of a GPU, small ones else and for wider types."""
    for sizes, shared_out, *expected in (
        ((8192, 4096, 1024), False, 1, 1, 2), ((100000, 64, 576), False, 2, 2, 2),
        ((1000, 100, 64), False, 3, 3, 3), ((64, 100000, 64), False, 3, 3, 3),
        ((140, 30000, 64), False, 1, 1, 2), ((128, 30000, 64), False, 1, 1, 2),
        ((512, 4608, 50000), True, 2, 1, 2), ((256, 256, 64), True, 3, 3, 3),
    ):  # fmt: skip
        for dtype, i in zip((np.float16, np.float32, np.float64), expected, strict=True):
            assert choice.tile("linear", np.dtype(dtype), sizes, shared_out) == TILES[i]
    half, sizes = np.dtype(np.float16), (512, 4608, 50000)
    assert choice.tile("convolve_weight_grad", half, sizes, True) == TILES[0]


@FLOATS
def test_shares_cover_k(dtype):
    """Each share but the last is as long, whole tiles deep, and none is empty."""
    step = 64 // np.dtype(dtype).itemsize
    for blocks in (1, 3, 100, 264, 5000):
        for k in (1, step, 100, 1000, 4096, 100003):
            span, parts = choice.shares(blocks, k, np.dtype(dtype), 264)
            assert span % step == 0 and (parts - 1) * span < k <= parts * span
            assert parts == 1 or (span >= 8 * step and parts * blocks <= 264)


def test_the_table_wins(monkeypatch):
    """A tuned class has its tile, or cuBLAS, and no other class has."""
    single, sizes = np.dtype(np.float32), (5, 9, 24)
    monkeypatch.setattr(choice, "TUNED", {"linear float32 3 4 5": [128, 64, 3]})
    assert choice.tile("linear", single, sizes, True) == Tile(128, 64, 3)
    assert choice.own_linear(single, sizes) and choice.own_linear(single, (7, 15, 31))
    for other in ((8, 9, 24), (5, 16, 24), (5, 9, 32)):
        assert choice.tile("linear", single, other, True) == TILES[3]
    assert choice.tile("convolve", single, sizes, True) == TILES[3]
    choice.TUNED["linear float32 3 4 5"] = []
    assert not choice.own_linear(single, sizes)
    x, w, b = map(there, (a.astype(np.float32) for a in drawn((5, 24), (9, 24), (9,))))
    assert linalg._with_bias(x, w, b) is None
    assert linalg._with_bias(x[:4], w[:7], b[:7]) is not None


def test_cublas_has_the_large_products():
    """Where its faster products are worth a pass over the results."""
    for kind, dtype in KINDS.items():
        if kind != "tf32":
            assert choice.own_linear(np.dtype(dtype), (4096, 4096, 64))
            assert choice.own_linear(np.dtype(dtype), (128, 512, 512))
            assert not choice.own_linear(np.dtype(dtype), (4096, 4096, 1024))


def test_the_committed_table():
    """Only known tiles of the kind, and known names."""
    text = choice.Path(choice.__file__).with_name("tuned.json").read_text()
    assert json.loads(text) == choice.TUNED
    for key, value in choice.TUNED.items():
        name, kind, *sizes = key.split()
        assert name in ("linear", "convolve", "convolve_weight_grad") and kind in choice._BIAS_K
        assert len(sizes) == 3 and all(0 < int(s) < 32 for s in sizes)
        assert tuple(value) in choice.tiles_of(kind) or (name, value) == ("linear", [])
    assert all(math.prod(t.grid(t.m, t.n)) == 1 for t in TILES)
