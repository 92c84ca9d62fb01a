"""Pictures in files: ROOT/class/*.jpg folders and the Oxford-IIIT pets, decoded by Pillow."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from minidl.data.dataset import stack
from minidl.data.download import Resource, locate
from minidl.data.images import LabelledImages
from minidl.errors import DataError, require

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def read_image(path: str | Path) -> np.ndarray:
    """A picture file as RGB (H, W, 3) uint8, turned as its EXIF says. Raises DataError."""
    try:
        with Image.open(path) as picture:
            turned = ImageOps.exif_transpose(picture)
            if turned.mode.startswith("I;16"):  # 16 bits of grey: keep the upper 8
                turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
            if "transparency" in turned.info:
                turned = turned.convert("RGBA")
            return np.asarray(turned.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise DataError(f"read_image: {path} cannot be read as a picture: {e}") from e


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

    def __init__(self, root: str | Path, transform: Callable | None = None,
                 target_transform: Callable[[int], int] | None = None, *,
                 classes: Sequence[str] | None = None) -> None:  # fmt: skip
        name, root = "ImageFolder", Path(root)
        require(root.is_dir(), name, f"there is no folder {root}", error=DataError)
        found = sorted(e.name for e in os.scandir(root) if e.is_dir() and e.name[0] != ".")
        fix = "the layout is ROOT/class/picture.jpg"
        require(bool(found), name, f"{root} has no class folders", error=DataError, fix=fix)
        if classes is not None and sorted(classes) != found:
            missing, other = sorted({*classes} - {*found}), sorted({*found} - {*classes})
            rule = f"{root} must hold exactly the known classes"
            require(False, name, rule, error=DataError, missing=missing, unexpected=other)
        paths, targets = [], []
        order = found if classes is None else list(classes)
        for label, folder in enumerate(order):
            inside = sorted(p for p in (root / folder).rglob("*") if p.suffix.lower() in EXTENSIONS)
            rule = f"{root / folder} holds no pictures"
            require(bool(inside), name, rule, error=DataError, fix=f"accepted: {EXTENSIONS}")
            paths += inside
            targets += [label] * len(inside)
        super().__init__(paths, targets, order, transform, target_transform)


class OxfordIIITPet(ImageFiles):
    """Oxford-IIIT Pet (Parkhi et al. 2012): 37 breeds of cats and dogs (torchvision's signature).

    root: the folder that holds `oxford-iiit-pet`; split: trainval or test; target_types:
    category (breeds) or binary-category (Cat, Dog). Raises DataError.
    """

    archives = (("images", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
                ("annotations", "95a8c909bbe2e81eed6a22bccdf3f68f"))  # fmt: skip
    site = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"

    def __init__(self, root: str | Path | None = None, split: str = "trainval",
                 target_types: str = "category", transform: Callable | None = None,
                 target_transform: Callable[[int], int] | None = None,
                 download: bool = False) -> None:  # fmt: skip
        folder, name = "oxford-iiit-pet", "OxfordIIITPet"
        require(split in ("trainval", "test"), name, "split must be trainval or test", split=split)
        rule = "target_types must be category or binary-category"
        ok = target_types in ("category", "binary-category")
        require(ok, name, rule, target_types=target_types)
        archives = [
            Resource((f"{self.site}{a}.tar.gz",), f"{folder}/{a}.tar.gz", f"md5:{digest}")
            for a, digest in self.archives
        ]
        files = ["images", f"annotations/{split}.txt"]
        images, listing = locate(root, folder, files, archives, download=download)
        rows = _annotations(listing)
        breeds = {breed: image.rpartition("_")[0] for image, breed, _ in rows}
        classes = [breeds.get(i, str(i)).replace("_", " ").title() for i in range(max(breeds) + 1)]
        targets = [breed for _, breed, _ in rows]
        if target_types == "binary-category":
            classes, targets = ["Cat", "Dog"], [species for *_, species in rows]
        paths = [images / f"{image}.jpg" for image, *_ in rows]
        super().__init__(paths, targets, classes, transform, target_transform)


def _annotations(path: Path) -> list[tuple[str, int, int]]:
    """Image name, breed (0…36) and species (0 cat, 1 dog) of each line."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        parts = line.split()
        if not parts or line.startswith("#"):
            continue
        ok = len(parts) == 4 and parts[1].isdigit() and parts[2] in ("1", "2") and parts[1] != "0"
        rule = f"line {number} of {path} must be: name, class >= 1, species 1 or 2, breed"
        require(ok, "OxfordIIITPet", rule, error=DataError, line=line)
        rows.append((parts[0], int(parts[1]) - 1, int(parts[2]) - 1))
    require(bool(rows), "OxfordIIITPet", f"{path} lists no pictures", error=DataError)
    return rows
