"""Labelled pictures: in memory, and in files decoded by Pillow."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps

from minidl import backend
from minidl.autograd import Tensor, wrap
from minidl.data.dataset import Arrays, Dataset, check, raw, stack, take, within
from minidl.data.transforms.base import Lambda
from minidl.errors import DataError, DTypeError, require, reworded
from minidl.io.foreign import DAMAGE
from minidl.ops.creation import moved

Function = Callable | None
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class LabelledImages(Dataset):
    """Base of image data sets: `images`, `targets` (N,) int64, `classes`, and transforms.

    transform: one of `minidl.data.transforms`, or any function of a picture, a Tensor (C, H, W);
    target_transform: a function of one label. Raises DataError where labels are out of range or
    not as many as the pictures, DTypeError where they are not integers.
    """

    together = 0  # pictures that are best transformed at once; 0: any number

    def __init__(self, images: Any, targets: Any, classes: Sequence[str],
                 transform: Function = None,
                 target_transform: Function = None) -> None:  # fmt: skip
        self.images, self.classes = self._held(images), list(classes)
        self.class_to_idx = {name: i for i, name in enumerate(classes)}
        self.targets = check_labels(targets, len(images), len(classes), type(self).__name__)
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        images, labels = self.batch(np.array([within(self, index)]), None)
        return wrap(images[0]), labels[0].item() if labels.ndim == 1 else wrap(labels[0])

    def batch(self, indices: np.ndarray, epoch: int | None) -> Arrays:
        rows = np.asarray(indices)
        labels = self.targets[rows]
        if self.target_transform is not None:
            labels = np.array([self.target_transform(int(y)) for y in labels])
        images = self._taken(rows, epoch)
        return images, backend.beside(labels, images)

    def _held(self, images: Any) -> Any:
        """The pictures as they are kept."""
        return images

    def _taken(self, rows: np.ndarray, epoch: int | None) -> np.ndarray:
        """Transformed pictures (n, C, H, W) of the rows."""
        raise NotImplementedError

    def _transformed(self, images: np.ndarray, rows: np.ndarray, epoch: int | None) -> np.ndarray:
        """Run the transform; ours are told which samples of which epoch these are."""
        if self.transform is None:
            return images
        t: Any = self.transform if hasattr(self.transform, "batched") else Lambda(self.transform)
        return raw(t(images, *(() if epoch is None else (rows, epoch))))


class ImageArrays(LabelledImages):
    """Pictures held in memory, given as pixels (N, H, W, C) uint8.

    `images` shows them as (N, C, H, W) over that memory.
    """

    def _held(self, images: np.ndarray) -> np.ndarray:
        rule = "pictures must be uint8 with axes (N, H, W, C), none of them empty"
        ok = images.dtype == np.uint8 and images.ndim == 4 and images.size > 0
        check(ok, type(self).__name__, rule, pixels=images)
        return np.ascontiguousarray(images).transpose(0, 3, 1, 2)

    def to(self, device: Any) -> Self:
        """Keep the pictures in a device's memory: batches are taken and transformed there."""
        self.images = raw(moved(wrap(self.images), device))
        self.together = (1 << 22) // self.images[0].size if backend.of(self.images).warm_ups else 0
        return self

    def _taken(self, rows: np.ndarray, epoch: int | None) -> np.ndarray:
        return self._transformed(take(self.images, rows), rows, epoch)


class ImageFiles(LabelledImages):
    """Pictures in files, `images` their paths; each is read and transformed when it is asked for.

    A batch needs pictures of one size, so the transform should resize or crop them.
    """

    def _taken(self, rows: np.ndarray, epoch: int | None) -> np.ndarray:
        pixels = ((i, read_image(self.images[i]).transpose(2, 0, 1)[None]) for i in rows.tolist())
        return stack([self._transformed(x, np.array([i]), epoch)[0] for i, x in pixels])


class ImageFolder(ImageFiles):
    """ROOT/class/**/picture: one folder a class, numbered in the order of their names.

    classes: the names that must be there, as a trained model knows them. Raises DataError for a
    missing root, unexpected, missing or empty class folders.
    """

    def __init__(self, root: str | Path, transform: Function = None,
                 target_transform: Function = None, *,
                 classes: Sequence[str] | None = None) -> None:  # fmt: skip
        name, root = "ImageFolder", Path(root)
        check(root.is_dir(), name, f"there is no folder {root}")
        found = sorted(e.name for e in os.scandir(root) if e.is_dir() and e.name[0] != ".")
        fix = "the layout is ROOT/class/picture.jpg"
        check(bool(found), name, f"{root} has no class folders", fix=fix)
        order = found if classes is None else list(classes)
        missing, other = sorted({*order} - {*found}), sorted({*found} - {*order})
        ok, rule = not missing and not other, f"{root} must hold exactly the known classes"
        check(ok, name, rule, missing=missing, unexpected=other)
        paths, targets = [], []
        for label, folder in enumerate(order):
            inside = sorted(p for p in (root / folder).rglob("*") if p.suffix.lower() in EXTENSIONS)
            rule, fix = f"{root / folder} holds no pictures", f"accepted: {EXTENSIONS}"
            check(bool(inside), name, rule, fix=fix)
            paths += inside
            targets += [label] * len(inside)
        super().__init__(paths, targets, order, transform, target_transform)


def read_image(path: str | Path) -> np.ndarray:
    """A picture file as RGB (H, W, 3) uint8, turned as its EXIF says. Raises DataError."""
    kinds = (*DAMAGE, SyntaxError, RuntimeError, MemoryError, Image.DecompressionBombError)
    rule = f"read_image: {path} cannot be read as a picture"
    with reworded(DataError, rule, *kinds), Image.open(path) as picture:
        turned = ImageOps.exif_transpose(picture)
        if turned.mode.startswith("I;16"):  # 16 bits of grey: keep the upper 8
            turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
        if "transparency" in turned.info:
            turned = turned.convert("RGBA")
        return np.asarray(turned.convert("RGB"))


def check_labels(labels: Any, n: int, classes: int, name: str) -> np.ndarray:
    """Labels as int64 (n,) in 0..classes-1. Raises DataError, DTypeError for other types."""
    y = np.asarray(labels)
    require(y.dtype.kind in "iu", name, "labels must be integers", error=DTypeError, labels=y)
    check(y.shape == (n,), name, f"there must be one label for each of {n} items", labels=y)
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if len(wrong):
        rule = f"labels must lie in 0..{classes - 1}; label {wrong[0]} is {y[wrong[0]]}"
        raise DataError(f"{name}: {rule} ({len(wrong)} such)")
    return y.astype(np.int64)
