"""A GPT-2-style language model with nanoGPT's parameter names, and generation with a KV cache."""

import math
from functools import partial
from typing import Any

import minidl.functional as F
from minidl import backend, nn
from minidl.autograd import Tensor, no_grad
from minidl.capturing import capture
from minidl.errors import GraphError, require
from minidl.models.sampling import sample
from minidl.ops.creation import arange
from minidl.ops.join import cat


class Cache:
    """Keys and values of the tokens so far, for up to `size` of them (without grad)."""

    def __init__(self, size: int) -> None:
        self.size, self.length = size, 0
        self.rooms: dict[Any, Any] = {}  # of every layer: raw (2, B, heads, size, d)

    def append(self, layer: Any, new: Any, first: Any) -> Any:
        """Keep the keys and values (2, B, heads, T, d) of tokens `first` on -> the layer's room.

        Both are raw arrays; first (1,) int64 is one as well, so that a replay reads it anew.
        """
        be = backend.of(new)
        if layer not in self.rooms:
            self.rooms[layer] = be.empty((*new.shape[:3], self.size, new.shape[4]), new.dtype)
        be.put_rows(self.rooms[layer], new, first)
        return self.rooms[layer]


class Attention(nn.Module):
    """Causal self-attention; with a cache it appends its keys and values to what is there."""

    def __init__(self, dim: int, heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads, self.p = heads, dropout
        self.c_attn = nn.Linear(dim, 3 * dim, bias)
        self.c_proj = nn.Linear(dim, dim, bias)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: Cache | None = None, places: Any = None) -> Tensor:
        """x (B, T, dim) -> (B, T, dim); with a cache, of the tokens at places (T,)."""
        b, t, dim = x.shape
        parts, shape = self.c_attn(x), (b, t, 3, self.heads, dim // self.heads)
        p = self.p if self.training else 0.0
        if cache is None:
            q, k, v = parts.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=t > 1)
        else:
            rule = "keys and values are kept without their graph: call it under no_grad"
            require(not parts.requires_grad, "Cache", rule, error=GraphError)
            arrays = parts.array.reshape(shape).transpose(2, 0, 3, 1, 4)  # raw: there is no graph
            q, first = arrays[0], places.array[:1]
            room = cache.append(self, arrays[1:], first)
            scale = 1 / math.sqrt(q.shape[-1])
            y = Tensor(backend.of(q).attend(q, room[0], room[1], None, True, scale, first)[0])
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(b, t, dim)))


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

    def forward(self, x: Tensor, cache: Cache | None = None, places: Any = None) -> Tensor:
        """x (B, T, dim) -> the same shape."""
        x = x + self.attn(self.ln_1(x), cache, places)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Token and position embeddings, blocks, a last norm and a head that shares the token table."""

    def __init__(self, vocab_size: int, *, block_size: int = 256, n_layer: int = 6, n_head: int = 6,
                 n_embd: int = 384, dropout: float = 0.0, bias: bool = True) -> None:  # fmt: skip
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

    def new_cache(self) -> Cache:
        """An empty cache: room for block_size tokens' keys and values in every block."""
        return Cache(self.block_size)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x (B, T) tokens -> logits (B, T, vocab_size).

        A cache keeps their keys and values (under no_grad), so that the next call's tokens see them
        too.
        """
        before = cache.length if cache else 0
        length, rule = before + x.shape[1], f"at most block_size = {self.block_size} tokens"
        require(length <= self.block_size, "GPT", rule, length=length)
        y = self._logits(x, arange(before, length, device=x.device), cache)
        if cache:
            cache.length = length
        return y

    def _logits(self, x: Tensor, places: Tensor, cache: Cache | None) -> Tensor:
        """Logits of tokens x (B, T) at places (T,) of the text."""
        parts = self.transformer
        y = parts.drop(parts.wte(x) + parts.wpe(places))
        for block in parts.h:
            y = block(y, cache, places)
        return self.lm_head(parts.ln_f(y))

    @no_grad()
    def generate(
        self, x: Tensor, max_new_tokens: int, *, temperature: float = 1.0, top_k: int | None = None
    ) -> Tensor:
        """x (B, T) -> (B, T + max_new_tokens), sampled (greedily at temperature 0).

        Where the text outgrows block_size the cache is rebuilt from its last half.
        """
        text, cache = [x], Cache(0)
        for _ in range(max_new_tokens):
            if cache.length == cache.size:
                text, kept = [cat(text, 1)], self.block_size // 2 + 1 if cache.size else 0
                cache = self.new_cache()
                after: Any = partial(self._logits, cache=cache)
                after = after if self.training else capture(after)  # dropout draws anew each time
                logits = self(text[0][:, -(kept or self.block_size) :], cache)[:, -1]
            else:
                place = arange(cache.length, cache.length + 1, device=x.device)
                logits = after(text[-1], place)[:, -1]
                cache.length += 1
            text.append(sample(logits, temperature, top_k))
        return cat(text, 1)
