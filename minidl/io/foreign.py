"""What the readers of other frameworks' files share: limits, nesting, the packages they need."""

import importlib.util
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl.errors import CheckpointError, reworded
from minidl.io.safetensors import NO_FILE, check

SLACK = 2**29  # bytes that arrays may take beyond those in their file: enough for what is packed
AXES = 32
# What reading a damaged file raises, a zip archive among them.
DAMAGE = (ValueError, TypeError, LookupError, ArithmeticError, EOFError, OSError,
          NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error)  # fmt: skip


@contextmanager
def whole(path: str | os.PathLike[str], kind: str) -> Iterator[memoryview]:
    """The bytes of a file; CheckpointError naming it when it cannot be read, and when DAMAGE shows.

    kind: what else it is not.
    """
    data = memoryview(head_of(path, -1))
    with reworded(CheckpointError, f"load: {path} is not a whole {kind}", *DAMAGE):
        yield data


def head_of(path: str | os.PathLike[str], size: int = 64) -> bytes:
    """The first bytes of a file (-1: all); CheckpointError naming it when it cannot be read."""
    with reworded(CheckpointError, f"load: cannot read {path}", *NO_FILE), open(path, "rb") as file:
        return file.read(size)


def need(package: str, path: str | os.PathLike[str]) -> None:
    """CheckpointError saying how to install an optional package that the file needs."""
    found, fix = importlib.util.find_spec(package), "pip install 'minidl[convert]'"
    check(found is not None, "load", f"{path} needs the package {package}", fix=fix)


def shaped(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """`array` with a shape that a file gives; ValueError unless it is one of as many numbers."""
    if len(shape) > AXES or min(shape, default=0) < 0 or math.prod(shape) != array.size:
        raise ValueError(f"{array.size} numbers have not the shape {(*shape[:AXES],)}")
    return array.reshape(shape)


def mapped(tree: Any, function: Callable[[np.ndarray], Any]) -> Any:
    """The same nesting with a function's result for each array."""
    if isinstance(tree, Mapping):
        return {key: mapped(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(value, function) for value in tree)
    return function(tree) if isinstance(tree, np.ndarray) else tree


def nest(path: str | os.PathLike[str], flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays named "a/b/c" as nested dicts; CheckpointError when a name is also a group."""
    root: dict[str, Any] = {}
    for name, array in flat.items():
        *groups, last = name.split("/")
        node = root
        for group in groups:
            node = node.setdefault(group, {})
            check(isinstance(node, dict), "load", f"{path}: {group!r} in {name!r} is an array too")
        check(last not in node, "load", f"{path}: two arrays have the place {name!r}")
        node[last] = array
    return root
