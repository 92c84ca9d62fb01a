"""Multi-head attention (arXiv 1706.03762) with PyTorch's parameters and masks."""

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
        widths = (width, self.kdim, self.vdim)
        one = widths == (width,) * 3
        self.in_proj_weight: Any = new_parameter((3 * width, width), *where) if one else None
        for name, size in zip("qkv", () if one else widths):
            setattr(self, f"{name}_proj_weight", new_parameter((width, size), *where))
        self.in_proj_bias = new_parameter((3 * width,), *where) if self.bias else None
        self.out_proj = NonDynamicallyQuantizableLinear(width, width, self.bias, *where)
        for name in ("bias_k", "bias_v"):
            made = new_parameter((1, 1, width), *where) if self.add_bias_kv else None
            self.register_parameter(name, made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, param in self.named_parameters():
            if name in ("bias_k", "bias_v"):
                init.xavier_normal_(param)
            elif name.endswith("bias"):
                init.zeros_(param)
            elif name != "out_proj.weight":
                init.xavier_uniform_(param)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """q, k, v (N, length, embed_dim)."""
        if self.in_proj_weight is not None and query is key and key is value:
            return list(F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1))
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3, 0)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3, 0)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases)]

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        name, widths = "MultiheadAttention", (self.embed_dim, self.kdim, self.vdim)
        rule = f"query, key and value must have 3 axes, or 2 unbatched, the last of {widths}"
        for x, width in zip((query, key, value), widths):
            fits = x.ndim == query.ndim and x.ndim in (2, 3) and x.shape[-1] == width
            require(fits, name, rule, x=x)
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
        shared, inputs = query is key and key is value, [query, key, value]
        inputs = inputs[:1] if shared else inputs
        if unbatched:
            inputs = [x.unsqueeze(0) for x in inputs]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
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
        more = [] if self.bias_k is None else [(self.bias_k, self.bias_v)]
        if self.add_zero_attn:
            more.append((zeros((1, 1, self.embed_dim), like=k),) * 2)
        for pair in more:
            k, v = (cat([x, end.expand(len(x), -1, -1)], 1) for x, end in zip((k, v), pair))
        return k, v, len(more)

    def _mask(
        self, padding: Tensor | None, mask: Tensor | None, q: Tensor, extra: int
    ) -> Tensor | None:
        """Both masks as numbers to add to the scores (N, heads or 1, L or 1, S + extra)."""
        n, rows, given = len(q), q.shape[1], []
        if mask is not None:
            fits = mask.shape[:-1] in ((rows,), (n * self.num_heads, rows))
            rule = f"attn_mask must be ({rows}, S) or (N heads, {rows}, S)"
            require(fits, "MultiheadAttention", rule, attn_mask=mask)
            heads = self.num_heads if mask.ndim == 3 else 1
            given.append(mask.reshape(-1, heads, rows, mask.shape[-1]))
        if padding is not None:
            fits, rule = padding.shape[:-1] == (n,), f"key_padding_mask must be ({n}, S)"
            require(fits, "MultiheadAttention", rule, key_padding_mask=padding)
            given.append(padding.reshape(n, 1, 1, -1))
        parts = [
            zeros(m.shape, like=q).masked_fill(m, -math.inf) if m.dtype.kind == "b" else m
            for m in given
        ]
        parts = [F.pad(m, (0, extra)) for m in parts] if extra else parts
        return sum(parts[1:], start=parts[0]) if parts else None

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Any, need_weights: bool, causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        """q (N, L, E), k, v (N, S, E) -> (N, L, E) and the weights (N, heads, L, S) if needed."""
        n, rows, width = q.shape
        p = self.dropout if self.training else 0.0
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = None
        if need_weights:
            scores = (q * (1 / math.sqrt(self.head_dim))) @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, -1)
            weights = F.dropout(weights, p) if p else weights
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, None if causal else mask, p, causal)
        return y.transpose(1, 2).reshape(n, rows, width), weights
