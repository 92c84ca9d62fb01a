"""Samplers: the orders in which a DataLoader takes samples; drawn ones are new each epoch."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.errors import require


def epoch_draws(generator: random.Generator | None, epoch: int) -> random.Generator:
    """The numbers of an epoch's order, of the seed of generator, else of the loader's stream."""
    return random.Generator(order_seed(generator), "loader", draw=epoch)


def order_seed(generator: random.Generator | None) -> int:
    """The seed of generator, else of the loader's stream."""
    return (generator or random.default("loader")).initial_seed()


class Sampler:
    """An order of a data set's indices; a subclass writes `__iter__` and `__len__`."""

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} has no __iter__")


class Drawn(Sampler):
    """num_samples indices, drawn for each epoch."""

    def __init__(self, num_samples: int, generator: random.Generator | None) -> None:
        self.num_samples, self.generator, self.epoch = num_samples, generator, 0
        ok, rule = isinstance(num_samples, int) and num_samples > 0, "must be a positive integer"
        require(ok, type(self).__name__, f"num_samples {rule}", num_samples=num_samples)

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        draws = epoch_draws(self.generator, self.epoch)
        self.epoch += 1
        return itertools.chain.from_iterable(part.tolist() for part in self._parts(draws))

    def _parts(self, draws: random.Generator) -> Iterable[np.ndarray]:
        raise NotImplementedError(f"{type(self).__name__} has no _parts")

    def __len__(self) -> int:
        return self.num_samples


class WeightedRandomSampler(Drawn):
    """num_samples indices with probability proportional to weights (N,), new ones each epoch."""

    def __init__(self, weights: Sequence[float] | np.ndarray, num_samples: int,
                 replacement: bool = True,
                 generator: random.Generator | None = None) -> None:  # fmt: skip
        super().__init__(num_samples, generator)
        self.weights, self.replacement = np.asarray(weights, np.float64), replacement

    def _parts(self, draws: random.Generator) -> Iterable[np.ndarray]:
        return [draws.choice(self.weights, self.num_samples, replacement=self.replacement)]


class BatchSampler(Sampler):
    """Lists of batch_size indices of a sampler, the last shorter unless drop_last."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        ok, rule = isinstance(batch_size, int) and batch_size > 0, "must be a positive integer"
        require(ok, "BatchSampler", f"batch_size {rule}", batch_size=batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch to the sampler."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        items = iter(self.sampler)
        cut = iter(lambda: list(itertools.islice(items, self.batch_size)), [])
        return (b for b in cut if len(b) == self.batch_size or not self.drop_last)

    def __len__(self) -> int:
        n = len(self.sampler)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
