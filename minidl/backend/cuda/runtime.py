"""The GPU as the launchers see it: memory, compiled kernels, launches. CuPy is imported here alone.

Kernels are the texts in src/, compiled by NVRTC when first used and kept on disk by CuPy. An
argument that is a Python int arrives as `long long`, a float as `double`, an array as a pointer to
its first element.
"""

import functools
import gc
import importlib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl import config
from minidl.backend.cuda.printer import TYPES, code_of
from minidl.errors import DeviceError, require

SOURCES = Path(__file__).with_name("src")
OPTIONS = ("-std=c++17",)
THREADS = 256  # of a block, where a kernel does not ask for others
MOST = 65535  # blocks along a grid's second axis
Array = Any  # cupy.ndarray
Maybe = Any | None
_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


@functools.cache
def cupy() -> Any:
    """CuPy, once a GPU is known to be there; DeviceError says what is missing.

    Its compiled kernels go to minidl's cache folder, its memory is limited to nine tenths of the
    GPU's, unless CUPY_CACHE_DIR or CUPY_GPU_MEMORY_LIMIT say otherwise.
    """
    os.environ.setdefault("CUPY_CACHE_DIR", str(config.user_cache("cupy")))
    os.environ.setdefault("CUPY_GPU_MEMORY_LIMIT", "90%")
    try:
        import cupy
    except ImportError as error:
        rule = "CuPy is not installed; pip install 'minidl[gpu]', or 'minidl[gpu-wheels]'"
        raise DeviceError(f"cuda: {rule} where there is no CUDA toolkit ({error})") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        made = cupy.cuda.runtime.runtimeGetVersion()
        version = f"{made // 1000}.{made % 1000 // 10}"
        fix = f"CuPy is made for CUDA {version}: nvidia-smi shows the driver's; or use device='cpu'"
        raise DeviceError(f"cuda: no GPU can be used ({error}); {fix}") from error
    require(count > 0, "cuda", "no GPU is there", error=DeviceError, fix="use device='cpu'")
    own = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.get_device_id())
    rule = "the GPU is older than Ampere (compute capability 8.0), whose instructions kernels take"
    require(own["major"] >= 8, "cuda", rule, error=DeviceError, fix="use device='cpu'")
    return cupy


def load_cublas() -> None:
    """Have CuPy find cuBLAS and load it into the process."""
    cupy()
    importlib.import_module("cupy_backends.cuda.libs.cublas")


def recording() -> bool:
    """Whether work is being recorded here: no value may be read on the host then."""
    return cupy().cuda.get_current_stream().is_capturing()


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An uninitialised array in C order; DeviceError says what fills a full memory."""
    try:
        return cupy().empty(shape, dtype)
    except cupy().cuda.memory.OutOfMemoryError as error:
        raise DeviceError(_full(shape, np.dtype(dtype))) from error


def strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype) -> Array:
    """An uninitialised dense array with the given strides in bytes."""
    return cupy().ndarray(shape, dtype, empty((math.prod(shape) or 1,), dtype).data, strides)


def _full(shape: tuple[int, ...], dtype: np.dtype) -> str:
    """What was asked for, what is free, and the largest arrays that live."""
    free, total = cupy().cuda.runtime.memGetInfo()
    idle = cupy().get_default_memory_pool().free_bytes()
    kind = type(cupy().empty((), np.int8))
    living = [a for a in gc.get_objects() if type(a) is kind and a.base is None]
    largest = sorted(living, key=lambda a: -a.nbytes)[:5]
    shown = "; ".join(f"{a.shape} {a.dtype}" for a in largest)
    asked = f"{shape} {dtype}, {math.prod(shape) * dtype.itemsize:,} bytes, were asked for"
    left = f"{free:,} of {total:,} are free and {idle:,} idle in the pool"
    return f"cuda: out of memory: {asked}; {left}; the largest tensors: {shown}"


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
def kernel(file: str, name: str, *kinds: Any) -> Any:
    """A kernel of a file of src/; of a template, for dtypes and other arguments."""
    types = [TYPES[code_of(k)] if isinstance(k, np.dtype) else str(k) for k in kinds]
    name = f"{name}<{', '.join(types)}>" if kinds else name
    return compiled(text_of(file), name, bool(kinds))


def compiled(text: str, name: str, template: bool = False) -> Any:
    """The kernel of that name in a text."""
    module = cupy().RawModule(
        code=text, options=OPTIONS, name_expressions=(name,) if template else None
    )
    return module.get_function(name)


@functools.cache
def shared_limit() -> int:
    """Bytes of shared memory that a block can have: 227 KiB on an H100, 99 on an RTX 30 or 40."""
    attribute = 97  # cudaDevAttrMaxSharedMemoryPerBlockOptin
    return cupy().cuda.runtime.deviceGetAttribute(attribute, cupy().cuda.get_device_id())


def launch(function: Any, blocks: int | Sequence[int], *args: Any, threads: int = THREADS,
           shared: int = 0) -> None:  # fmt: skip
    """Launch a kernel on so many blocks, unless there is none."""
    grid = (blocks,) if isinstance(blocks, int) else tuple(blocks)
    hosts = [a for a in args if isinstance(a, np.ndarray) and a.dtype.type is not np.void]
    rule = "all tensors must be on one device, with one exception: numbers"
    require(not hosts, "cuda", rule, error=DeviceError, host=hosts and hosts[0])
    if shared > 48 << 10:  # more must be asked for
        rule = f"{function.name} needs more shared memory a block than this GPU has"
        fix, most = "the gradient of attention takes heads of 128 doubles there", shared_limit()
        require(shared <= most, "cuda", rule, error=DeviceError, fix=fix, needs=shared, has=most)
        function.max_dynamic_shared_size_bytes = shared
    if math.prod(grid):
        function(grid, (threads,), args, shared_mem=shared)
