"""Pooled memory for large arrays: a training step's buffers are reused instead of mapped anew.

A large array is a view of a block leased from the pool. The lease is the array's `base`; when the
last view is gone, the lease's finaliser hands the block back. Sizes are rounded up to eighths of a
power of two, and a block serves later requests of its own rounded size. No more is mapped than
twice what was in use at once: a step that repeats finds its blocks again, and shapes that change
make the longest idle ones go. Mapping anew costs more than many a kernel: the system clears pages.
"""

import collections
import ctypes
import functools
import math
import mmap
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl.backend.cpu.replay import check_held, note, recording
from minidl.backend.looping import dense_like

Array = np.ndarray
Maybe = Array | None
Pair = tuple[int, int]
_SMALL = 1 << 16  # bytes below which NumPy's own allocation is as good
_PAGE = 1 << 12
_HUGE = 1 << 22  # blocks from here on ask for huge pages
# Private, so that a forked child does not write into its parent's arrays.
_MAPPING = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}


class Pool:
    """Free blocks by size, and the counts that `memory_stats` shows."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # another object's finaliser may run inside take
        self.returned: collections.deque[mmap.mmap] = collections.deque()
        self.free: dict[int, list[mmap.mmap]] = {}  # the size given back last comes last
        self.addresses: dict[int, int] = {}
        self.used = self.peak = self.idle = self.reused = self.mapped = 0

    def take(self, nbytes: int) -> mmap.mmap:
        """A block of at least nbytes."""
        step = max(_PAGE, 1 << (nbytes.bit_length() - 4))
        size = -(-nbytes // step) * step
        with self.lock:
            self.collect()
            stack = self.free.get(size) or self.larger(size)
            if stack:
                block = stack.pop()
                size = len(block)
                self.idle -= size
                self.reused += 1
            else:
                self.trim(2 * (self.peak + _HUGE) - size)
                block = mmap.mmap(-1, size, **_MAPPING)
                if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
                    block.madvise(mmap.MADV_HUGEPAGE)
                self.addresses[id(block)] = address_of(np.frombuffer(block, np.uint8))
                self.mapped += 1
            self.used += size
            self.peak = max(self.peak, self.used)
        return block

    def larger(self, size: int) -> list[mmap.mmap]:
        """Idle blocks of up to twice a size, once mapping one more would go over the limit."""
        if self.idle + self.used + size <= 2 * (self.peak + _HUGE):
            return []
        fitting = [n for n, stack in self.free.items() if stack and size < n <= 2 * size]
        return self.free[min(fitting)] if fitting else []

    def collect(self) -> None:
        """Take back what finalisers returned."""
        while self.returned:
            block = self.returned.popleft()
            size = len(block)
            self.used, self.idle = self.used - size, self.idle + size
            self.free[size] = [*self.free.pop(size, []), block]  # now the size given back last

    def trim(self, most: int) -> None:
        """Unmap idle blocks until no more than `most` bytes are mapped, or none is idle."""
        while self.idle and self.idle + self.used > most:
            size = next(size for size, stack in self.free.items() if stack)
            self.idle -= size
            del self.addresses[id(self.free[size].pop(0))]


_pool = Pool()
if hasattr(os, "register_at_fork"):  # no child with a lock that another thread held
    os.register_at_fork(before=_pool.lock.acquire, after_in_parent=_pool.lock.release,
                        after_in_child=_pool.lock.release)  # fmt: skip


class _Lease:
    """Owner of one block for as long as an array refers to it."""

    __slots__ = ("__array_interface__", "block")

    def __init__(self, block: mmap.mmap, interface: dict[str, Any]) -> None:
        self.block = block
        self.__array_interface__ = interface

    # Only appends, and reads no global name: it may run anywhere, even as the interpreter exits.
    def __del__(self, give: Any = _pool.returned.append) -> None:
        give(self.block)


HEADER = object.__basicsize__  # the data pointer follows the object's header (NumPy's C ABI)
word_at = ctypes.c_size_t.from_address


def address_of(a: Array) -> int:
    """Address of the first element; `a.ctypes.data` in a sixth of its time."""
    return word_at(id(a) + HEADER).value


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An uninitialised array in C order; large ones come from the pool."""
    return strided(shape, None, np.dtype(dtype))


def strided(shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: np.dtype) -> Array:
    """An uninitialised dense array with the given strides in bytes (None: C order)."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _SMALL or dtype.kind not in "fiub":
        if strides is None:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, None, 0, strides)
    block = _pool.take(nbytes)
    fields = {"shape": shape, "strides": strides, "typestr": dtype.str, "version": 3}
    return np.asarray(_Lease(block, fields | {"data": (_pool.addresses[id(block)], False)}))


def empty_like(x: Array, dtype: Any = None) -> Array:
    """An uninitialised dense array of x's shape, with its axes in the same order in memory."""
    dtype = x.dtype if dtype is None else np.dtype(dtype)
    laid = None if x.flags.c_contiguous else dense_like(x.shape, x.strides, dtype.itemsize)
    return strided(x.shape, laid, dtype)


def full(shape: tuple[int, ...], value: Any, dtype: Any = np.float32) -> Array:
    """An array of one value in C order."""
    y = empty(shape, dtype)
    note(y.fill, value)
    return y


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An array of zeros in C order."""
    return full(shape, 0, dtype)


def empty_nchw(n: int, c: int, h: int, w: int, *, dtype: Any) -> Array:
    """An uninitialised (N, C, H, W) array whose memory is (N, H, W, C)."""
    return empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)


def nhwc(x: Array) -> Array:
    """x (N, C, H, W) as a C-contiguous (N, H, W, C) array: a view, or one copy."""
    y = x.transpose(0, 2, 3, 1)
    conversions[0] += not y.flags.c_contiguous
    return contiguous(y)


def contiguous(x: Array) -> Array:
    """x in C order: itself, or a copy."""
    if not x.flags.c_contiguous:
        x, given = empty(x.shape, x.dtype), x
        note(np.copyto, x, given)
    return x


def vector(w: Maybe, fill: float, n: int, dtype: np.dtype) -> Array:
    """w as a vector of n numbers, to be read; without it each of them is `fill`."""
    return _filled(n, fill, dtype) if w is None else contiguous(w).reshape(n)


_filled = functools.lru_cache(maxsize=64)(np.full)  # shared


def seen(x: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """x's memory from its first element on, as another array."""
    return np.lib.stride_tricks.as_strided(x, shape, strides)


def from_host(x: np.ndarray) -> Array:
    """An array of the host's memory here: itself."""
    return x


def to_host(x: Array) -> np.ndarray:
    """The array in the host's memory: itself. What is recorded counts on its values."""
    if recording():
        note(lambda before: check_held(np.array_equal(x, before)), x.copy())
    return x


def uploads(batches: Iterable[Sequence[np.ndarray]]) -> Iterator[list[Array]]:
    """Each batch's arrays of the host's memory here: themselves."""
    return map(list, batches)


def constant(x: np.ndarray) -> Array:
    """An array of the host's memory that will not change, here: itself."""
    return x


def sole_owner(x: Array, others: int) -> bool:
    """Whether nobody but `others` references, the argument among them, hold x and its memory."""
    if sys.getrefcount(x) > others or not x.flags.writeable:
        return False
    base = x.base
    return base is None or (isinstance(base, (Array, _Lease)) and sys.getrefcount(base) <= 3)


conversions = [0]  # copies made by nhwc, for the layout census


def memory_stats() -> dict[str, int]:
    """Bytes in use, at most in use, and idle in the pool; blocks mapped and reused so far."""
    with _pool.lock:
        _pool.collect()
        return {"allocated": _pool.used, "peak": _pool.peak, "idle": _pool.idle,
                "mapped": _pool.mapped, "reused": _pool.reused}  # fmt: skip


def empty_cache() -> None:
    """Give every idle block back to the system."""
    with _pool.lock:
        _pool.collect()
        _pool.trim(0)
