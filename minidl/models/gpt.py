"""A GPT-2-style language model with nanoGPT's parameter names, and generation with a KV cache."""

from __future__ import annotations

import math
from typing import Any

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor, no_grad
from minidl.errors import require
from minidl.ops.creation import multinomial
from minidl.ops.join import cat

Pair = tuple[Tensor, Tensor]  # keys and values (B, heads, T, d)
Cache = list[Pair]


class Attention(nn.Module):
    """Causal self-attention; with a cache it appends its keys and values to what is there."""

    def __init__(self, dim: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads, self.p = heads, dropout
        self.c_attn = nn.Linear(dim, 3 * dim, bias)
        self.c_proj = nn.Linear(dim, dim, bias)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Pair | None = None) -> tuple[Tensor, Pair]:
        """x (B, T, dim), past keys and values (B, heads, P, d) -> (B, T, dim), all of them."""
        b, t, dim = x.shape
        parts = self.c_attn(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if past is not None and past[0].shape[2]:
            require(t == 1, "Attention", "a filled cache takes one token at a time", x=x)
            k, v = cat([past[0], k], 2), cat([past[1], v], 2)
        p = self.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=t > 1)
        y = y.transpose(1, 2).reshape(b, t, dim)
        return self.resid_dropout(self.c_proj(y)), (k, v)


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

    def forward(self, x: Tensor, past: Pair | None = None) -> tuple[Tensor, Pair]:
        """x (B, T, dim) -> the same shape, and the keys and values so far."""
        y, present = self.attn(self.ln_1(x), past)
        x = x + y
        return x + self.mlp(self.ln_2(x)), present


class GPT(nn.Module):
    """Token and position embeddings, blocks, a last norm and a head that shares the token table."""

    def __init__(
        self, vocab_size: int, *, block_size: int = 256, n_layer: int = 6, n_head: int = 6,
        n_embd: int = 384, dropout: float = 0.0, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.block_size = block_size
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "drop": nn.Dropout(dropout),
                "h": nn.ModuleList(Block(n_embd, n_head, dropout, bias) for _ in range(n_layer)),
                "ln_f": nn.LayerNorm(n_embd, bias=bias),
            }
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        for name, param in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(param)
            elif param.ndim == 2:
                deep = name.endswith("c_proj.weight")
                nn.init.normal_(param, std=0.02 / (math.sqrt(2 * n_layer) if deep else 1))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x (B, T) tokens -> logits (B, T, vocab_size).

        A cache (a list, empty at first) is filled with keys and values; later calls then take one
        token each and see all before it.
        """
        before = cache[0][0].shape[2] if cache else 0
        length, fits = before + x.shape[1], before + x.shape[1] <= self.block_size
        require(fits, "GPT", f"at most block_size = {self.block_size} tokens", length=length)
        parts = self.transformer
        y = parts.drop(parts.wte(x) + parts.wpe.weight[before:length])
        for i, block in enumerate(parts.h):
            y, present = block(y, cache[i] if cache and i < len(cache) else None)
            if cache is not None:
                cache[i : i + 1] = [present]
        return self.lm_head(parts.ln_f(y))

    @no_grad()
    def generate(
        self, x: Tensor, max_new_tokens: int, *, temperature: float = 1.0, top_k: int | None = None
    ) -> Tensor:
        """x (B, T) -> (B, T + max_new_tokens), sampled (greedily at temperature 0).

        Where the text outgrows block_size the cache is rebuilt from its last half.
        """
        cache: Cache = []
        feed = x[:, -self.block_size :]
        for _ in range(max_new_tokens):
            logits = self(feed, cache)[:, -1]
            new = sample(logits, temperature, top_k)
            x = feed = cat([x, new], 1)
            if cache[0][0].shape[2] < self.block_size:
                feed = new
            else:
                cache, feed = [], x[:, -(self.block_size // 2 + 1) :]
        return x


def sample(logits: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """logits (B, V) -> tokens (B, 1), the likeliest at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    scaled: Any = logits / temperature
    if top_k is not None:
        least = scaled.topk(min(top_k, scaled.shape[-1]))[0][:, -1:]
        scaled = scaled.masked_fill(scaled < least, -math.inf)
    return multinomial(F.softmax(scaled, -1), 1)
