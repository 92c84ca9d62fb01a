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
