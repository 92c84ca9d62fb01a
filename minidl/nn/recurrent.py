"""Recurrent layers: RNN, LSTM, GRU over sequences, padded or packed, and their single steps."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn import init
from minidl.nn.fields import Layer
from minidl.nn.parameter import new_parameter, zeros
from minidl.nn.utils.rnn import PackedSequence, run_packed
from minidl.ops.join import cat, stack
from minidl.ops.recurrent import gru, lstm, rnn

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _Uniform(Layer):
    """Parameters uniform in ±1/√hidden_size."""

    _gates, _states = 1, 1
    nonlinearity = "tanh"

    def reset_parameters(self) -> None:
        for param in self.parameters():
            init.uniform_around_0_(param, 1 / math.sqrt(self.hidden_size))

    def _check_nonlinearity(self) -> None:
        known = self.nonlinearity in ("tanh", "relu")
        rule = "nonlinearity must be tanh or relu"
        require(known, type(self).__name__, rule, nonlinearity=self.nonlinearity)


class _Recurrent(_Uniform):
    """Layers and directions around one fused op, with PyTorch's names (weight_ih_l0_reverse …).

    A sequence x is (T, B, input_size), (B, T, input_size) with batch_first, (T, input_size)
    unbatched, or a PackedSequence.
    """

    proj_size = 0

    def _build(self, *where: Any) -> None:
        name, size, hidden = type(self).__name__, self.proj_size, self.hidden_size
        ok = 0 <= self.dropout <= 1
        require(ok, name, "dropout must be between 0 and 1", dropout=self.dropout)
        fits = 0 <= size < hidden
        require(fits, name, "proj_size must be below hidden_size", proj_size=size)
        layers = self.num_layers
        require(layers > 0, name, "num_layers must be positive", num_layers=layers)
        self._check_nonlinearity()
        rows, out = self._gates * hidden, size or hidden
        for layer in range(layers):
            width = self.input_size if layer == 0 else out * (1 + self.bidirectional)
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width)}
            shapes["weight_hh"] = (rows, out)
            if self.bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            if size:
                shapes["weight_hr"] = (size, hidden)
            for suffix in self._suffixes(layer):
                for key, shape in shapes.items():
                    setattr(self, key + suffix, new_parameter(shape, *where))
        self.reset_parameters()

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: 1 + self.bidirectional]

    def flatten_parameters(self) -> None:
        """Nothing to do: weights need no special memory here."""

    def _op(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple:
        """One direction of one layer: x (T, B, I) and first states -> y, *last states."""
        raise NotImplementedError

    def _arguments(self, suffix: str) -> tuple[list[Any], bool]:
        """The op's weights, and whether it runs from the last step to the first."""
        return [getattr(self, key + suffix, None) for key in _WEIGHTS], "reverse" in suffix

    def _first_states(self, given: Any, x: Tensor, batch: int) -> tuple[Tensor, ...]:
        """The first states (layers · directions, B, width), checked; zeros where not given."""
        rows, name = self.num_layers * (1 + self.bidirectional), type(self).__name__
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: self._states]
        shapes = [(rows, batch, width) for width in widths]
        if given is None:
            return tuple(zeros(shape, like=x) for shape in shapes)
        states = given if isinstance(given, tuple) else (given,)
        rule = f"the state must be {' and '.join(('h', 'c')[: self._states])}"
        require(len(states) == self._states, name, rule, given=len(states))
        for key, state, shape in zip(("h", "c"), states, shapes):
            require(state.shape == shape, name, f"{key} must be {shape}", state=state)
        return states

    def _run(self, x: Tensor, states: tuple[Tensor, ...], sizes: list[int] | None) -> Any:
        """All layers over x (T, B, I), or over packed rows (total, I) with their batch sizes."""
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outs = []
            for suffix in self._suffixes(layer):
                own = tuple(s[len(last)] for s in states)
                step = partial(self._op, suffix=suffix)
                back = "reverse" in suffix
                run = step if sizes is None else partial(run_packed, step, sizes, back)
                y, *ends = run(x, own)
                outs.append(y)
                last.append(tuple(ends))
            x = cat(outs, -1) if self.bidirectional else outs[0]
            if self.dropout and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(stack(ends, 0) for ends in zip(*last))

    def forward(self, x: Any, hx: Any = None) -> Any:
        """Sequence and first state (h, or for an LSTM (h, c)) -> outputs and last state.

        States are (layers · directions, B, width), without B for an unbatched sequence.
        """
        if isinstance(x, PackedSequence):
            return self._forward_packed(x, hx)
        self._check(x, (2, 3))
        unbatched = x.ndim == 2
        if unbatched:
            x = x.unsqueeze(1)
            given = hx if isinstance(hx, tuple) else (hx,)
            hx = None if hx is None else tuple(s.unsqueeze(1) for s in given)
        elif self.batch_first:
            x = x.transpose(0, 1)
        y, states = self._run(x, self._first_states(hx, x, x.shape[1]), None)
        if unbatched:
            y, states = y.squeeze(1), tuple(s.squeeze(1) for s in states)
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, states if self._states > 1 else states[0]

    def _check(self, x: Tensor, axes: tuple[int, ...]) -> None:
        fits = x.ndim in axes and x.shape[-1] == self.input_size
        rule = f"x must have {' or '.join(map(str, axes))} axes, the last of {self.input_size}"
        require(fits, type(self).__name__, rule, x=x)

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> Any:
        data, batch_sizes, order, back = packed
        self._check(data, (2,))
        sizes = batch_sizes.tolist()
        states = self._first_states(hx, data, sizes[0])
        if order is not None:
            states = tuple(s[:, order] for s in states)
        y, states = self._run(data, states, sizes)
        if back is not None:
            states = tuple(s[:, back] for s in states)
        out = PackedSequence(y, batch_sizes, order, back)
        return out, states if self._states > 1 else states[0]

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        usual = (0, 1, True, False, 0, False)
        keys = ("proj_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
        for key, value in zip(keys, usual):
            own = getattr(self, key)
            text += "" if own == value else f", {key}={own}"
        return text


class RNN(_Recurrent, show=""):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    nonlinearity: str = "tanh"
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False

    def _op(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple:
        weights, reverse = self._arguments(suffix)
        return rnn(x, *state, *weights, nonlinearity=self.nonlinearity, reverse=reverse)


class _Gated(_Recurrent, show=""):
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False


class GRU(_Gated):
    """Gated recurrent unit, gates in the order r, z, n; r applies after the product with W_hh."""

    _gates = 3

    def _op(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple:
        weights, reverse = self._arguments(suffix)
        return gru(x, *state, *weights, reverse=reverse)


class LSTM(_Gated, show=""):
    """Long short-term memory, gates i, f, g, o; proj_size projects h (arXiv 1402.1128)."""

    _gates, _states = 4, 2
    proj_size: int = 0

    def _op(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple:
        weights, reverse = self._arguments(suffix)
        weights.append(getattr(self, "weight_hr" + suffix, None))
        return lstm(x, *state, *weights, reverse=reverse)


class _Cell(_Uniform, show="{input_size}, {hidden_size}…"):
    """One step: x (B, input_size) or (input_size,) and the state -> the next state."""

    input_size: int
    hidden_size: int
    bias: bool = True

    def _build(self, *where: Any) -> None:
        self._check_nonlinearity()
        rows = self._gates * self.hidden_size
        self.weight_ih = new_parameter((rows, self.input_size), *where)
        self.weight_hh = new_parameter((rows, self.hidden_size), *where)
        self.bias_ih = new_parameter((rows,), *where) if self.bias else None
        self.bias_hh = new_parameter((rows,), *where) if self.bias else None
        self.reset_parameters()

    def _op(self, x: Tensor, *states_and_weights: Any) -> tuple:
        raise NotImplementedError

    def _step(self, x: Tensor, states: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        name, width = type(self).__name__, self.input_size
        fits = x.ndim in (1, 2) and x.shape[-1] == width
        require(fits, name, f"x must be (B, {width}) or ({width},)", x=x)
        shape = (*x.shape[:-1], self.hidden_size)
        if states is None:
            states = tuple(zeros(shape, like=x) for _ in range(self._states))
        for state in states:
            require(state.shape == shape, name, f"the state must be {shape}", state=state)
        weights = [getattr(self, key) for key in _WEIGHTS]
        if x.ndim == 2:
            return self._op(x.unsqueeze(0), *states, *weights)[1:]
        ends = self._op(x.reshape(1, 1, -1), *(s.unsqueeze(0) for s in states), *weights)[1:]
        return tuple(s.squeeze(0) for s in ends)

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        """x (B, input_size), h (B, hidden_size) or zeros -> the next h."""
        return self._step(x, None if hx is None else (hx,))[0]


class RNNCell(_Cell, show="{input_size}, {hidden_size}…"):
    """One step of RNN."""

    nonlinearity: str = "tanh"

    def _op(self, x: Tensor, *states_and_weights: Any) -> tuple:
        return rnn(x, *states_and_weights, nonlinearity=self.nonlinearity)


class GRUCell(_Cell):
    """One step of GRU."""

    _gates = 3

    def _op(self, x: Tensor, *states_and_weights: Any) -> tuple:
        return gru(x, *states_and_weights)


class LSTMCell(_Cell):
    """One step of LSTM."""

    _gates, _states = 4, 2

    def _op(self, x: Tensor, *states_and_weights: Any) -> tuple:
        return lstm(x, *states_and_weights)

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Tensor]:
        """x (B, input_size), (h, c) each (B, hidden_size) or zeros -> the next (h, c)."""
        h, c = self._step(x, hx)
        return h, c
