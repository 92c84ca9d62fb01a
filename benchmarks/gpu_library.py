"""minidl and PyTorch on a GPU, with one face, and the clock that both are timed by.

Floating arrays arrive in the dtype asked for; PyTorch gets what its users would choose: channels
last, `cudnn.benchmark`, fused optimizers. Both libraries launch on the same stream, so that events
there time them alike, and both replay a graph: what is timed is the device, not Python.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.library import Array, Minidl, Torch

CALLS = 20  # between two events
ROUNDS = 5
REPLAYED = 5  # calls in a graph, so that what it costs to start one does not count


class GpuMinidl(Minidl):
    """minidl with everything on the GPU, in a dtype."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = getattr(self.root, dtype)

    def tensor(self, array: Array, grad: bool = False) -> Any:
        """A tensor there that copies the array."""
        there = self.root.tensor(array, device="cuda")
        return (there.to(self.dtype) if array.dtype.kind == "f" else there).requires_grad_(grad)

    def place(self, model: Any) -> Any:
        """The model there, in the dtype."""
        return model.to("cuda", self.dtype)

    def captured(self, work: Callable[[], Any], times: int = 1) -> Callable[[], Any]:
        """What does the work, so many times, by replaying a graph."""
        dummy = self.root.zeros(1, device="cuda")
        run = self.root.capture(lambda _: repeated(work, times), training=True)
        return lambda: run(dummy)


class GpuTorch(Torch):
    """PyTorch likewise."""

    name = "torch"

    def __init__(self, dtype: str) -> None:
        super().__init__(channels_last=True)
        self.dtype = getattr(self.root, dtype)
        self.root.backends.cudnn.benchmark = True

    def tensor(self, array: Array, grad: bool = False) -> Any:
        """A tensor there that copies the array."""
        there = self.root.from_numpy(np.ascontiguousarray(array)).cuda()
        return (there.to(self.dtype) if array.dtype.kind == "f" else there).requires_grad_(grad)

    def images(self, array: Array, grad: bool = False) -> Any:
        """A tensor of (N, C, H, W) there, channels last."""
        there = self.tensor(array).contiguous(memory_format=self.format)
        return there.requires_grad_(grad)

    def place(self, model: Any) -> Any:
        """The model there, in the dtype, channels last."""
        return model.to("cuda", self.dtype, memory_format=self.format)

    def adamw(self, params: Iterable[Any], **options: Any) -> Any:
        """Fused, and fit for a graph."""
        return self.optim.AdamW(params, fused=True, capturable=True, **options)

    def adam(self, params: Iterable[Any], **options: Any) -> Any:
        """Fused, and fit for a graph."""
        return self.optim.Adam(params, fused=True, capturable=True, **options)

    def captured(self, work: Callable[[], Any], times: int = 1) -> Callable[[], Any]:
        """What does the work, so many times, by replaying a graph."""
        cuda = self.root.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(3):
                work()
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            repeated(work, times)
        return graph.replay


def open_gpu_library(name: str, dtype: str) -> Any:
    """minidl or torch."""
    return GpuMinidl(dtype) if name == "minidl" else GpuTorch(dtype)


def repeated(work: Callable[[], Any], times: int) -> Any:
    """The last result."""
    for _ in range(times - 1):
        work()
    return work()


def milliseconds(runs: list[Callable[[], Any]], calls: int = CALLS) -> list[dict[str, float]]:
    """For each of the runs, median and extremes over rounds of the time of a call, interleaved."""
    import cupy

    for run in runs:
        for _ in range(3):
            run()
    cupy.cuda.runtime.deviceSynchronize()
    seen: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, times in zip(runs, seen, strict=True):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            for _ in range(calls):
                run()
            end.record()
            end.synchronize()
            times.append(cupy.cuda.get_elapsed_time(start, end) / calls)
    return [{"median": statistics.median(t), "least": min(t), "most": max(t)} for t in seen]
