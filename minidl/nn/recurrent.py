"""Recurrent layers: RNN, LSTM, GRU over sequences, padded or packed, and their single steps."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn import init
from minidl.nn.fields import Layer
from minidl.nn.parameter import new_parameter
from minidl.nn.utils.rnn import PackedSequence, run_packed
from minidl.ops.autocasting import lowered
from minidl.ops.join import cat, stack
from minidl.ops.recurrent import gru, lstm, rnn

States = tuple[Tensor, ...]


class _Recurrent(Layer):
    """What layers and cells share: a fused op, its gates and states, how its weights begin."""

    _op: ClassVar[Callable[..., Any]] = staticmethod(rnn)
    _gates, _states = 1, 1
    proj_size = 0
    _weights: ClassVar[tuple[str, ...]] = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

    def _make(self, suffix: str, width: int, size: int, *where: Any) -> None:
        """The parameters of one op for inputs of that width, h projected to size (0: it is not)."""
        kind, rule = getattr(self, "nonlinearity", "tanh"), "nonlinearity must be tanh or relu"
        require(kind in ("tanh", "relu"), type(self).__name__, rule, nonlinearity=kind)
        rows, out = self._gates * self.hidden_size, size or self.hidden_size
        bias = (rows,) if self.bias else None
        shapes = [(rows, width), (rows, out), bias, bias, (size, self.hidden_size)]
        for name, shape in zip(self._weights, shapes if size else shapes[:4]):
            made = None if shape is None else new_parameter(shape, *where)
            self.register_parameter(name + suffix, made)

    def reset_parameters(self) -> None:
        init.fan_in_uniform_(self.parameters(), self.hidden_size)

    def _run_op(self, x: Tensor, states: States, suffix: str = "", tokens: Any = None) -> States:
        """x (T, B, I), or rows (V, I) that tokens (T, B) name, first states -> y, *last states."""
        names = self._weights[: 4 + bool(self.proj_size)]
        weights = [getattr(self, name + suffix) for name in names]
        kind = {"nonlinearity": self.nonlinearity} if "nonlinearity" in self._fields else {}
        given = lowered(x, *states, *weights)
        return self._op(*given, reverse=suffix.endswith("reverse"), tokens=tokens, **kind)

    def _first(self, given: Any, x: Tensor, shapes: Sequence[tuple[int, ...]]) -> States:
        """The first states h, or h and c, checked; zeros where not given."""
        if given is None:
            return tuple(x.new_zeros(shape) for shape in shapes)
        states = (given,) if isinstance(given, Tensor) else tuple(given)
        name, count = type(self).__name__, self._states
        rule = f"the state must be {' and '.join('hc'[:count])}"
        require(len(states) == count, name, rule, given=len(states))
        for key, state, shape in zip("hc", states, shapes):
            require(state.shape == shape, name, f"{key} must be {shape}", state=state)
        return states


class _Layers(_Recurrent, show=""):
    """Layers and directions, with PyTorch's names (weight_ih_l0_reverse …).

    A sequence x is (T, B, input_size), (B, T, input_size) with batch_first, (T, input_size)
    unbatched, or a PackedSequence.
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    nonlinearity: str = "tanh"
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False

    def _build(self, *where: Any) -> None:
        name, size, hidden = type(self).__name__, self.proj_size, self.hidden_size
        p, layers = self.dropout, self.num_layers
        require(0 <= p <= 1, name, "dropout must be between 0 and 1", dropout=p)
        require(0 <= size < hidden, name, "proj_size must be below hidden_size", proj_size=size)
        require(layers > 0, name, "num_layers must be positive", num_layers=layers)
        for layer in range(layers):
            width = (size or hidden) * (1 + self.bidirectional) if layer else self.input_size
            for suffix in self._suffixes(layer):
                self._make(suffix, width, size, *where)
        self.reset_parameters()

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: 1 + self.bidirectional]

    _flat_weights_names = property(lambda self: [*self._parameters])

    def flatten_parameters(self) -> None:
        """Nothing to do: weights need no special memory here."""

    def forward(self, x: Any, hx: Any = None, tokens: Any = None) -> Any:
        """Sequence and first state (h, or for an LSTM (h, c)) -> outputs and last state.

        States are (layers · directions, B, width), without B for an unbatched sequence. With tokens
        (T, B), or (B, T) with batch_first, the sequence is of rows of x (V, input_size), which is
        multiplied once: what an embedding before the layer would give, with V products for T·B.
        """
        packed, table = isinstance(x, PackedSequence), tokens is not None
        data, axes = x.data if packed else x, (2,) if packed or table else (2, 3)
        rule = "tokens name rows of a table, not of a PackedSequence"
        require(not (packed and table), type(self).__name__, rule, tokens=tokens)
        fits = data.ndim in axes and data.shape[-1] == self.input_size
        rule = f"x must have {' or '.join(map(str, axes))} axes, the last of {self.input_size}"
        require(fits, type(self).__name__, rule, x=data)
        if packed:
            y, states = self._run(x.data, hx, x.batch_sizes.tolist(), *x[2:])
            y = x._replace(data=y)
        elif x.ndim == 2 and not table:
            given = (hx,) if isinstance(hx, Tensor) else hx
            hx = None if given is None else [s.unsqueeze(1) for s in given]
            y, states = self._run(x.unsqueeze(1), hx)
            y, states = y.squeeze(1), tuple(s.squeeze(1) for s in states)
        else:
            if self.batch_first:
                x, tokens = (x, tokens.transpose(0, 1)) if table else (x.transpose(0, 1), None)
            y, states = self._run(x, hx, tokens=tokens)
            y = y.transpose(0, 1) if self.batch_first else y
        return y, states if self._states > 1 else states[0]

    def _run(self, x: Tensor, given: Any, sizes: list[int] | None = None, order: Any = None,
             back: Any = None, tokens: Any = None) -> tuple[Any, States]:  # fmt: skip
        """All layers over x (T, B, I), or over packed rows (total, I) with their batch sizes.

        order and back are how packing sorted the sequences, and how to undo it.
        """
        batch = sizes[0] if sizes else (x if tokens is None else tokens).shape[1]
        rows = self.num_layers * (1 + self.bidirectional)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: self._states]
        states = self._first(given, x, [(rows, batch, width) for width in widths])
        states = states if order is None else tuple(s[:, order] for s in states)
        each = [tuple(s[k] for s in states) for k in range(rows)]
        x, last = self.run_layers(x, each, sizes, tokens)
        ends = [stack(parts, 0) for parts in zip(*last)]
        return x, tuple(ends if back is None else [s[:, back] for s in ends])

    def run_layers(
        self, x: Tensor, states: Sequence[States], sizes: list[int] | None = None,
        tokens: Any = None,
    ) -> tuple[Any, list[States]]:  # fmt: skip
        """x (T, B, I) and the first states (B, ·) of every layer and direction -> y, the last ones.

        What `forward` does without joining the states: for a loop over single steps.
        """
        last: list[States] = []
        for layer in range(self.num_layers):
            outs, rows = [], None if layer else tokens
            for suffix in self._suffixes(layer):
                run: Any = partial(self._run_op, suffix=suffix, tokens=rows)
                if sizes:
                    run = partial(run_packed, run, sizes, suffix.endswith("reverse"))
                y, *ends = run(x, states[len(last)])
                outs.append(y)
                last.append(tuple(ends))
            x = cat(outs, -1) if self.bidirectional else outs[0]
            if self.dropout and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return x, last

    def extra_repr(self) -> str:
        usual = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False}
        usual |= {"dropout": 0, "bidirectional": False}
        changed = {k: getattr(self, k) for k, value in usual.items() if getattr(self, k) != value}
        shown = [self.input_size, self.hidden_size, *(f"{k}={v}" for k, v in changed.items())]
        return ", ".join(map(str, shown))


class RNN(_Layers):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu."""


class GRU(_Layers, show="", without="nonlinearity"):
    """Gated recurrent unit, gates in the order r, z, n; r applies after the product with W_hh."""

    _op, _gates = staticmethod(gru), 3


class LSTM(_Layers, show="", without="nonlinearity"):
    """Long short-term memory, gates i, f, g, o; proj_size projects h (arXiv 1402.1128)."""

    _op, _gates, _states = staticmethod(lstm), 4, 2
    _weights = (*_Recurrent._weights, "weight_hr")
    proj_size: int = 0


class _Cell(_Recurrent, show="{input_size}, {hidden_size}…"):
    input_size: int
    hidden_size: int
    bias: bool = True

    def _build(self, *where: Any) -> None:
        self._make("", self.input_size, 0, *where)
        self.reset_parameters()

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        """x (B, input_size) and h, or (h, c), each (B, hidden_size) or zeros -> the next.

        Unbatched without B.
        """
        width = self.input_size
        fits = x.ndim in (1, 2) and x.shape[-1] == width
        require(fits, type(self).__name__, f"x must be (B, {width}) or ({width},)", x=x)
        states = self._first(hx, x, [(*x.shape[:-1], self.hidden_size)] * self._states)
        if x.ndim == 1:
            states = tuple(s.unsqueeze(0) for s in states)
        states = self._run_op(x.reshape(1, -1, width), states)[1:]
        states = tuple(s.squeeze(0) for s in states) if x.ndim == 1 else states
        return states if self._states > 1 else states[0]


class RNNCell(_Cell, show="{input_size}, {hidden_size}…"):
    """One step of RNN."""

    nonlinearity: str = "tanh"


class GRUCell(_Cell):
    """One step of GRU."""

    _op, _gates = staticmethod(gru), 3


class LSTMCell(_Cell):
    """One step of LSTM."""

    _op, _gates, _states = staticmethod(lstm), 4, 2
