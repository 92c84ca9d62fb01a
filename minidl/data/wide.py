"""Wide samplers: whole orders of a data set, and of some of its samples."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.data.samplers import Drawn, Sampler


class SequentialSampler(Sampler):
    """0, 1, …: all indices in order."""

    def __init__(self, data_source: Any) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Drawn):
    """All indices in a random order, or num_samples of them; or drawn with replacement."""

    def __init__(self, data_source: Any, replacement: bool = False, num_samples: int | None = None,
                 generator: random.Generator | None = None) -> None:  # fmt: skip
        self.data_source, self.replacement = data_source, replacement
        super().__init__(len(data_source) if num_samples is None else num_samples, generator)

    def _order(self, draws: random.Generator) -> np.ndarray:
        n, wanted = len(self.data_source), self.num_samples
        if self.replacement:
            return draws.integers(0, n, (wanted,))
        return np.concatenate([draws.permutation(n) for _ in range(-(-wanted // n))])[:wanted]


class SubsetRandomSampler(Drawn):
    """The given indices in a random order."""

    def __init__(
        self, indices: Sequence[int] | np.ndarray, generator: random.Generator | None = None
    ) -> None:
        super().__init__(len(indices), generator)
        self.indices = np.asarray(indices)

    def _order(self, draws: random.Generator) -> np.ndarray:
        return self.indices[draws.permutation(self.num_samples)]


def get_worker_info() -> None:
    """None, as in PyTorch's main process: of an IterableDataset nobody takes a share."""
