"""Parameter, the Tensor that a module trains, and how nn makes and replaces tensors."""

from typing import Any

import numpy as np

from minidl.autograd import Tensor, raw, wrap


class Parameter(Tensor):
    """A Tensor that a Module registers when assigned to an attribute; shares data's memory."""

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        array = raw(() if data is None else data)
        self.hold(array if hasattr(array, "dtype") else np.asarray(array, np.float32))
        self.requires_grad_(requires_grad)

    def __deepcopy__(self, memo: dict) -> Tensor:
        made = super().__deepcopy__(memo)
        made.grad = None  # as in PyTorch: a copied model has no gradients yet
        return made

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


def new_tensor(shape: tuple[int, ...], device: Any = None, dtype: Any = None) -> Tensor:
    """Zeros (float32 unless said otherwise), made on the CPU and moved."""
    made = wrap(np.zeros(shape, dtype or np.float32))
    return made if device is None else made.to(device)


def new_parameter(shape: tuple[int, ...], device: Any = None, dtype: Any = None) -> Parameter:
    """A parameter, to be filled by nn.init."""
    return Parameter(new_tensor(shape, device, dtype))


def assign(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor another value, of any shape, dtype and device; it stays the same object."""
    if tensor.array is not value.array:
        tensor.array, tensor.cell = value.array, None
