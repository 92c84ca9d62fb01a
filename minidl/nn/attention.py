"""Multi-head attention (arXiv 1706.03762) with PyTorch's parameters and masks."""

from __future__ import annotations

import math
from typing import Any

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn import init
from minidl.nn.fields import Layer, Switch
from minidl.nn.linear import Linear
from minidl.nn.parameter import new_parameter, zeros
from minidl.ops.join import cat


class NonDynamicallyQuantizableLinear(Linear):
    """A Linear under the name that PyTorch's repr gives the output projection."""


class MultiheadAttention(Layer, show=""):
    """Heads of softmax(q kᵀ / √d) v between an input and an output projection.

    In masks True forbids a position, and numbers are added to the scores, as in PyTorch (which
    means the opposite by a boolean mask in scaled_dot_product_attention).
    """

    embed_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: Switch = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    kdim: int | None = None
    vdim: int | None = None
    batch_first: bool = False

    def _build(self, *where: Any) -> None:
        width, heads = self.embed_dim, self.num_heads
        fits = heads > 0 and width > 0 and width % heads == 0
        rule = "num_heads must divide embed_dim"
        require(fits, "MultiheadAttention", rule, embed_dim=width, num_heads=heads)
        self.kdim, self.vdim = self.kdim or width, self.vdim or width
        self.head_dim = width // heads
        if self.kdim == width == self.vdim:
            self.in_proj_weight: Any = new_parameter((3 * width, width), *where)
        else:
            self.in_proj_weight = None
            self.q_proj_weight = new_parameter((width, width), *where)
            self.k_proj_weight = new_parameter((width, self.kdim), *where)
            self.v_proj_weight = new_parameter((width, self.vdim), *where)
        self.in_proj_bias = new_parameter((3 * width,), *where) if self.bias else None
        self.out_proj = NonDynamicallyQuantizableLinear(width, width, self.bias, *where)
        self.bias_k: Any = new_parameter((1, 1, width), *where) if self.add_bias_kv else None
        self.bias_v: Any = new_parameter((1, 1, width), *where) if self.add_bias_kv else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, param in self.named_parameters(recurse=False):
            if name in ("bias_k", "bias_v"):
                init.xavier_normal_(param)
            elif name == "in_proj_bias":
                init.zeros_(param)
            else:
                init.xavier_uniform_(param)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """q, k, v (N, length, embed_dim)."""
        bias = self.in_proj_bias
        if self.in_proj_weight is not None and query is key and key is value:
            return list(F.linear(query, self.in_proj_weight, bias).chunk(3, -1))
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3, 0)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if bias is None else bias.chunk(3, 0)
        inputs = (query, key, value)
        return [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases)]

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        name, axes = "MultiheadAttention", query.ndim
        require(axes in (2, 3), name, "query must have 3 axes, or 2 unbatched", query=query)
        widths = (self.embed_dim, self.kdim, self.vdim)
        for x, width in zip((query, key, value), widths):
            rule = f"query, key and value must have {axes} axes, the last of {widths}"
            require(x.ndim == axes and x.shape[-1] == width, name, rule, x=x)
        same = key.shape[:-1] == value.shape[:-1]
        require(same, name, "key and value must have the same length", key=key, value=value)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None,
        average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """query (L, N, E), key and value (S, N, …) -> output (L, N, E), weights (N, L, S) or None.

        N comes first with batch_first and is absent in unbatched inputs. key_padding_mask
        (N, S); attn_mask (L, S) or (N · heads, L, S); is_causal says that attn_mask is the causal
        one; average_attn_weights=False gives weights (N, heads, L, S).
        """
        self._check(query, key, value)
        rule = "is_causal is a hint about attn_mask, which must be given too"
        require(not is_causal or attn_mask is not None, "MultiheadAttention", rule)
        unbatched, seq_first = query.ndim == 2, query.ndim == 3 and not self.batch_first
        shared = query is key and key is value
        inputs = [query] if shared else [query, key, value]
        if unbatched:
            inputs = [x.unsqueeze(0) for x in inputs]
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif seq_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = self._project(*(inputs * 3 if shared else inputs))
        k, v, extra = self._extended(k, v)
        mask = self._mask(key_padding_mask, attn_mask, q, extra)
        fast = is_causal and key_padding_mask is None and not extra
        y, weights = self._attend(q, k, v, mask, need_weights, fast)
        y = self.out_proj(y)
        y = y.squeeze(0) if unbatched else y.transpose(0, 1) if seq_first else y
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if unbatched else weights
        return y, weights

    def _extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """k and v with the learnt and the zero positions at their ends, and how many those are."""
        keys, values = [k], [v]
        if self.bias_k is not None:
            keys.append(self.bias_k.expand(len(k), -1, -1))
            values.append(self.bias_v.expand(len(v), -1, -1))
        if self.add_zero_attn:
            blank = zeros((len(k), 1, self.embed_dim), like=k)
            keys.append(blank)
            values.append(blank)
        if len(keys) == 1:
            return k, v, 0
        return cat(keys, 1), cat(values, 1), len(keys) - 1

    def _mask(
        self, padding: Tensor | None, mask: Tensor | None, q: Tensor, extra: int
    ) -> Tensor | None:
        """Both masks as numbers to add to the scores (N, heads or 1, L or 1, S + extra)."""
        total = None
        if mask is not None:
            rows = q.shape[1]
            fits = mask.ndim in (2, 3) and mask.shape[-2] == rows
            fits = fits and (mask.ndim == 2 or len(mask) == len(q) * self.num_heads)
            rule = f"attn_mask must be ({rows}, S) or (N heads, {rows}, S)"
            require(fits, "MultiheadAttention", rule, attn_mask=mask)
            if mask.ndim == 3:
                mask = mask.reshape(len(q), self.num_heads, *mask.shape[1:])
            total = self._added(mask, q, extra)
        if padding is not None:
            fits = padding.ndim == 2 and len(padding) == len(q)
            rule = f"key_padding_mask must be ({len(q)}, S)"
            require(fits, "MultiheadAttention", rule, key_padding_mask=padding)
            columns = self._added(padding, q, extra).reshape(len(q), 1, 1, -1)
            total = columns if total is None else total + columns
        return total

    def _added(self, mask: Tensor, q: Tensor, extra: int) -> Tensor:
        if mask.dtype.kind == "b":
            mask = zeros(mask.shape, like=q).masked_fill(mask, -math.inf)
        return F.pad(mask, (0, extra)) if extra else mask

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Any, need_weights: bool, causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        """q (N, L, E), k, v (N, S, E) -> (N, L, E) and the weights (N, heads, L, S) if needed."""
        n, rows, width = q.shape
        heads, p = (self.num_heads, self.head_dim), self.dropout if self.training else 0.0
        q, k, v = (x.reshape(n, x.shape[1], *heads).transpose(1, 2) for x in (q, k, v))
        weights = None
        if need_weights:
            scores = (q * (1 / math.sqrt(self.head_dim))) @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, -1)
            weights = F.dropout(weights, p) if p else weights
            y = weights @ v
        else:
            mask = None if causal else mask
            y = F.scaled_dot_product_attention(q, k, v, mask, p, causal)
        return y.transpose(1, 2).reshape(n, rows, width), weights
