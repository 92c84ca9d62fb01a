"""A GPT-2-style language model with nanoGPT's parameter names, and generation with a KV cache."""

import math
from typing import Any

import minidl.functional as F
from minidl import backend, nn
from minidl.autograd import Tensor, no_grad
from minidl.errors import GraphError, require
from minidl.models.sampling import sample
from minidl.ops.join import cat


class Past:
    """Room for the keys and values of up to `size` tokens, filled as they come (without grad)."""

    def __init__(self, size: int) -> None:
        self.size, self.length = size, 0
        self.room: Any = None

    def append(self, new: Any) -> Any:
        """Keep keys and values (2, B, heads, T, d) of the next T tokens -> those of all so far.

        Both are raw arrays.
        """
        if self.room is None:
            self.room = backend.of(new).empty((*new.shape[:3], self.size, new.shape[4]), new.dtype)
        start, self.length = self.length, self.length + new.shape[3]
        self.room[:, :, :, start : self.length] = new
        return self.room[:, :, :, : self.length]


class Attention(nn.Module):
    """Causal self-attention; with a cache it appends its keys and values to what is there."""

    def __init__(self, dim: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads, self.p = heads, dropout
        self.c_attn = nn.Linear(dim, 3 * dim, bias)
        self.c_proj = nn.Linear(dim, dim, bias)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """x (B, T, dim) -> (B, T, dim)."""
        b, t, dim = x.shape
        parts, shape = self.c_attn(x), (b, t, 3, self.heads, dim // self.heads)
        p = self.p if self.training else 0.0
        if past is None:
            q, k, v = parts.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=t > 1)
            return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(b, t, dim)))
        rule = "keys and values are kept without their graph: call it under no_grad"
        require(not parts.requires_grad, "Past", rule, error=GraphError)
        fits, rule = t == 1 or not past.length, "a filled cache takes one token at a time"
        require(fits, "Attention", rule, x=x)
        arrays = parts.array.reshape(shape).transpose(2, 0, 3, 1, 4)  # raw: there is no graph
        k, v = past.append(arrays[1:])
        y = F.scaled_dot_product_attention(arrays[0], k, v, dropout_p=p, is_causal=t > 1)
        return self.resid_dropout(self.c_proj(Tensor(y.swapaxes(1, 2).reshape(b, t, dim))))


class Block(nn.Module):
    """Pre-norm attention and MLP, each within a residual."""

    def __init__(self, dim: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, bias=bias)
        self.attn = Attention(dim, heads, dropout, bias)
        self.ln_2 = nn.LayerNorm(dim, bias=bias)
        wide, back = nn.Linear(dim, 4 * dim, bias), nn.Linear(4 * dim, dim, bias)
        drop = nn.Dropout(dropout)
        self.mlp = nn.Sequential({"c_fc": wide, "gelu": nn.GELU(), "c_proj": back, "dropout": drop})

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """x (B, T, dim) -> the same shape."""
        x = x + self.attn(self.ln_1(x), past)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Token and position embeddings, blocks, a last norm and a head that shares the token table."""

    def __init__(
        self, vocab_size: int, *, block_size: int = 256, n_layer: int = 6, n_head: int = 6,
        n_embd: int = 384, dropout: float = 0.0, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.block_size = block_size
        self.transformer = parts = nn.ModuleDict()
        parts.wte = nn.Embedding(vocab_size, n_embd)
        parts.wpe = nn.Embedding(block_size, n_embd)
        parts.drop = nn.Dropout(dropout)
        parts.h = nn.ModuleList(Block(n_embd, n_head, dropout, bias) for _ in range(n_layer))
        parts.ln_f = nn.LayerNorm(n_embd, bias=bias)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = parts.wte.weight
        for name, param in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(param)
            elif param.ndim == 2:
                deep = name.endswith("c_proj.weight")
                nn.init.normal_(param, std=0.02 / (math.sqrt(2 * n_layer) if deep else 1))

    def new_cache(self) -> list[Past]:
        """An empty cache: room for block_size tokens' keys and values in every block."""
        return [Past(self.block_size) for _ in self.transformer.h]

    def forward(self, x: Tensor, cache: list[Past] | None = None) -> Tensor:
        """x (B, T) tokens -> logits (B, T, vocab_size).

        A new cache is filled with keys and values (under no_grad); later calls then take one token
        each and see all before it.
        """
        before = cache[0].length if cache else 0
        length, rule = before + x.shape[1], f"at most block_size = {self.block_size} tokens"
        require(length <= self.block_size, "GPT", rule, length=length)
        parts = self.transformer
        y = parts.drop(parts.wte(x) + parts.wpe.weight[before:length])
        pasts: Any = cache or [None] * len(parts.h)
        for block, past in zip(parts.h, pasts, strict=True):
            y = block(y, past)
        return self.lm_head(parts.ln_f(y))

    @no_grad()
    def generate(
        self, x: Tensor, max_new_tokens: int, *, temperature: float = 1.0, top_k: int | None = None
    ) -> Tensor:
        """x (B, T) -> (B, T + max_new_tokens), sampled (greedily at temperature 0).

        Where the text outgrows block_size the cache is rebuilt from its last half.
        """
        cache, feed, text = self.new_cache(), x[:, -self.block_size :], [x]
        for _ in range(max_new_tokens):
            feed = sample(self(feed, cache)[:, -1], temperature, top_k)
            text.append(feed)
            if cache[0].length == self.block_size:
                cache, text = self.new_cache(), [cat(text, 1)]
                feed = text[0][:, -(self.block_size // 2 + 1) :]
        return cat(text, 1)
