"""Copies to the GPU that go on while it computes: from pinned memory, on a stream of their own."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl.backend.cuda import runtime
from minidl.backend.cuda.memory import copy
from minidl.backend.cuda.runtime import Array, empty
from minidl.backend.looping import order_of


def uploads(batches: Iterable[Sequence[np.ndarray]]) -> Iterator[list[Array]]:
    """Each batch's arrays on the GPU; the next batch is copied while one is worked on."""
    cuda, source = runtime.cupy().cuda, iter(batches)
    stream = cuda.Stream(non_blocking=True)
    slots, turn = (_Slot(stream), _Slot(stream)), 0
    try:
        filled = slots[turn].fill(source)
        while filled:
            here = cuda.get_current_stream()
            here.wait_event(slots[turn].copied)
            batch = slots[turn].taken()
            stream.wait_event(here.record())  # the slot is free for the batch after the next
            turn = 1 - turn
            filled = slots[turn].fill(source)
            yield batch
    finally:
        stream.synchronize()  # what a copy under way writes to is given back


class _Slot:
    """Pinned memory, and memory on the GPU, for the arrays of one batch."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.copied = stream, stream.record()
        self.pinned: list[np.ndarray] = []
        self.there: list[Array] = []
        self.orders: list[tuple[int, ...]] = []

    def fill(self, source: Iterator[Sequence[np.ndarray]]) -> bool:
        """Begin to copy the next batch, if there is one: `copied` is the event of its arrival."""
        arrays = next(source, None)
        if arrays is None:
            return False
        self.orders = [order_of([(a.dtype, a.shape, a.strides)], a.shape) for a in arrays]
        plain = [a.transpose(order) for a, order in zip(arrays, self.orders, strict=True)]
        self.copied.synchronize()  # the pinned memory has been read
        kinds = [(a.shape, a.dtype) for a in plain]
        if kinds != [(a.shape, a.dtype) for a in self.pinned]:
            self.pinned = [_pinned(*kind) for kind in kinds]
            self.there = [empty(*kind) for kind in kinds]
            self.stream.wait_event(runtime.cupy().cuda.get_current_stream().record())
        for a, pinned, there in zip(plain, self.pinned, self.there, strict=True):
            np.copyto(pinned, a)
            there.set(pinned, stream=self.stream)
        self.copied = self.stream.record()
        return True

    def taken(self) -> list[Array]:
        """Copies of the arrays, with their axes in memory as the host's."""
        pairs = zip(self.there, self.orders, strict=True)
        return [copy(a).transpose(sorted(range(a.ndim), key=lambda i: o[i])) for a, o in pairs]


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape))
    memory = runtime.cupy().cuda.alloc_pinned_memory(max(size * dtype.itemsize, 1))
    return np.frombuffer(memory, dtype, size).reshape(shape)
