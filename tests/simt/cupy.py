"""A stand-in for CuPy on machines without a GPU: its arrays live here, its kernels are emulated.

It has only what the CUDA backend's launchers may use. Arrays cannot be computed with, nor turned
into NumPy's but by `get`, so that a launcher that does so by mistake fails. New memory is poisoned.
`installed()` puts it in CuPy's place.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import functools
import math
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from simt.arrays import poison, resident
from simt.module import MAX_SHARED, Kernel, Module

ALIGNMENT = 512
_living: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()


class MemoryPointer:
    """Where an array starts, and the memory it keeps alive."""

    def __init__(self, owner: np.ndarray, ptr: int) -> None:
        self.owner = self.mem = owner
        self.ptr = ptr


class ndarray:
    """An array on the pretended GPU; `host` is its memory."""

    __array_ufunc__ = None

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: MemoryPointer | None = None,
        strides: Any = None,
    ) -> None:  # fmt: skip
        dtype = np.dtype(dtype)
        if memptr is None:
            memptr = _allocated(int(np.prod(shape)) * dtype.itemsize)
        offset = memptr.ptr - memptr.owner.ctypes.data
        self.owner, self.base = memptr.owner, None
        self.host = np.ndarray(shape, dtype, memptr.owner, offset, strides)

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    strides = property(lambda self: self.host.strides)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    flags = property(lambda self: self.host.flags)
    data = property(lambda self: MemoryPointer(self.owner, self.host.ctypes.data))
    device = property(lambda self: types.SimpleNamespace(id=0))
    T = property(lambda self: self.transpose())

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        host = self.host
        return {"shape": host.shape, "typestr": host.dtype.str, "strides": host.strides,
                "data": (host.ctypes.data, False), "version": 3}  # fmt: skip

    def _view(self, host: np.ndarray) -> ndarray:
        assert host.size == 0 or np.may_share_memory(host, self.owner), "this would make a copy"
        made = ndarray.__new__(ndarray)
        made.host, made.owner = host, self.owner
        made.base = self if self.base is None else self.base
        return made

    def view(self, dtype: Any = None) -> ndarray:
        return self._view(self.host.view() if dtype is None else self.host.view(dtype))

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self.host.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> ndarray:
        return self._view(self.host.swapaxes(a, b))

    def reshape(self, *shape: Any) -> ndarray:
        return self._view(self.host.reshape(*shape))

    def __getitem__(self, key: Any) -> ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        assert not [k for k in parts if hasattr(k, "dtype")], "indexing by arrays is computing"
        whole = parts if Ellipsis in parts else (*parts, Ellipsis)
        return self._view(self.host[whole])

    def __len__(self) -> int:
        return len(self.host)

    def get(self) -> np.ndarray:
        """A copy for the host."""
        assert not _streams[-1].is_capturing(), "a stream that is captured cannot be waited for"
        return self.host.copy()

    def set(self, x: np.ndarray, stream: Any = None) -> None:
        """Copy the host's values here; on a stream that is given, only when it is waited for."""
        assert not _streams[-1].is_capturing(), "the host's values cannot be captured"
        if stream is None:
            self.host[...] = x
        else:
            stream.late.append(functools.partial(np.copyto, self.host, x))

    def _refuse(self, *args: Any, **options: Any) -> Any:
        raise TypeError("an array on the GPU is computed with by kernels only")

    __array__ = __bool__ = __float__ = __int__ = __iter__ = __setitem__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refuse
    __rtruediv__ = __pow__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = __matmul__ = _refuse
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __and__ = __or__ = __invert__ = _refuse


ndarray.__module__ = "cupy"


def _allocated(nbytes: int) -> MemoryPointer:
    raw = (ctypes.c_char * (nbytes + ALIGNMENT))()
    start = -ctypes.addressof(raw) % ALIGNMENT
    owner = np.frombuffer(raw, np.uint8, max(nbytes, 1), start)  # its base is no array
    start = owner.ctypes.data
    _living[start] = owner
    return MemoryPointer(owner, start)


limit = [1 << 62]  # bytes of one array that are granted


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """New memory, poisoned."""
    if math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize > limit[0]:
        raise OutOfMemoryError
    made = ndarray(shape, dtype)
    if made.size and made.dtype.itemsize in (1, 2, 4, 8):
        poison(made.host)
    return made


def asarray(x: np.ndarray) -> ndarray:
    """A copy of an array of the host's."""
    assert not _streams[-1].is_capturing(), "the host's values cannot be captured"
    made = ndarray(x.shape, x.dtype)
    made.host[...] = x
    return made


class OutOfMemoryError(MemoryError):
    """The pretended GPU's memory is full."""


def get_default_memory_pool() -> Any:
    return types.SimpleNamespace(
        used_bytes=lambda: 3, free_bytes=lambda: 5, free_all_blocks=lambda: None
    )


launched: set[str] = set()  # names of the kernels that were asked for, templates without arguments


class RawModule:
    """Kernels compiled from a text, for the emulator."""

    def __init__(
        self, *, code: str, options: Sequence[str] = (), name_expressions: Any = None,
        check: bool = True,
    ) -> None:  # fmt: skip
        names = name_expressions or ()
        self.module = Module(code, options=options, name_expressions=names, check=check)

    def get_function(self, name: str) -> Function:
        """The kernel of that name."""
        launched.add(name.partition("<")[0])
        return Function(self.module.get_function(name))


def _reached(words: set[int]) -> list[np.ndarray]:
    """The memory in use that words are addresses in."""
    starts, found = [0, *sorted(_living)], {}
    for w in words:
        start = starts[bisect.bisect(starts, w) - 1]
        owner = _living.get(start)
        if owner is not None and w < start + owner.nbytes:
            found[start] = owner
    return list(found.values())


class Function:
    """A kernel that takes the stand-in's arrays."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.name = kernel, kernel.name

    def __call__(self, grid: Any, block: Any, args: Sequence[Any], *, shared_mem: int = 0) -> None:
        given = [_argument(a) for a in args]
        tables = [a for a in given if isinstance(a, np.ndarray) and a.dtype.type is np.void]
        words = {int(w) for t in tables if t.nbytes % 8 == 0 for w in t.view(np.uint64)}
        reached = _reached(words)

        def run() -> None:
            self.kernel.max_dynamic_shared_size_bytes = max(shared_mem, 48 << 10)
            with resident(*reached):
                self.kernel(grid, block, given, shared_mem=shared_mem)

        _streams[-1].do(run)


def _argument(a: Any) -> Any:
    """An argument as CuPy passes it: arrays as pointers, ints as long long, floats as double."""
    if isinstance(a, ndarray):
        return a.host
    return np.int64(a) if type(a) is int else np.float64(a) if type(a) is float else a


@contextlib.contextmanager
def installed() -> Iterator[types.ModuleType]:
    """Let `import cupy` give this module."""
    me = sys.modules[__name__]
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = me
    try:
        yield me
    finally:
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before


def _as_strided(x: ndarray, shape: Any, strides: Any) -> ndarray:
    return x._view(np.lib.stride_tricks.as_strided(x.host, shape, strides))


def _factored(name: str) -> Callable:
    """NumPy's factorization in place of cuSOLVER's."""

    def factor(*xs: ndarray, **options: Any) -> Any:
        found = getattr(np.linalg, name)(*(x.host for x in xs), **options)
        several = found if isinstance(found, tuple) else (found,)
        made = tuple(asarray(np.asarray(a)) for a in several)
        return made if isinstance(found, tuple) else made[0]

    return factor


_FACTORIZATIONS = "inv solve det slogdet cholesky eigh svd qr".split()
linalg = types.SimpleNamespace(**{name: _factored(name) for name in _FACTORIZATIONS})
lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=_as_strided))


class Event:
    """A place among a stream's copies from the host, which are done when it is waited for."""

    def __init__(self, stream: Stream) -> None:
        self.late, self.left = stream.late, len(stream.late)

    def synchronize(self) -> None:
        for k in range(self.left):
            copy, self.late[k] = self.late[k], None
            if copy is not None:
                copy()


class Stream:
    """Work is done at once, or noted for a graph while it is captured; copies are done late."""

    ptr = 0

    def __init__(self, non_blocking: bool = False) -> None:
        self.noted: list[Callable[[], None]] | None = None
        self.late: list[Callable[[], None] | None] = []

    def __enter__(self) -> Stream:
        _streams.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _streams.pop()

    def do(self, work: Callable[[], None]) -> None:
        """Do it now, or note it."""
        work() if self.noted is None else self.noted.append(work)

    def record(self) -> Event:
        return Event(self)

    def wait_event(self, event: Event) -> None:
        event.synchronize()

    def synchronize(self) -> None:
        self.record().synchronize()

    def is_capturing(self) -> bool:
        return self.noted is not None

    def begin_capture(self) -> None:
        self.noted = []

    def end_capture(self) -> Graph:
        noted, self.noted = self.noted, None
        return Graph(noted or [])


class Graph:
    """Noted work; its arrays live as long (the pretended pool gives no memory twice)."""

    def __init__(self, noted: list[Callable[[], None]]) -> None:
        self.noted = noted

    def launch(self) -> None:
        for work in self.noted:
            work()


class CUDARuntimeError(RuntimeError):
    """An error of CUDA's."""


_runtime = types.SimpleNamespace(
    getDeviceCount=lambda: 1, runtimeGetVersion=lambda: 13000, CUDARuntimeError=CUDARuntimeError,
    getDeviceProperties=lambda device: {"name": b"emulated", "major": 9},
    memGetInfo=lambda: (7, 11),
    deviceGetAttribute=lambda attribute, device: {97: MAX_SHARED}[attribute],
)  # fmt: skip
_streams = [Stream()]
cuda = types.SimpleNamespace(
    runtime=_runtime, memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    get_current_stream=lambda: _streams[-1], get_device_id=lambda: 0,
    Stream=Stream, MemoryPool=lambda: types.SimpleNamespace(malloc=None),
    alloc_pinned_memory=bytearray,
    using_allocator=lambda malloc: contextlib.nullcontext(),
)  # fmt: skip
