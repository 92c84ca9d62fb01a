"""Augmentation of text: input tokens dropped, swapped with a neighbour, masked at random."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from minidl.errors import require
from minidl.random import Generator


@dataclass(frozen=True)
class Augment:
    """Changes of input tokens x (B, T), each with a probability per token; targets are not seen.

    First neighbours are swapped (a token with the one after it, no token twice); then tokens are
    dropped: replaced by `unknown`, or where that is None by any of the `size` tokens (word dropout,
    Bowman et al. 2016); then masked: replaced by `mask`, a token (one more than there are, say, if
    the model has a row for it). A batch's random numbers follow from the generator's seed and the
    step alone, whose draw of that number they are. Raises ShapeError.
    """

    size: int
    generator: Generator
    _: KW_ONLY
    swapped: float = 0.0
    dropped: float = 0.0
    masked: float = 0.0
    unknown: int | None = None
    mask: int | None = None

    def __post_init__(self) -> None:
        require(self.size >= 1, "Augment", "size must be at least 1", size=self.size)
        for name in ("swapped", "dropped", "masked"):
            share = getattr(self, name)
            require(0 <= share <= 1, "Augment", f"{name} must lie in [0, 1]", **{name: share})
        known = self.unknown is None or 0 <= self.unknown < self.size
        rule = f"unknown must be one of the {self.size} tokens"
        require(known, "Augment", rule, unknown=self.unknown)
        ok = (self.mask is not None and self.mask >= 0) or not self.masked
        rule = "masked needs a token to mask with, mask >= 0"
        require(ok, "Augment", rule, masked=self.masked, mask=self.mask)

    def __call__(self, x: np.ndarray, step: int) -> np.ndarray:
        """x (B, T) int64 -> changed tokens in a new array of the same shape."""
        words = self.generator.keyed_bits(np.arange(len(x)), 4 * x.shape[1], step)
        swap, drop, other, mask = words.reshape(*x.shape, 4).transpose(2, 0, 1)
        y = swap_neighbours(x, swap * 2.0**-32 < self.swapped)
        drawn = (other.astype(np.uint64) * np.uint64(self.size) >> np.uint64(32)).astype(x.dtype)
        others = drawn if self.unknown is None else self.unknown
        y = np.where(drop * 2.0**-32 < self.dropped, others, y)
        return np.where(mask * 2.0**-32 < self.masked, self.mask or 0, y)


def swap_neighbours(x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """x (B, T) where each chosen (B, T) token changes places with the next one of its row.

    From left to right: a token that has just come forward stays, chosen or not, as does the last.
    """
    chosen = chosen.copy()
    chosen[:, -1:] = False
    places = np.arange(x.shape[1])
    before = np.maximum.accumulate(np.where(chosen, -1, places), axis=1)  # last one not chosen
    first = chosen & ((places - before) % 2 == 1)
    second = np.zeros_like(first)
    second[:, 1:] = first[:, :-1]
    return np.take_along_axis(x, places + first - second, axis=1)
