"""x[key] by NumPy: picking, writing and adding at places. Keys are tuples that NumPy takes."""

import math
from typing import Any

import numpy as np

from minidl.backend.cpu.embedding import add_rows
from minidl.backend.cpu.memory import Array, zeros
from minidl.backend.cpu.replay import made, note

Key = tuple[Any, ...]


def pick(x: Array, key: Key) -> Array:
    """x[key]: a view, or a new array where the key holds arrays."""
    if any(hasattr(k, "dtype") for k in key):
        return made(lambda: np.asarray(x[key]))
    return np.asarray(x[key])


def put(x: Array, key: Key, v: Any) -> None:
    """x[key] = v, an array or number that broadcasts; the last of repeated places stays."""
    note(x.__setitem__, key, v)


def add_at(x: Array, key: Key, v: Array) -> None:
    """x[key] += v; repeated places add up, in order."""
    note(np.add.at, x, key, v)


def pick_grad(g: Array, key: Key, shape: tuple[int, ...]) -> Array:
    """Zeros of a shape with g added at key; repeated places add up, in order."""
    places = [k for k in key if hasattr(k, "dtype") and k.ndim and k.dtype.kind != "b"]
    if len(key) == len(places) == 1 and g.dtype in ("float32", "float64"):
        rows = places[0].astype(np.int64) % shape[0]
        return add_rows(g.reshape(rows.size, math.prod(shape[1:])), rows, shape[0]).reshape(shape)
    y = zeros(shape, g.dtype)
    (add_at if places else put)(y, key, g)
    return y
