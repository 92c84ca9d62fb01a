"""Data sets, samplers and the loader: contents, order, resumption, threads, mistakes."""

import collections
import contextlib
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import random
from minidl.autograd import Tensor, wrap
from minidl.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    ImageArrays,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
    transforms,
)
from minidl.errors import CheckpointError, DataError, MinidlError, ShapeError
from minidl.nn.utils.rnn import PackedSequence, pack_padded_sequence
from minidl.random import Generator


def pictures(n=20, size=6, classes=4):
    g = Generator(n, "data")
    pixels = (g.bits(n * size * size * 3) % 256).astype(np.uint8).reshape(n, size, size, 3)
    return ImageArrays(pixels, np.arange(n) % classes, [f"c{i}" for i in range(classes)])


class Squares(Dataset):
    """A user's data set of single items; its transform is called by hand."""

    def __init__(self, n):
        self.n, self.crop = n, transforms.RandomCrop(3)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        picture = np.arange(75, dtype=np.float32).reshape(3, 5, 5) + i
        return self.crop(picture), i * i


# ---- the loader ----------------------------------------------------------------------------------


def order(loader):
    return [batch[0].array.ravel().tolist() for batch in loader]


@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 3]),
    st.data(),
)
def test_a_resumed_epoch_goes_on_where_it_was(n, size, shuffle, drop, workers, data):
    def loader():
        return DataLoader(
            TensorDataset(np.arange(n)), size, shuffle, num_workers=workers, drop_last=drop
        )

    whole = loader()
    epochs = [order(whole) for _ in range(3)]
    assert (whole.epoch, whole.batch_index) == (3, 0)
    assert len(epochs[0]) == len(whole) == (n // size if drop else -(-n // size))
    if not drop:
        assert sorted(sum(epochs[1], [])) == list(range(n))
    stop = data.draw(st.integers(0, len(whole)))
    first = loader()
    assert order(first) == epochs[0]
    batches = iter(first)
    seen = [next(batches)[0].array.ravel().tolist() for _ in range(stop)]
    state = first.state_dict()
    assert state["batch"] == stop and state["epoch"] == 1
    batches.close()
    second = loader()
    second.load_state_dict(state)
    assert seen + order(second) == epochs[1]
    assert order(second) == epochs[2]


def test_the_order_follows_the_seed_and_the_epoch_alone():
    data = TensorDataset(np.arange(50))
    a = DataLoader(data, 10, shuffle=True, generator=Generator(1))
    b = DataLoader(data, 10, shuffle=True, generator=Generator(1), num_workers=2)
    c = DataLoader(data, 10, shuffle=True, generator=Generator(2))
    first, second = order(a), order(a)
    assert first != second and first == order(b) and first != order(c)
    a.set_epoch(1)
    assert order(a) == second
    with pytest.raises(CheckpointError, match="seed"):
        c.load_state_dict(a.state_dict())
    with pytest.raises(CheckpointError, match="epoch, batch and seed"):
        c.load_state_dict({"epoch": 1})


def test_an_iteration_left_early_ends_its_epoch():
    loader = DataLoader(TensorDataset(np.arange(50)), 10, shuffle=True)
    epochs = [order(loader) for _ in range(2)]
    loader.set_epoch(0)
    next(iter(loader))
    assert order(loader) == epochs[1]


@pytest.mark.parametrize("make", [lambda: pictures(30), lambda: Squares(30)])
def test_augmentation_does_not_depend_on_workers_or_batches(make):
    def first_epoch(size, workers, shuffle):
        data = make()
        data.transform = transforms.Compose([transforms.RandomCrop(6, 2), transforms.ToFloat()])
        loader = DataLoader(data, size, shuffle, num_workers=workers)
        found = {}
        for images, labels in loader:
            for image, label in zip(images.array, labels.array, strict=True):
                found.setdefault(int(label), []).append(image.tobytes())
        return {label: sorted(images) for label, images in found.items()}

    expected = first_epoch(7, 0, False)
    assert first_epoch(4, 3, True) == expected
    random.default("augmentation").bits(3)
    assert first_epoch(30, 0, False) == expected


class Clips(Squares):
    def __getitem__(self, i):
        clip = np.arange(5 * 64, dtype=np.float32).reshape(5, 1, 8, 8)
        return self.crop(clip), self.crop(clip[:2]), i


def test_clips_follow_the_sample():
    """Several pictures in one item drew from one stream, in the order in which workers came."""

    def loaded(**options):
        batches = list(DataLoader(Clips(40), 4, **options))
        return [np.concatenate([np.asarray(b[k]) for b in batches]) for k in range(3)]

    first, second, _ = loaded()
    assert len({clip.tobytes() for clip in first}) > 30
    assert not np.array_equal(first[:, :2], second)
    for _ in range(3):
        *shuffled, i = loaded(num_workers=3, shuffle=True)
        assert np.array_equal(shuffled[0], first[i]) and np.array_equal(shuffled[1], second[i])


def test_batches_are_channels_last_tensors():
    data = pictures()
    images, labels = next(iter(DataLoader(data, 5)))
    assert isinstance(images, Tensor) and images.shape == (5, 3, 6, 6)
    assert images.array.transpose(0, 2, 3, 1).flags.c_contiguous
    assert labels.dtype == np.int64 and labels.array.tolist() == [0, 1, 2, 3, 0]
    image, label = data[3]
    assert np.array_equal(image.array, images.array[3]) and label == 3 and type(label) is int
    images, _ = next(iter(DataLoader(Squares(4), 4)))
    assert images.shape == (4, 3, 3, 3)
    assert images.array.transpose(0, 2, 3, 1).flags.c_contiguous


def test_collate_fn_and_mix():
    data = pictures(8)
    seen = []
    loader = DataLoader(data, 4, collate_fn=lambda items: seen.append(items) or len(items))
    assert list(loader) == [4, 4]
    assert isinstance(seen[0][0][0], Tensor) and seen[1][3][1] == 3
    mix = transforms.MixUp(num_classes=4)
    images, soft = next(iter(DataLoader(data, 8, mix=mix)))
    assert images.dtype == soft.dtype == np.float32 and soft.shape == (8, 4)


def test_default_collate():
    batch = default_collate([{"a": 1, "b": (2.5, "x")}, {"a": 3, "b": (4.5, "y")}])
    assert batch["a"].array.tolist() == [1, 3] and batch["a"].dtype == np.int64
    assert batch["b"][0].dtype == np.float64 and batch["b"][1] == ["x", "y"]
    samples = [({"a": i, "b": (i / 2, "x")}, np.full(2, i)) for i in range(4)]
    for workers in (0, 2):
        given, rows = list(DataLoader(samples, 2, num_workers=workers))[1]
        assert given["a"].tolist() == [2, 3] and given["b"][0].tolist() == [1.0, 1.5]
        assert given["b"][1] == ["x", "x"] and rows.tolist() == [[2, 2], [3, 3]]
    with pytest.raises(DataError, match="one shape"):
        default_collate([np.zeros(2), np.zeros(3)])
    with pytest.raises(DataError, match="cannot batch"):
        default_collate([None])


class TenfoldTensors(TensorDataset):
    def __getitem__(self, i):
        return super().__getitem__(i)[0] * 10, "a name"


class TenfoldSubset(Subset):
    def __getitem__(self, i):
        return super().__getitem__(i)[0] * 10, "a name"


class TenfoldPictures(ImageArrays):
    together = 64  # as if they lay on a GPU

    def __getitem__(self, i):
        return int(super().__getitem__(i)[1]) * 10, "a name"


class TenfoldBatches(TenfoldTensors):
    def batch(self, indices, epoch):
        return (self.tensors[0].array[indices] * 10,)


@pytest.mark.parametrize("nested", [lambda d: d, lambda d: Subset(d, np.arange(4)),
                                    lambda d: ConcatDataset([d, d])])  # fmt: skip
@pytest.mark.parametrize("kind", [TenfoldTensors, TenfoldSubset, TenfoldPictures, TenfoldBatches])
def test_items_that_a_subclass_changes_are_what_the_loader_gives(kind, nested):
    """The loader took the whole batches of the base class, without a word."""
    i = np.arange(4)
    pixels = np.zeros((4, 2, 2, 3), np.uint8)
    parts = {TenfoldSubset: (TensorDataset(i), i), TenfoldPictures: (pixels, i, list("abcd"))}
    data = nested(kind(*parts.get(kind, (i,))))
    assert sum(order(DataLoader(data, 2)), [])[:4] == [0, 10, 20, 30]


def test_worker_errors_and_threads_do_not_linger():
    class Broken(Squares):
        def __getitem__(self, i):
            if i == 5:
                raise DataError("picture 5 is gone")
            return super().__getitem__(i)

    before = threading.active_count()
    with pytest.raises(DataError, match="picture 5"):
        list(DataLoader(Broken(20), 2, num_workers=2))
    iterator = iter(DataLoader(Squares(20), 2, num_workers=2))
    next(iterator)
    iterator.close()
    assert threading.active_count() <= before


@pytest.mark.parametrize("left", [lambda it: it.close(), lambda it: it.throw(KeyboardInterrupt)])
def test_batches_nobody_waits_for_are_not_begun(left):
    """A loop that was left early, or stopped by Ctrl-C, first loaded all that was asked for."""
    begun, going_on = [], threading.Event()

    def load(items):
        begun.append(items)
        return items if items[0] == 0 else going_on.wait()

    batches = iter(DataLoader(range(20), 1, num_workers=2, collate_fn=load))
    next(batches)
    leaving = threading.Timer(0.2, going_on.set)
    leaving.start()
    with contextlib.suppress(KeyboardInterrupt):
        left(batches)
    assert len(begun) <= 3 and going_on.is_set()
    leaving.join()


Point = collections.namedtuple("Point", "x y")


def test_named_tuples_stay_what_they_are():
    """PackedSequence, as a collate_fn makes it, was an error; named samples became lists."""
    (batch,) = DataLoader([Point(1, 2.5), Point(3, 4.5)], 2)
    assert isinstance(batch, Point) and batch.y.tolist() == [2.5, 4.5]
    (batch,) = DataLoader([(1, 2.5), [3, 4.5]], 2)
    assert type(batch) is list
    packed = pack_padded_sequence(wrap(np.ones((3, 2, 1))), [3, 2])
    ((found, lengths),) = DataLoader([0, 1], 2, collate_fn=lambda items: (packed, [3, 2]))
    assert isinstance(found, PackedSequence) and lengths == [3, 2]
    assert found.batch_sizes.tolist() == [2, 2, 1] and found.sorted_indices is None


def test_a_collate_fn_may_mix_arrays_and_tensors():
    """A tensor after an array got the array's numbers; an ordered dict became a plain one."""

    def joined(items):
        ids = np.array(items)
        return collections.OrderedDict(ids=ids, share=np.float32(3), x=wrap(ids * 10.0))

    for workers in (0, 2):
        for k, batch in enumerate(DataLoader(range(4), 2, collate_fn=joined, num_workers=workers)):
            assert type(batch) is collections.OrderedDict and type(batch["ids"]) is np.ndarray
            assert batch["x"].tolist() == [20.0 * k, 20.0 * k + 10] and batch["share"] == 3


def test_loader_mistakes():
    data = pictures()
    with pytest.raises(ShapeError, match="shuffle"):
        DataLoader(data, 2, shuffle=True, sampler=[0, 1])
    with pytest.raises(ShapeError, match="batch_sampler"):
        DataLoader(data, 2, batch_sampler=[[0]])
    with pytest.raises(ShapeError, match="batch_size"):
        DataLoader(data, 0)
    with pytest.raises(DataError, match="empty"):
        DataLoader([], 2)


@pytest.mark.parametrize("give", [
    lambda: Subset(range(5), np.arange(5) > 2),
    lambda: Subset(range(5), [1.9]),
    lambda: random_split(range(5), [2.7, 3.3]),
    lambda: list(DataLoader(range(5), sampler=[1.7])),
    lambda: transforms.RandomCrop(2)(np.zeros((1, 3, 4, 4)), [0.5], 0),
    lambda: default_collate([2**70]),
    lambda: default_collate([np.array("a")]),
])  # fmt: skip
def test_what_is_no_index_or_number_is_refused(give):
    """Masks were the indices 0 and 1, fractions were cut off, large integers Python objects."""
    with pytest.raises(MinidlError, match="integers|64-bit numbers"):
        give()
    assert len(Subset(range(5), [])) == 0 and default_collate([np.str_("a")]) == ["a"]


@pytest.mark.parametrize("batch", [-1, 6, 99])
def test_states_of_no_such_batch_are_refused(batch):
    """They gave an epoch without batches, or an error of itertools."""
    loader = DataLoader(TensorDataset(np.arange(10)), 2)
    with pytest.raises(CheckpointError, match="epoch"):
        loader.load_state_dict(loader.state_dict() | {"batch": batch})
        iter(loader)
    loader.load_state_dict(loader.state_dict() | {"batch": 5})
    assert order(loader) == [] and len(order(loader)) == 5


class WithoutLength:
    def __init__(self, indices):
        self.indices = indices

    def __iter__(self):
        return iter(self.indices)


def test_samplers():
    weighted = WeightedRandomSampler([0, 1, 0, 2], 50)
    first, second = list(weighted), list(weighted)
    assert set(first) == {1, 3} and len(weighted) == 50 and first != second
    weighted.set_epoch(0)
    assert list(weighted) == first
    data = TensorDataset(np.arange(10))
    loader = DataLoader(data, batch_sampler=[[1, 2], [5]])
    assert order(loader) == [[1, 2], [5]] and len(loader) == 2
    loader = DataLoader(data, 2, sampler=[3, 1, 4], drop_last=True)
    assert order(loader) == [[3, 1]] and len(loader) == 1
    loader = DataLoader(data, 2, sampler=WithoutLength([3, 1, 4]), drop_last=True)
    assert order(loader) == order(loader) == [[3, 1]], "it needed the sampler's length"
    assert len(order(DataLoader(data, 30, sampler=weighted))) == 2


# ---- data sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [lambda y: y + 1, lambda y: y / 2, lambda y: np.eye(4)[y]])
def test_labels_of_items_are_those_of_batches(transform):
    """Items had int(label): halves were cut off, one-hot rows an error."""
    data = pictures(8)
    data.target_transform = transform
    labels = next(iter(DataLoader(data, 8)))[1]
    assert all(np.array_equal(data[i][1], labels[i]) for i in range(8))
    assert labels.dtype == np.asarray(data[3][1]).dtype


def test_subset_concat_and_split():
    data = pictures(10)
    both = data + Subset(data, [7, 2])
    assert len(both) == 12 and both[11][1] == 2 and both[-2][1] == 3
    images, labels = next(iter(DataLoader(both, sampler=[11, 0, 10], batch_size=3)))
    assert labels.tolist() == [2, 0, 3]
    assert np.array_equal(images, data.images[[2, 0, 7]])
    assert len(list(ConcatDataset([data, Squares(3)]))) == 13
    with pytest.raises(IndexError, match="12 items"):
        both[12]
    assert len(next(iter(DataLoader(Subset(Squares(9), [3, 4]), 2)))) == 2
    parts = random_split(data, [0.5, 0.25, 0.25], Generator(0))
    assert [len(p) for p in parts] == [6, 2, 2]
    assert sorted(np.concatenate([p.indices for p in parts]).tolist()) == list(range(10))
    again = random_split(data, [6, 2, 2], Generator(0))
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(parts, again, strict=True))
    with pytest.raises(ShapeError, match="add up"):
        random_split(data, [3, 3])
    with pytest.raises(IndexError, match="within the 10 items"):
        Subset(data, [10])
    assert [len(p) for p in random_split(range(1), [0.5, 0.5])] == [1, 0]
