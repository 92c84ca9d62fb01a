"""DataLoader: batches of a data set, in a seeded order, ahead of time on threads, resumable."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from minidl import random
from minidl.autograd import Tensor
from minidl.data.dataset import fetch, raw
from minidl.data.draws import sample
from minidl.data.sampler import BatchSampler, RandomSampler, SequentialSampler
from minidl.errors import CheckpointError, DataError, require


class DataLoader:
    """Batches of a data set as lists of Tensors (PyTorch's DataLoader, on threads).

    The order of an epoch is a function of (seed, epoch) alone, the seed being generator's or that
    of the loader's stream; augmentation follows (seed, epoch, sample). So `state_dict()` is
    {epoch, batch, seed}, and after `load_state_dict` the next iteration goes on where it was.

    num_workers: threads that prepare batches ahead (0: none), each `prefetch_factor` of them.
    mix: called as mix(images, labels, indices, epoch) on each batch's arrays (MixUp, CutMix).
    pin_memory and persistent_workers are accepted for PyTorch's scripts and change nothing here.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        *,
        generator: random.Generator | None = None,
        prefetch_factor: int = 2,
        persistent_workers: bool = False,
        mix: Callable | None = None,
    ) -> None:
        name = "DataLoader"
        alone = not (shuffle or sampler is not None or drop_last) and batch_size in (1, None)
        rule = "batch_sampler excludes batch_size, shuffle, sampler and drop_last"
        require(batch_sampler is None or alone, name, rule, batch_size=batch_size, shuffle=shuffle)
        require(not (shuffle and sampler is not None), name, "sampler excludes shuffle")
        ok = isinstance(num_workers, int) and num_workers >= 0 and prefetch_factor >= 1
        require(ok, name, "num_workers must be >= 0, prefetch_factor >= 1", num_workers=num_workers)
        require(len(dataset) > 0, name, "the data set is empty", error=DataError)
        if sampler is None:
            shuffled = RandomSampler(dataset, generator=generator) if shuffle else None
            sampler = shuffled or SequentialSampler(dataset)
        if batch_sampler is None and batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.sampler, self.batch_sampler = dataset, sampler, batch_sampler
        self.batch_size, self.drop_last = batch_size, drop_last
        self.num_workers, self.prefetch_factor = num_workers, prefetch_factor
        self.collate_fn, self.mix, self.generator = collate_fn, mix, generator
        self.epoch, self.batch_index = 0, 0  # the epoch in hand and how many batches it has given
        self._position = "fresh"  # fresh: not begun; begun; resumed: begin at batch_index

    def __len__(self) -> int:
        source: Any = self.sampler if self.batch_sampler is None else self.batch_sampler
        return len(source)

    # ---- where it is -------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of the given epoch, from its start."""
        self.epoch, self.batch_index, self._position = epoch, 0, "fresh"

    def state_dict(self) -> dict[str, int]:
        """{epoch, batch, seed}: the epoch in hand, the batches given of it, the order's seed."""
        return {"epoch": self.epoch, "batch": self.batch_index, "seed": self._seed()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state_dict at the next iteration. Raises CheckpointError if seeds differ."""
        ok = all(isinstance(state.get(k), int) for k in ("epoch", "batch", "seed"))
        rule = "the state must hold epoch, batch and seed"
        require(ok, "DataLoader", rule, error=CheckpointError, state=dict(state))
        rule = "the state's seed is not the one in use, so the order would differ"
        saved, used = state["seed"], self._seed()
        require(saved == used, "DataLoader", rule, error=CheckpointError, saved=saved, used=used)
        self.epoch, self.batch_index = state["epoch"], state["batch"]
        self._position = "resumed"

    def _seed(self) -> int:
        return (self.generator or random.default("loader")).initial_seed()

    # ---- iteration ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        if self._position == "begun":  # an iteration that was left early: its epoch is over
            self.epoch, self.batch_index = self.epoch + 1, 0
        self._position = "begun"
        source: Any = self.sampler if self.batch_sampler is None else self.batch_sampler
        if hasattr(source, "set_epoch"):
            source.set_epoch(self.epoch)
        return self._iterate(itertools.islice(iter(source), self.batch_index, None), self.epoch)

    def _iterate(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        loaded = self._ahead(batches, epoch) if self.num_workers else (
            self._load(indices, epoch) for indices in batches
        )  # fmt: skip
        for batch in loaded:
            if self.epoch == epoch:
                self.batch_index += 1
            yield batch
        if self.epoch == epoch:
            self.set_epoch(epoch + 1)

    def _ahead(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        """Load on threads, up to num_workers * prefetch_factor batches ahead, in order."""
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="loader")
        waiting: collections.deque[Future] = collections.deque()
        try:
            ahead = self.num_workers * self.prefetch_factor
            for indices in itertools.islice(batches, ahead):
                waiting.append(pool.submit(self._load, indices, epoch))
            while waiting:
                batch = waiting.popleft().result()
                for indices in itertools.islice(batches, 1):
                    waiting.append(pool.submit(self._load, indices, epoch))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, indices: Any, epoch: int) -> Any:
        if self.batch_sampler is None:
            with sample(int(indices), epoch):
                item = self.dataset[int(indices)]
            return self.collate_fn(item) if self.collate_fn else item
        rows = np.asarray(indices, np.int64)
        arrays = fetch(self.dataset, rows, epoch)
        if arrays is None or self.collate_fn is not None:
            items = self._items(rows, epoch) if arrays is None else _rows_of(arrays)
            batch = (self.collate_fn or default_collate)(items)
            if self.mix is None:
                return batch
            arrays = tuple(raw(part) for part in batch)
        if self.mix is not None:
            require(len(arrays) == 2, "DataLoader", "mix needs batches of (images, labels)")
            arrays = self.mix(*arrays, rows, epoch)
        return [Tensor(a) for a in arrays]

    def _items(self, rows: np.ndarray, epoch: int) -> list[Any]:
        items = []
        for i in rows.tolist():
            with sample(i, epoch):
                items.append(self.dataset[i])
        return items


def _rows_of(arrays: Sequence[np.ndarray]) -> list[tuple[Any, ...]]:
    """The samples of a batch of arrays, as a data set would give them one by one."""
    columns = [
        a.tolist() if a.ndim == 1 and a.dtype.kind == "i" else [Tensor(row) for row in a]
        for a in arrays
    ]
    return list(zip(*columns, strict=True))


def default_collate(items: Sequence[Any]) -> Any:
    """Stack samples into a batch, through tuples, lists and dicts (PyTorch's default_collate).

    Arrays and Tensors must agree in shape; ints give int64, floats float64; strings stay a list.
    """
    first = items[0]
    if isinstance(first, (Tensor, np.ndarray, np.generic)):
        return Tensor(_stack([raw(i) for i in items]))
    if isinstance(first, (bool, int, float)):
        return Tensor(np.array(items))
    if isinstance(first, (str, bytes)):
        return list(items)
    if isinstance(first, Mapping):
        return {key: default_collate([i[key] for i in items]) for key in first}
    if isinstance(first, (tuple, list)):
        same = len({len(i) for i in items}) == 1
        require(same, "default_collate", "samples must have equally many parts", error=DataError)
        return [default_collate(column) for column in zip(*items, strict=True)]
    raise DataError(f"default_collate: cannot batch {type(first).__name__}; give a collate_fn")


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {a.shape for a in arrays}
    rule = "samples of a batch must have one shape"
    fix = "resize or crop them first"
    require(len(shapes) == 1, "default_collate", rule, error=DataError, fix=fix, shapes=shapes)
    if arrays[0].ndim == 3:  # pictures (C, H, W): keep the batch channels-last
        return np.stack([a.transpose(1, 2, 0) for a in arrays]).transpose(0, 3, 1, 2)
    return np.stack(arrays)
