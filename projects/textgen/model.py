"""The networks of the text project, the state that they carry on, and writing with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import minidl as ml
from minidl import nn
from minidl.models import GPT, CharRNN
from minidl.models.sampling import Sampler
from projects.textgen.config import Config


def build(cfg: Config, size: int) -> nn.Module:
    """The network of a configuration, for `size` different tokens."""
    if cfg.model != "gpt":
        return CharRNN(
            size, kind=cfg.model, hidden_size=cfg.hidden, num_layers=cfg.layers,
            dropout=cfg.dropout, layer_norm=cfg.layer_norm,
        )  # fmt: skip
    return GPT(
        size, block_size=cfg.context, n_layer=cfg.layers, n_head=cfg.heads, n_embd=cfg.hidden,
        dropout=cfg.dropout, n_kv_head=cfg.kv_heads or None, positions=cfg.positions,
        norm=cfg.norm, mlp=cfg.mlp,
    )  # fmt: skip


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
    text = np.array(prompt, np.int64)
    step = _gpt_step if isinstance(model, GPT) else _rnn_step
    memory: dict[str, Any] = {}
    for _ in range(count):
        with ml.no_grad():  # not over the yield, which leaves this function
            logits = step(model, ml.tensor(text, device=device), memory)
        token = sampler(logits, text, text.shape[1]).cpu().numpy()
        text = np.concatenate([text, token], 1)
        yield token[:, 0]


def _rnn_step(model: Any, text: ml.Tensor, memory: dict[str, Any]) -> ml.Tensor:
    """Logits (B, V) behind text (B, T), of which the state in memory has seen all but the last."""
    new = text[:, -1:] if memory else text
    logits, memory["state"] = model(new, memory.get("state"))
    return logits[:, -1]


def _gpt_step(model: Any, text: ml.Tensor, memory: dict[str, Any]) -> ml.Tensor:
    """The same with the cache of a GPT, begun again from half of it where it is full."""
    cache = memory.get("cache")
    if cache is None or cache.length == cache.size:
        kept = model.block_size if cache is None else model.block_size // 2 + 1
        memory["cache"] = cache = model.new_cache()
        return model(text[:, -kept:], cache)[:, -1]
    return model(text[:, -1:], cache)[:, -1]


def generate(model: nn.Module, prompt: np.ndarray, count: int, sampler: Sampler) -> np.ndarray:
    """Texts (B, P + count) that go on from prompt (B, P)."""
    made = [token[:, None] for token in stream(model, prompt, count, sampler)]
    return np.concatenate([prompt, *made], 1)
