"""The order in which items are taken, as a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from minidl import random
from minidl.errors import require


def epoch_draws(generator: random.Generator | None, epoch: int) -> random.Generator:
    """The numbers of an epoch's order, of generator's seed, else of that of the loader's stream."""
    seed = (generator or random.default("loader")).initial_seed()
    return random.Generator(seed, "loader", draw=epoch)


class WeightedRandomSampler:
    """num_samples indices with probability proportional to weights (N,), new ones each epoch."""

    def __init__(self, weights: Sequence[float] | np.ndarray, num_samples: int,
                 replacement: bool = True,
                 generator: random.Generator | None = None) -> None:  # fmt: skip
        self.weights, self.num_samples = np.asarray(weights, np.float64), num_samples
        self.replacement, self.generator, self.epoch = replacement, generator, 0
        ok = isinstance(num_samples, int) and num_samples > 0
        rule = "num_samples must be a positive integer"
        require(ok, "WeightedRandomSampler", rule, num_samples=num_samples)

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        draws = epoch_draws(self.generator, self.epoch)
        self.epoch += 1
        order = draws.choice(self.weights, self.num_samples, replacement=self.replacement)
        return iter(order.tolist())

    def __len__(self) -> int:
        return self.num_samples
