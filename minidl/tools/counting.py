"""A model's layers, output shapes, parameters, floating-point operations and memory."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from minidl.autograd import arrays_in, no_grad, watch
from minidl.errors import require
from minidl.nn.module import Module, kept_modes
from minidl.ops.creation import tensor

_RECURRENT = {"lstm_steps": 3, "gru_steps": 2, "rnn_steps": 2}  # where each takes W_hh


class Layer(NamedTuple):
    """One row of a summary; `flops` and `parameters` are the layer's own, without its parts'."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    flops: int
    bytes: int


class Summary:
    """What `summary` found; print it for the table.

    parameters, trainable: counts. flops: of one forward, 2 x multiply-adds of convolutions, matrix
    products, recurrent layers and attention. bytes: of all layers' outputs together.
    """

    def __init__(self, layers: list[Layer], model: Module) -> None:
        self.layers, parameters = layers, list(model.parameters())
        self.parameters = sum(p.array.size for p in parameters)
        self.trainable = sum(p.array.size for p in parameters if p.requires_grad)
        self.parameter_bytes = sum(p.array.nbytes for p in parameters)
        self.flops = sum(layer.flops for layer in layers)
        self.bytes = sum(layer.bytes for layer in layers)

    def __str__(self) -> str:
        rows = [("layer", "output", "parameters", "MFLOPs", "kB")]
        for x in self.layers:
            counts = f"{x.parameters:,}", f"{x.flops / 1e6:.3f}", f"{x.bytes / 1e3:.1f}"
            rows.append((f"{x.name} ({x.kind})", str(x.output), *counts))
        wide, shapes = (max(len(row[column]) for row in rows) for column in (0, 1))
        lines = [f"{a:<{wide}}  {b:<{shapes}}{c:>13}{d:>12}{e:>10}" for a, b, c, d, e in rows]
        held = f"({self.trainable:,} trainable, {self.parameter_bytes / 1e6:.2f} MB)"
        work = f"{self.flops / 1e6:,.3f} MFLOPs a forward; {self.bytes / 1e6:.2f} MB of outputs"
        return "\n".join([*lines, f"{self.parameters:,} parameters {held}; {work}"])

    __repr__ = __str__


def summary(model: Module, input_shape: Sequence[Any], *, dtype: Any = np.float32,
            seed: int = 0) -> Summary:  # fmt: skip
    """Run `model` once in eval mode, without gradients, and count.

    input_shape: the whole shape, batch included, or a sequence of shapes for several inputs. dtype:
    of the inputs, or one each; integers are zeros, floats normal. A layer that runs several times
    is one row with the sum of its FLOPs. The inputs lie where the model's parameters do; its modes
    are put back.
    """
    require(isinstance(model, Module), "summary", "model must be a Module", model=type(model))
    shapes = [input_shape] if all(isinstance(n, int) for n in input_shape) else list(input_shape)
    dtypes = list(dtype) if isinstance(dtype, (list, tuple)) else [dtype] * len(shapes)
    rng = np.random.default_rng(seed)
    device = next((p.device for p in (*model.parameters(), *model.buffers())), None)
    drawn = ((rng.standard_normal(s) * (np.dtype(t).kind == "f")).astype(t)
             for s, t in zip(shapes, dtypes, strict=True))  # fmt: skip
    inputs = [tensor(x, device=device) for x in drawn]
    counter = _Counter()
    modules = {module: name or "(model)" for name, module in model.named_modules()}
    with ExitStack() as undone, kept_modes(model), no_grad(), watch(counter.observe):
        for module in modules:
            undone.enter_context(module.register_forward_pre_hook(counter.enter))
            undone.enter_context(module.register_forward_hook(counter.leave))
        model.eval()(*inputs)
    return Summary(counter.layers(modules), model)


class _Counter:
    """Attributes ops to the innermost module that is running."""

    def __init__(self) -> None:
        self.running: list[Module] = []
        self.flops: dict[Module, int] = {}  # in the order in which modules ran first
        self.outputs: dict[Module, Any] = {}

    def enter(self, module: Module, args: Any) -> None:
        self.running.append(module)
        self.flops.setdefault(module, 0)

    def leave(self, module: Module, args: Any, output: Any) -> None:
        self.outputs[self.running.pop()] = output

    def observe(self, name: str, inputs: Any, kwargs: Any, output: Any, seconds: float) -> None:
        if self.running:
            self.flops[self.running[-1]] += flops(name, inputs, output)

    def layers(self, names: dict[Module, str]) -> list[Layer]:
        """One row for each module that has parameters, FLOPs of its own or no parts."""
        rows = []
        for module, count in self.flops.items():
            own = sum(p.array.size for p in module.parameters(recurse=False))
            if own or count or not any(True for _ in module.children()):
                y, kind = arrays_in(self.outputs[module])[0], type(module).__name__
                rows.append(Layer(names[module], kind, tuple(y.shape), own, count, y.nbytes))
        return rows


def flops(name: str, inputs: Sequence[Any], output: Any) -> int:
    """2 x the multiply-adds of one call of an op with these raw inputs and output; 0 for others."""
    y = output[0] if isinstance(output, tuple) else output
    if name in ("convolve", "convolve_input_grad"):  # weight (K, C / groups, R, S)
        # Each output sums over the rest; transposed, each input element goes to the rest.
        return 2 * (y if name == "convolve" else inputs[0]).size * math.prod(inputs[1].shape[1:])
    if name in ("product", "affine"):
        return 2 * y.size * inputs[0].shape[-1]
    if name in _RECURRENT:  # (T, B, G H), and W_hh (G H, H) at every step
        return 2 * math.prod(inputs[0].shape[:2]) * inputs[_RECURRENT[name]].size
    if name == "attention":  # q (..., L, E), k (..., S, E), v (..., S, V)
        q, k, v = inputs[:3]
        return 2 * math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])
    return 0
