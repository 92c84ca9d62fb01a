"""Scaled dot-product attention (arXiv 1706.03762), with PyTorch's masks."""

import math
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, op, raw
from minidl.errors import DTypeError, require
from minidl.ops import pointwise as pw
from minidl.ops.arguments import broadcast_shapes
from minidl.ops.autocasting import lowered
from minidl.ops.dropout import dropout
from minidl.ops.linalg import matmul
from minidl.ops.reduce import amax, sum_axes
from minidl.ops.shape import broadcast_to, reshape, transpose, unsqueeze

_NAME = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(scale query keyᵀ + mask) value; scale is 1/√D unless given.

    query (..., H, T, D), key (..., H, S, D), value (..., H, S, E) -> (..., H, T, E); leading axes
    broadcast. attn_mask broadcasts to (..., H, T, S): bool (True: take part) or of query's dtype
    (added to the scores). is_causal lets row t see keys 0..t. enable_gqa lets H / G query heads
    share each of key's and value's G heads. dropout_p drops attention weights, always (as PyTorch).
    A row that sees no key gives zeros. Without dropout and without a mask that requires grad no
    (T, S) array is made.
    """
    q, k, v = _inputs(*lowered(query, key, value), gqa=enable_gqa)
    _check_mask(attn_mask, is_causal, (*q.shape[:-1], k.shape[-2]), q)
    require(0 <= dropout_p <= 1, _NAME, "dropout_p must be in [0, 1]", dropout_p=dropout_p)
    factor = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else float(scale)
    given: dict[str, Any] = {"causal": is_causal, "scale": factor}
    learnt = isinstance(attn_mask, Tensor) and attn_mask.requires_grad
    if dropout_p > 0 or learnt:
        return attention_by_elementary_ops(q, k, v, attn_mask, **given, dropout_p=dropout_p)
    return attention(q, k, v, attn_mask, **given)


def attention_by_elementary_ops(q: Any, k: Any, v: Any, mask: Any, *, causal: bool, scale: float,
                                dropout_p: float = 0.0) -> Any:  # fmt: skip
    """Attention through the whole array of weights (..., H, T, S)."""
    k, v = _shared_heads(k, q), _shared_heads(v, q)
    scores = pw.mul(matmul(q, transpose(k, -2, -1)), scale)
    if not scores.shape[-1]:
        return matmul(scores, v)
    if mask is not None and mask.dtype == np.bool_:
        scores = pw.where(mask, scores, -math.inf)
    elif mask is not None:
        scores = pw.add(scores, mask)
    if causal:
        past = backend.of(raw(q)).constant(np.tri(*scores.shape[-2:], dtype=np.bool_))
        scores = pw.where(past, scores, -math.inf)
    # The shift is a constant: the result does not depend on it. Rows of -inf stay whole.
    top = amax(raw(scores), -1, True)
    top = pw.where(pw.eq(top, -math.inf), 0.0, top)
    weights = pw.exp(pw.sub(scores, top))
    total = sum_axes(weights, axes=(weights.ndim - 1,), keepdim=True)
    weights = pw.div(weights, pw.where(pw.eq(raw(total), 0.0), 1.0, total))
    return matmul(dropout(weights, dropout_p) if dropout_p else weights, v)


@op(definition=attention_by_elementary_ops)
def attention(q: Any, k: Any, v: Any, mask: Any, *, causal: bool, scale: float) -> Any:
    """Attention by blocks of scores that are made again in backward.

    Shapes as for scaled_dot_product_attention, with equal leading axes but for fewer heads of k and
    v. Saves its inputs, its result and one float a row. The mask gets no gradient.
    """
    be = backend.of(q)
    y, lse = be.attend(q, k, v, mask, causal, scale)
    saved = (q, k, v, mask, y, lse)
    return y, saved, lambda g, need, *kept: (*be.attend_grad(g, *kept, causal, scale), None)


def _shared_heads(x: Any, q: Any) -> Any:
    """x (..., G, S, D) with every head repeated for the heads of q that share it."""
    if x.ndim < 3 or x.shape[-3] == q.shape[-3]:
        return x
    *lead, heads, s, d = x.shape
    times = q.shape[-3] // heads
    wide = broadcast_to(unsqueeze(x, -3), (*lead, heads, times, s, d))
    return reshape(wide, *lead, heads * times, s, d)


def _inputs(q: Any, k: Any, v: Any, *, gqa: bool) -> list[Any]:
    """query, key, value with equal leading axes (but for the heads, with gqa), once checked."""
    got, cut = {"query": q, "key": k, "value": v}, 2 + gqa
    rule = f"query, key and value need at least {cut} axes"
    require(min(q.ndim, k.ndim, v.ndim) >= cut, _NAME, rule, **got)
    fits = q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
    rule = "query and key must agree in the last axis, key and value in the one before"
    require(fits, _NAME, rule, **got)
    taken = sorted(backend.of(raw(q)).FLOATS)
    fits = q.dtype == k.dtype == v.dtype and q.dtype.name in taken
    rule = f"query, key and value must all be {' or all '.join(taken)}"
    require(fits, _NAME, rule, error=DTypeError, **got)
    if gqa:
        heads = k.shape[-3]
        rule = "key and value must have as many heads, a divisor of query's"
        require(v.shape[-3] == heads > 0 and q.shape[-3] % heads == 0, _NAME, rule, **got)
    lead = broadcast_shapes(*(tuple(x.shape[:-cut]) for x in (q, k, v)), name=_NAME)
    wide = [(*lead, *x.shape[-cut:]) for x in (q, k, v)]
    return [x if x.shape == s else broadcast_to(x, s) for x, s in zip((q, k, v), wide)]


def _check_mask(mask: Any, causal: bool, shape: tuple[int, ...], q: Any) -> None:
    if mask is None:
        return
    require(not causal, _NAME, "give attn_mask or is_causal, not both", attn_mask=mask)
    rule = "attn_mask must be bool or of query's dtype"
    fits = mask.dtype in (np.bool_, q.dtype)
    require(fits, _NAME, rule, error=DTypeError, attn_mask=mask, query=q)
    given = (1,) * (len(shape) - mask.ndim) + tuple(mask.shape)
    fits = len(given) == len(shape) and all(a in (1, b) for a, b in zip(given, shape))
    require(fits, _NAME, f"attn_mask must broadcast to {shape}", attn_mask=mask)
