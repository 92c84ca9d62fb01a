"""The CPU backend: the functions of `minidl.backend.contract`, on NumPy arrays."""

from minidl.backend.cpu.memory import (
    contiguous,
    copy,
    empty,
    empty_cache,
    empty_like,
    empty_nchw,
    full,
    memory_stats,
    nhwc,
    zeros,
)

__all__ = [
    "contiguous",
    "copy",
    "empty",
    "empty_cache",
    "empty_like",
    "empty_nchw",
    "full",
    "memory_stats",
    "nhwc",
    "zeros",
]
