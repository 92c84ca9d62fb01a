"""How language models choose the next token."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

import minidl.functional as F
from minidl.autograd import Tensor
from minidl.errors import RangeError, require
from minidl.nn import Module
from minidl.ops.arguments import ints_of
from minidl.ops.creation import multinomial, tensor
from minidl.ops.join import cat
from minidl.random import Generator

Choose = Callable[[Tensor, list[Tensor]], Tensor]


def chooser(sampler: "Sampler | None", temperature: float, top_k: int | None,
            rows: Sequence[int] | None) -> Choose:  # fmt: skip
    """How a text's next token is chosen: (logits (B, V), its parts (B, ·) so far) -> (B, 1)."""
    drawn = Sampler(temperature, top_k)  # refuses what is out of range
    if sampler is None:
        require(rows is None, "generate", "rows need a sampler", rows=rows)
        return lambda logits, text: sample(logits, temperature, top_k)

    rule = "temperature and top_k are the sampler's own"
    require(drawn == Sampler(), "generate", rule, temperature=temperature, top_k=top_k)

    def choose(logits: Tensor, text: list[Tensor]) -> Tensor:
        history = cat(text, 1) if sampler.repetition_penalty != 1 else None
        return sampler(logits, history, sum(part.shape[1] for part in text), rows)

    return choose


class LanguageModel(Module):
    """A model that goes on with texts; `stream` gives their next tokens."""

    def generate(self, x: Tensor, max_new_tokens: int, *, temperature: float = 1.0,
                 top_k: int | None = None, sampler: "Sampler | None" = None,
                 rows: Sequence[int] | None = None) -> Tensor:  # fmt: skip
        """x (B, T) -> (B, T + max_new_tokens), by a sampler or as `sample` draws.

        rows (B,): the texts' own numbers, for the sampler. Raises ShapeError for an x without
        tokens and for what Sampler refuses.
        """
        (count,) = ints_of("generate", "max_new_tokens", max_new_tokens, 1, 0)
        fits = x.ndim == 2 and x.shape[1] > 0
        require(fits, "generate", "x must be (B, T), with a token at least", x=x)
        new = self.stream(x, chooser(sampler, temperature, top_k, rows))
        return cat([x, *islice(new, count)], 1)

    def stream(self, x: Tensor, choose: Choose) -> Iterator[Tensor]:
        """The next token (B, 1) of texts x (B, T), and the next, without end."""
        raise NotImplementedError(f"{type(self).__name__} has no stream")


def sample(logits: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """logits (B, V) -> tokens (B, 1), the likeliest at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    heat = max(temperature, 1e-30)  # less would be 0 in float32
    scaled: Any = logits if temperature == 1 else (logits - logits.amax(-1, True)) / heat
    if top_k is not None:
        least = scaled.topk(min(top_k, scaled.shape[-1]))[0][:, -1:]
        scaled = scaled.masked_fill(scaled < least, -math.inf)
    return multinomial(F.softmax(scaled, -1), 1)


@dataclass(frozen=True)
class Sampler:
    """Draws the next token of every text; what is given here applies in this order.

    repetition_penalty > 0 (1: none): the logit of a token that the text so far holds is divided by
        it where positive, else multiplied, so that above 1 it always falls (Keskar et al. 2019).
    temperature >= 0: logits are divided by it; 0 is greedy, the largest logit and nothing else.
    top_k >= 1 (None: all): only the k likeliest tokens (Fan et al. 2018).
    top_p in (0, 1]: only the fewest likeliest tokens whose share of what top_k left reaches it,
        at least one (nucleus; Holtzman et al. 2020).
    min_p in [0, 1]: only tokens at least min_p times as likely as the likeliest (Nguyen et al.
        2024).
    seed: of the draws, any integer.

    Of tokens that tie, the lower number counts as likelier. Raises ShapeError out of these ranges.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        heat, penalty, k = self.temperature, self.repetition_penalty, self.top_k
        whole = (int, np.integer)
        rule = "temperature must be finite and >= 0"
        require(0 <= heat < math.inf, "Sampler", rule, temperature=heat)
        good = k is None or (isinstance(k, whole) and k >= 1)
        require(good, "Sampler", "top_k must be an integer >= 1, or None", top_k=k)
        require(0 < self.top_p <= 1, "Sampler", "top_p must lie in (0, 1]", top_p=self.top_p)
        require(0 <= self.min_p <= 1, "Sampler", "min_p must lie in [0, 1]", min_p=self.min_p)
        rule = "repetition_penalty must be finite and > 0"
        require(0 < penalty < math.inf, "Sampler", rule, repetition_penalty=penalty)
        require(isinstance(self.seed, whole), "Sampler", "seed must be an integer", seed=self.seed)

    def __call__(self, logits: Tensor, history: Any, position: int,
                 rows: Sequence[int] | None = None) -> Tensor:  # fmt: skip
        """logits (B, V) -> tokens (B, 1), on the logits' device.

        history (B, T): the texts so far, prompts included (None will do without a penalty);
        position: how many tokens come before the new one; rows (B,): the texts' own numbers,
        0 … B-1 by default. A text's draw depends on seed, its number and position alone.

        Raises ShapeError for other shapes, RangeError for tokens outside of 0 … V-1.
        """
        if self.temperature == 0 and self.repetition_penalty == 1:
            return logits.argmax(-1, keepdim=True)  # stays on its device
        p = self.probabilities(logits, history)
        numbers = range(len(p)) if rows is None else rows
        rule = "rows must hold one number a text"
        require(len(numbers) == len(p), "Sampler", rule, rows=rows, logits=logits)
        tokens = draw(p, self.uniforms(numbers, position)[:, 0])
        return tensor(tokens[:, None], device=logits.device)

    def probabilities(self, logits: Any, history: Any = None) -> np.ndarray:
        """What is drawn from: logits (B, V), history (B, T) -> (B, V) float64, rows sum to 1.

        Raises ShapeError for NaN, inf or a row of nothing but -inf; and as a call does.
        """
        x = np.asarray(logits, np.float64)
        require(x.ndim == 2 and x.size > 0, "Sampler", "logits must be (B, V)", logits=logits)
        with np.errstate(over="ignore"):  # an extreme penalty's inf is refused below
            x = x if self.repetition_penalty == 1 else self._penalised(x, history)
        top = x.max(1, keepdims=True)
        rule = "logits must be finite or -inf, and not all -inf in a row"
        require(bool(np.isfinite(top).all()), "Sampler", rule, largest=top.ravel().tolist())
        if self.temperature == 0:
            return np.equal(np.arange(x.shape[1]), x.argmax(1)[:, None]).astype(np.float64)
        with np.errstate(over="ignore"):  # a tiny temperature leaves the likeliest alone
            x = (x - top) / self.temperature
        p = np.exp(x)
        if self.top_k is not None or self.top_p < 1:
            p[~self._likeliest(x)] = 0
        p[p < self.min_p] = 0  # relative to the likeliest, whose p is 1 so far
        return p / p.sum(1, keepdims=True)

    def uniforms(self, rows: Sequence[int], position: int, count: int = 1) -> np.ndarray:
        """(B, count) multiples of 2**-53 in [0, 1), by seed, each row's number and position."""
        numbers = np.asarray(rows, np.int64)
        good = numbers.ndim == 1 and bool(((numbers >= 0) & (numbers < 2**44)).all())
        require(good, "Sampler", "rows must be numbers in [0, 2**44)", error=RangeError, rows=rows)
        rule = "position must be >= 0"
        require(position >= 0, "Sampler", rule, error=RangeError, position=position)
        words = Generator(self.seed, "tensor").keyed_bits(numbers, 2 * count, position)
        high, low = words[:, ::2].astype(np.uint64), words[:, 1::2]
        return ((high << 21) | (low >> 11)) * 2.0**-53

    def _penalised(self, x: np.ndarray, history: Any) -> np.ndarray:
        """Logits (B, V) with those of the tokens in history (B, T) brought down."""
        past, penalty = np.asarray(history), self.repetition_penalty
        rule = "a repetition_penalty needs the texts so far, history (B, T)"
        require(past.ndim == 2 and len(past) == len(x), "Sampler", rule, history=history, logits=x)
        inside = bool(((past >= 0) & (past < x.shape[1])).all())
        rule = f"tokens of history must lie in 0 … {x.shape[1] - 1}"
        require(inside, "Sampler", rule, error=RangeError, history=history)
        seen = np.zeros(x.shape, bool)
        np.put_along_axis(seen, past.astype(np.int64), True, 1)
        return np.where(seen, np.where(x > 0, x / penalty, x * penalty), x)

    def _likeliest(self, x: np.ndarray) -> np.ndarray:
        """Whether top_k and top_p keep a token: scaled logits (B, V) -> (B, V) booleans."""
        ranked = -np.sort(-x)[:, : self.top_k]
        count = np.full((len(x), 1), ranked.shape[1])
        if self.top_p < 1:
            mass = np.exp(ranked).cumsum(1)
            count = 1 + (mass[:, :-1] < self.top_p * mass[:, -1:]).sum(1, keepdims=True)
        least = np.take_along_axis(ranked, count - 1, 1)
        above, tied = x > least, x == least
        return above | (tied & (tied.cumsum(1) <= count - above.sum(1, keepdims=True)))


def draw(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Tokens (B,) by inversion of p (B, V), >= 0 and not all 0, at uniforms u (B,) in [0, 1)."""
    edges = p.cumsum(1)
    total = edges[:, -1]
    # the product may round up to the total
    return (edges <= np.minimum(u * total, np.nextafter(total, 0))[:, None]).sum(1)
