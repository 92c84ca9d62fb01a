"""Finds a BLAS for the kernels: NumPy's own OpenBLAS, one named by MINIDL_BLAS, or our plain GEMM.

BLAS always runs one thread here: the thread team calls it from inside its chunks, and two pools
beside each other cost 3-8x. Kernels reach it through `gemm` (jit.py) only.
"""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import DeviceError, require


@functools.cache
def _library() -> tuple[Any, str, str, str] | None:
    """The loaded library, its names' prefix and suffix, and its path; None: there is none."""
    given = os.environ.get("MINIDL_BLAS")
    folder = Path(np.__file__).parent
    found = [Path(given)] if given else []
    if given is None:
        for place in (folder.parent / "numpy.libs", folder / ".dylibs"):
            found += sorted(place.glob("*openblas*"))
    for path in found:
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("scipy_", ""), ("", "")):
            if hasattr(library, f"{prefix}cblas_sgemm{suffix}"):
                for setter in (f"{prefix}openblas_set_num_threads{suffix}", "MKL_Set_Num_Threads"):
                    if hasattr(library, setter):
                        getattr(library, setter)(1)
                return library, prefix, suffix, str(path)
    rule = "must name a library with cblas_sgemm (empty: minidl's own GEMM)"
    require(not given, "MINIDL_BLAS", rule, error=DeviceError, value=given)
    return None


def integer_bits() -> int:
    """Size of the library's integers; 0 where our own GEMM takes its place."""
    library = _library()
    return 0 if library is None else 64 if library[2] == "64_" else 32


def describe() -> str:
    """One line for `python -m minidl info`."""
    library = _library()
    if library is None:
        return "minidl's own GEMM (no OpenBLAS found beside NumPy; MINIDL_BLAS can name one)"
    handle, prefix, suffix, path = library
    name = f"{prefix}openblas_get_config{suffix}"
    if not hasattr(handle, name):
        return path
    get = getattr(handle, name)
    get.restype = ctypes.c_char_p
    return f"{get().decode()} ({Path(path).name}), one thread per chunk of work"


def symbols() -> dict[str, int]:
    """Addresses of the functions that kernels call, by the names that they use."""
    library = _library()
    if library is None:
        return {}
    handle, prefix, suffix, _ = library
    functions = {f"minidl_{t}gemm": f"{prefix}cblas_{t}gemm{suffix}" for t in "sd"}
    return {name: address(getattr(handle, function)) for name, function in functions.items()}


def address(function: Any) -> int:
    """Address of a ctypes function."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0
