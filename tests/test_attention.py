"""Attention against the plain formula in NumPy, differences, its definition, and PyTorch."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
from minidl import config, nn
from minidl.autograd import grad, wrap
from minidl.backend import cpu
from minidl.errors import DTypeError, ShapeError
from minidl.ops import attention as ops
from minidl.ops.attention import scaled_dot_product_attention

GOLDEN = np.load(Path(__file__).parent / "golden" / "recurrent.npz")


def oracle(q, k, v, mask=None, causal=False, scale=None):
    """The formula with the whole array of weights, in the arguments' precision."""
    if k.ndim > 2 and k.shape[-3] != q.shape[-3]:
        times = q.shape[-3] // k.shape[-3]
        k, v = np.repeat(k, times, -3), np.repeat(v, times, -3)
    scale = q.dtype.type(1 / np.sqrt(q.shape[-1]) if scale is None else scale)
    scores = q @ np.swapaxes(k, -1, -2) * scale
    lowest = q.dtype.type(-np.inf)
    if mask is not None:
        scores = np.where(mask, scores, lowest) if mask.dtype == bool else scores + mask
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, lowest)
    top = scores.max(-1, keepdims=True, initial=lowest)
    weights = np.exp(scores - np.where(np.isneginf(top), q.dtype.type(0), top))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, q.dtype.type(1), total) @ v


def pulled(q, k, v, cotangent, mask=None, definition=False, **kw):
    """Gradients of q, k, v."""
    tensors = [wrap(x.copy(), requires_grad=True) for x in (q, k, v)]
    if definition:
        y = ops.attention_by_elementary_ops(
            *tensors, mask, causal=kw.get("is_causal", False), scale=1 / q.shape[-1] ** 0.5
        )
    else:
        y = scaled_dot_product_attention(*tensors, mask, **kw)
    return [g.array for g in grad(y, tensors, wrap(cotangent))]


def norm(a, b):
    return float(np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64)))


def drawn_mask(rng, kind, shape):
    """A mask of the kind: none, causal (no array), bool (some rows unseen), or float."""
    if kind == "bool":
        return rng.random(shape) > 0.4
    return rng.standard_normal(shape) if kind == "float" else None


SIZE = st.integers(1, 70)


@given(
    tq=SIZE, tk=SIZE, d=st.integers(1, 9), e=st.integers(1, 9), groups=st.integers(1, 3),
    shared=st.integers(1, 3), lead=st.sampled_from([(), (1,), (2,), (2, 2)]),
    kind=st.sampled_from(["none", "causal", "bool", "float"]), cut=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_values_and_gradients(tq, tk, d, e, groups, shared, lead, kind, cut, seed):
    """The op equals the formula and its definition; its gradient equals differences."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((*lead, groups * shared, tq, d))
    k, v = rng.standard_normal((*lead, groups, tk, d)), rng.standard_normal((*lead, groups, tk, e))
    shape = [*lead, groups * shared, tq, tk]
    for axis in range(len(shape)):
        if rng.random() < 0.3:
            shape[axis] = 1
    mask = drawn_mask(rng, kind, shape[min(cut, len(shape) - 2) :])
    causal = {"is_causal": kind == "causal", "enable_gqa": shared > 1}
    y = scaled_dot_product_attention(q, k, v, mask, **causal)
    expected = oracle(q, k, v, mask, kind == "causal")
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)
    cotangent = rng.standard_normal(y.shape)
    grads = pulled(q, k, v, cotangent, mask, **causal)
    along = [rng.standard_normal(x.shape) for x in (q, k, v)]

    def loss(eps):
        moved = [x + eps * a for x, a in zip((q, k, v), along)]
        return (cotangent * oracle(*moved, mask, kind == "causal")).sum()

    numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
    exact = sum((g * a).sum() for g, a in zip(grads, along))
    assert abs(numeric - exact) <= 1e-6 * max(1, abs(exact))
    same = pulled(q, k, v, cotangent, mask, definition=True, **causal)
    for g, want in zip(grads, same, strict=True):
        np.testing.assert_allclose(g, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("tq, tk", [(64, 64), (65, 200), (200, 65), (129, 1), (1, 129)])
@pytest.mark.parametrize("causal", [False, True])
def test_float32_error(tq, tk, causal):
    """float32 errs at most twice as much as the plain formula, gradients three times."""
    rng = np.random.default_rng(tq)
    narrow = [rng.standard_normal((2, 3, t, 32)).astype(np.float32) for t in (tq, tk, tk)]
    wide = [x.astype(np.float64) for x in narrow]
    y, true = scaled_dot_product_attention(*narrow, is_causal=causal), oracle(*wide, causal=causal)
    assert y.dtype == np.float32
    assert norm(y, true) <= 2 * norm(oracle(*narrow, causal=causal), true) + 1e-7 * norm(true, 0)
    c = rng.standard_normal(true.shape)
    true = pulled(*wide, c, definition=True, is_causal=causal)
    c = c.astype(np.float32)
    plain = pulled(*narrow, c, definition=True, is_causal=causal)
    floor = 1e-7 * max(norm(d, 0) for d in true)
    for g, p, d in zip(pulled(*narrow, c, is_causal=causal), plain, true, strict=True):
        assert g.dtype == np.float32
        assert norm(g, d) <= 3 * norm(p, d) + floor


def test_long_rows_take_smaller_blocks():
    """Scores of a block that would leave the cache."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((40, 4)), *rng.standard_normal((2, 9000, 4))
    np.testing.assert_allclose(
        scaled_dot_product_attention(q, k, v), oracle(q, k, v), rtol=1e-10, atol=1e-12
    )
    c = rng.standard_normal(q.shape)
    for g, d in zip(pulled(q, k, v, c), pulled(q, k, v, c, definition=True), strict=True):
        np.testing.assert_allclose(g, d, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["none", "causal", "bool"])
def test_second_order(kind):
    """A gradient's gradient, through the definition, equals differences of the gradient."""
    rng = np.random.default_rng(5)
    args = [rng.standard_normal((2, 5, 3)), *rng.standard_normal((2, 2, 4, 3))]
    mask, causal = drawn_mask(rng, kind, (5, 4)), {"is_causal": kind == "causal"}
    if mask is not None:
        mask[1] = False
    c = rng.standard_normal(args[0].shape)
    along, onto = ([rng.standard_normal(a.shape) for a in args] for _ in range(2))
    tensors = [wrap(a.copy(), requires_grad=True) for a in args]
    y = scaled_dot_product_attention(*tensors, mask, **causal)
    first = grad(y, tensors, wrap(c), create_graph=True)
    second = grad(first, tensors, [wrap(a) for a in along])
    exact = sum((g.array * a).sum() for g, a in zip(second, onto))

    def slope(eps):
        moved = [a + eps * b for a, b in zip(args, onto)]
        return sum((g * a).sum() for g, a in zip(pulled(*moved, c, mask, **causal), along))

    numeric = (slope(1e-6) - slope(-1e-6)) / 2e-6
    assert abs(numeric - exact) <= 1e-6 * max(1, abs(exact))


@pytest.mark.parametrize("name", sorted({k.split("/")[0] for k in GOLDEN
                                         if k.startswith("attention")}))  # fmt: skip
def test_pytorch(name):
    """Outputs and gradients are PyTorch's, the mask's too where it requires one."""
    inputs = {
        k: GOLDEN[f"{name}/in/{k}"]
        for k in ("q", "k", "v", "mask")
        if f"{name}/in/{k}" in GOLDEN.files
    }
    wanted = {k: GOLDEN[f"{name}/grad/{k}"] for k in inputs if f"{name}/grad/{k}" in GOLDEN.files}
    tensors = {k: wrap(a.copy(), requires_grad=k in wanted) for k, a in inputs.items()}
    y = scaled_dot_product_attention(
        tensors["q"], tensors["k"], tensors["v"], tensors.get("mask"),
        is_causal="causal" in name, scale=0.7 if name.endswith("bool") else None,
        enable_gqa=name.endswith("shared"),
    )  # fmt: skip
    np.testing.assert_allclose(y.array, GOLDEN[f"{name}/out/0"], rtol=1e-12, atol=1e-13)
    found = grad(y, [tensors[k] for k in wanted], wrap(GOLDEN[f"{name}/cot/0"]))
    for k, g in zip(wanted, found, strict=True):
        np.testing.assert_allclose(g.array, wanted[k], rtol=1e-11, atol=1e-12, err_msg=k)


def test_bits_do_not_depend_on_threads():
    rng = np.random.default_rng(7)
    q = rng.standard_normal((3, 4, 130, 16)).astype(np.float32)
    k, v = (rng.standard_normal((3, 2, 90, 16)).astype(np.float32) for _ in range(2))
    c = rng.standard_normal(q.shape).astype(np.float32)
    before, seen = config.threads(), []
    try:
        for n in (1, 2, 3, 2):
            config.set_num_threads(n)
            y = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            seen.append([y, *pulled(q, k, v, c, is_causal=True, enable_gqa=True)])
    finally:
        config.set_num_threads(before)
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_layouts():
    """Heads cut out of one projection (B, T, 3, H, D) are read in place and written back alike."""
    rng = np.random.default_rng(2)
    packed = rng.standard_normal((2, 9, 3, 4, 8))
    q, k, v = packed.transpose(2, 0, 3, 1, 4)
    y = scaled_dot_product_attention(q, k, v)
    assert y.transpose(0, 2, 1, 3).flags.c_contiguous
    np.testing.assert_array_equal(y, scaled_dot_product_attention(*(x.copy() for x in (q, k, v))))
    odd = [np.repeat(x, 2, -1)[..., ::2] for x in (q, k, v)]
    np.testing.assert_array_equal(y, scaled_dot_product_attention(*odd))
    back = [x[:, :, ::-1] for x in (q, k, v)]
    np.testing.assert_allclose(scaled_dot_product_attention(*back), y[:, :, ::-1], rtol=1e-12)


def test_leading_axes_broadcast():
    rng = np.random.default_rng(2)
    q, k, v = rng.standard_normal((2, 3, 5, 4)), *rng.standard_normal((2, 1, 6, 4))
    tensors = [wrap(x, requires_grad=True) for x in (q, k[0], v)]
    y = scaled_dot_product_attention(*tensors)
    np.testing.assert_allclose(y.array, oracle(q, k, v), rtol=1e-12)
    assert [g.shape for g in grad(y, tensors, y.detach())] == [x.shape for x in tensors]


def test_nothing_to_see():
    """No keys, no queries and no batch give zeros and empty results, as in PyTorch."""
    ones = np.ones
    assert not scaled_dot_product_attention(ones((2, 3, 4)), ones((2, 0, 4)), ones((2, 0, 5))).any()
    for tq, tk in ((0, 3), (3, 0)):
        c = ones((2, tq, 5))
        grads = pulled(ones((2, tq, 4)), ones((2, tk, 4)), ones((2, tk, 5)), c)
        assert not any(g.any() for g in grads)
    assert scaled_dot_product_attention(*[ones((0, 3, 4))] * 3).shape == (0, 3, 4)


def test_nan_stays_in_its_rows():
    q, k, v = (np.ones((2, 3, 4)) for _ in range(3))
    q[0, 1, 0] = np.nan
    y = scaled_dot_product_attention(q, k, v)
    assert np.isnan(y[0, 1]).all() and not np.isnan(y[1]).any() and not np.isnan(y[0, [0, 2]]).any()


def test_dropout():
    """All dropped gives zeros; else the mean of many draws is near the value without dropout."""
    rng = np.random.default_rng(2)
    q, k, v = rng.standard_normal((2, 3, 4)), *rng.standard_normal((2, 2, 5, 4))
    assert not scaled_dot_product_attention(q, k, v, dropout_p=1.0).any()
    many = [np.broadcast_to(x, (4000, *x.shape)) for x in (q, k, v)]
    y = scaled_dot_product_attention(*many, dropout_p=0.5)
    # one draw has a standard deviation of at most max |v|; the mean of 4000 a 63rd of it
    assert np.abs(y.mean(0) - oracle(q, k, v)).max() < 5 * np.abs(v).max() / 63
    assert np.abs(y[0] - y[1]).max() > 0


@pytest.mark.parametrize("args, kw, error, words", [
    (((2, 3, 4), (2, 5, 3), (2, 5, 3)), {}, ShapeError, "must agree in the last axis"),
    (((2, 3, 4), (2, 5, 4), (2, 6, 4)), {}, ShapeError, "must agree in the last axis"),
    (((2, 3, 4), (3, 5, 4), (3, 5, 4)), {}, ShapeError, "cannot be broadcast"),
    (((4,), (5, 4), (5, 4)), {}, ShapeError, "at least 2 axes"),
    (((6, 3, 4), (4, 5, 4), (4, 5, 4)), {"enable_gqa": True}, ShapeError, "divisor"),
    (((2, 3, 4),) * 3, {"attn_mask": np.ones((4, 3, 3), bool)}, ShapeError, "must broadcast to"),
    (((2, 3, 4),) * 3, {"attn_mask": np.ones((3, 3), int)}, DTypeError, "must be bool"),
    (((2, 3, 4),) * 3, {"attn_mask": np.ones((3, 3), bool), "is_causal": True}, ShapeError, "both"),
    (((2, 3, 4),) * 3, {"dropout_p": 1.5}, ShapeError, "dropout_p"),
])  # fmt: skip
def test_errors(args, kw, error, words):
    with pytest.raises(error, match=words):
        scaled_dot_product_attention(*map(np.ones, args), **kw)


def test_dtypes_must_agree():
    q = np.ones((2, 3, 4))
    with pytest.raises(DTypeError, match="float32 or all float64"):
        scaled_dot_product_attention(q, q.astype(np.float32), q)


@pytest.mark.parametrize("cut", ["unbind", "chunk", "copies"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 70, 1, 8), (3, 1, 2, 1)])
def test_gradient_of_a_fused_projection(cut, shape):
    """q, k and v cut from one array: their gradients together, whole or in part, are its own."""
    (b, t, heads, d), rng = shape, np.random.default_rng(0)
    x, cotangent = rng.standard_normal((b, t, 3 * heads * d)), rng.standard_normal((b, heads, t, d))

    def parts(array):
        tensor = wrap(array, requires_grad=True)
        whole = tensor * 1.0
        if cut == "unbind":
            return tensor, whole.unflatten(-1, (3, heads, d)).permute(2, 0, 3, 1, 4).unbind(0)
        return tensor, [p.unflatten(-1, (heads, d)).transpose(1, 2) for p in whole.chunk(3, -1)]

    tensor, given = parts(x)
    given = [p.clone() for p in given] if cut == "copies" else given
    y = scaled_dot_product_attention(*given, is_causal=True)
    for used in ([0], [0, 2], [0, 1, 2]):  # a value that also goes elsewhere, or all of them
        others = sum((given[i] ** 2).sum() for i in used)
        got = grad((y * wrap(cotangent)).sum() + others, tensor, retain_graph=True)[0].array
        expected = pulled(*(p.array for p in given), cotangent, is_causal=True)
        for i in used:
            expected[i] = expected[i] + 2 * given[i].array
        tensor2, apart = parts(x)
        whole = grad(sum((p * wrap(e)).sum() for p, e in zip(apart, expected)), tensor2)[0].array
        np.testing.assert_allclose(got, whole, rtol=1e-10, atol=1e-12)
    got = grad(y, tensor, wrap(cotangent), retain_graph=True)[0].array
    for p, e in zip(parts(got)[1], pulled(*(p.array for p in given), cotangent, is_causal=True)):
        np.testing.assert_allclose(p.array, e, rtol=1e-10, atol=1e-12)


MASKS = {
    "integers": ("attn_mask", ml.ones(4, 4).long()),
    "one column": ("attn_mask", ml.zeros(4, 1)),
    "one row": ("attn_mask", ml.zeros(1, 4)),
    "one column a head": ("attn_mask", ml.zeros(6, 4, 1)),
    "too long": ("attn_mask", ml.zeros(4, 5)),
    "padding, integers": ("key_padding_mask", ml.zeros(3, 4).long()),
    "padding, one column": ("key_padding_mask", ml.zeros(3, 1).bool()),
    "padding, one row": ("key_padding_mask", ml.zeros(1, 4).bool()),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_attention_are_not_broadcast_nor_integers(kind):
    """Axes of one were broadcast once, and integers added to the scores."""
    (name, mask), x = MASKS[kind], ml.randn(4, 3, 8)
    with pytest.raises(ShapeError, match=f"MultiheadAttention: {name} must hold booleans or fl"):
        nn.MultiheadAttention(8, 2)(x, x, x, **{name: mask})


def test_gradients_of_a_fused_projection_lie_together():
    """They share out one array's memory as q, k and v do, and are not copied from there."""
    x = np.random.default_rng(1).standard_normal((2, 5, 3, 4, 8))
    whole = x.transpose(2, 0, 3, 1, 4)
    y, lse = cpu.attend(*whole, None, True, 0.5)
    made = cpu.attend_grad(y, *whole, None, y, lse, True, 0.5)
    joined = cpu.assemble(made, [(i,) for i in range(3)], whole.shape, whole.strides)
    assert np.shares_memory(joined, made[0]) and joined.strides == whole.strides
