"""Translation with attention: a bidirectional GRU reads, a GRU that looks back at it writes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import minidl as ml
import minidl.functional as F
from minidl import Tensor, nn
from minidl.errors import ShapeError, require, require_one_of
from minidl.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Lengths = Tensor | Sequence[int]
KINDS = ("bahdanau", "dot")


class Attention(nn.Module):
    """Weights over the source's places for a decoder's state, and the mean of what they show.

    bahdanau: the score of a place is v · tanh(W state + U memory) (arXiv 1409.0473); dot:
    (W state) · (U memory) / √width (arXiv 1508.04025's "general", scaled). Raises ShapeError for
    another kind.
    """

    def __init__(self, state: int, memory: int, width: int, kind: str = "bahdanau") -> None:
        super().__init__()
        require_one_of("Attention", KINDS, kind=kind)
        self.query = nn.Linear(state, width, bias=False)
        self.key = nn.Linear(memory, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False) if kind == "bahdanau" else None
        self.scale = 1 / math.sqrt(width)

    def forward(
        self, state: Tensor, keys: Tensor, memory: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """state (B, H), keys = self.key(memory) (B, S, A), memory (B, S, M) -> context, weights.

        mask (B, S): True where the source has a token. Context (B, M), weights (B, S), which are 0
        outside of the mask.
        """
        query = self.query(state).unsqueeze(1)
        if self.score is None:
            scores = (query * keys).sum(-1) * self.scale
        else:
            scores = self.score(F.tanh(query + keys)).squeeze(-1)
        weights = F.softmax(scores.masked_fill(~mask, -math.inf), -1)
        return (weights.unsqueeze(1) @ memory).squeeze(1), weights


class Encoder(nn.Module):
    """Token embeddings and a bidirectional GRU, which reads no padding."""

    def __init__(self, vocab_size: int, embedding_dim: int, hidden_size: int, p: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.dropout = nn.Dropout(p)
        self.rnn = nn.GRU(embedding_dim, hidden_size, batch_first=True, bidirectional=True)

    def forward(self, source: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """source (B, S) -> memory (B, S, 2 hidden), 0 at padding, and both last states (B, ...)."""
        x = self.dropout(self.embedding(source))
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed, last = self.rnn(packed)
        memory, _ = pad_packed_sequence(packed, batch_first=True)
        memory = F.pad(memory, (0, 0, 0, source.shape[1] - memory.shape[1]))
        return memory, last.transpose(0, 1).flatten(1)


class Decoder(nn.Module):
    """A GRU cell fed with the last token and what its last state attends to (arXiv 1409.0473)."""

    def __init__(self, vocab_size: int, embedding_dim: int, hidden_size: int, memory: int,
                 attention: str, p: float) -> None:  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.dropout = nn.Dropout(p)
        self.attention = Attention(hidden_size, memory, hidden_size, attention)
        self.rnn = nn.GRUCell(embedding_dim + memory, hidden_size)
        self.head = nn.Linear(embedding_dim + memory + hidden_size, vocab_size)

    def forward(self, tokens: Tensor, state: Tensor, *source: Tensor) -> tuple[Tensor, ...]:
        """tokens (B, T) from state (B, H) on -> logits (B, T, V), weights (B, T, S), next state.

        source: what attention takes of it, its keys (B, S, H), memory (B, S, M) and mask (B, S).
        """
        shown, seen = [], []
        for now in self.dropout(self.embedding(tokens)).unbind(1):
            context, weights = self.attention(state, *source)
            state = self.rnn(ml.cat([now, context], -1), state)
            shown.append(ml.cat([now, context, state], -1))
            seen.append(weights)
        return self.head(self.dropout(ml.stack(shown, 1))), ml.stack(seen, 1), state


class Seq2Seq(nn.Module):
    """An encoder, a decoder, and the layer that turns what is read into a first state.

    attention: bahdanau or dot. Raises ShapeError for another, for batches that do not fit and for
    lengths outside of 1 to S.
    """

    def __init__(self, source_size: int, target_size: int, *, embedding_dim: int = 128,
                 hidden_size: int = 256, attention: str = "bahdanau",
                 dropout: float = 0.0) -> None:  # fmt: skip
        super().__init__()
        self.encoder = Encoder(source_size, embedding_dim, hidden_size, dropout)
        self.bridge = nn.Linear(2 * hidden_size, hidden_size)
        width = 2 * hidden_size
        self.decoder = Decoder(target_size, embedding_dim, hidden_size, width, attention, dropout)

    def forward(
        self, source: Tensor, source_lengths: Lengths, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """source (B, S) with its lengths (B,), target (B, T) -> logits (B, T, V) and weights.

        Teacher-forced: target begins with the begin token, logits at t are for the token at t + 1.
        Weights (B, T, S) are what each step attends to, 0 at the source's padding.
        """
        rule = "target must be (B, T), with as many rows as source and at least one column"
        fits = target.ndim == 2 and len(target) == len(source) and target.shape[1] > 0
        require(fits, "Seq2Seq", rule, source=source, target=target)
        logits, weights, _ = self.decoder(target, *self._read(source, source_lengths))
        return logits, weights

    @ml.no_grad()
    def translate(
        self, source: Tensor, lengths: Lengths, max_tokens: int, begin: int, end: int
    ) -> tuple[Tensor, Tensor]:
        """source (B, S) -> the likeliest tokens (B, n) one by one, and their weights (B, n, S).

        n is at most max_tokens (at least 1); after its first `end` a row goes on with `end`.
        """
        require(max_tokens > 0, "translate", "max_tokens must be positive", max_tokens=max_tokens)
        state, *read = self._read(source, lengths)
        ended = ml.zeros(len(source), 1, dtype=ml.bool, device=source.device)
        token, text, seen = ml.full((len(source), 1), begin, device=source.device), [], []
        while len(text) < max_tokens and not ended.all().item():
            logits, weights, state = self.decoder(token, state, *read)
            token = logits[:, -1].argmax(-1, keepdim=True).masked_fill(ended, end)
            ended = ended | (token == end)
            text.append(token)
            seen.append(weights)
        return ml.cat(text, 1), ml.cat(seen, 1)

    def _read(self, source: Tensor, lengths: Lengths) -> tuple[Tensor, ...]:
        """The decoder's first state (B, H), and keys, memory and mask of all places (B, S, ...)."""
        require(source.ndim == 2, "Seq2Seq", "source must be (B, S)", source=source)
        batch, places = source.shape
        n = np.asarray(lengths.tolist() if isinstance(lengths, Tensor) else lengths)
        fits = n.shape == (batch,) and bool(((n >= 1) & (n <= places)).all())
        rule = f"lengths must be {batch} numbers from 1 to {places}"
        require(fits, "Seq2Seq", rule, error=ShapeError, lengths=n.tolist())
        memory, last = self.encoder(source, n.tolist())
        mask = ml.tensor(np.arange(places) < n[:, None]).to(source.device)
        return F.tanh(self.bridge(last)), self.decoder.attention.key(memory), memory, mask


class Continued:
    """The decoder behind one sentence as a step of `decode.beam_search`, one token a call.

    model: in evaluation mode; source (1, S). A call takes tokens (1, T) whose first T - 1 were the
    tokens of an earlier call, of which it keeps those of the last length alone, or are none.
    """

    def __init__(self, model: Seq2Seq, source: Tensor) -> None:
        require(not model.training, "Continued", "the model must be in evaluation mode")
        with ml.no_grad():
            state, *self.read = model._read(source, [source.shape[1]])
        self.decoder = model.decoder
        none = np.zeros((0, model.decoder.head.out_features), np.float32)
        self.known: dict[tuple[int, ...], tuple[np.ndarray, Tensor]] = {(): (none, state)}

    @ml.no_grad()
    def __call__(self, tokens: Tensor) -> np.ndarray:
        text = tuple(tokens.tolist()[0])
        rows, state = self.known[text[:-1]]
        logits, _, state = self.decoder(tokens[:, -1:], state, *self.read)
        rows = np.concatenate([rows, logits[0].cpu().numpy()])
        self.known = {k: v for k, v in self.known.items() if len(k) >= len(text) - 1}
        self.known[text] = rows, state
        return rows
