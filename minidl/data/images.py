"""Labelled pictures: what data sets of images share, and those held in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.autograd import Tensor
from minidl.data.dataset import Arrays, Dataset, raw, take, within
from minidl.data.draws import Draws, current_or_fresh
from minidl.errors import DataError, DTypeError, require


class LabelledImages(Dataset):
    """Base of image data sets: `images`, `targets` (N,) int64, `classes`, and transforms.

    transform: a batched transform of `minidl.data.transforms`, or any function of an
    (n, C, H, W) array; target_transform: a function of one label. Raises DataError where labels
    are out of range or not as many as the pictures, DTypeError where they are not integers.
    """

    def __init__(self, images: Any, targets: Any, classes: Sequence[str],
                 transform: Callable | None = None,
                 target_transform: Callable[[int], int] | None = None) -> None:  # fmt: skip
        self.images, self.classes = self._held(images), list(classes)
        self.class_to_idx = {name: i for i, name in enumerate(classes)}
        self.targets = check_labels(targets, len(images), len(classes), type(self).__name__)
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        images, labels = self.batch(np.array([within(self, index)]), None)
        return Tensor(images[0]), int(labels[0])

    def batch(self, indices: np.ndarray, epoch: int | None) -> Arrays:
        rows = np.asarray(indices)
        labels = self.targets[rows]
        if self.target_transform is not None:
            labels = np.array([self.target_transform(int(y)) for y in labels])
        return self._taken(rows, epoch), labels

    def _held(self, images: Any) -> Any:
        """The pictures as they are kept."""
        return images

    def _taken(self, rows: np.ndarray, epoch: int | None) -> np.ndarray:
        """Transformed pictures (n, C, H, W) of the rows."""
        raise NotImplementedError

    def _transformed(self, images: np.ndarray, rows: np.ndarray, epoch: int | None) -> np.ndarray:
        """Run the transform; ours are told which samples of which epoch these are."""
        t: Any = self.transform
        if t is None:
            return images
        if not hasattr(t, "batched"):
            return raw(t(images))
        draws = current_or_fresh(len(rows)) if epoch is None else Draws(rows, epoch)
        return t.batched(images, draws)


class ImageArrays(LabelledImages):
    """Pictures held in memory, given as pixels (N, H, W, C) uint8.

    `images` shows them as (N, C, H, W) over that memory.
    """

    def _held(self, images: np.ndarray) -> np.ndarray:
        rule = "pictures must be uint8 with axes (N, H, W, C), none of them empty"
        ok = images.dtype == np.uint8 and images.ndim == 4 and images.size > 0
        require(ok, type(self).__name__, rule, error=DataError, pixels=images)
        return np.ascontiguousarray(images).transpose(0, 3, 1, 2)

    def _taken(self, rows: np.ndarray, epoch: int | None) -> np.ndarray:
        return self._transformed(take(self.images, rows), rows, epoch)


class OfficialImages(ImageArrays):
    """Base of data sets of official files (torchvision's signature).

    root: the folder that holds the official layout; None looks in `MINIDL_DATA`, then in the
    cache, and downloads. The number of pictures is that of the files. Raises DataError.
    """

    def __init__(self, root: str | Path | None = None, train: bool = True,
                 transform: Callable | None = None,
                 target_transform: Callable[[int], int] | None = None,
                 download: bool = False) -> None:  # fmt: skip
        super().__init__(*self._read(root, train, download), transform, target_transform)

    def _read(
        self, root: str | Path | None, train: bool, download: bool
    ) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        """Pixels (N, H, W, C) uint8, labels (N,) and the names of the classes."""
        raise NotImplementedError


def check_labels(labels: Any, n: int, classes: int, name: str) -> np.ndarray:
    """Labels as int64 (n,) in 0..classes-1. Raises DataError, DTypeError for other types."""
    y = np.asarray(labels)
    require(y.dtype.kind in "iu", name, "labels must be integers", error=DTypeError, labels=y)
    rule = f"there must be one label for each of {n} items"
    require(y.shape == (n,), name, rule, error=DataError, labels=y)
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if len(wrong):
        rule = f"labels must lie in 0..{classes - 1}; label {wrong[0]} is {y[wrong[0]]}"
        raise DataError(f"{name}: {rule} ({len(wrong)} such)")
    return y.astype(np.int64)
