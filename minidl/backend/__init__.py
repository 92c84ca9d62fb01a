"""Picks the backend of an array; each is a module with the functions that `cpu` imports."""

from typing import Any

import numpy as np

from minidl.backend import cpu
from minidl.errors import DeviceError


def of(x: Any) -> Any:
    """The backend module of a raw array."""
    if isinstance(x, np.ndarray):
        return cpu
    if type(x).__module__.partition(".")[0] == "cupy":
        from minidl.backend import cuda

        return cuda
    raise DeviceError(f"backend: no backend for {type(x).__name__}")


def beside(x: Any, like: Any) -> Any:
    """x, an array of any device or numbers, in the memory that `like` lies in."""
    if type(x) is type(like):
        return x
    return of(like).from_host(of(x).to_host(x) if hasattr(x, "dtype") else np.asarray(x))
