"""Samplers: whole orders, new ones each epoch, batches of them."""

import numpy as np
import pytest

from minidl.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from minidl.errors import ShapeError


def order(loader):
    """The samples of each batch of an epoch."""
    return [batch[0].tolist() for batch in loader]


def test_orders_are_pytorchs():
    data = TensorDataset(np.arange(10))
    assert list(SequentialSampler(data)) == list(range(10)) and len(SequentialSampler(data)) == 10
    shuffled, chosen = RandomSampler(data), SubsetRandomSampler([7, 1, 4])
    for sampler, indices in ((shuffled, [*range(10)]), (chosen, [1, 4, 7])):
        first, second = list(sampler), list(sampler)
        assert sorted(first) == sorted(second) == indices and len(sampler) == len(indices)
    assert list(shuffled) != list(shuffled)
    loader = DataLoader(data, 4, sampler=shuffled)
    orders = order(loader), order(loader)
    loader.set_epoch(0)
    assert orders[0] != orders[1] and order(loader) == orders[0]
    assert sorted(RandomSampler(data, num_samples=20)) == sorted([*range(10)] * 2)
    assert set(RandomSampler(data, replacement=True, num_samples=200)) == {*range(10)}
    for drop, want in (
        (False, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
        (True, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ):
        batches = BatchSampler(SequentialSampler(data), 4, drop)
        assert list(batches) == want and len(batches) == len(want)
        assert order(DataLoader(data, batch_sampler=batches)) == want
    drawn = DataLoader(data, batch_sampler=BatchSampler(shuffled, 5, False))
    drawn.set_epoch(0)
    assert sum(order(drawn), []) == sum(orders[0], [])

    class Backwards(Sampler):
        def __iter__(self):
            return reversed(range(10))

    assert order(DataLoader(data, 10, sampler=Backwards())) == [[*range(9, -1, -1)]]


@pytest.mark.parametrize("made", [
    lambda: WeightedRandomSampler([1, 1], 2.5), lambda: RandomSampler([]),
    lambda: SubsetRandomSampler([]), lambda: BatchSampler([1], 0, False),
])  # fmt: skip
def test_samplers_refuse_what_gives_nothing(made):
    with pytest.raises(ShapeError, match="must be a positive integer"):
        made()
