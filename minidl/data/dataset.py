"""Data sets: anything with `len` and `[i]`; those of arrays also give a whole batch at once."""

import bisect
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl import backend, random
from minidl.autograd import Tensor, wrap
from minidl.errors import DataError, DTypeError, RangeError, require, require_one_of, reworded

check = functools.partial(require, error=DataError)
Arrays = tuple[np.ndarray, ...]
SPLITS = {"train": (0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1)}  # shares of the text


class Dataset:
    """Base of data sets (PyTorch's): give `__len__` and `__getitem__`; `batch` is a fast path.

    A subclass that overrides `__getitem__` alone is taken item by item.
    """

    def batch(self, indices: np.ndarray, epoch: int) -> Arrays | None:
        """Arrays of the items `indices` (n,) in one go; None: take them one by one.

        Random transforms draw the numbers of (seed, epoch, index).
        """
        return None

    def __add__(self, other: Any) -> "ConcatDataset":
        return ConcatDataset([self, other])


class TensorDataset(Dataset):
    """Items are tuples of the i-th slices of tensors or arrays that share their first length."""

    def __init__(self, *tensors: Tensor | np.ndarray) -> None:
        self.tensors = tuple(t if isinstance(t, Tensor) else wrap(np.asarray(t)) for t in tensors)
        shapes = [t.shape for t in self.tensors]
        ok = len({shape[:1] for shape in shapes}) == 1 and all(shapes)
        require(ok, "TensorDataset", "tensors must share their first length", shapes=shapes)

    def __len__(self) -> int:
        return self.tensors[0].shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(wrap(t.array[index, ...]) for t in self.tensors)

    def batch(self, indices: np.ndarray, epoch: int) -> Arrays:
        return tuple(take(t.array, indices) for t in self.tensors)


class Subset(Dataset):
    """The items of a data set at `indices`, in that order. Raises DTypeError, RangeError."""

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset, self.indices = dataset, indices
        self._at = within(dataset, integers("Subset", indices))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self._at[index])]

    def batch(self, indices: np.ndarray, epoch: int) -> Arrays | None:
        return fetch(self.dataset, self._at[indices], epoch)


class ConcatDataset(Dataset):
    """The items of several data sets, one set after the other."""

    def __init__(self, datasets: Sequence[Any]) -> None:
        self.datasets = list(datasets)
        require(bool(self.datasets), "ConcatDataset", "needs at least one data set")
        self.cumulative_sizes = np.cumsum([len(d) for d in self.datasets]).tolist()

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        index = within(self, index)
        k = bisect.bisect_right(self.cumulative_sizes, index)
        return self.datasets[k][index - (self.cumulative_sizes[k - 1] if k else 0)]


def random_split(dataset: Any, lengths: Sequence[float],
                 generator: random.Generator | None = None) -> list[Subset]:  # fmt: skip
    """Split at random into parts of the given lengths, or shares that add up to 1 (PyTorch's)."""
    n, sizes = len(dataset), list(lengths)
    if math.isclose(sum(lengths), 1):
        sizes = [math.floor(n * share) for share in lengths]
        sizes = [size + (i < n - sum(sizes)) for i, size in enumerate(sizes)]
    ok = sum(sizes) == n and all(s >= 0 and s == int(s) for s in sizes)
    rule = f"lengths must be integers that add up to the {n} items, or shares that add up to 1"
    require(ok, "random_split", rule, lengths=list(lengths))
    order = (generator or random.default("loader")).permutation(n)
    parts = np.split(order, np.cumsum(sizes[:-1], dtype=int))
    return [Subset(dataset, part.tolist()) for part in parts]


class Text(Dataset):
    """Windows of `length` characters of a text file: item i is (x, y), y one character further.

    x, y (length,) int64 indices into `vocabulary`, the sorted characters of the whole file, so
    that all splits agree. The first 80 % of the text are train, the next 10 % val, the last test;
    windows begin every `step` characters. Raises DataError.
    """

    def __init__(self, path: str | Path, length: int, split: str = "train", *,
                 step: int = 1) -> None:  # fmt: skip
        require_one_of("Text", SPLITS, split=split)
        require(length > 0 and step > 0, "Text", "length and step must be positive", length=length)
        with reworded(DataError, f"Text: cannot read {path} as UTF-8 text", OSError, ValueError):
            text = Path(path).read_text(encoding="utf-8")
        self.vocabulary = sorted(set(text))
        self._index = {c: i for i, c in enumerate(self.vocabulary)}
        start, stop = (round(share * len(text)) for share in SPLITS[split])
        self.codes = self.encode(text[start:stop])
        self.length, self.step = length, step
        rule = f"the {split} part of {path} is shorter than one window"
        check(len(self.codes) > length, "Text", rule, length=length)

    def encode(self, text: str) -> np.ndarray:
        """Indices (n,) int64 of characters. Raises DataError for one outside the vocabulary."""
        unknown = sorted(set(text) - set(self._index))
        check(not unknown, "Text", "characters are not in the vocabulary", unknown=unknown[:10])
        return np.array([self._index[c] for c in text], np.int64)

    def decode(self, codes: Sequence[int] | np.ndarray | Tensor) -> str:
        """The characters of indices (n,)."""
        return "".join(self.vocabulary[int(i)] for i in np.asarray(codes).ravel())

    def __len__(self) -> int:
        return (len(self.codes) - 1 - self.length) // self.step + 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.batch(np.array([within(self, index)]), 0)
        return wrap(x[0]), wrap(y[0])

    def batch(self, indices: np.ndarray, epoch: int) -> Arrays:
        at = (within(self, np.asarray(indices)) * self.step)[:, None] + np.arange(self.length)
        return self.codes[at], self.codes[at + 1]


# ---- what data sets share ------------------------------------------------------------------------


def gives_batches(dataset: Any) -> bool:
    """Whether a data set has a `batch` of its items: no class below that one changes the items."""
    ways = ({"batch", "__getitem__"} & vars(kind).keys() for kind in type(dataset).__mro__)
    return "batch" in next(filter(None, ways), ())


def fetch(dataset: Any, indices: np.ndarray, epoch: int) -> Arrays | None:
    """A data set's whole batch, or None if it has only single items."""
    return dataset.batch(indices, epoch) if gives_batches(dataset) else None


def take(x: Any, rows: np.ndarray) -> Any:
    """x[rows] with a channels-last (N, C, H, W) memory order kept, where x lies."""
    be = backend.of(x)
    if x.ndim == 4 and x.transpose(0, 2, 3, 1).flags.c_contiguous:
        return be.pick(x.transpose(0, 2, 3, 1), (rows,)).transpose(0, 3, 1, 2)
    return be.pick(x, (rows,))


def stack(items: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of one shape as a batch, pictures (C, H, W) in channels-last memory."""
    shapes, rule = {x.shape for x in items}, "samples of a batch must have one shape"
    check(len(shapes) == 1, "stack", rule, fix="resize or crop pictures first", shapes=shapes)
    if items[0].ndim != 3:
        return np.stack(items)
    return np.stack([x.transpose(1, 2, 0) for x in items]).transpose(0, 3, 1, 2)


def integers(op: str, indices: Any) -> np.ndarray:
    """Indices as int64. Raises DTypeError for others than integers, such as masks."""
    found = np.asarray(indices)
    ok = found.dtype.kind in "iu" or not found.size
    require(ok, op, "indices must be integers", error=DTypeError, indices=found)
    return found.astype(np.int64, copy=False)


def within(dataset: Any, index: Any) -> Any:
    """An index or an array of them, perhaps from the end, as 0…n-1. Raises RangeError."""
    n = len(dataset)
    rule, ok = f"the index must lie within the {n} items", (-n <= index) & (index < n)
    require(bool(np.all(ok)), type(dataset).__name__, rule, error=RangeError, index=index)
    return index % n


def raw(x: Any) -> Any:
    """The array of a Tensor or array, where it lies."""
    x = x.array if isinstance(x, Tensor) else x
    return x if hasattr(x, "strides") else np.asarray(x)
