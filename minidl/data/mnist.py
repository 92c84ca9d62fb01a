"""MNIST (LeCun 1998) and Fashion-MNIST (Xiao 2017), read from the official IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidl.data.download import Resource, locate
from minidl.data.images import OfficialImages
from minidl.errors import DataError, require


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not. Raises DataError if it is damaged."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(f"read_idx: cannot read {path}: {e}") from e
    start = 4 + 4 * content[3] if len(content) >= 4 else 8
    ok = content[:3] == b"\0\0\x08" and len(content) >= start > 4
    require(ok, "read_idx", f"{path} is no IDX file of bytes", error=DataError)
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    have, need = len(content) - start, math.prod(shape)
    rule = f"{path} must hold {need} bytes after its head for shape {shape}"
    require(have == need, "read_idx", rule, error=DataError, found=have)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


class MNIST(OfficialImages):
    """MNIST: 28 x 28 grey pictures of ten digits, in `MNIST/raw` as IDX files, gzipped or not."""

    names = [str(i) for i in range(10)]
    mirrors: tuple[str, ...] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    )
    digests = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }

    def _read(
        self, root: str | Path | None, train: bool, download: bool
    ) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        folder, part = f"{type(self).__name__}/raw", "train" if train else "t10k"
        resources = [
            Resource(tuple(f"{m}{n}.gz" for m in self.mirrors), f"{folder}/{n}.gz", f"md5:{digest}")
            for n, digest in self.digests.items()
        ]
        names = [name for name in self.digests if name.startswith(part)]
        images, labels = locate(root, folder, names, resources, download=download)
        pixels = read_idx(images)
        rule = f"{images} must hold pictures (N, H, W)"
        require(pixels.ndim == 3, folder, rule, error=DataError, pixels=pixels)
        return pixels[..., None], read_idx(labels), self.names


class FashionMNIST(MNIST):
    """Fashion-MNIST: 28 x 28 grey pictures of ten kinds of clothing, under `FashionMNIST/raw`."""

    names = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
    mirrors = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
    digests = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }
