"""Labelled pictures: what data sets of images share, and those held in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.autograd import Tensor
from minidl.data.dataset import Arrays, Dataset, raw, take
from minidl.data.draws import Draws, current_or_fresh
from minidl.errors import DataError, DTypeError, require


class LabelledImages(Dataset):
    """Base of image data sets: `targets` (N,) int64, `classes`, and transforms.

    transform: a batched transform of `minidl.data.transforms`, or any function of an
    (n, C, H, W) array; target_transform: a function of one label.
    """

    def __init__(
        self,
        targets: Any,
        classes: Sequence[str],
        transform: Callable | None,
        target_transform: Callable[[int], int] | None,
    ) -> None:
        self.classes = list(classes)
        self.targets = check_labels(targets, len(targets), len(classes), type(self).__name__)
        self.transform, self.target_transform = transform, target_transform

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Number of each class by name."""
        return {name: i for i, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"{type(self).__name__} has {n} items; got index {index}")
        images, labels = self.batch(np.array([index % n]), None)
        return Tensor(images[0]), int(labels[0])

    def batch(self, indices: np.ndarray, epoch: int | None) -> Arrays:
        rows = np.asarray(indices)
        labels = self.targets[rows]
        if self.target_transform is not None:
            labels = np.array([self.target_transform(int(y)) for y in labels])
        return self._images(rows, epoch), labels

    def _images(self, rows: np.ndarray, epoch: int | None) -> np.ndarray:
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
        return raw(t.batched(images, draws))


class ImageArrays(LabelledImages):
    """Pictures held in memory, given as pixels (N, H, W, C) uint8.

    `images` shows them as (N, C, H, W) over that memory. Raises DataError where labels are not
    integers, out of range, or not as many as the pictures.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        targets: Any,
        classes: Sequence[str],
        transform: Callable | None = None,
        target_transform: Callable[[int], int] | None = None,
    ) -> None:
        name = type(self).__name__
        rule = "pictures must be uint8 with axes (N, H, W, C), none of them empty"
        ok = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.size > 0
        require(ok, name, rule, error=DataError, pixels=pixels)
        self.images = np.ascontiguousarray(pixels).transpose(0, 3, 1, 2)
        check_labels(targets, len(pixels), len(classes), name)
        super().__init__(targets, classes, transform, target_transform)

    def _images(self, rows: np.ndarray, epoch: int | None) -> np.ndarray:
        return self._transformed(take(self.images, rows), rows, epoch)


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
