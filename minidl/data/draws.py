"""The random numbers of augmentation: keyed by (seed, epoch, sample), never by batch or worker."""

import contextlib
import contextvars
from collections.abc import Iterator

import numpy as np

from minidl import random

_FRESH = 1 << 63  # draw numbers that no epoch has: for calls that name no sample


class Draws:
    """Random numbers for the samples `indices` (n,) of one epoch, taken in the transforms' order.

    Seeded by the augmentation stream; a sample's numbers do not depend on its neighbours.
    """

    def __init__(self, indices: np.ndarray, epoch: int) -> None:
        self.indices, self.epoch, self._taken = np.asarray(indices, np.int64), epoch, 0

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """(n, count) float64 in [low, high): multiples of 2**-32 of the range."""
        source = random.default("augmentation")
        words = source.keyed_bits(self.indices, count, self.epoch, self._taken)
        self._taken += -(-count // 4) * 4
        return low + (high - low) * (words * 2.0**-32)


_current: contextvars.ContextVar[Draws | None] = contextvars.ContextVar("draws", default=None)


def current_or_fresh(n: int) -> Draws:
    """The draws of the sample being loaded, if a loader named one; else numbers never used yet."""
    given = _current.get()
    if given is not None and n == len(given.indices):
        return given
    state = random.default("augmentation").take()
    return Draws(np.arange(n), _FRESH | state)


@contextlib.contextmanager
def sample(index: int, epoch: int) -> Iterator[None]:
    """Within it, transforms called on one picture draw that sample's numbers of that epoch."""
    token = _current.set(Draws(np.array([index]), epoch))
    try:
        yield
    finally:
        _current.reset(token)
