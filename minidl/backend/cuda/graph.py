"""CUDA graphs: work recorded once, then launched again as a whole."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.backend import live
from minidl.backend.cuda import runtime
from minidl.backend.cuda.runtime import Array, empty
from minidl.config import bound
from minidl.errors import GraphError, require

warm_ups = 2  # calls before a function is recorded: kernels get compiled, constants copied
_WORDS = 1 << 12  # of a table of live numbers


class Table:
    """A graph's live numbers: words of 8 bytes, copied to the GPU together before each launch."""

    def __init__(self) -> None:
        self.host, self.used = np.zeros(_WORDS, np.uint64), 0
        self.device = empty((_WORDS,), np.uint64)
        self.again: list[tuple[np.ndarray, Callable]] = []

    def add(self, values: Sequence[Any], again: Callable, dtype: Any) -> list[Array]:
        """Arrays (1,) on the GPU, one for each value; see live.Table."""
        first, self.used = self.used, self.used + len(values)
        rule = f"a captured function has at most {_WORDS} numbers that change"
        require(self.used <= _WORDS, "capture", rule, error=GraphError)
        words = self.host[first : self.used].view(dtype)
        words[:] = values
        self.again.append((words, again))
        there = self.device.view(dtype)
        return [there[i : i + 1] for i in range(first, self.used)]

    def renew(self) -> None:
        """Take all numbers anew."""
        for words, again in self.again:
            words[:] = again()


def record(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Do some work as one graph: its result, and a function that does it again on the same memory.

    Its memory comes from a pool of the graph's own, which nobody else may be given. Kernels that it
    launches must have been compiled, and constants copied, by running it before.
    """
    cupy, table = runtime.cupy(), Table()
    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    cupy.get_default_memory_pool().free_all_blocks()  # for the graph's own pool
    with bound(live.table, table), stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        try:
            result = work()
        except BaseException:
            with contextlib.suppress(Exception):  # it may say that work spoilt the capture
                stream.end_capture()
            raise
        graph = stream.end_capture()
    kept = (pool, result)

    def launch() -> None:
        if table.used:
            table.device.set(table.host)
        graph.launch()

    def again(kept: Any = kept) -> None:
        live.replays[0] += 1
        table.renew()
        launch()

    launch()
    return result, again
