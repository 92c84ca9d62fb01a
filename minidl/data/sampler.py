"""Samplers: in which order items are taken, as a pure function of (seed, epoch)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np

from minidl import random
from minidl.errors import require


class Sampler:
    """Base of samplers: `order(epoch)` gives an epoch's indices; iterating goes to the next one.

    The seed is that of `generator`, else of the loader's stream, whenever an order is asked for.
    """

    generator: random.Generator | None = None
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """Indices (n,) int64 of an epoch."""
        raise NotImplementedError(f"{type(self).__name__} gives no order")

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return iter(self.order(epoch).tolist())

    def _draws(self, epoch: int) -> random.Generator:
        source = self.generator or random.default("loader")
        keyed = random.Generator(source.initial_seed(), "loader")
        keyed.set_state({**keyed.get_state(), "draw": epoch})
        return keyed


class SequentialSampler(Sampler):
    """0, 1, 2, …"""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def order(self, epoch: int) -> np.ndarray:
        return np.arange(len(self.data_source))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """A new permutation each epoch, or num_samples draws with replacement."""

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: random.Generator | None = None,
    ) -> None:
        self.data_source, self.replacement, self.generator = data_source, replacement, generator
        self.num_samples = len(data_source) if num_samples is None else num_samples
        rule = "num_samples must be positive, and the data not empty"
        ok = self.num_samples > 0 and len(data_source) > 0
        require(ok, "RandomSampler", rule, num_samples=num_samples, items=len(data_source))

    def order(self, epoch: int) -> np.ndarray:
        n, draws = len(self.data_source), self._draws(epoch)
        if self.replacement:
            return draws.integers(0, n, self.num_samples)
        whole = draws.permutation(n)
        return np.resize(whole, self.num_samples)

    def __len__(self) -> int:
        return self.num_samples


class WeightedRandomSampler(Sampler):
    """num_samples indices with probability proportional to weights (N,)."""

    def __init__(
        self,
        weights: Sequence[float] | np.ndarray,
        num_samples: int,
        replacement: bool = True,
        generator: random.Generator | None = None,
    ) -> None:
        self.weights, self.num_samples = np.asarray(weights, np.float64), num_samples
        self.replacement, self.generator = replacement, generator
        rule = "num_samples must be a positive integer"
        ok = isinstance(num_samples, int) and num_samples > 0
        require(ok, "WeightedRandomSampler", rule, num_samples=num_samples)

    def order(self, epoch: int) -> np.ndarray:
        draws = self._draws(epoch)
        return draws.choice(self.weights, self.num_samples, replacement=self.replacement)

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler:
    """Lists of batch_size indices of a sampler (any iterable); the last may be shorter."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool) -> None:
        ok = isinstance(batch_size, int) and batch_size > 0
        require(ok, "BatchSampler", "batch_size must be a positive integer", batch_size=batch_size)
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def set_epoch(self, epoch: int) -> None:
        """Name the next iteration's epoch, if the sampler knows epochs."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        items = iter(self.sampler)
        while batch := list(itertools.islice(items, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)
