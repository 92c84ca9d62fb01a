"""500 tokens, one after another, from the character LSTM and from the GPT with a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Case, Cost, Work, WrongResult
from benchmarks.library import Minidl
from benchmarks.steps import count_parameters

BLOCK = 512  # of the GPT's positions, so that the cache holds the whole text


def lstm_tokens(lib: Minidl, model: Any, x: Any, count: int) -> Any:
    """x (1, T) -> (1, T + count), greedily: the model's own loop where it has one."""
    if hasattr(model, "generate"):
        return model.generate(x, count, temperature=0)
    state, out, feed = None, [x], x
    with lib.no_grad():
        for _ in range(count):
            logits, state = model(feed, state)
            feed = logits[:, -1].argmax(-1, keepdim=True)
            out.append(feed)
        return lib.root.cat(out, 1)


def gpt_tokens(lib: Minidl, model: Any, x: Any, count: int) -> Any:
    """x (1, T) -> (1, T + count), greedily."""
    return model.generate(x, count, temperature=0)


def text_agrees(tokens: np.ndarray, logits: np.ndarray, start: int) -> None:
    """Every token must be the likeliest after those before it, in one forward over the whole text.

    tokens (T,), logits (T, V) of that forward. Likeliest within 1e-4 of the logits' spread: two
    ways to sum may swap two that are as good as equal.
    """
    before, chosen = logits[start - 1 : -1], tokens[start:]
    behind = before.max(-1) - before[np.arange(len(chosen)), chosen]
    worst = float((behind / before.std(-1)).max())
    if not worst < 1e-4:
        raise WrongResult(f"a token is not the likeliest: behind by {worst:.2e} of the spread")


def generation(
    name: str, count: int, weights: int, parameters: int, make: Callable[[Minidl], Any],
    loop: Callable[..., Any],
) -> Case:  # fmt: skip
    """weights: those that every token reads."""

    def build(lib: Minidl) -> Work:
        model, x = make(lib).eval(), lib.tensor(np.array([[1, 2, 3, 4]]))
        count_parameters(model, parameters)

        def check() -> None:
            text = loop(lib, model, x, count)
            if tuple(text.shape) != (1, 4 + count):
                raise WrongResult(f"the text has shape {tuple(text.shape)}, not (1, {4 + count})")
            with lib.no_grad():
                logits = model(text)
            logits = logits[0] if isinstance(logits, tuple) else logits
            text_agrees(text.numpy()[0], logits.numpy()[0], 4)

        return Work({"step": lambda: loop(lib, model, x, count)}, check)

    # One token's traffic again and again: its working set is one set of weights.
    each = Cost(2 * weights, 4 * weights)
    return Case(name, "generation", build, {"step": (each,) * count}, "generation")


def cases(small: bool = False) -> list[Case]:
    """Both language models of the steps; the GPT with 512 positions."""
    n = 20 if small else 500
    return [
        generation("gen_charlstm_500", n, 1_073_232, 1_093_712, lambda lib: lib.models.CharRNN(80),
                   lstm_tokens),
        generation("gen_gpt_nano_500", n, 10_672_512, 10_869_120,
                   lambda lib: lib.models.GPT(65, block_size=BLOCK), gpt_tokens),
    ]  # fmt: skip
