"""Attention for a GPU, emulated, against the CPU's."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import EMULATED, EPS, FLOATS, NEEDED, agree, gpu, there

import minidl as ml
from minidl.autograd import grad, wrap
from minidl.backend import cpu, cuda
from minidl.backend.cuda import attention, runtime
from minidl.errors import DeviceError, DTypeError, ShapeError
from minidl.ops.attention import scaled_dot_product_attention

__all__ = ["gpu"]  # the fixture
BFLOAT16 = pytest.importorskip("ml_dtypes").bfloat16
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]


def drawn(rng: Any, tq: int, tk: int, d: int, e: int, heads: int = 1, groups: int = 1) -> list:
    """q, k, v of two images, and the gradient of their result."""
    shapes = [(heads, tq, d), (groups, tk, d), (groups, tk, e), (heads, tq, e)]
    return [rng.standard_normal((2, *s)) for s in shapes]


def drawn_mask(rng: Any, kind: str, shape: tuple[int, ...]) -> Any:
    """No mask, booleans that hide some rows wholly, or numbers, some of them -infinity."""
    if kind == "bool":
        return (rng.random(shape) > 0.4) & (rng.random((*shape[:-1], 1)) > 0.1)
    if kind == "float":
        return np.where(rng.random(shape) > 0.2, rng.standard_normal(shape), -np.inf)
    return None


def attended(dtype: Any, *args: Any) -> list[np.ndarray]:
    """attend of both backends agrees; a GPU's log-sum-exp is in units of log 2."""
    own = cpu.attend

    def attend(*args: Any) -> tuple:
        y, lse = own(*args)
        return y, lse / np.log(2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "attend", attend)
        return agree("attend", dtype, *args)


def both_ways(
    dtype: Any, q: Any, k: Any, v: Any, g: Any, mask: Any, causal: bool, scale: Any = None
) -> None:
    """Forward and backward agree with the CPU's; gradients to the scale of the largest of them."""
    narrow = [x.astype(dtype) for x in (g, q, k, v)]
    mask = mask.astype(dtype) if mask is not None and mask.dtype != bool else mask
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    y, lse = attended(dtype, *narrow[1:], mask, causal, scale)
    got = cuda.attend_grad(
        *map(there, narrow), there(mask), there(y), there(lse), causal, scale
    )  # fmt: skip
    wide = [x.astype(np.float64) for x in (*narrow, y, lse * np.log(2))]
    mask = mask.astype(np.float64) if mask is not None and mask.dtype != bool else mask
    true = cpu.attend_grad(*wide[:4], mask, *wide[4:], causal, scale)
    most = max(np.abs(t).max(initial=0) for t in true)
    for ours, theirs in zip(got, true, strict=True):
        ours = cuda.to_host(ours)
        assert ours.dtype == dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2 * EPS[dtype] * most)


CASES = {  # T, S, D, E, query heads, key heads
    "none": (70, 90, 8, 8, 2, 1), "causal": (133, 70, 16, 24, 1, 1), "bool": (65, 67, 3, 7, 2, 2),
    "float": (3, 66, 16, 8, 3, 1), "one row": (1, 65, 40, 64, 2, 2), "one key": (70, 1, 5, 8, 1, 1),
}  # fmt: skip


@FLOATS
@pytest.mark.parametrize("kind", CASES)
def test_attention(dtype, kind):
    """Shared heads, sizes that fill no tile, rows that see no key."""
    (tq, tk, *_, heads, _), rng = CASES[kind], np.random.default_rng(1)
    mask = drawn_mask(rng, kind, (heads, tq, tk))
    both_ways(dtype, *drawn(rng, *CASES[kind]), mask, kind == "causal")


@pytest.mark.parametrize("causal", [False, True])
def test_rows_longer_than_a_tile_of_the_other_kind(causal):
    """Many key tiles before and behind the queries' diagonal."""
    rng = np.random.default_rng(2)
    for dtype, sizes in ((np.float16, (70, 150, 8, 8, 2, 1)), (np.float32, (150, 70, 8, 4, 2, 1))):
        both_ways(dtype, *drawn(rng, *sizes), None, causal)
    q, k, v, _ = drawn(rng, 70, 150, 8, 8)
    attended(np.float16, q, k, v, None, True, 0.3, np.array([45]))


@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float"])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_drawn_shapes_of_half_types(d, kind):
    """Of heads of each width: warps some or all of whose rows are outside, and several tiles."""
    rng = np.random.default_rng([d, *kind.encode()])
    tq, tk = rng.integers(1, 17000 // d, 2)
    groups, width, e = rng.integers(1, 3), *rng.integers(d // 2 + 1, d + 1, 2)
    heads = int(groups * rng.integers(1, 3))
    mask = drawn_mask(rng, kind, (heads, tq, tk))
    width, e = (width // 8 * 8, e // 8 * 8) if kind in ("none", "causal") else (width, e)
    given = drawn(rng, tq, tk, width, e, heads, groups)
    both_ways(np.float16, *(x[:1] for x in given), mask, kind == "causal")


@FLOATS
@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_scales_that_are_not_positive(dtype, scale):
    """The highest product of a row is then not its highest score."""
    for causal in (False, True):
        both_ways(dtype, *drawn(np.random.default_rng(12), 35, 70, 8, 8), None, causal, scale)


@FLOATS
def test_levels_rise_along_the_keys(dtype):
    """By more than 2^8 or less, in some rows or all, once or at every tile; and they may fall."""
    rng = np.random.default_rng(13)
    q, k = rng.standard_normal((1, 1, 40, 8)), rng.standard_normal((1, 1, 300, 8)) / 10
    v = rng.standard_normal((1, 1, 300, 8))
    q[..., 0] = np.linspace(-1, 1, 40)
    for rise in (3, 12, 60):  # of the highest score, from one end to the other
        k[..., 0] = np.linspace(0, rise, 300)
        for causal in (False, True):
            attended(dtype, q, k, v, None, causal, 1.0)


WIDE = [(np.float16, 128, 96), (np.float16, 136, 200), (np.float32, 9, 256), (np.float64, 130, 4)]


@pytest.mark.parametrize("dtype, d, e", WIDE)
def test_wide_heads(dtype, d, e):
    """Tiles of fewer rows, and blocks that make some columns of the results each."""
    both_ways(dtype, *drawn(np.random.default_rng(3), 19, 37, d, e), None, True)


@FLOATS
def test_keys_are_split_over_blocks_for_few_queries(dtype):
    """The splits' results are combined; those that see nothing have no weight."""
    rng = np.random.default_rng(4)
    q, k, v, _ = drawn(rng, 2, 523, 8, 10, 2, 1)
    assert attention._splits(4, 523, 64) == (2, 320)
    mask = rng.random((2, 1, 523)) > 0.5
    mask[0], mask[1, :, 320:] = False, False
    for seen in (None, mask):
        attended(dtype, q, k, v, seen, False, 0.3)
    for before in (0, 318, 319, 521):
        attended(dtype, q, k, v, None, True, 0.3, np.array([before]))


def test_what_lies_behind_the_last_key_is_not_read():
    """As in a cache of keys that is not yet full."""
    rng = np.random.default_rng(5)
    q, k, v, _ = drawn(rng, 3, 100, 8, 8)
    k[:, :, 23:], v[:, :, 23:] = np.nan, np.nan
    given = [there(x.astype(np.float16)) for x in (q, k, v)]
    y, _ = cuda.attend(*given, None, True, 0.3, there(np.array([20])))
    assert np.isfinite(cuda.to_host(y)).all()
    short = [there(x[:, :, :23].astype(np.float16)) for x in (q, k, v)]
    same, _ = cuda.attend(*short, None, True, 0.3, there(np.array([20])))
    np.testing.assert_array_equal(cuda.to_host(y), cuda.to_host(same))


def test_bfloat16():
    """Errors are those of rounding once."""
    given = [x.astype(BFLOAT16) for x in drawn(np.random.default_rng(6), 33, 70, 16, 16)]
    q, k, v, g = (x.astype(np.float64) for x in given)
    how = (None, False, 0.25)
    y, lse = cpu.attend(q, k, v, *how)
    true = [y, *cpu.attend_grad(g, q, k, v, None, y, lse, False, 0.25)]
    ours = [there(x) for x in given]
    got, lse = cuda.attend(*ours[:3], *how)
    grads = cuda.attend_grad(ours[3], *ours[:3], None, got, lse, False, 0.25)
    most = max(np.abs(t).max() for t in true)
    for mine, theirs in zip((got, *grads), true, strict=True):
        assert mine.dtype == BFLOAT16
        found = cuda.to_host(mine).astype(np.float64)
        np.testing.assert_allclose(found, theirs, rtol=0, atol=2**-7 * most)


# ---- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 9, 3, 4, 8), (1, 5, 3, 1, 16), (2, 6, 3, 2, 5)])
def test_a_fused_projection_is_read_in_place(monkeypatch, shape):
    """q, k, v are views of one array (B, T, 3, H, D); their gradients are views of one like it."""
    rng = np.random.default_rng(7)
    packed = cuda.from_host(rng.standard_normal(shape).astype(np.float32))
    q, k, v = (packed[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    monkeypatch.setattr(attention, "contiguous", None)
    y, lse = cuda.attend(q, k, v, None, True, 0.3)
    assert y.transpose(0, 2, 1, 3).flags.c_contiguous
    grads = cuda.attend_grad(y, q, k, v, None, y, lse, True, 0.3)
    step = shape[3] * shape[4] * 4
    assert [g.strides for g in grads] == [x.strides for x in (q, k, v)]
    assert [g.data.ptr - grads[0].data.ptr for g in grads] == [0, step, 2 * step]
    apart = [cuda.contiguous(x) for x in (q, k, v)]
    whole, _ = cuda.attend(*apart, None, True, 0.3)
    np.testing.assert_array_equal(cuda.to_host(y), cuda.to_host(whole))
    others = cuda.attend_grad(whole, *apart, None, whole, lse, True, 0.3)
    for a, b in zip(grads, others, strict=True):
        np.testing.assert_array_equal(cuda.to_host(a), cuda.to_host(b))


def test_any_leading_axes_and_strides():
    """No heads, many axes, repeated axes, rows backwards, a last axis that is not contiguous."""
    rng = np.random.default_rng(8)
    for lead in ((), (3,), (2, 1, 3)):
        q, k, v = (rng.standard_normal((*lead, 5, 8)) for _ in range(3))
        attended(np.float32, q, k, v, None, False, 0.3)
    x = cuda.from_host(rng.standard_normal((2, 3, 2, 5, 8)).astype(np.float32))
    odd = cuda.from_host(rng.standard_normal((2, 3, 2, 5, 16)).astype(np.float32))[..., ::2]
    once = runtime.cupy().ndarray(x.shape, x.dtype, x.data, (0, 0, *x.strides[2:]))
    for q, k in ((x[:, ::-1], once), (x[..., ::-1, :], odd), (odd, x[:, :, ::-1])):
        y, lse = cuda.attend(q, k, k, None, False, 0.3)
        plain = [cuda.to_host(a).astype(np.float64) for a in (q, k)]
        expected, level = cpu.attend(plain[0], plain[1], plain[1], None, False, 0.3)
        np.testing.assert_allclose(cuda.to_host(y), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(cuda.to_host(lse) * np.log(2), level, rtol=1e-5)
        grads = cuda.attend_grad(y, q, k, k, None, y, lse, False, 0.3)
        given = (plain[0], plain[1], plain[1], None, expected, level)
        for a, b in zip(grads, cpu.attend_grad(expected, *given, False, 0.3), strict=True):
            np.testing.assert_allclose(cuda.to_host(a), b, rtol=1e-4, atol=1e-5)


def test_rows_that_lie_far_apart_are_not_copied_in_chunks():
    """Offsets within a tile are 32 bits in the kernels."""
    x = types.SimpleNamespace(shape=(2, 1, 3, 8), itemsize=2, data=types.SimpleNamespace(ptr=256))
    for row, whole in ((32, 1), (2**24 - 16, 1), (2**24, 0), (-(2**24), 0), (40, 0)):
        x.strides = (2**40, 2**30, row, 2)
        assert attention._strides(x) == [2**39, 0, row // 2, whole]


@pytest.mark.parametrize("shape", [
    (5,), (4, 1), (2, 1, 5), (3, 1, 4, 1), (1, 2, 4, 5), (2, 1, 1, 1, 5), (1, 3, 1, 4, 5),
    (2, 3, 1, 4, 1),
])  # fmt: skip
def test_masks_broadcast(shape):
    """Over images, heads, rows and keys; one lies transposed in memory."""
    rng = np.random.default_rng(9)
    q, k = rng.standard_normal((2, 3, 2, 4, 8)), rng.standard_normal((2, 3, 1, 5, 8))
    for mask in (rng.random(shape) > 0.4, rng.standard_normal(shape)):
        turned = np.asarray(mask.T, order="C").T
        attended(np.float32, q, k, k, turned, False, 0.3)
        both_ways(np.float32, q, k, k, rng.standard_normal(q.shape), mask, False)


@FLOATS
def test_masks_of_large_numbers(dtype):
    """Queries behind the last one took its row of the mask: exp of 300 gave infinity times zero."""
    given = drawn(rng := np.random.default_rng(14), 3, 20, 8, 8)
    both_ways(dtype, *given, np.where(rng.random((1, 3, 20)) > 0.5, 300.0, 250.0), False)


@FLOATS
@pytest.mark.parametrize("number", [-1e9, "least", "most"])
def test_rows_of_masks_of_huge_numbers(dtype, number):
    """The least number is no -infinity: a row of it is the mean of v, in one part or several, which
    count by their keys: -1e9 and the logarithm of their number is -1e9."""
    limits = np.finfo(dtype)
    number = {"least": limits.min, "most": limits.max}.get(number, max(-1e9, float(limits.min)))
    q, k, v, g = drawn(np.random.default_rng(15), 3, 20, 8, 8)
    mask = np.zeros((3, 20))
    mask[1], mask[2, 5:], mask[2, :5] = number, number, -np.inf
    given = [there(x.astype(dtype)) for x in (q, k, v, g)]
    y, lse = cuda.attend(*given[:3], there(mask.astype(dtype)), False, 0.0)
    true = np.stack([v.mean(-2), v.mean(-2), v[..., 5:, :].mean(-2)], -2)
    np.testing.assert_allclose(cuda.to_host(y), true, rtol=0, atol=4 * EPS[dtype])
    shown = (there(mask.astype(dtype)), y, lse, False, 0.0)
    for x in cuda.attend_grad(given[3], *given[:3], *shown):
        assert np.isfinite(cuda.to_host(x)).all()
    k, v = (np.concatenate([x] * 40, -2)[..., :523, :].astype(dtype) for x in (k, v))
    long = there(np.full((1, 523), number, dtype))
    y, _ = cuda.attend(given[0][:, :, :1], there(k), there(v), long, False, 0.0)
    true = v.astype(np.float64).mean(-2, keepdims=True)
    np.testing.assert_allclose(cuda.to_host(y), true, rtol=0, atol=4 * EPS[dtype])


@FLOATS
def test_nothing_to_see(dtype):
    """No keys, no queries, no batch, no columns of v."""
    for b, tq, tk, e in ((2, 3, 0, 5), (2, 0, 3, 5), (0, 3, 3, 5), (2, 3, 4, 0)):
        shapes = ((b, 2, tq, 4), (b, 1, tk, 4), (b, 1, tk, e))
        given = [there(np.ones(s, dtype)) for s in shapes]
        y, lse = cuda.attend(*given, None, False, 0.5)
        assert y.shape == (b, 2, tq, e) and lse.shape == (b, 2, tq)
        assert not cuda.to_host(y).any()
        for x, g in zip(given, cuda.attend_grad(y, *given, None, y, lse, False, 0.5), strict=True):
            assert g.shape == x.shape and not cuda.to_host(g).any()


SMALL = [  # what a kernel of the gradient takes in full-size tiles is above 99 KiB
    (np.float16, 128), (np.float16, 256), (np.float32, 128), (np.float32, 256), (np.float64, 64),
    (np.float64, 128),
]  # fmt: skip


@EMULATED
@pytest.mark.parametrize("dtype, d", SMALL)
def test_gpus_whose_blocks_have_little_shared_memory(monkeypatch, dtype, d):
    """RTX 30 and 40 have 99 KiB a block: launches of gradients failed there."""
    given = drawn(np.random.default_rng(16), 39, 70, d, d - 8, 2, 1)
    whole = [attention.cut_of(np.dtype(dtype), d, *n) for n in ((2, 1), (1, 2))]
    assert max(cut.shared for cut in whole) > 99 << 10
    monkeypatch.setattr(runtime, "shared_limit", lambda: 99 << 10)
    for causal in (False, True):
        both_ways(dtype, *(x[:1] for x in given), None, causal)


@EMULATED
def test_a_gpu_with_less_shared_memory_says_what_is_too_much(monkeypatch):
    """Tiles of such doubles cannot be smaller."""
    monkeypatch.setattr(runtime, "shared_limit", lambda: 99 << 10)
    x = wrap(there(np.ones((2, 4, 130))), requires_grad=True)
    y = scaled_dot_product_attention(x, x, x)
    with pytest.raises(DeviceError, match="query_grad.* needs more shared memory a block"):
        y.sum().backward()


def test_gradients_of_a_fused_projection_lie_together():
    """Regression: they shared out one array's memory, but were copied from there into another."""
    x = np.random.default_rng(17).standard_normal((2, 5, 3, 4, 8)).astype(np.float32)
    whole = there(x).transpose(2, 0, 3, 1, 4)
    q, k, v = whole[0], whole[1], whole[2]
    y, lse = cuda.attend(q, k, v, None, True, 0.5)
    made = cuda.attend_grad(y, q, k, v, None, y, lse, True, 0.5)
    joined = cuda.assemble(made, [(i,) for i in range(3)], whole.shape, whole.strides)
    assert joined.data.ptr == made[0].data.ptr and joined.strides == whole.strides


# ---- the op, and rows of caches ------------------------------------------------------------------


def test_heads_that_are_too_wide():
    q = there(np.ones((1, 2, 257), np.float32))
    with pytest.raises(ShapeError, match="attention: a GPU takes heads of at most 256 elements"):
        cuda.attend(q, q, q, None, False, 1.0)
    with pytest.raises(ShapeError, match="at most 256"):
        cuda.attend_grad(q, q, q, q, None, q, q, False, 1.0)


def test_the_op_takes_half_types_on_a_gpu_alone():
    x = np.ones((2, 3, 4), np.float16)
    with pytest.raises(DTypeError, match="must all be float32 or all float64"):
        scaled_dot_product_attention(x, x, x)
    y = scaled_dot_product_attention(there(x), there(x), there(x), is_causal=True)
    assert not isinstance(y, np.ndarray) and np.array_equal(cuda.to_host(y), x)
    with pytest.raises(DTypeError, match="must all be bfloat16 or all float16"):
        scaled_dot_product_attention(there(x), there(x.astype(np.float32)), there(x))


def test_gradients_of_the_op():
    """Saved by the op and given to the backend, they are the CPU's."""
    rng, found = np.random.default_rng(11), []
    q, k, v, g = drawn(rng, 3, 5, 8, 4, 2, 1)
    for move in (np.asarray, there):
        tensors = [wrap(move(x), requires_grad=True) for x in (q, k, v)]
        y = scaled_dot_product_attention(*tensors, is_causal=True, enable_gqa=True)
        got = grad(y, tensors, wrap(move(g)))
        found.append([x.detach().numpy() for x in (y, *got)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_dropout_of_causal_weights():
    """Through the whole array of weights, with the CPU's bits: nanoGPT's training once died here,
    of a mask in the host's memory."""
    rng, found = np.random.default_rng(12), []
    q, k, v, g = drawn(rng, 3, 5, 5, 4, 2, 2)
    for move in (np.asarray, there):
        ml.manual_seed(5)
        tensors = [wrap(move(x), requires_grad=True) for x in (q, k, v)]
        y = scaled_dot_product_attention(*tensors, is_causal=True, dropout_p=0.4)
        got = grad(y, tensors, wrap(move(g)))
        found.append([x.detach().numpy() for x in (y, *got)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@FLOATS
@pytest.mark.parametrize("lead", [(), (3,), (2, 2, 3)])
def test_rows_are_put_into_a_cache(dtype, lead):
    """From any strides, at a place that the GPU knows; rows beyond the room are left out."""
    rng = np.random.default_rng(10)
    new = rng.standard_normal((4, *lead, 5)).astype(dtype)
    moved = np.moveaxis(new, 0, -2)  # (..., T, D)
    for first in (0, 3, 7):
        room = rng.standard_normal((*lead, 9, 5)).astype(dtype)
        ours, place = there(room), there(np.array([first]))
        cuda.put_rows(ours, cuda.from_host(new).transpose(*range(1, len(lead) + 1), 0, -1), place)
        room[..., first : first + 4, :] = moved[..., : 9 - first, :]
        np.testing.assert_array_equal(cuda.to_host(ours), room)
    cuda.put_rows(ours, there(np.zeros((*lead, 0, 5), dtype)), place)
    np.testing.assert_array_equal(cuda.to_host(ours), room)
