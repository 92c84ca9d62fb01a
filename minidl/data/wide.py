"""Wide names of data: whole orders of a data set and of some of its samples, pictures as a grid."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl import random
from minidl.autograd import Tensor, wrap
from minidl.data.dataset import check, stack
from minidl.data.samplers import Drawn, Sampler
from minidl.data.transforms import ToPILImage
from minidl.io.safetensors import write_bytes


class SequentialSampler(Sampler):
    """0, 1, …: all indices in order."""

    def __init__(self, data_source: Any) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self.data_source)


def shuffled(draws: random.Generator, n: int, count: int) -> np.ndarray:
    """`count` numbers below n: all of them in a random order, then in another, as far as needed."""
    return np.concatenate([draws.permutation(n) for _ in range(-(-count // n))])[:count]


class RandomSampler(Drawn):
    """All indices in a random order, or num_samples of them; or drawn with replacement."""

    def __init__(self, data_source: Any, replacement: bool = False, num_samples: int | None = None,
                 generator: random.Generator | None = None) -> None:  # fmt: skip
        self.data_source, self.replacement = data_source, replacement
        super().__init__(len(data_source) if num_samples is None else num_samples, generator)

    def _parts(self, draws: random.Generator) -> Iterable[np.ndarray]:
        n, wanted, most = len(self.data_source), self.num_samples, 1 << 20
        if not self.replacement:
            return [shuffled(draws, n, wanted)]
        return (draws.integers(0, n, (min(most, wanted - k),)) for k in range(0, wanted, most))


class SubsetRandomSampler(Drawn):
    """The given indices in a random order."""

    def __init__(self, indices: Sequence[int] | np.ndarray,
                 generator: random.Generator | None = None) -> None:  # fmt: skip
        super().__init__(len(indices), generator)
        self.indices = np.asarray(indices)

    def _parts(self, draws: random.Generator) -> Iterable[np.ndarray]:
        return [self.indices[draws.permutation(self.num_samples)]]


def get_worker_info() -> None:
    """None, as in PyTorch's main process: of an IterableDataset nobody takes a share."""


# ---- pictures to look at -------------------------------------------------------------------------


def make_grid(tensor: Any, nrow: int = 8, padding: int = 2, normalize: bool = False,
              value_range: tuple[float, float] | None = None, scale_each: bool = False,
              pad_value: float = 0.0) -> Tensor:  # fmt: skip
    """Pictures (N, C, H, W), a list of them or one, as one picture (3, H', W'), nrow in a row.

    normalize: from value_range, by default that of all (scale_each: of each), to 0 … 1.
    """
    pictures = tensor if isinstance(tensor, (list, tuple)) else np.asarray(tensor)
    x = pictures if isinstance(pictures, np.ndarray) else stack([np.asarray(p) for p in pictures])
    x = x.reshape((1,) * (4 - x.ndim) + x.shape)
    rule = "needs pictures (N, C, H, W) of 1 or 3 channels"
    check(x.ndim == 4 and len(x) > 0 and x.shape[1] in (1, 3), "make_grid", rule, pictures=x)
    check(nrow > 0 and padding >= 0, "make_grid", "needs nrow > 0, padding >= 0", nrow=nrow)
    if normalize:
        axes = (1, 2, 3) if scale_each else None
        low, high = value_range or (x.min(axes, keepdims=True), x.max(axes, keepdims=True))
        x = (np.clip(x, low, high) - low) / np.maximum(high - low, 1e-5)
    n, _, h, w = x.shape
    if n == 1:
        return wrap(np.repeat(x[0], 3 // x.shape[1], 0))
    across = min(nrow, n)
    down, (high, wide) = -(-n // across), (h + padding, w + padding)
    y = np.full((3, down * high + padding, across * wide + padding), pad_value, x.dtype)
    for k, picture in enumerate(x):
        top, left = k // across * high + padding, k % across * wide + padding
        y[:, top : top + h, left : left + w] = picture
    return wrap(y)


def save_image(tensor: Any, fp: str | os.PathLike[str], format: str | None = None,
               **grid: Any) -> None:  # fmt: skip
    """Write pictures, of bytes or of floats from 0 to 1, as one file, all or nothing.

    `grid` is for make_grid; the format is named, or that of the file's ending. Raises DataError,
    CheckpointError.
    """
    file, kind = io.BytesIO(), format or Path(fp).suffix.removeprefix(".")
    known = {"jpg": "jpeg", "tif": "tiff"}
    x = make_grid(tensor, **grid)
    rule = "the format must be one that Pillow writes"
    try:
        ToPILImage()(x).save(file, known.get(kind.lower(), kind))
    except KeyError:
        check(False, "save_image", rule, format=kind)
    write_bytes(fp, [file.getvalue()])
