"""Transformer encoder and decoder layers and stacks, with PyTorch's parameter names."""

import copy
from collections.abc import Callable
from typing import Any, ClassVar

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn.attention import MultiheadAttention
from minidl.nn.containers import ModuleList
from minidl.nn.fields import Layer
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.norm import LayerNorm
from minidl.nn.shape import Dropout

Mask = Tensor | None


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
            made = MultiheadAttention(width, self.nhead, p, bias, False, False, *kept)
            self.register_module(name, made)
        self.linear1 = Linear(width, inner, bias, *where)
        self.dropout = Dropout(p)
        self.linear2 = Linear(inner, width, bias, *where)
        numbers = range(1, 2 + len(self._attentions))
        for i in numbers:
            norm = LayerNorm(width, self.layer_norm_eps, True, bias, *where)
            self.register_module(f"norm{i}", norm)
        for i in numbers:
            self.register_module(f"dropout{i}", Dropout(p))
        known = {"relu": F.relu, "gelu": F.gelu}
        found = known.get(self.activation, self.activation)
        rule = f"activation must be a function or one of {[*known]}"
        require(callable(found), type(self).__name__, rule, activation=found)
        self.activation = found

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

    def forward(
        self, src: Tensor, src_mask: Mask = None, src_key_padding_mask: Mask = None,
        is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        """src -> the same shape; masks as MultiheadAttention takes them."""

        masks = (src_key_padding_mask, False, src_mask, True, is_causal)
        x = self._block(src, 1, lambda x: self.self_attn(x, x, x, *masks)[0])
        return self._block(x, 2, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to an encoder's output (memory) and feed-forward."""

    _attentions = ("self_attn", "multihead_attn")

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Mask = None, memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None, memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool = False, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        """tgt (T, N, d_model), memory (S, N, d_model) -> the shape of tgt."""
        own = (tgt_key_padding_mask, False, tgt_mask, True, tgt_is_causal)
        other = (memory_key_padding_mask, False, memory_mask, True, memory_is_causal)
        x = self._block(tgt, 1, lambda x: self.self_attn(x, x, x, *own)[0])
        x = self._block(x, 2, lambda x: self.multihead_attn(x, memory, memory, *other)[0])
        return self._block(x, 3, self._feed_forward)


class _Stack(Module):
    """num_layers copies of a layer (equal at first, as in PyTorch) and a last norm."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.num_layers, self.norm = num_layers, norm


class TransformerEncoder(_Stack):
    """A stack of encoder layers (enable_nested_tensor is PyTorch's and changes nothing)."""

    def __init__(
        self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None,
        enable_nested_tensor: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(encoder_layer, num_layers, norm)

    def forward(
        self, src: Tensor, mask: Mask = None, src_key_padding_mask: Mask = None,
        is_causal: bool | None = None,
    ) -> Tensor:  # fmt: skip
        """src (T, N, d_model) -> the same shape."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(_Stack):
    """A stack of decoder layers."""

    def __init__(
        self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None
    ) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(self, tgt: Tensor, memory: Tensor, *masks: Any, **named: Any) -> Tensor:
        """tgt (T, N, d_model), memory (S, N, d_model) -> the shape of tgt.

        Masks by position or name as TransformerDecoderLayer takes them.
        """
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, **named)
        return tgt if self.norm is None else self.norm(tgt)
