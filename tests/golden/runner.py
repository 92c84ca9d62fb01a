"""Running a golden case: one text for PyTorch, which makes the values, and minidl."""

from __future__ import annotations

from typing import Any

import numpy as np


def flatten(value: Any) -> list:
    """The leaves of nested tuples and lists, in order."""
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in flatten(item)]
    return [value]


def array(tensor: Any) -> np.ndarray:
    """A tensor's values as an array that later in-place writes cannot change."""
    return np.array(tensor.detach().numpy())


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of either library."""
    return hasattr(value, "requires_grad")


class Run:
    """One execution of a case's code in one library and one precision.

    `library` maps ml, F, nn, optim to modules; `inputs` maps names to (array, dtype name, grad);
    `layers` maps names to constructors and `state` names to their arrays.
    """

    def __init__(
        self, library: dict, code: str, inputs: dict, layers: dict, state: dict, real: str
    ):
        ml = library["ml"]
        self.ml = ml
        self.names: dict[str, Any] = {}
        for name, (values, dtype, grad) in inputs.items():
            dtype = getattr(ml, real if dtype == "float" else dtype)
            self.names[name] = ml.tensor(values, dtype=dtype, requires_grad=grad)
        self.layers = {}
        for name, text in layers.items():
            module = eval(text, dict(library)).to(getattr(ml, real))
            if state is not None:
                loaded = {
                    k: ml.tensor(v).to(module.state_dict()[k].dtype) for k, v in state[name].items()
                }
                module.load_state_dict(loaded)
            self.layers[name] = module
        self.scope = {**library, **self.names, **self.layers}
        *statements, last = code.rsplit("\n", 1)
        for block in statements:
            exec(block, self.scope)
        self.outs = flatten(eval(last, self.scope))

    def wants_grad(self) -> dict[str, Any]:
        """Inputs and parameters that a gradient is taken of, by name."""
        found = {name: t for name, t in self.names.items() if t.requires_grad}
        for layer, module in self.layers.items():
            found |= {f"{layer}.{name}": p for name, p in module.named_parameters()}
        return found

    def gradients(self, cotangents: list) -> dict[str, np.ndarray | None]:
        """Gradients of the outputs that require one, under the given cotangents."""
        outs = [y for y in self.outs if is_tensor(y) and y.requires_grad]
        wanted = self.wants_grad()
        if not outs or not wanted:
            return {}
        given = [c for c in cotangents if c is not None]
        vectors = [self.ml.tensor(c, dtype=y.dtype) for c, y in zip(given, outs, strict=True)]
        found = self.ml.autograd.grad(outs, list(wanted.values()), vectors, allow_unused=True)
        return {n: None if g is None else array(g) for n, g in zip(wanted, found, strict=True)}

    def buffers(self) -> dict[str, np.ndarray]:
        """The layers' buffers after the run."""
        return {
            f"{layer}.{name}": array(b)
            for layer, module in self.layers.items()
            for name, b in module.named_buffers()
        }
