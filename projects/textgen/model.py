"""The networks of the text project, the state that they carry on, and writing with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

import minidl as ml
from minidl import nn
from minidl.models import GPT, CharRNN
from minidl.models.sampling import Sampler, chooser
from projects.textgen.config import Config


def build(cfg: Config, size: int) -> nn.Module:
    """The network of a configuration, for `size` different tokens, the mask among them."""
    model: Any
    if cfg.model != "gpt":
        model = CharRNN(
            size, kind=cfg.model, hidden_size=cfg.hidden, num_layers=cfg.layers,
            embedding_dim=cfg.embedding or None, dropout=cfg.dropout, layer_norm=cfg.layer_norm,
        )  # fmt: skip
    else:
        model = GPT(
            size, block_size=cfg.context, n_layer=cfg.layers, n_head=cfg.heads, n_embd=cfg.hidden,
            dropout=cfg.dropout, n_kv_head=cfg.kv_heads or None, positions=cfg.positions,
            norm=cfg.norm, mlp=cfg.mlp,
        )  # fmt: skip
    model.writable = size - bool(cfg.masked)
    return model


def writable(model: nn.Module) -> int | None:
    """How many tokens, the first ones, a network may write: the mask is read only. None: all."""
    return getattr(model, "writable", None)


def table(model: Any) -> nn.Parameter:
    """A vector (V, D) of every token: what a network reads tokens by."""
    return (model.transformer.wte if isinstance(model, GPT) else model.embedding).weight


class Carried:
    """The recurrent states that go on from one batch of sequences to the next.

    Those in use are written in place, so that a step with them can be captured; `turn` puts
    another text's in their place, outside of the step.
    """

    def __init__(self) -> None:
        self.source = 0  # the number of the text in hand
        self.states: list[ml.Tensor] = []  # after its last batch
        self.others: dict[int, list[ml.Tensor]] = {}  # those of other texts, by their numbers

    def turn(self, source: int, fresh: bool) -> None:
        """Go on with a text from the states that its last batch left; fresh: from none."""
        if source != self.source:
            self.others[self.source] = [s.clone() for s in self.states]
            self.source, kept = source, self.others.pop(source, [])
            for own, s in zip(self.states, kept):
                own.copy_(s)
            fresh = fresh or not kept
        if fresh:
            for s in self.states:
                s.zero_()

    def run(self, model: nn.Module, x: ml.Tensor) -> ml.Tensor:
        """x (B, T) tokens -> logits (B, T, V), from the states in hand, which go on."""
        if isinstance(model, GPT):
            return model(x)
        self.states = [s.to(x.device) for s in self.states]  # those of a checkpoint
        given = [s.clone() for s in self.states]
        logits, state = model(x, (tuple(given) if len(given) > 1 else given[0]) if given else None)
        parts = [s.detach() for s in (state if isinstance(state, tuple) else (state,))]
        if not given:
            self.states = [s.clone() for s in parts]
        for own, s in zip(self.states, parts, strict=True):
            own.copy_(s)
        return logits

    def state_dict(self) -> dict[int, Any]:
        """The states by text, for a checkpoint; the text in hand is the last."""
        return {k: list(kept) for k, kept in (self.others | {self.source: self.states}).items()}

    def load_state_dict(self, state: dict[int, Any]) -> None:
        """Go on from a state_dict."""
        self.others = {source: list(kept) for source, kept in state.items()}
        self.source, self.states = self.others.popitem() if self.others else (0, [])


class Best:
    """The weights of a model when its loss was least so far; has a state of its own."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.loss, self.weights = math.inf, dict[str, ml.Tensor]()

    def look(self, loss: float) -> None:
        """Keep a copy of the weights as they are if this loss is less than all before."""
        if loss < self.loss:
            self.loss = loss
            self.weights = {name: w.clone() for name, w in self.model.state_dict().items()}

    def put(self) -> None:
        """Put them into the model, if there are any."""
        if self.weights:
            self.model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """The loss and the weights, for a checkpoint."""
        return {"loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict."""
        self.loss, self.weights = state["loss"], state["weights"]


def stream(
    model: nn.Module, prompt: np.ndarray, count: int, sampler: Sampler
) -> Iterator[np.ndarray]:
    """`count` times the next token (B,) of texts that begin with prompt (B, P), P > 0."""
    device = next(iter(model.parameters())).device
    x: Any = ml.tensor(np.asarray(prompt, np.int64), device=device)
    choose, size = chooser(sampler, 1.0, None, None), writable(model)
    new = model.stream(x, lambda logits, text: choose(logits[:, :size], text))  # type: ignore
    return (token.cpu().numpy()[:, 0] for token in itertools.islice(new, count))


def generate(model: nn.Module, prompt: np.ndarray, count: int, sampler: Sampler) -> np.ndarray:
    """Texts (B, P + count) that go on from prompt (B, P)."""
    made = [token[:, None] for token in stream(model, prompt, count, sampler)]
    return np.concatenate([prompt, *made], 1)
