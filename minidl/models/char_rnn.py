"""A recurrent language model over characters (or any tokens), and sampling from it."""

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor, no_grad
from minidl.capturing import capture
from minidl.errors import require_one_of
from minidl.fusion import pointwise, sigmoid, tanh
from minidl.models.sampling import Choose, LanguageModel
from minidl.nn.parameter import new_parameter
from minidl.ops.creation import arange
from minidl.ops.join import stack, unbind


@pointwise
def _memory(i: Any, f: Any, g: Any, hi: Any, hf: Any, hg: Any, c: Any) -> Any:
    return sigmoid(f + hf) * c + sigmoid(i + hi) * tanh(g + hg)


@pointwise
def _shown(o: Any, ho: Any, c: Any) -> Any:
    return sigmoid(o + ho) * tanh(c)


@pointwise
def _renewed(r: Any, z: Any, n: Any, hr: Any, hz: Any, hn: Any, h: Any) -> Any:
    new = tanh(n + sigmoid(r + hr) * hn)
    return new + sigmoid(z + hz) * (h - new)


class _Normed(nn.Module):
    """Makes RNN, LSTM or GRU loop over steps with layer norm inside (arXiv 1607.06450, appendix).

    W x and W h are normalised apart, each over all gates at once (a GRU's candidate for itself,
    which its reset gate needs alone), and an LSTM's c before its tanh. The norms' shifts stand in
    for biases. Not for proj_size.
    """

    _groups: ClassVar[tuple[int, ...]]  # gates that are normalised together

    def _make(self, suffix: str, width: int, size: int, *where: Any) -> None:
        hidden, rows = self.hidden_size, sum(self._groups) * self.hidden_size
        norm: Any = partial(nn.LayerNorm, **dict(zip(("device", "dtype"), where)))
        for name, inputs in (("ih", width), ("hh", hidden)):
            self.register_parameter(f"weight_{name}{suffix}", new_parameter((rows, inputs), *where))
            norms = nn.ModuleList(norm(n * hidden) for n in self._groups)
            self.register_module(f"norm_{name}{suffix}", norms)
        if self._states > 1:
            self.register_module(f"norm_c{suffix}", norm(hidden))

    def reset_parameters(self) -> None:
        nn.init.fan_in_uniform_([p for p in self.parameters() if p.ndim == 2], self.hidden_size)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def _run_op(self, x: Tensor, states: Any, suffix: str = "", tokens: Any = None) -> Any:
        """x (T, B, I) and first states (B, H) -> y (T, B, H), *last states."""
        x = x if tokens is None else F.embedding(tokens, x)
        order = slice(None, None, -1 if suffix.endswith("reverse") else 1)
        steps, outputs = zip(*map(unbind, self._gates_of(x, "ih" + suffix))), []
        for given in [*steps][order]:
            states = self._step(given, self._gates_of(states[0], "hh" + suffix), states, suffix)
            outputs.append(states[0])
        return stack(outputs[order]), *states

    def _gates_of(self, x: Tensor, name: str) -> list[Tensor]:
        """x (..., I) through a weight and its norms: the gates' parts (..., H)."""
        norms, hidden = getattr(self, f"norm_{name}"), self.hidden_size
        sizes = [n * hidden for n in self._groups]
        parts = F.linear(x, getattr(self, f"weight_{name}")).split(sizes, -1)
        return [g for norm, part in zip(norms, parts) for g in norm(part).split(hidden, -1)]


class _NormedRNN(_Normed, nn.RNN):
    """h' = tanh(LN(W x) + LN(W h))."""

    _groups = (1,)

    def _step(self, x: Any, h: Any, states: Any, suffix: str) -> tuple[Tensor, ...]:
        return (F.tanh(x[0] + h[0]),)


class _NormedLSTM(_Normed, nn.LSTM):
    """c' = f c + i g and h' = o tanh(LN(c')), gates in the order i, f, g, o."""

    _groups = (4,)

    def _step(self, x: Any, h: Any, states: Any, suffix: str) -> tuple[Tensor, ...]:
        c = _memory(*x[:3], *h[:3], states[1])
        return _shown(x[3], h[3], getattr(self, f"norm_c{suffix}")(c)), c


class _NormedGRU(_Normed, nn.GRU):
    """n = tanh(LN(W x) + r LN(W h)) and h' = (1 - z) n + z h, gates in the order r, z, n."""

    _groups = (2, 1)

    def _step(self, x: Any, h: Any, states: Any, suffix: str) -> tuple[Tensor, ...]:
        return (_renewed(*x, *h, states[0]),)


_PLAIN = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
_WITH_NORM = {"rnn": _NormedRNN, "lstm": _NormedLSTM, "gru": _NormedGRU}


class CharRNN(LanguageModel):
    """Embedding, a stack of RNN, LSTM or GRU layers, dropout, a classifier over tokens.

    layer_norm puts layer norm inside the cells, which then run op by op and slower. Raises
    ShapeError for another kind, or a state that does not fit.
    """

    def __init__(self, vocab_size: int, *, kind: str = "lstm", hidden_size: int = 256,
                 num_layers: int = 2, embedding_dim: int | None = None,
                 dropout: float = 0.0, layer_norm: bool = False) -> None:  # fmt: skip
        super().__init__()
        kinds: dict[str, Any] = _WITH_NORM if layer_norm else _PLAIN
        require_one_of("CharRNN", kinds, kind=kind)
        width = embedding_dim or hidden_size
        self.embedding = nn.Embedding(vocab_size, width)
        self.register_buffer("tokens", arange(vocab_size), persistent=False)
        self.rnn = kinds[kind](width, hidden_size, num_layers, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, vocab_size)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """x (B, T) tokens and a state (None: zeros) -> logits (B, T, vocab_size), next state.

        Unbatched without B, as in nn.LSTM.
        """
        fewer = x.ndim == 2 and len(self.tokens) < x.numel()
        steps = x.T  # in memory step by step: no copies
        rows = self.embedding(self.tokens if fewer else steps)  # each is multiplied but once, if so
        y, state = self.rnn(rows, state, steps if fewer else None)
        return self.head(self.dropout(y)).transpose(0, -2), state

    def stream(self, x: Tensor, choose: Choose) -> Iterator[Tensor]:
        """The next token (B, 1) of texts x (B, T), and the next, without end."""
        with no_grad():  # not over a yield
            (logits, state), text = self(x), [x]
            logits, parts = logits[:, -1], [state] if isinstance(state, Tensor) else state
            states = [s for layer in zip(*map(unbind, parts)) for s in layer]
            after = self._after if self.training else capture(self._after)  # dropout draws anew
            text.append(choose(logits, text))
        while True:
            yield text[-1]
            with no_grad():
                logits, *states = after(text[-1], *states)
                text.append(choose(logits, text))

    def _after(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Tokens x (B, 1) and every layer's states -> logits (B, vocab_size), the next states."""
        each = len(states) // self.rnn.num_layers
        layers = [states[k : k + each] for k in range(0, len(states), each)]
        y, layers = self.rnn.run_layers(self.embedding(x.T), layers)
        return self.head(self.dropout(y[0])), *[s for layer in layers for s in layer]
