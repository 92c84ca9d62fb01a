"""The networks of the text project, the state that they carry on, and writing with them."""

from __future__ import annotations

import itertools
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
    """The recurrent state that goes on from one batch of sequences to the next."""

    def __init__(self) -> None:
        self.states: dict[int, list[ml.Tensor]] = {}  # by the number of a text

    def run(self, model: nn.Module, x: ml.Tensor, source: int, fresh: bool) -> ml.Tensor:
        """x (B, T) tokens of a text -> logits (B, T, V), from the state that its last batch left.

        fresh: from none, since the rows begin anew.
        """
        if isinstance(model, GPT):
            return model(x)
        kept = [] if fresh else [s.to(x.device) for s in self.states.get(source, [])]
        logits, state = model(x, (tuple(kept) if len(kept) > 1 else kept[0]) if kept else None)
        parts = state if isinstance(state, tuple) else (state,)
        self.states[source] = [s.detach() for s in parts]
        return logits

    def state_dict(self) -> dict[int, Any]:
        """The states, for a checkpoint."""
        return {source: list(kept) for source, kept in self.states.items()}

    def load_state_dict(self, state: dict[int, Any]) -> None:
        """Go on from a state_dict."""
        self.states = {source: list(kept) for source, kept in state.items()}


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
