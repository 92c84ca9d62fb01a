"""The two libraries behind one small face, so that a workload is written once.

minidl carries PyTorch's names; what only PyTorch has (channels_last, fused optimizers, a number of
threads to set) is here. Neither library is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray


class Minidl:
    """minidl, its models from minidl/models."""

    name = "minidl"

    def __init__(self) -> None:
        self.root: Any = importlib.import_module("minidl")
        self.F: Any = importlib.import_module("minidl.functional")
        self.nn, self.optim, self.models = self.root.nn, self.root.optim, self.root.models
        self.no_grad = self.root.no_grad
        self.root.manual_seed(0)

    def tensor(self, array: Array, grad: bool = False) -> Any:
        """A tensor that copies the array."""
        return self.root.tensor(array, requires_grad=grad)

    def images(self, array: Array, grad: bool = False) -> Any:
        """A tensor of (N, C, H, W), in the layout of this setting: here always channels-last."""
        last = self.tensor(np.ascontiguousarray(array.transpose(0, 2, 3, 1)))
        return last.permute(0, 3, 1, 2).detach().requires_grad_(grad)

    def place(self, model: Any) -> Any:
        """The model in the layout of this setting."""
        return model

    def adam(self, params: Iterable[Any], **options: Any) -> Any:
        """The fastest Adam that the library has."""
        return self.optim.Adam(params, **options)

    def adamw(self, params: Iterable[Any], **options: Any) -> Any:
        """The fastest AdamW that the library has."""
        return self.optim.AdamW(params, **options)


class Torch(Minidl):
    """PyTorch, its models written as its users write them."""

    name = "torch"

    def __init__(self, channels_last: bool) -> None:
        torch = self.root = importlib.import_module("torch")
        self.F, self.nn, self.optim = torch.nn.functional, torch.nn, torch.optim
        self.models = importlib.import_module("benchmarks.peer_models")
        self.no_grad = torch.no_grad
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        torch.set_num_threads(threads())
        torch.manual_seed(0)

    def tensor(self, array: Array, grad: bool = False) -> Any:
        """A tensor that copies the array."""
        return self.root.from_numpy(np.array(array)).requires_grad_(grad)

    def images(self, array: Array, grad: bool = False) -> Any:
        """A tensor of (N, C, H, W), in the layout of this setting."""
        there = self.tensor(array).contiguous(memory_format=self.format)
        return there.requires_grad_(grad)

    def place(self, model: Any) -> Any:
        """The model in the layout of this setting."""
        return model.to(memory_format=self.format)

    def adam(self, params: Iterable[Any], **options: Any) -> Any:
        """The fastest Adam that the library has."""
        return self.optim.Adam(params, fused=True, **options)

    def adamw(self, params: Iterable[Any], **options: Any) -> Any:
        """The fastest AdamW that the library has."""
        return self.optim.AdamW(params, fused=True, **options)


# glibc's malloc with huge pages and without giving memory back.
TUNED = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "67108864",
}
# Settings of PyTorch: the worker's library, its environment. Image workloads run all four.
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "torch": ("torch", {}),
    "torch-tuned": ("torch", TUNED),
    "torch-channels-last": ("torch-channels-last", {}),
    "torch-channels-last-tuned": ("torch-channels-last", TUNED),
}


def settings(images: bool) -> list[str]:
    """The settings of PyTorch that a workload runs in."""
    return [name for name in SETTINGS if images or "channels-last" not in name]


def open_library(name: str) -> Minidl:
    """minidl, torch or torch-channels-last."""
    return Minidl() if name == "minidl" else Torch(name == "torch-channels-last")


def threads() -> int:
    """Threads that both libraries use: MINIDL_NUM_THREADS, else the cores allowed."""
    return int(os.environ.get("MINIDL_NUM_THREADS") or len(os.sched_getaffinity(0)))
