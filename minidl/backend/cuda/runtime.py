"""The GPU as the launchers see it: memory, compiled kernels, launches. CuPy is imported here alone.

Kernels are the texts in src/, compiled by NVRTC when first used and kept on disk by CuPy. An
argument that is a Python int arrives as `long long`, a float as `double`, an array as a pointer to
its first element.
"""

import functools
import importlib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl import config
from minidl.errors import DeviceError, require

SOURCES = Path(__file__).with_name("src")
OPTIONS = ("-std=c++17",)
THREADS = 256  # of a block, where a kernel does not ask for others
Array = Any  # cupy.ndarray
Maybe = Any | None
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


@functools.cache
def cupy() -> Any:
    """CuPy, once a GPU is known to be there; DeviceError says what is missing."""
    os.environ.setdefault("CUPY_CACHE_DIR", str(config.user_cache("cupy")))
    try:
        import cupy
    except ImportError as error:
        rule = "CuPy is not installed; pip install 'minidl[gpu]', or 'minidl[gpu-wheels]'"
        raise DeviceError(f"cuda: {rule} where there is no CUDA toolkit ({error})") from error
    if not cupy.cuda.is_available():
        raise DeviceError("cuda: no GPU or no driver is there; see nvidia-smi, or use device='cpu'")
    return cupy


def load_cublas() -> None:
    """Have CuPy find cuBLAS and load it into the process."""
    cupy()
    importlib.import_module("cupy_backends.cuda.libs.cublas")


def stream() -> int:
    """Address of the stream that launches go to."""
    return cupy().cuda.get_current_stream().ptr


def recording() -> bool:
    """Whether work is being recorded here: no value may be read on the host then."""
    return cupy().cuda.get_current_stream().is_capturing()


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An uninitialised array in C order."""
    return cupy().empty(shape, dtype)


def strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype) -> Array:
    """An uninitialised dense array with the given strides in bytes."""
    memory = cupy().empty(math.prod(shape) or 1, dtype).data
    return cupy().ndarray(shape, dtype, memory, strides)


def seen(x: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """x's memory from its first element on, as another array."""
    return cupy().lib.stride_tricks.as_strided(x, shape, strides)


def require_device(index: int) -> None:
    """Raise unless there is a GPU, and it is the one in use."""
    own = cupy().cuda.get_device_id()
    fix = f"minidl uses one: CUDA_VISIBLE_DEVICES={index} makes that one number 0"
    require(index == own, "cuda", f"the GPU in use is number {own}", error=DeviceError, fix=fix,
            device=index)  # fmt: skip


@functools.cache
def text_of(file: str) -> str:
    """A kernel file with those it includes in their places, once each, for CuPy's cache to see."""
    seen: set[str] = set()

    def insert(found: re.Match) -> str:
        if found[1] in seen:
            return ""
        seen.add(found[1])
        text = (SOURCES / found[1]).read_text().replace("#pragma once\n", "")
        return _INCLUDE.sub(insert, text)

    return _INCLUDE.sub(insert, (SOURCES / file).read_text())


@functools.cache
def kernel(file: str, name: str) -> Any:
    """A kernel of a file of src/, or an instance of a template: `row_sums<float>`."""
    return compiled(text_of(file), name, "<" in name)


def compiled(text: str, name: str, template: bool = False) -> Any:
    """The kernel of that name in a text."""
    module = cupy().RawModule(
        code=text, options=OPTIONS, name_expressions=(name,) if template else None
    )
    return module.get_function(name)


def launch(function: Any, blocks: int | Sequence[int], *args: Any, threads: int = THREADS,
           shared: int = 0) -> None:  # fmt: skip
    """Launch a kernel on so many blocks, unless there is none."""
    grid = (blocks,) if isinstance(blocks, int) else tuple(blocks)
    host = next(
        (a for a in args if isinstance(a, np.ndarray) and a.dtype.type is not np.void), None
    )
    rule = "all tensors must be on one device, with one exception: numbers"
    require(host is None, "cuda", rule, error=DeviceError, host=host)
    if math.prod(grid):
        function(grid, (threads,), args, shared_mem=shared)
