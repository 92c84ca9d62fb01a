"""The GPU as PyTorch's scripts ask for it: whether there is one, its memory, and switches."""

from types import SimpleNamespace
from typing import Any

from minidl import config
from minidl.errors import DeviceError
from minidl.ops import creation
from minidl.random import manual_seed
from minidl.tensor import Device

__all__ = ["manual_seed"]
manual_seed_all = manual_seed  # one seed for the draws on all devices


def is_available() -> bool:
    """Whether there is a GPU that minidl can use."""
    try:
        creation.backend_of("cuda")
    except DeviceError:
        return False
    return True


def device_count() -> int:
    """How many GPUs minidl can use: one or none."""
    return int(is_available())


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has done all that it was given."""
    creation.zeros((), device=device or "cuda").item()


def memory_allocated(device: Any = None) -> int:
    """Bytes of the GPU's memory in use."""
    return creation.memory_stats(device or "cuda")["allocated"]


def memory_reserved(device: Any = None) -> int:
    """Bytes of the GPU's memory in use or kept for later use."""
    return sum(map(creation.memory_stats(device or "cuda").__getitem__, ("allocated", "idle")))


def empty_cache() -> None:
    """Give the GPU's idle memory back."""
    if is_available():
        creation.empty_cache("cuda")


class _Matmul:
    """`backends.cuda.matmul`."""

    @property
    def allow_tf32(self) -> bool:
        """Whether float32 products may be rounded to tf32: set_float32_matmul_precision."""
        return config.get_float32_matmul_precision() != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allow: bool) -> None:
        config.set_float32_matmul_precision("high" if allow else "highest")


accelerator = SimpleNamespace(is_available=is_available, current_accelerator=lambda:
                              Device("cuda") if is_available() else None)  # fmt: skip
# What scripts set without need: no cuDNN is used, and results are the same every time.
backends = SimpleNamespace(
    cuda=SimpleNamespace(matmul=_Matmul()),
    cudnn=SimpleNamespace(benchmark=False, deterministic=True, enabled=False, allow_tf32=False),
    mps=SimpleNamespace(is_available=lambda: False, is_built=lambda: False),
)
