"""Data sets of official files: CIFAR (Krizhevsky 2009), MNIST (LeCun 1998), Fashion-MNIST, pets."""

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data.dataset import check
from minidl.data.download import Resource, locate
from minidl.data.images import Function, ImageArrays, ImageFiles, check_labels
from minidl.errors import DataError, DTypeError, require, require_one_of, reworded
from minidl.io.foreign import DAMAGE
from minidl.io.torch_objects import NumpyArray
from minidl.io.torch_pickle import Budget, Machine

KRIZ = "https://www.cs.toronto.edu/~kriz/"
Root = str | Path | None
Parts = tuple[np.ndarray, np.ndarray, Sequence[str]]


class OfficialImages(ImageArrays):
    """Base of data sets of official files (torchvision's signature).

    root: the folder that holds the official layout; None looks in `MINIDL_DATA`, then in the
    cache, and downloads. The number of pictures is that of the files. Raises DataError.
    """

    def __init__(self, root: Root = None, train: bool = True, transform: Function = None,
                 target_transform: Function = None, download: bool = False) -> None:  # fmt: skip
        super().__init__(*self._read(root, train, download), transform, target_transform)

    def _read(self, root: Root, train: bool, download: bool) -> Parts:
        """Pixels (N, H, W, C) uint8, labels (N,) and the names of the classes."""
        raise NotImplementedError


def read_batch(path: Path, *keys: str) -> list[Any]:
    """The entries `keys` of a batch file, a pickle that calls nothing but what makes plain data.

    Raises DataError if it is damaged or lacks one.
    """
    with reworded(DataError, f"CIFAR: cannot read {path}", OSError):
        content = path.read_bytes()
    with reworded(DataError, f"CIFAR: {path} is damaged or no CIFAR batch", *DAMAGE):
        # it has no persistent ids
        found = Machine(Budget(4 * len(content)), {}.__getitem__).run(io.BytesIO(content))
    check(isinstance(found, dict), "CIFAR", f"{path} is no CIFAR batch: it holds no dict")
    batch = {_text(key): value for key, value in found.items()}
    lacking = [key for key in keys if key not in batch]
    check(not lacking, "CIFAR", f"{path} lacks {' and '.join(lacking)}")
    return [v.array if isinstance(v, NumpyArray) else v for v in map(batch.get, keys)]


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


def _resource(site: str, folder: str, name: str, md5: str) -> Resource:
    return Resource(site + name, f"{folder}/{name}", f"md5:{md5}")


class CIFAR10(OfficialImages):
    """CIFAR-10: 10 classes of 32 x 32 colour pictures, in `cifar-10-batches-py`."""

    folder = "cifar-10-batches-py"
    files = {True: [f"data_batch_{i}" for i in range(1, 6)], False: ["test_batch"]}
    meta, names, labels = "batches.meta", "label_names", "labels"
    resource = _resource(KRIZ, ".", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")

    def _read(self, root: Root, train: bool, download: bool) -> Parts:
        names = [self.meta, *self.files[bool(train)]]
        meta, *files = locate(root, self.folder, names, [self.resource], download=download)
        (classes,) = read_batch(meta, self.names)
        check(isinstance(classes, list), "CIFAR", f"{self.names} of {meta} must be a list")
        parts = zip(*(self._batch(file, len(classes)) for file in files), strict=True)
        pixels, targets = map(np.concatenate, parts)
        return pixels, targets, [_text(name) for name in classes]

    def _batch(self, path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (n, 32, 32, 3) and labels (n,) of one file, which has channel planes."""
        data, labels = read_batch(path, "data", self.labels)
        ok = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.size > 0
        ok = ok and data.shape[1:] == (3072,)
        check(ok, "CIFAR", f"data of {path} are damaged or not uint8 rows of 3072")
        ok = isinstance(labels, list) and all(type(y) is int for y in labels)
        require(ok, "CIFAR", f"labels of {path} must be a list of integers", error=DTypeError)
        pixels = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()
        return pixels, check_labels(labels, len(pixels), classes, f"CIFAR: {path}")


class CIFAR100(CIFAR10):
    """CIFAR-100: 100 classes (the fine labels) of 32 x 32 colour pictures."""

    folder = "cifar-100-python"
    files = {True: ["train"], False: ["test"]}
    meta, names, labels = "meta", "fine_label_names", "fine_labels"
    resource = _resource(KRIZ, ".", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not. Raises DataError if it is damaged.

    Read are at most as many bytes as an honest file unpacks to, 512 MiB and 100 for each of its.
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    kinds = (OSError, EOFError, zlib.error)
    with reworded(DataError, f"read_idx: cannot read {path}", *kinds), opened(path, "rb") as file:
        content = file.read(100 * path.stat().st_size + 2**29)
    start = 4 + 4 * content[3] if len(content) >= 4 else 8
    ok = content[:3] == b"\0\0\x08" and len(content) >= start > 4
    check(ok, "read_idx", f"{path} is no IDX file of bytes")
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    have, need = len(content) - start, math.prod(shape)
    rule = f"{path} must hold {need} bytes after its head for shape {shape}"
    check(have == need, "read_idx", rule, found=have)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _digests(*md5: str) -> dict[str, str]:
    """By file name: images and labels of the training pictures, then of the test pictures."""
    files = (f"{p}-{k}-ubyte" for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1"))
    return dict(zip(files, md5, strict=True))


class MNIST(OfficialImages):
    """MNIST: 28 x 28 grey pictures of ten digits, in `MNIST/raw` as IDX files, gzipped or not."""

    names = [str(i) for i in range(10)]
    site = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    digests = _digests("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
                       "9fb629c4189551a2d022fa330f9573f3",
                       "ec29112dd5afa0611ce80d1b7f02629c")  # fmt: skip

    def _read(self, root: Root, train: bool, download: bool) -> Parts:
        folder, part = f"{type(self).__name__}/raw", "train" if train else "t10k"
        resources = [_resource(self.site, folder, f"{n}.gz", d) for n, d in self.digests.items()]
        names = [name for name in self.digests if name.startswith(part)]
        images, labels = locate(root, folder, names, resources, download=download)
        return read_idx(images)[..., None], read_idx(labels), self.names


class FashionMNIST(MNIST):
    """Fashion-MNIST: 28 x 28 grey pictures of ten kinds of clothing, under `FashionMNIST/raw`."""

    names = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
    site = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    digests = _digests("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
                       "bef4ecab320f06d8554ea6380940ec79",
                       "bb300cfdad3c16e7a12a480ee83cd310")  # fmt: skip


class OxfordIIITPet(ImageFiles):
    """Oxford-IIIT Pet (Parkhi et al. 2012): 37 breeds of cats and dogs (torchvision's signature).

    root: the folder that holds `oxford-iiit-pet`; split: trainval or test; target_types:
    category (breeds) or binary-category (Cat, Dog). Raises DataError.
    """

    archives = (("images", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
                ("annotations", "95a8c909bbe2e81eed6a22bccdf3f68f"))  # fmt: skip
    site = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"

    def __init__(self, root: Root = None, split: str = "trainval", target_types: str = "category",
                 transform: Function = None, target_transform: Function = None,
                 download: bool = False) -> None:  # fmt: skip
        folder, name = "oxford-iiit-pet", "OxfordIIITPet"
        require_one_of(name, ("trainval", "test"), split=split)
        require_one_of(name, ("category", "binary-category"), target_types=target_types)
        archives = [_resource(self.site, folder, f"{a}.tar.gz", d) for a, d in self.archives]
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
    with reworded(DataError, f"OxfordIIITPet: cannot read {path}", OSError, UnicodeDecodeError):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            parts = line.split()
            if not parts or line.startswith("#"):
                continue
            ok = len(parts) == 4 and parts[1] in map(str, range(1, 1000)) and parts[2] in ("1", "2")
            rule = f"line {number} of {path} must be: name, class 1 to 999, species 1 or 2, breed"
            check(ok, "OxfordIIITPet", rule, line=line)
            rows.append((parts[0], int(parts[1]) - 1, int(parts[2]) - 1))
    check(bool(rows), "OxfordIIITPet", f"{path} lists no pictures")
    return rows
