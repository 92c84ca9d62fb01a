"""Samplers: whole orders, new ones each epoch, batches of them; streams, which have none."""

import numpy as np
import pytest

import minidl as ml
from minidl.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
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


# ---- data sets without indices, loaders without batches ------------------------------------------


class Stream(IterableDataset):
    """Pairs (n, 10 n), and in which epoch they were asked for."""

    def __init__(self, n):
        self.n, self.epochs = n, []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        return ((i, np.float32([10 * i])) for i in range(self.n))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_data_set_is_taken_once_in_its_order(workers):
    data = Stream(7)
    loader = DataLoader(data, 3, num_workers=workers)
    assert order(loader) == order(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    assert data.epochs == [0, 1] and get_worker_info() is None
    (whole,) = DataLoader(data, 5, drop_last=True)
    assert whole[1].tolist() == [[0], [10], [20], [30], [40]]
    with pytest.raises(TypeError, match="len"):
        len(loader)

    class Known(Stream):
        def __len__(self):
            return self.n

    assert len(DataLoader(Known(7), 3)) == 3
    lists = DataLoader(data, 4, collate_fn=lambda items: [i for i, _ in items], num_workers=workers)
    assert list(lists) == [[0, 1, 2, 3], [4, 5, 6]]


def test_an_iterable_data_set_goes_on_where_it_was():
    loader = DataLoader(Stream(7), 2)
    seen = iter(loader)
    first = [next(seen)[0].tolist() for _ in range(2)]
    other = DataLoader(Stream(7), 2)
    other.load_state_dict(loader.state_dict())
    assert first + order(other) == order(DataLoader(Stream(7), 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_batch_size_come_the_samples_themselves(workers):
    streamed = list(DataLoader(Stream(3), None, num_workers=workers))
    assert [i for i, _ in streamed] == [0, 1, 2] and isinstance(streamed[0], tuple)
    assert all(isinstance(x, ml.Tensor) and x.shape == (1,) for _, x in streamed)
    data = TensorDataset(np.arange(5))
    loader = DataLoader(data, batch_size=None, shuffle=True, num_workers=workers)
    assert len(loader) == 5 and sorted(x.item() for (x,) in loader) == [*range(5)]
    batches = BatchSampler(range(5), 2, False)  # a data set that makes its own batches

    class Rows:
        def __len__(self):
            return 5

        def __getitem__(self, rows):
            return {"rows": np.array(rows), "name": "b", "size": len(rows)}

    made = list(DataLoader(Rows(), None, sampler=batches, num_workers=workers))
    assert [b["rows"].tolist() for b in made] == list(batches)
    assert [(b["name"], b["size"]) for b in made] == [("b", 2), ("b", 2), ("b", 1)]
    assert list(DataLoader(data, None, collate_fn=lambda s: s[0].item())) == [*range(5)]


@pytest.mark.parametrize(("data", "given", "words"), [
    (Stream(3), {"shuffle": True}, "own order"), (Stream(3), {"sampler": [0]}, "own order"),
    (Stream(3), {"batch_sampler": [[0]]}, "own order"),
    (Stream(3), {"batch_size": 2, "mix": lambda *a: a}, "own order"),
    ([1, 2], {"batch_size": None, "drop_last": True}, "makes none"),
    ([1, 2], {"batch_size": None, "mix": lambda *a: a}, "makes none"),
    ([1, 2], {"batch_size": 0}, "positive"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(data, given, words):
    with pytest.raises(ShapeError, match=words):
        DataLoader(data, **given)
