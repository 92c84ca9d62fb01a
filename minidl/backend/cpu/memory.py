"""Pooled memory for large arrays: a training step's buffers are reused instead of mapped anew.

A large array is a view of a block leased from the pool. The lease is the array's `base`; when the
last view is gone, the lease's finaliser hands the block back. Blocks are reused for requests of
the same size, or of one up to an eighth smaller; free ones are unmapped when they would take the
total more than a quarter above the high-water mark.
"""

from __future__ import annotations

import bisect
import math
import mmap
import threading
from typing import Any

import numpy as np

_SMALL = 1 << 16  # bytes below which NumPy's own allocation is as good
_PAGE = 1 << 12
_HUGE = 1 << 22  # blocks from here on ask for huge pages


class _Lease:
    """Owner of one block for as long as an array refers to it."""

    __slots__ = ("__array_interface__", "block")

    def __init__(self, block: mmap.mmap, interface: dict[str, Any]) -> None:
        self.block = block
        self.__array_interface__ = interface

    def __del__(self) -> None:
        _pool.give(self.block)


class Pool:
    """Free blocks by size, and the counts that `memory_stats` shows."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a finaliser may run inside take
        self.free: dict[int, list[mmap.mmap]] = {}  # the size given back last comes last
        self.sizes: list[int] = []  # sizes with free blocks, ascending
        self.addresses: dict[int, int] = {}
        self.used = self.peak = self.idle = self.reused = self.mapped = 0

    def take(self, nbytes: int) -> mmap.mmap:
        """A block of at least nbytes."""
        size = -(-nbytes // _PAGE) * _PAGE
        with self.lock:
            i = bisect.bisect_left(self.sizes, size)
            if i < len(self.sizes) and self.sizes[i] <= size + size // 8:
                size = self.sizes[i]
                stack = self.free[size]
                block = stack.pop()
                if not stack:
                    del self.free[size], self.sizes[i]
                self.idle -= size
                self.reused += 1
            else:
                block = _map(size)
                self.addresses[id(block)] = np.frombuffer(block, np.uint8).ctypes.data
                self.mapped += 1
            self.used += size
            self.peak = max(self.peak, self.used)
        return block

    def give(self, block: mmap.mmap) -> None:
        """Take a block back; unmap the longest idle ones above the high-water mark."""
        size = len(block)
        with self.lock:
            self.used -= size
            self.idle += size
            stack = self.free.pop(size, [])
            if not stack:
                bisect.insort(self.sizes, size)
            self.free[size] = stack  # now the size used last
            stack.append(block)
            while self.idle + self.used > self.peak + max(self.peak // 4, _HUGE):
                self._drop()

    def _drop(self) -> None:
        size = next(iter(self.free))
        block = self.free[size].pop(0)
        if not self.free[size]:
            del self.free[size]
            self.sizes.remove(size)
        self.idle -= size
        del self.addresses[id(block)]

    def clear(self) -> None:
        """Unmap every idle block."""
        with self.lock:
            while self.sizes:
                self._drop()


def _map(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, size)
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


_pool = Pool()


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An uninitialised array in C order; large ones come from the pool."""
    return strided(shape, None, np.dtype(dtype))


def strided(shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: np.dtype) -> np.ndarray:
    """An uninitialised dense array with the given strides in bytes (None: C order)."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _SMALL or dtype.kind not in "fiub":
        if strides is None or not nbytes:
            return np.empty(shape, dtype)
        return np.ndarray(shape, dtype, np.empty(nbytes, np.uint8), 0, strides)
    block = _pool.take(nbytes)
    interface = {
        "shape": shape,
        "strides": strides,
        "typestr": dtype.str,
        "data": (_pool.addresses[id(block)], False),
        "version": 3,
    }
    return np.asarray(_Lease(block, interface))


def empty_like(x: np.ndarray, dtype: Any = None) -> np.ndarray:
    """An uninitialised dense array of x's shape, with its axes in the same order in memory."""
    dtype = x.dtype if dtype is None else np.dtype(dtype)
    if x.flags.c_contiguous:
        return strided(x.shape, None, dtype)
    return strided(x.shape, dense_strides(x, dtype.itemsize), dtype)


def dense_strides(x: np.ndarray, itemsize: int) -> tuple[int, ...]:
    """Strides of a dense array whose axes lie in memory in the order of x's strides."""
    order = sorted(range(x.ndim), key=lambda i: (-abs(x.strides[i]), i))
    strides, step = [0] * x.ndim, itemsize
    for axis in reversed(order):
        strides[axis] = step
        step *= max(x.shape[axis], 1)
    return tuple(strides)


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An array of zeros in C order."""
    y = empty(shape, dtype)
    y.fill(0)
    return y


def full(shape: tuple[int, ...], value: Any, dtype: Any = np.float32) -> np.ndarray:
    """An array of one value in C order."""
    y = empty(shape, dtype)
    y.fill(value)
    return y


def empty_nchw(n: int, c: int, h: int, w: int, dtype: Any = np.float32) -> np.ndarray:
    """An uninitialised (N, C, H, W) array whose memory is (N, H, W, C)."""
    return empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)


def nhwc(x: np.ndarray) -> np.ndarray:
    """x (N, C, H, W) as a C-contiguous (N, H, W, C) array: a view, or one copy."""
    y = x.transpose(0, 2, 3, 1)
    if y.flags.c_contiguous:
        return y
    made = empty(y.shape, x.dtype)
    np.copyto(made, y)
    conversions[0] += 1
    return made


def contiguous(x: np.ndarray) -> np.ndarray:
    """x in C order: itself, or a copy."""
    if x.flags.c_contiguous:
        return x
    made = empty(x.shape, x.dtype)
    np.copyto(made, x)
    return made


def copy(x: np.ndarray) -> np.ndarray:
    """A dense copy with x's order of axes in memory."""
    made = empty_like(x)
    np.copyto(made, x)
    return made


conversions = [0]  # copies made by nhwc, for the layout census


def memory_stats() -> dict[str, int]:
    """Bytes in use, at most in use, and idle in the pool; blocks mapped and reused so far."""
    with _pool.lock:
        return {
            "allocated": _pool.used,
            "peak": _pool.peak,
            "idle": _pool.idle,
            "mapped": _pool.mapped,
            "reused": _pool.reused,
        }


def empty_cache() -> None:
    """Give every idle block back to the system."""
    _pool.clear()
