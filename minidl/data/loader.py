"""DataLoader: batches of a data set, in a seeded order, ahead of time on threads, resumable."""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from minidl import random
from minidl.data.dataset import Dataset, check, fetch, gives_batches, integers, raw, stack
from minidl.data.samplers import BatchSampler, epoch_draws, order_seed
from minidl.data.transforms.base import sample
from minidl.errors import CheckpointError, DataError, require
from minidl.ops.creation import backend_of
from minidl.tensor import Tensor, items_in, wrap

check_state = partial(require, op="DataLoader", error=CheckpointError)


class IterableDataset(Dataset):
    """Base of data sets without indices (PyTorch's): give `__iter__`, and `__len__` if known.

    A DataLoader takes every item once, whatever its workers; so `get_worker_info` gives None.
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} has no __iter__")


class DataLoader:
    """Batches of a data set as lists of Tensors (PyTorch's DataLoader, on threads).

    The order of an epoch is a function of (seed, epoch) alone, the seed being generator's or that
    of the loader's stream; augmentation follows (seed, epoch, sample). So `state_dict()` is
    {epoch, batch, seed}, and after `load_state_dict` the next iteration goes on where it was.
    What `__getitem__` and collate_fn draw otherwise (by `ml.randn`, say) does not follow the
    sample: with workers it depends on which of them comes first. An IterableDataset is gone through
    once an epoch, by one thread, and its `set_epoch`, if it has one, is told which.

    batch_size: None gives the samples themselves, their arrays as Tensors.
    num_workers: threads that prepare batches ahead (0: none), each two of them.
    mix: called as mix(images, labels, indices, epoch) on each batch's arrays (MixUp, CutMix).
    device: where the batches' tensors are put; to a GPU they go from pinned memory, one batch ahead
    of the one in use. pin_memory is accepted for PyTorch's scripts (it follows from device), and so
    are timeout, worker_init_fn, prefetch_factor and persistent_workers, which are of processes.
    """

    def __init__(self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None,
                 sampler: Any = None, batch_sampler: Any = None, num_workers: int = 0,
                 collate_fn: Callable[[list], Any] | None = None, pin_memory: bool = False,
                 drop_last: bool = False, timeout: float = 0, worker_init_fn: Any = None, *,
                 generator: random.Generator | None = None, prefetch_factor: int | None = None,
                 persistent_workers: bool = False, mix: Callable | None = None,
                 device: Any = None) -> None:  # fmt: skip
        name = "DataLoader"
        self.backend = backend_of(device)
        alone = not (shuffle or sampler is not None or drop_last) and batch_size == 1
        rule = "batch_sampler excludes batch_size, shuffle, sampler and drop_last"
        require(batch_sampler is None or alone, name, rule, batch_size=batch_size, shuffle=shuffle)
        require(not (shuffle and sampler is not None), name, "sampler excludes shuffle")
        ok = batch_size is None or (isinstance(batch_size, int) and batch_size > 0)
        require(ok, name, "batch_size must be a positive integer", batch_size=batch_size)
        rule = "mix and drop_last are of batches, and batch_size=None makes none"
        require(bool(batch_size) or not (mix or drop_last), name, rule, drop_last=drop_last)
        self.iterable = isinstance(dataset, IterableDataset)
        chosen = shuffle or mix or not (sampler is None and batch_sampler is None)
        rule = "an iterable data set has its own order and no indices for shuffle, samplers or mix"
        require(not (self.iterable and chosen), name, rule)
        require(num_workers >= 0, name, "num_workers must be >= 0", num_workers=num_workers)
        check(self.iterable or len(dataset) > 0, name, "the data set is empty")
        self.dataset, self.sampler, self.batch_sampler = dataset, sampler, batch_sampler
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.num_workers = num_workers
        self.collate_fn, self.mix, self.generator = collate_fn, mix, generator
        self.set_epoch(0)

    def __len__(self) -> int:
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        return len(self._cut(self.dataset if self.sampler is None else self.sampler))

    def _cut(self, source: Any) -> Any:
        """An order of samples in batches, if there are to be any."""
        if self.batch_size is None:
            return source
        return BatchSampler(source, self.batch_size, self.drop_last)

    # ---- where it is -------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of the given epoch, from its start."""
        # The epoch in hand, how many batches it has given, whether it has been iterated over.
        self.epoch, self.batch_index, self._begun = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        """{epoch, batch, seed}: the epoch in hand, the batches given of it, the order's seed."""
        return {"epoch": self.epoch, "batch": self.batch_index, "seed": order_seed(self.generator)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state_dict at the next iteration. Raises CheckpointError if seeds differ."""
        ok = all(isinstance(v := state.get(k), int) and v >= 0 for k in ("epoch", "batch", "seed"))
        check_state(ok, rule="the state must hold epoch, batch and seed", state=dict(state))
        saved, used = state["seed"], order_seed(self.generator)
        rule = "the state's seed is not the one in use, so the order would differ"
        check_state(saved == used, rule=rule, saved=saved, used=used)
        self.epoch, self.batch_index, self._begun = state["epoch"], state["batch"], False

    # ---- iteration ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        if self._begun:  # an iteration that was left early: its epoch is over
            self.set_epoch(self.epoch + 1)
        self._begun = True
        return self._iterate(self._batches(self.epoch), self.epoch)

    def _batches(self, epoch: int) -> Iterator[Any]:
        """The indices (of a stream, the items) of each batch that is left of an epoch."""
        source = self.dataset if self.iterable else self.sampler
        source = source if self.batch_sampler is None else self.batch_sampler
        if hasattr(source, "set_epoch"):
            source.set_epoch(epoch)
        elif source is None:
            source = range(len(self.dataset))
            if self.shuffle:
                source = epoch_draws(self.generator, epoch).permutation(len(source)).tolist()
        batches = iter(source if self.batch_sampler is not None else self._cut(source))
        n = sum(1 for _ in itertools.islice(batches, self.batch_index))
        check_state(n == self.batch_index, rule="the state is of a longer epoch", batches=n)
        return batches

    def _iterate(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        load = partial(self._load, epoch)
        alone = self.mix or self.collate_fn or self.batch_sampler or not gives_batches(self.dataset)
        size = None if alone else self.batch_size
        count = getattr(self.dataset, "together", 0) // size if size else 0
        several = partial(self._several, count) if count > 1 else map
        make = self._ahead if self.num_workers else several
        for batch in self._there(make(load, batches)):
            if self.epoch == epoch:
                self.batch_index += 1
            yield batch
        if self.epoch == epoch:
            self.set_epoch(epoch + 1)

    def _ahead(self, load: Callable, batches: Iterator[Any]) -> Iterator[Any]:
        """Load on threads, up to 2 num_workers batches ahead, in order."""
        first = itertools.islice(batches, 2 * self.num_workers)
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="loader")
        try:
            waiting = collections.deque(pool.submit(load, indices) for indices in first)
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(load, i) for i in itertools.islice(batches, 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _several(self, count: int, load: Callable, batches: Iterator[Any]) -> Iterator[Any]:
        """Load several batches at once, for a GPU by few launches; each is then a view."""
        while some := list(itertools.islice(batches, count)):
            whole, ends = load(np.concatenate(some)), np.cumsum([0, *map(len, some)])
            yield from ([wrap(x.array[a:b]) for x in whole] for a, b in itertools.pairwise(ends))

    def _there(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches with their arrays in the device's memory."""
        nests: collections.deque[Any] = collections.deque()

        def arrays() -> Iterator[list[Any]]:
            for batch in batches:
                nests.append(batch)
                yield [x.array for x in items_in(batch) if isinstance(x, Tensor)]

        for moved in self.backend.uploads(arrays()):
            yield _refilled(nests.popleft(), iter(moved))

    def _load(self, epoch: int, indices: Any) -> Any:
        """The batch of some indices (of a stream, of the items themselves), or of one a sample."""
        if self.batch_size is None and self.batch_sampler is None:
            return (self.collate_fn or default_convert)(self._item(indices, epoch))
        collate = self.collate_fn or default_collate
        if self.iterable:
            return collate(indices)
        rows = integers("DataLoader", indices)
        arrays = fetch(self.dataset, rows, epoch) if self.collate_fn is None else None
        if arrays is None:
            batch = collate([self._item(i, epoch) for i in rows.tolist()])
            if self.mix is None:
                return batch
            arrays = tuple(raw(part) for part in batch)
        if self.mix is not None:
            arrays = self.mix(*arrays, rows, epoch)
        return [wrap(a) for a in arrays]

    def _item(self, index: Any, epoch: int) -> Any:
        if self.iterable:
            return index
        if not isinstance(index, int):  # without a batch size, a sampler may give other keys
            return self.dataset[index]
        with sample(index, epoch):
            return self.dataset[index]


def _changed(nest: Any, change: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists and dicts with what is in them changed."""
    if isinstance(nest, dict):
        return nest | {key: _changed(item, change) for key, item in nest.items()}
    if isinstance(nest, (tuple, list)):
        items = [_changed(item, change) for item in nest]
        return type(nest)(*items) if hasattr(nest, "_fields") else type(nest)(items)
    return change(nest)


def _refilled(nest: Any, arrays: Iterator[Any]) -> Any:
    """A nest with other arrays in its tensors."""
    return _changed(nest, lambda x: wrap(next(arrays)) if isinstance(x, Tensor) else x)


def default_convert(data: Any) -> Any:
    """A sample with Tensors for its arrays, in tuples, lists and dicts (PyTorch's)."""

    def convert(x: Any) -> Any:
        numbers = isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind not in "OUS"
        return wrap(np.asarray(x)) if numbers else x

    return _changed(data, convert)


def default_collate(items: Sequence[Any]) -> Any:
    """Stack samples into a batch, through tuples, lists and dicts (PyTorch's default_collate).

    Arrays and Tensors must agree in shape; ints give int64, floats float64; strings stay a list,
    tuples become one unless their parts have names.
    """
    first = items[0]
    if isinstance(first, (str, bytes)):
        return list(items)
    numbers = isinstance(first, (bool, int, float))
    if numbers or isinstance(first, (Tensor, np.ndarray, np.generic)):
        batch = np.array(items) if numbers else stack([raw(i) for i in items])
        check(batch.dtype.kind not in "OUS", "default_collate", "needs 64-bit numbers", batch=batch)
        return wrap(batch)
    if isinstance(first, Mapping):
        return {key: default_collate([i[key] for i in items]) for key in first}
    if isinstance(first, (tuple, list)):
        same = len({len(i) for i in items}) == 1
        check(same, "default_collate", "samples must have equally many parts")
        columns = [default_collate(column) for column in zip(*items, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    raise DataError(f"default_collate: cannot batch {type(first).__name__}; give a collate_fn")
