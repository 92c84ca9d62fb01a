"""Multi-head attention and transformers (arXiv 1706.03762) with PyTorch's parameters and masks."""

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn import init
from minidl.nn.containers import ModuleList
from minidl.nn.fields import Layer, Switch
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.norm import LayerNorm
from minidl.nn.parameter import new_parameter
from minidl.nn.thin import Dropout
from minidl.ops.join import cat
from minidl.tape import settled

Mask = Tensor | None


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
            require(query.ndim == x.ndim in (2, 3) and x.shape[-1] == width, name, rule, x=x)
        same = key.shape[:-1] == value.shape[:-1]
        require(same, name, "key and value must have the same length", key=key, value=value)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Mask = None,
                need_weights: bool = True, attn_mask: Mask = None,
                average_attn_weights: bool = True,
                is_causal: bool = False) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """query (L, N, E), key and value (S, N, …) -> output (L, N, E), weights (N, L, S) or None.

        N comes first with batch_first and is absent in unbatched inputs. key_padding_mask
        (N, S); attn_mask (L, S) or (N · heads, L, S); is_causal says that attn_mask is the causal
        one; average_attn_weights=False gives weights (N, heads, L, S).
        """
        self._check(query, key, value)
        rule = "is_causal is a hint about attn_mask, which must be given too"
        require(not is_causal or attn_mask is not None, "MultiheadAttention", rule)
        unbatched, shared = query.ndim == 2, query is key and key is value
        inputs = [query] if shared else [query, key, value]
        if unbatched:
            inputs = [x.unsqueeze(0) for x in inputs]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = self._project(*(inputs * 3 if shared else inputs))
        k, v, extra = self._extended(k, v)
        mask = self._mask(key_padding_mask, attn_mask, q, k, extra)
        fast = is_causal and key_padding_mask is None and not extra
        y, weights = self._attend(q, k, v, mask, need_weights, fast)
        y = self.out_proj(y)
        y = y.squeeze(0) if unbatched else y if self.batch_first else settled(y.transpose(0, 1))
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if unbatched else weights
        return y, weights

    def _extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """k and v with the learnt and the zero positions at their ends, and how many those are."""
        more = [] if self.bias_k is None else [(self.bias_k, self.bias_v)]
        if self.add_zero_attn:
            more.append((k.new_zeros(1, 1, self.embed_dim),) * 2)
        for pair in more:
            k, v = (cat([x, end.expand(len(x), -1, -1)], 1) for x, end in zip((k, v), pair))
        return k, v, len(more)

    def _mask(self, padding: Mask, mask: Mask, q: Tensor, k: Tensor, extra: int) -> Mask:
        """Both masks as numbers to add to the scores (N, heads or 1, L or 1, S + extra)."""
        n, heads, rows, columns = len(q), self.num_heads, q.shape[1], k.shape[1] - extra
        each, every = (n, heads, rows, columns), (1, 1, rows, columns)
        known = {(rows, columns): every, (n * heads, rows, columns): each}  # forms by shapes
        keys, parts = {(n, columns): (n, 1, 1, columns)}, []
        for name, given, forms in (("attn_mask", mask, known), ("key_padding_mask", padding, keys)):
            if given is not None:
                boolean, fits = given.dtype.kind == "b", given.dtype.kind in "bfV"
                rule = f"{name} must hold booleans or floats, {' or '.join(map(str, forms))}"
                require(fits and given.shape in forms, "MultiheadAttention", rule, mask=given)
                m = q.new_zeros(()).masked_fill(given, -math.inf) if boolean else given
                m = m.reshape(forms[given.shape])
                parts.append(F.pad(m, (0, extra)) if extra else m)
        return sum(parts[1:], start=parts[0]) if parts else None

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Any, need_weights: bool, causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        """q (N, L, E), k, v (N, S, E) -> (N, L, E) and the weights (N, heads, L, S) if needed."""
        p = self.dropout if self.training else 0.0
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = None
        if need_weights:
            scores = (q * (1 / math.sqrt(self.head_dim))) @ k.transpose(-2, -1)
            weights = F.dropout(F.softmax(scores if mask is None else scores + mask, -1), p)
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, None if causal else mask, p, causal)
        return y.transpose(1, 2).flatten(2), weights


# ---- transformers --------------------------------------------------------------------------------


class _Layer(Layer, show=""):
    """Attention blocks and a feed-forward block, each within a residual and a layer norm."""

    _attentions: ClassVar[tuple[str, ...]] = ("self_attn",)
    d_model: int
    nhead: int
    dim_feedforward: int = 2048
    dropout: Any = 0.1
    activation: Any = F.relu  # or its name, or "gelu"
    layer_norm_eps: float = 1e-5
    batch_first: bool = False
    norm_first: bool = False
    bias: bool = True

    def _build(self, *where: Any) -> None:
        width, inner, bias, p = self.d_model, self.dim_feedforward, self.bias, self.dropout
        kept = (None, None, self.batch_first, *where)
        for name in self._attentions:
            setattr(self, name, MultiheadAttention(width, self.nhead, p, bias, False, False, *kept))
        self.linear1 = Linear(width, inner, bias, *where)
        self.dropout = Dropout(p)
        self.linear2 = Linear(inner, width, bias, *where)
        numbers = range(1, 2 + len(self._attentions))
        for i in numbers:
            setattr(self, f"norm{i}", LayerNorm(width, self.layer_norm_eps, True, bias, *where))
        for i in numbers:
            setattr(self, f"dropout{i}", Dropout(p))
        known = {"relu": F.relu, "gelu": F.gelu}
        self.activation = known.get(self.activation, self.activation)
        ok, rule = callable(self.activation), f"activation must be a function or one of {[*known]}"
        require(ok, type(self).__name__, rule, activation=self.activation)

    def _block(self, x: Tensor, i: int, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Residual, dropout and norm around block number i."""
        norm, dropout = getattr(self, f"norm{i}"), getattr(self, f"dropout{i}")
        if self.norm_first:
            return x + dropout(function(norm(x)))
        return norm(x + dropout(function(x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention and feed-forward; (T, N, d_model), or N first with batch_first."""

    def forward(self, src: Tensor, src_mask: Mask = None, src_key_padding_mask: Mask = None,
                is_causal: bool = False) -> Tensor:  # fmt: skip
        """src -> the same shape; masks as MultiheadAttention takes them."""

        masks = (src_key_padding_mask, False, src_mask, True, is_causal)
        x = self._block(src, 1, lambda x: self.self_attn(x, x, x, *masks)[0])
        return self._block(x, 2, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to an encoder's output (memory) and feed-forward."""

    _attentions = ("self_attn", "multihead_attn")

    def forward(self, tgt: Tensor, memory: Tensor, tgt_mask: Mask = None, memory_mask: Mask = None,
                tgt_key_padding_mask: Mask = None, memory_key_padding_mask: Mask = None,
                tgt_is_causal: bool = False, memory_is_causal: bool = False) -> Tensor:  # fmt: skip
        """tgt (T, N, d_model), memory (S, N, d_model) -> the shape of tgt."""
        own = (tgt_key_padding_mask, False, tgt_mask, True, tgt_is_causal)
        other = (memory_key_padding_mask, False, memory_mask, True, memory_is_causal)
        x = self._block(tgt, 1, lambda x: self.self_attn(x, x, x, *own)[0])
        x = self._block(x, 2, lambda x: self.multihead_attn(x, memory, memory, *other)[0])
        return self._block(x, 3, self._feed_forward)


class _Stack(Module):
    """num_layers copies of a layer (equal at first, as in PyTorch) and a last norm."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(decoder_layer) for _ in range(num_layers))
        self.num_layers, self.norm = num_layers, norm


class TransformerEncoder(_Stack):
    """A stack of encoder layers (enable_nested_tensor is PyTorch's and changes nothing)."""

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None,
                 enable_nested_tensor: bool = True) -> None:  # fmt: skip
        super().__init__(encoder_layer, num_layers, norm)

    def forward(self, src: Tensor, mask: Mask = None, src_key_padding_mask: Mask = None,
                is_causal: bool | None = None) -> Tensor:  # fmt: skip
        """src (T, N, d_model) -> the same shape."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(_Stack):
    """A stack of decoder layers."""

    def forward(self, tgt: Tensor, memory: Tensor, *masks: Any, **named: Any) -> Tensor:
        """tgt (T, N, d_model), memory (S, N, d_model) -> the shape of tgt.

        Masks by position or name as TransformerDecoderLayer takes them.
        """
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, **named)
        return tgt if self.norm is None else self.norm(tgt)
