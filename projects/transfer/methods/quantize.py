"""Int8 quantisation after training: rounded weights and activations, computed with in floats.

After Jacob et al. 2017 (arXiv 1712.05877) and Krishnamoorthi 2018 (arXiv 1806.08342): weights are
symmetric with a scale an output channel, activations have a scale and a zero point a tensor, taken
from batches; batch norms are folded into convolutions first. Arithmetic is that of floats on the
rounded values, so accuracy is what int8 hardware would give up to the order of its sums, and speed
is not. Biases, norms that follow no convolution and other parameters stay float32.
"""

import copy
import itertools
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

import minidl as ml
from minidl import nn
from minidl.autograd import Tensor, no_grad, wrap
from minidl.errors import CheckpointError, DataError, GraphError, require, reworded
from minidl.io import load_safetensors
from minidl.models.blocks import put_module
from minidl.nn.module import kept_modes
from minidl.nn.utils.reparametrize import compute, take

LAYER = nn.Linear | nn.Conv2d
PARTS = ("weight_int8", "weight_scale", "input_scale", "input_zero")  # of a layer's state


def quantized(
    model: nn.Module, batches: Iterable[Tensor], *, percentile: float = 100.0
) -> nn.Module:
    """A copy of the model in which every Linear and Conv2d has int8 weights and inputs.

    batches: inputs (N, …) to measure activations on; their range reaches from the least of the
    batches' (100 - percentile)th percentiles to the largest of their percentile-th, and includes 0.
    The state of the copy holds int8 tensors and scales: `save_safetensors` of `state_dict()` is the
    file for `load_quantized`. Raises DataError: no batches; ShapeError: percentile outside
    (50, 100], a weight is no plain parameter (LoRA not merged); GraphError: see fold_norms.
    """
    ok, rule = 50 < percentile <= 100, "percentile must lie in (50, 100]"
    require(ok, "quantized", rule, percentile=percentile)
    given = iter(batches)
    first = next(given, None)
    require(first is not None, "quantized", "there must be a batch", error=DataError, batches=0)
    made = copy.deepcopy(model).eval()
    fold_norms(made, first[:2])
    with kept_modes(made), no_grad():
        ranges = _ranges(made, itertools.chain([first], given), percentile)
    for layer, (low, high) in ranges.items():
        _become_int8(layer, _rounded(layer.weight.detach().cpu().numpy()) | _grid(low, high))
    return made


def _ranges(
    model: nn.Module, batches: Iterable[Tensor], percentile: float
) -> dict[Any, tuple[float, float]]:
    """Least and largest input of every layer that is called, with 0 between them."""
    found: dict[Any, tuple[float, float]] = {}

    def look(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].float().cpu().numpy()
        ends = np.percentile(x, [100 - percentile, percentile]) if percentile < 100 else None
        low, high = (x.min(), x.max()) if ends is None else ends
        before = found.get(layer, (0.0, 0.0))
        found[layer] = min(before[0], float(low)), max(before[1], float(high))

    with ExitStack() as stack:
        for layer in [m for m in model.modules() if isinstance(m, LAYER)]:
            stack.enter_context(layer.register_forward_pre_hook(look))
        for x in batches:
            model(x)
    return found


def _rounded(weight: np.ndarray) -> dict[str, np.ndarray]:
    """A weight (K, …) as int8 in ±127 and a scale (K,) for each output."""
    rows = weight.reshape(len(weight), -1)
    scale = np.abs(rows).max(1) / np.float32(127)
    scale[scale == 0] = 1
    whole = np.rint(rows / scale[:, None]).clip(-127, 127).astype(np.int8)
    return {"weight_int8": whole.reshape(weight.shape), "weight_scale": scale}


def _grid(low: float, high: float) -> dict[str, np.ndarray]:
    """Scale and zero point: -128 … 127 reach from low to high, and 0 is among the values."""
    scale = (high - low) / 255 or 1.0
    zero = np.clip(np.rint(-128 - low / scale), -128, 127)
    return {"input_scale": np.array(scale, np.float32), "input_zero": np.array(zero, np.int8)}


def _become_int8(layer: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Take the layer's weight away; give it PARTS, and compute with them."""
    device = take(layer, "quantized", "weight").device
    for name in PARTS:
        layer.register_buffer(name, wrap(arrays[name]).to(device))
    compute(layer, "int8", "weight", _weight)
    layer.register_forward_pre_hook(_round_input)


def _weight(layer: Any) -> Tensor:
    """The rounded weight in floats."""
    rows = layer.weight_int8.to(layer.weight_scale.dtype)
    return rows * layer.weight_scale.reshape(-1, *(1,) * (rows.ndim - 1))


def _round_input(layer: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The input on the layer's grid."""
    zero = layer.input_zero.to(layer.input_scale.dtype)
    whole = ((args[0] / layer.input_scale).round() + zero).clamp(-128, 127)
    return ((whole - zero) * layer.input_scale, *args[1:])


# ---- batch norms ---------------------------------------------------------------------------------


def fold_norms(model: nn.Module, x: Tensor) -> list[str]:
    """Put each BatchNorm2d that takes a convolution's output into that convolution, in place.

    Which ones do is seen by running the model on x (N, C, H, W), in eval mode; an Identity takes
    the norm's place. -> names of the norms that are gone. Raises GraphError: the outputs for x
    changed by more than a thousandth of their largest (another part of the model uses the same
    convolution's output), and then the model is of no use.
    """
    with kept_modes(model), no_grad():
        model.eval()
        before, pairs = _traced(model, x)
        names = {m: name for name, m in model.named_modules()}
        for norm, conv in pairs.items():
            _fold(norm, conv)
            put_module(model, names[norm], nn.Identity())
        after = model(x).cpu().numpy()
    apart, most = float(np.abs(after - before).max()), float(np.abs(before).max())
    rule = "a convolution's output must go to its batch norm alone"
    require(apart <= 1e-3 * most, "fold_norms", rule, error=GraphError, difference=apart)
    return [names[norm] for norm in pairs]


def _traced(model: nn.Module, x: Tensor) -> tuple[np.ndarray, dict[Any, Any]]:
    """The model's output, and the convolution whose output each norm takes."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    pairs: dict[Any, Any] = {}
    calls: list[nn.Module] = []

    def keep(conv: nn.Module, args: Any, y: Tensor) -> None:
        made[id(y)] = conv, y  # held, so that no other tensor gets its number
        calls.append(conv)

    def look(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls.append(norm)
        if id(args[0]) in made:
            pairs[norm] = made[id(args[0])][0]

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                stack.enter_context(module.register_forward_hook(keep))
            elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                stack.enter_context(module.register_forward_pre_hook(look))
        output = model(x).cpu().numpy()
    once = {m for m in calls if calls.count(m) == 1}
    return output, {n: c for n, c in pairs.items() if n in once and c in once}


def _fold(norm: Any, conv: Any) -> None:
    """Scale the convolution's outputs and shift them as the norm would."""
    read = {n: getattr(norm, n) for n in ("weight", "bias", "running_mean", "running_var")}
    read = {n: 1.0 * (n == "weight") if t is None else _double(t) for n, t in read.items()}
    slope = read["weight"] / np.sqrt(read["running_var"] + norm.eps)
    bias = 0.0 if conv.bias is None else _double(conv.bias)
    shift = read["bias"] + slope * (bias - read["running_mean"])
    weight = _double(conv.weight) * slope.reshape(-1, *(1,) * (conv.weight.ndim - 1))
    conv.weight.copy_(wrap(weight.astype(conv.weight.dtype)))
    conv.bias = nn.Parameter(wrap(shift.astype(conv.weight.dtype)).to(conv.weight.device))


def _double(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)


# ---- files ---------------------------------------------------------------------------------------


def state_bytes(model: nn.Module) -> int:
    """Bytes of the tensors in the model's state."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def load_quantized(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """A quantised copy of `model`, a plain one of the same architecture, with the file's values.

    Raises CheckpointError naming the file: unreadable, no quantised state, of another model.
    """
    state, made = load_safetensors(path), copy.deepcopy(model).eval()
    ours = any(name.endswith(".weight_int8") or name == "weight_int8" for name in state)
    require(ours, "load_quantized", f"{path} holds no int8 weights", error=CheckpointError)
    for name, module in [*made.named_modules()]:
        start = f"{name}." if name else ""
        arrays = {part: state[start + part] for part in PARTS if start + part in state}
        if isinstance(module, nn.BatchNorm2d) and f"{start}running_mean" not in state:
            put_module(made, name, nn.Identity())
        elif isinstance(module, LAYER) and len(arrays) == len(PARTS):
            if module.bias is None and f"{start}bias" in state:
                module.bias = nn.Parameter(ml.zeros(len(module.weight)))
            _become_int8(module, arrays)
    with reworded(CheckpointError, f"load_quantized: {path}", CheckpointError):
        made.load_state_dict(state)
    return made
