"""Decoding by more than a draw a token: beam search, and speculation with a small draft model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import minidl as ml
from minidl import Tensor
from minidl.errors import RangeError, require
from minidl.models.sampling import Sampler, draw
from projects.textgen.model import writable

Step = Callable[[Tensor], Any]  # tokens (1, T) -> logits (T, V), a tensor or an array


class Cached:
    """A model that carries its past, as a Step that runs only what differs from the last tokens.

    model: in evaluation mode; with new_cache() and (tokens, cache) -> logits, as GPT, else with
    (tokens, state) -> logits, state, as CharRNN. The logits (T, V) are views of one array, which
    the next call may overwrite, without those that the model must not write. Raises as the model
    does where the text outgrows its context.
    """

    def __init__(self, model: Any) -> None:
        require(not model.training, "Cached", "the model must be in evaluation mode: call eval()")
        self.model = model
        self.cache = model.new_cache() if hasattr(model, "new_cache") else None
        self.states: dict[int, Any] = {0: None}  # by how many tokens a recurrent model has read
        self.tokens = np.zeros(0, np.int64)
        self.logits: Any = None  # (room, V), once V is known

    def __call__(self, tokens: Tensor) -> np.ndarray:
        new = tokens.cpu().numpy()[0]
        shared = min(len(new), len(self.tokens))
        differ = np.flatnonzero(new[:shared] != self.tokens[:shared])
        same = int(differ[0]) if len(differ) else shared
        self.tokens = new[:same].copy()
        if same < len(new):
            with ml.no_grad():
                first, found = self._from(tokens, same)
            logits = found[0, :, : writable(self.model)].cpu().numpy()
            if self.logits is None:
                self.logits = np.empty((0, logits.shape[1]), logits.dtype)
            if len(self.logits) < len(new):
                more = np.empty((2 * len(new) - first, logits.shape[1]), logits.dtype)
                self.logits = np.concatenate([self.logits[:first], more])
            self.logits[first : len(new)] = logits
            self.tokens = new.copy()
        return self.logits[: len(new)]

    def _from(self, tokens: Tensor, same: int) -> tuple[int, Tensor]:
        """The first token that had to be run again (at most `same`), and the logits from it on."""
        if self.cache is not None:
            self.cache.length = same
            return same, self.model(tokens[:, same:], self.cache)
        self.states = {place: state for place, state in self.states.items() if place <= same}
        first = max(self.states)
        logits, self.states[tokens.shape[1]] = self.model(tokens[:, first:], self.states[first])
        return first, logits


def beam_search(
    step: Step, prompt: Tensor, width: int, tokens: int, length_penalty: float = 0.0,
    end: int | None = None,
) -> tuple[Tensor, float]:  # fmt: skip
    """The best continuation found, prompt (1, T) -> (1, T + n), 1 <= n <= tokens, and its score.

    After each token the `width` likeliest continuations (without `end`) are kept; of ties, the one
    of the likelier beam, then of the lower token. A hypothesis is complete with the token `end`
    (which it holds) or after `tokens` tokens; its score is its log-probability in nats divided by
    n ** length_penalty (>= 0; 0: the sum, 1: the mean). Raises ShapeError or RangeError.
    """
    ids = _checked("beam_search", prompt, tokens)
    require(width >= 1, "beam_search", "width must be >= 1", width=width)
    rule = "length_penalty must be finite and >= 0"
    require(0 <= length_penalty < math.inf, "beam_search", rule, length_penalty=length_penalty)
    alive: list[tuple[float, list[int]]] = [(0.0, [])]  # log-probability and tokens, best first
    best, made = -math.inf, ids[:0]
    for n in range(1, tokens + 1):
        totals = np.stack([total + _last_law(step, prompt, ids + kept) for total, kept in alive])
        vocabulary = totals.shape[1]
        if end is not None:
            rule = f"end must be a token, 0 … {vocabulary - 1}"
            require(0 <= end < vocabulary, "beam_search", rule, error=RangeError, end=end)
            k = int(totals[:, end].argmax())
            score = float(totals[k, end]) / n**length_penalty
            if score > best:
                best, made = score, [*alive[k][1], end]
            totals[:, end] = -math.inf
        flat = totals.ravel()
        order = [int(i) for i in np.argsort(-flat, kind="stable")[:width] if flat[i] > -math.inf]
        alive = [(float(flat[i]), [*alive[i // vocabulary][1], i % vocabulary]) for i in order]
        # Log-probabilities only fall: no hypothesis alive can reach more than this.
        if not alive or alive[0][0] / tokens**length_penalty <= best:
            return _joined(prompt, ids + made), best
    return _joined(prompt, ids + alive[0][1]), alive[0][0] / tokens**length_penalty


def speculative(
    target: Step, draft: Step, prompt: Tensor, tokens: int, sampler: Sampler, lookahead: int = 4,
    *, row: int = 0,
) -> tuple[Tensor, float]:  # fmt: skip
    """Sample from the target with fewer of its calls (Leviathan et al. 2023, algorithm 1).

    prompt (1, T) -> (1, T + tokens), and the share of drafted tokens that were kept (0 if none
    were). The draft model proposes up to `lookahead` tokens one by one; the target judges them in
    one call. A token drawn from q is kept with probability min(1, p / q), else replaced by one of
    the positive part of p - q, where its round ends; after a round without a loss comes one more
    token of p. p and q are the sampler's probabilities, so texts are distributed as the sampler's
    on the target alone, and equal under greedy decoding. row: the text's number, whose draws are
    its own. Raises ShapeError, also for models of different vocabularies.
    """
    text, drafted, kept = prompt.tolist(), 0, 0
    for new, guessed in rounds(target, draft, prompt, tokens, sampler, lookahead, row=row):
        text[0] += new
        drafted, kept = drafted + guessed, kept + len(new) - 1
    return ml.tensor(text, device=prompt.device), kept / drafted if drafted else 0.0


def rounds(
    target: Step, draft: Step, prompt: Tensor, tokens: int, sampler: Sampler, lookahead: int = 4,
    *, row: int = 0,
) -> Iterator[tuple[list[int], int]]:  # fmt: skip
    """`speculative`'s tokens, 1 to lookahead + 1 of them a round, and how many were drafted."""
    text = _checked("speculative", prompt, tokens)
    require(lookahead >= 1, "speculative", "lookahead must be >= 1", lookahead=lookahead)
    stop = len(text) + tokens
    while len(text) < stop:
        guess, laws = text[:], []
        for _ in range(min(lookahead, stop - len(text) - 1)):
            logits = _logits("speculative", draft, prompt, guess)[-1]
            laws.append(_law(sampler, logits, guess))
            guess.append(_pick(laws[-1], sampler.uniforms([row], len(guess))[0, 0]))
        judged = _logits("speculative", target, prompt, guess)[len(text) - 1 :]
        before = len(text)
        text = _verified(text, guess, laws, judged, sampler, row)
        yield text[before:], len(laws)


def _verified(
    text: list[int], guess: list[int], laws: Sequence[np.ndarray], judged: np.ndarray,
    sampler: Sampler, row: int,
) -> list[int]:  # fmt: skip
    """The text with the kept part of its guessed continuation and one token of the target's own.

    laws: q (V,) of each guessed token; judged: the target's logits (guessed + 1, V). A place's
    numbers may serve again in a later round, but then no token of the text has hung on them.
    """
    for place, q in enumerate(laws, len(text)):
        p, token = _law(sampler, judged[place - len(text)], guess[:place]), guess[place]
        rule = "target and draft must share a vocabulary"
        require(p.shape == q.shape, "speculative", rule, target=len(p), draft=len(q))
        _, accepting, replacing = sampler.uniforms([row], place, 3)[0]
        if accepting * q[token] >= p[token]:
            rest = np.maximum(p - q, 0)
            rest = rest if rest.any() else p  # p and q differ by no more than rounding
            return [*guess[:place], _pick(rest, replacing)]
    p = _law(sampler, judged[-1], guess)
    return [*guess, _pick(p, sampler.uniforms([row], len(guess))[0, 0])]


def _law(sampler: Sampler, logits: np.ndarray, text: Sequence[int]) -> np.ndarray:
    """The sampler's probabilities (V,) of the token after a text, by logits (V,)."""
    return sampler.probabilities(logits[None], np.array(text)[None])[0]


def _pick(p: np.ndarray, u: float) -> int:
    """The token that a uniform number draws from p (V,)."""
    return int(draw(p[None], np.array([u]))[0])


def _last_law(step: Step, prompt: Tensor, text: Sequence[int]) -> np.ndarray:
    """Log-probabilities (V,) float64 of the token after a text, in nats."""
    x = _logits("beam_search", step, prompt, text)[-1].astype(np.float64)
    rule = "logits must be finite or -inf, and not all -inf"
    require(bool(np.isfinite(x.max())), "beam_search", rule, largest=float(x.max()))
    x -= x.max()
    return x - np.log(np.exp(x).sum())


def _logits(name: str, step: Step, prompt: Tensor, text: Sequence[int]) -> np.ndarray:
    """A step's logits (T, V) for a text, on the host."""
    with ml.no_grad():
        logits = np.asarray(step(_joined(prompt, text)))
    good = logits.ndim == 2 and len(logits) == len(text)
    require(good, name, f"a step must give logits ({len(text)}, V)", logits=logits)
    return logits


def _joined(prompt: Tensor, text: Sequence[int]) -> Tensor:
    """A text as tokens (1, T) beside the prompt."""
    return ml.tensor([text], device=prompt.device)


def _checked(name: str, prompt: Tensor, tokens: int) -> list[int]:
    """The prompt's tokens."""
    good = prompt.ndim == 2 and prompt.shape[0] == 1 and prompt.shape[1] >= 1
    require(good, name, "prompt must be (1, T), at least one token", prompt=prompt)
    require(tokens >= 1, name, "tokens must be >= 1", tokens=tokens)
    return prompt.tolist()[0]
