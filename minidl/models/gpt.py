"""Transformer language models, from GPT-2's layout to Llama's, and generation with a KV cache."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import minidl.functional as F
from minidl import backend, nn
from minidl.autograd import Tensor, no_grad, wrap
from minidl.capturing import capture
from minidl.errors import GraphError, require, require_one_of
from minidl.fusion import pointwise, where
from minidl.models.sampling import Choose, LanguageModel
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
        be, shape = backend.of(new), (*new.shape[:3], self.size, new.shape[4])
        if not self.length:
            self.rooms[layer] = be.empty(shape, new.dtype)
        room = self.rooms.get(layer)
        fits = room is not None and (room.shape, room.dtype) == (shape, new.dtype)
        require(fits, "Cache", "the model, its dtype and the batch must be those it began with",
                room=room, new=new)  # fmt: skip
        be.put_rows(room, new, first)
        return room


@pointwise
def _turned(x: Any, other: Any, cos: Any, sin: Any, turns: Any) -> Any:
    return where(turns, x * cos + other * sin, x)


@pointwise
def _gated(a: Any, b: Any) -> Any:
    return F.silu(a) * b


class Attention(nn.Module):
    """Causal self-attention; with a cache it appends its keys and values to what is there.

    Each of kv_heads keys and values is shared by heads / kv_heads queries (arXiv 2305.13245). Rows
    of c_attn are all heads' queries, then the keys, then the values.
    """

    def __init__(self, dim: int, heads: int, kv_heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.p = heads, kv_heads, dropout
        self.width, every = dim // heads, heads + 2 * kv_heads
        self.c_attn = nn.Linear(dim, every * self.width, bias)
        self.c_proj = nn.Linear(dim, dim, bias)
        self.resid_dropout = nn.Dropout(dropout)
        turns = wrap(np.arange(every)[:, None, None] < heads + kv_heads)  # queries and keys do
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, x: Tensor, cache: Cache | None = None, places: Any = None,
                angles: Any = None) -> Tensor:  # fmt: skip
        """x (B, T, dim) -> (B, T, dim); with a cache, of the tokens at places (T,).

        angles (T, 2 d): rows of `rotations` for rotary positions.
        """
        (b, t, dim), h, g = x.shape, self.heads, self.kv_heads
        parts = self.c_attn(x).reshape(b, t, h + 2 * g, self.width)
        parts = parts if angles is None else self._rotate(parts, angles)
        p = self.p if self.training else 0.0
        if cache is None:
            if h == g:  # thirds of one array, which their gradients fill together
                q, k, v = parts.reshape(b, t, 3, h, self.width).permute(2, 0, 3, 1, 4).unbind(0)
            else:
                q, k, v = parts.transpose(1, 2).split([h, g, g], 1)
            causal = {"is_causal": t > 1, "enable_gqa": h != g}
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, **causal)
        else:
            rule = "keys and values are kept without their graph: call it under no_grad"
            require(not parts.requires_grad, "Cache", rule, error=GraphError)
            raw, first = parts.array, places.array[:1]
            both = raw[:, :, h:].reshape(b, t, 2, g, self.width).transpose(2, 0, 3, 1, 4)  # a view
            room, be = cache.append(self, both, first), backend.of(raw)
            given = raw[:, :, :h].transpose(0, 2, 1, 3), room[0], room[1], None, True
            y = wrap(be.attend(*given, 1 / math.sqrt(self.width), first)[0])
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(b, t, dim)))

    def _rotate(self, parts: Tensor, angles: Tensor) -> Tensor:
        """parts (B, T, heads, d) with the pairs (2i, 2i + 1) of queries and keys turned."""
        b, t, h, d = parts.shape
        pairs = parts.reshape(b, t, h, d // 2, 2)
        cos, sin = angles.reshape(t, 2, 1, d // 2, 2).unbind(1)
        return _turned(pairs, pairs.flip(-1), cos, sin, self.turns).reshape(parts.shape)


def rotations(size: int, d: int) -> np.ndarray:
    """Of every place below size the cosines of its d / 2 angles, and their sines (size, 2 d).

    Pair (2i, 2i + 1) turns by place · 10000^(-2i / d) (arXiv 2104.09864, as in Llama's own code):
    both of a pair have its cosine, and its sine with the sign that it meets the other one with.
    """
    angles = np.outer(np.arange(size), 1e4 ** (-np.arange(0, d, 2) / d)).repeat(2, 1)
    signs = np.tile([-1.0, 1.0], d // 2)
    return np.concatenate([np.cos(angles), np.sin(angles) * signs], 1).astype(np.float32)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) · w3 x), then dropout (arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(dim, hidden, bias), nn.Linear(hidden, dim, bias)
        self.w3, self.dropout = nn.Linear(dim, hidden, bias), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., dim) -> the same shape."""
        return self.dropout(self.w2(_gated(self.w1(x), self.w3(x))))


class Block(nn.Module):
    """Pre-norm attention and MLP, each within a residual."""

    def __init__(self, ln_1: nn.Module, attn: Attention, ln_2: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = ln_1, attn, ln_2, mlp

    def forward(self, x: Tensor, *where: Any) -> Tensor:
        """x (B, T, dim) -> the same shape; where: what attention takes besides."""
        x = x + self.attn(self.ln_1(x), *where)
        return x + self.mlp(self.ln_2(x))


def _mlp(kind: str, dim: int, hidden: int | None, dropout: float, bias: bool) -> nn.Module:
    """The MLP of a kind; hidden units by default: 4 dim, or with a gate as many weights."""
    if kind == "swiglu":
        return SwiGLU(dim, 8 * dim // 3 if hidden is None else hidden, dropout, bias)
    wide = 4 * dim if hidden is None else hidden
    gelu = nn.GELU("tanh" if kind == "gelu_tanh" else "none")
    parts = {"c_fc": nn.Linear(dim, wide, bias), "gelu": gelu,
             "c_proj": nn.Linear(wide, dim, bias), "dropout": nn.Dropout(dropout)}  # fmt: skip
    return nn.Sequential(parts)


class GPT(LanguageModel):
    """Token and position embeddings, blocks, a last norm and a head that shares the token table.

    By default nanoGPT, with its parameter names. GPT-2 is mlp="gelu_tanh"; Llama is rotary, rms,
    swiglu and bias=False. n_kv_head heads of keys and values are shared by the queries' n_head
    (None: as many); hidden is the MLP's width; tie=False gives the head weights of its own. Raises
    ShapeError for unknown choices and for heads that do not divide what they share.
    """

    def __init__(self, vocab_size: int, *, block_size: int = 256, n_layer: int = 6, n_head: int = 6,
                 n_embd: int = 384, dropout: float = 0.0, bias: bool = True,
                 positions: str = "learned", norm: str = "layer", eps: float = 1e-5,
                 mlp: str = "gelu", hidden: int | None = None, n_kv_head: int | None = None,
                 tie: bool = True) -> None:  # fmt: skip
        super().__init__()
        require_one_of("GPT", ("learned", "rotary"), positions=positions)
        require_one_of("GPT", ("layer", "rms"), norm=norm)
        require_one_of("GPT", ("gelu", "gelu_tanh", "swiglu"), mlp=mlp)
        shared = n_head if n_kv_head is None else n_kv_head
        rule = "n_kv_head must divide n_head, n_head must divide n_embd"
        fits = 0 < shared <= n_head <= n_embd and n_head % shared == 0 == n_embd % n_head
        require(fits, "GPT", rule, n_kv_head=shared, n_head=n_head, n_embd=n_embd)
        make: Any = partial(nn.RMSNorm if norm == "rms" else partial(nn.LayerNorm, bias=bias),
                            n_embd, eps)  # fmt: skip
        self.block_size = block_size
        self.transformer = parts = nn.ModuleDict()
        parts.wte = nn.Embedding(vocab_size, n_embd)
        if positions == "learned":
            parts.wpe = nn.Embedding(block_size, n_embd)
        parts.drop = nn.Dropout(dropout)
        parts.h = nn.ModuleList(
            Block(make(), Attention(n_embd, n_head, shared, dropout, bias), make(),
                  _mlp(mlp, n_embd, hidden, dropout, bias)) for _ in range(n_layer)
        )  # fmt: skip
        parts.ln_f = make()
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        if tie:
            self.lm_head.weight = parts.wte.weight
        d, rotary = n_embd // n_head, positions == "rotary"
        require(not (rotary and d % 2), "GPT", "rotary heads must have an even size", size=d)
        table = wrap(rotations(block_size, d)) if rotary else None
        self.register_buffer("rotations", table, persistent=False)
        self._begin(n_layer)

    def _begin(self, n_layer: int) -> None:
        """GPT-2's first values: N(0, 0.02²), less for what is added to the residual stream."""
        for name, param in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(param)
            elif param.ndim == 2:
                deep = name.endswith(("c_proj.weight", "w2.weight"))
                nn.init.normal_(param, std=0.02 / (math.sqrt(2 * n_layer) if deep else 1))

    def new_cache(self) -> Cache:
        """An empty cache: room for block_size tokens' keys and values in every block."""
        return Cache(self.block_size)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x (B, T) tokens -> logits (B, T, vocab_size).

        A cache keeps their keys and values (under no_grad), so that the next call's tokens see them
        too.
        """
        require(x.ndim == 2, "GPT", "x must be (B, T)", x=x)
        before, room = (cache.length, cache.size) if cache else (0, self.block_size)
        length, most = before + x.shape[1], min(room, self.block_size)
        require(length <= most, "GPT", f"at most block_size = {most} tokens", length=length)
        y = self._logits(x, arange(before, length, device=x.device), cache)
        if cache:
            cache.length = length
        return y

    def _logits(self, x: Tensor, places: Tensor, cache: Cache | None) -> Tensor:
        """Logits of tokens x (B, T) at places (T,) of the text."""
        parts, rotations = self.transformer, self.rotations
        angles = None if rotations is None else F.embedding(places, rotations)
        y = parts.wte(x)
        y = parts.drop(y + parts.wpe(places) if angles is None else y)
        for block in parts.h:
            y = block(y, cache, places, angles)
        return self.lm_head(parts.ln_f(y))

    def stream(self, x: Tensor, choose: Choose) -> Iterator[Tensor]:
        """The next token (B, 1) of texts x (B, T), and the next, without end.

        Where the text outgrows block_size the cache is rebuilt from its last half.
        """
        text, cache = [x], Cache(0)
        while True:
            with no_grad():  # not over the yield
                if cache.length == cache.size:
                    text, kept = [cat(text, 1)], self.block_size // 2 + 1 if cache.size else 0
                    cache = self.new_cache()
                    places = arange(cache.size, device=x.device).array
                    after: Any = partial(self._logits, cache=cache)
                    after = after if self.training else capture(after)  # dropout draws anew
                    logits = self(text[0][:, -(kept or self.block_size) :], cache)[:, -1]
                else:
                    logits = after(text[-1], wrap(places[cache.length : cache.length + 1]))[:, 0]
                    cache.length += 1
                text.append(choose(logits, text))
            yield text[-1]
