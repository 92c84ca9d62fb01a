"""A recurrent language model over characters (or any tokens), and sampling from it."""

from typing import Any

from minidl import nn
from minidl.autograd import Tensor, no_grad
from minidl.capturing import capture
from minidl.errors import require
from minidl.models.sampling import sample
from minidl.ops.join import cat, unbind


class CharRNN(nn.Module):
    """Embedding, a stack of RNN, LSTM or GRU layers, dropout, a classifier over tokens."""

    def __init__(self, vocab_size: int, *, kind: str = "lstm", hidden_size: int = 256,
                 num_layers: int = 2, embedding_dim: int | None = None,
                 dropout: float = 0.0) -> None:  # fmt: skip
        super().__init__()
        kinds = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
        require(kind in kinds, "CharRNN", f"kind must be one of {[*kinds]}", kind=kind)
        width = embedding_dim or hidden_size
        self.embedding = nn.Embedding(vocab_size, width)
        between = dropout if num_layers > 1 else 0.0
        self.rnn = kinds[kind](width, hidden_size, num_layers, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, vocab_size)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """x (B, T) tokens and a state (None: zeros) -> logits (B, T, vocab_size), next state."""
        y, state = self.rnn(self.embedding(x.T), state)  # step by step in memory: no copies
        return self.head(self.dropout(y)).transpose(0, 1), state

    @no_grad()
    def generate(
        self, x: Tensor, max_new_tokens: int, *, temperature: float = 1.0, top_k: int | None = None
    ) -> Tensor:
        """x (B, T) -> (B, T + max_new_tokens), sampled (greedily at temperature 0)."""
        (logits, state), text = self(x), [x]
        logits, parts = logits[:, -1], [state] if isinstance(state, Tensor) else state
        states = [s for layer in zip(*map(unbind, parts)) for s in layer]
        after = self._after if self.training else capture(self._after)  # dropout draws anew
        for k in range(max_new_tokens):
            text.append(sample(logits, temperature, top_k))
            if k + 1 < max_new_tokens:
                logits, *states = after(text[-1], *states)
        return cat(text, 1)

    def _after(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Tokens x (B, 1) and every layer's states -> logits (B, vocab_size), the next states."""
        each = len(states) // self.rnn.num_layers
        layers = [states[k : k + each] for k in range(0, len(states), each)]
        y, layers = self.rnn.run_layers(self.embedding(x.T), layers)
        return self.head(self.dropout(y[0])), *[s for layer in layers for s in layer]
