"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read from the official Python batches."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data.download import Resource, locate
from minidl.data.images import OfficialImages, check_labels
from minidl.errors import DataError, DTypeError, require

# What a damaged pickle stream makes the unpickler raise.
_DAMAGED = (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError,
            OverflowError, MemoryError)  # fmt: skip


class _Array:
    """Stands for a pickled ndarray; only bytes (uint8) in C order are accepted."""

    data = np.empty((0, 0), np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _DType) or dtype.code not in ("u1", b"u1") or fortran:
            raise pickle.UnpicklingError("the pictures are not uint8 in C order")
        self.data = np.frombuffer(content, np.uint8).reshape(shape)


class _DType:
    """Stands for a pickled dtype."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        """Byte order and alignment, which single bytes do not have."""


def _encode(text: str, encoding: str | bytes = "latin1") -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not expected here")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Builds plain containers and byte arrays, and calls nothing that the file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return _ALLOWED[module, name]


def read_batch(path: Path) -> dict[str, Any]:
    """A batch file as a dict with str keys. Raises DataError if it is damaged or no dict."""
    try:
        found = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except OSError as e:
        raise DataError(f"CIFAR: cannot read {path}: {e.strerror}") from e
    except _DAMAGED as e:
        raise DataError(f"CIFAR: {path} is damaged or no CIFAR batch: {e}") from e
    rule = f"{path} is no CIFAR batch: it holds no dict"
    require(isinstance(found, dict), "CIFAR", rule, error=DataError)
    return {k.decode("latin1") if isinstance(k, bytes) else str(k): v for k, v in found.items()}


class CIFAR10(OfficialImages):
    """CIFAR-10: 10 classes of 32 x 32 colour pictures, in `cifar-10-batches-py`."""

    folder = "cifar-10-batches-py"
    files = {True: [f"data_batch_{i}" for i in range(1, 6)], False: ["test_batch"]}
    meta, names, labels = "batches.meta", "label_names", "labels"
    resource = Resource(
        ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
        "cifar-10-python.tar.gz",
        "md5:c58f30108f718f92721af3b95e74349a",
    )

    def _read(
        self, root: str | Path | None, train: bool, download: bool
    ) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
        names = [self.meta, *self.files[bool(train)]]
        meta, *files = locate(root, self.folder, names, [self.resource], download=download)
        classes = self._classes(meta)
        # A file is longer than its pictures: enough room, and what stays unused costs no memory.
        room = sum(file.stat().st_size for file in files) // 3072
        pixels, targets, n = np.empty((room, 32, 32, 3), np.uint8), [], 0
        for file in files:
            data, labels = self._batch(file, len(classes))
            pixels[n : n + len(data)] = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            targets.append(labels)
            n += len(data)
        return pixels[:n], np.concatenate(targets), classes

    def _classes(self, path: Path) -> list[str]:
        found = read_batch(path).get(self.names)
        if not isinstance(found, list) or not found:
            raise DataError(f"CIFAR: {path} lacks the list {self.names}")
        return [n.decode("latin1") if isinstance(n, bytes) else str(n) for n in found]

    def _batch(self, path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (n, 3072) in channel planes and labels (n,) of one file."""
        batch = read_batch(path)
        rule = f"{path} lacks data or {self.labels}"
        require({"data", self.labels} <= {*batch}, "CIFAR", rule, error=DataError, keys=[*batch])
        data, labels = batch["data"], batch[self.labels]
        ok = isinstance(data, _Array) and data.data.ndim == 2 and data.data.shape[1] == 3072
        rule = f"data of {path} must be uint8 rows of 3072"
        require(ok and len(data.data) > 0, "CIFAR", rule, error=DataError)
        ok = isinstance(labels, list) and all(type(y) is int for y in labels)
        rule = f"labels of {path} must be a list of integers"
        require(ok, "CIFAR", rule, error=DTypeError)
        return data.data, check_labels(labels, len(data.data), classes, f"CIFAR: {path}")


class CIFAR100(CIFAR10):
    """CIFAR-100: 100 classes (the fine labels) of 32 x 32 colour pictures."""

    folder = "cifar-100-python"
    files = {True: ["train"], False: ["test"]}
    meta, names, labels = "meta", "fine_label_names", "fine_labels"
    resource = Resource(
        ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
        "cifar-100-python.tar.gz",
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
    )
