"""The layers in files of Keras, Flax, Caffe and TensorFlow Lite, in PyTorch's names and layouts.

Each array is turned once. Kernels HWIO and OHWI become OIHW, of depthwise ones HWIM (I·M)1HW, dense
(I, O) becomes (O, I). A GRU's gates z, r, h become r, z, n; an LSTM's i, f, c, o are PyTorch's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl.io.safetensors import check
from minidl.io.tflite import Operator

State = dict[str, np.ndarray]
NORM = ("gamma", "beta", "moving_mean", "moving_variance")  # in Keras's order
NORMS = dict(zip(NORM, ("weight", "bias", "running_mean", "running_var"), strict=True))
NORMS |= {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}  # Flax's


class Layer(NamedTuple):
    """A layer of a file: its name there, its kind (of KINDS, or none), arrays by PyTorch's names.

    Of a recurrent one the names lack what PyTorch puts behind them (weight_ih, not weight_ih_l0).
    """

    name: str
    kind: str
    arrays: State
    eps: float | None = None  # that was added to its variance


def keras_layers(flat: Mapping[str, np.ndarray], eps: Mapping[str, float],
                 default: float) -> list[Layer]:  # fmt: skip
    """The layers of a Keras or Flax file. eps: of the norms by name, where not the default."""
    groups: dict[str, State] = {}
    start = "^(model_weights|layers|_layer_checkpoint_dependencies|params|batch_stats)/"
    for path, array in flat.items():
        if path.startswith("optimizer") or "seed_generator" in path:
            continue
        *names, last = re.sub(start, "", path).replace("/vars/", "/").split("/")
        half = len(names) // 2  # Keras repeats a layer's name, at times with a number
        first, second = "/".join(names[:half]), "/".join(names[half:])
        if first and re.fullmatch(re.escape(first) + r"(_\d+)?", second):
            names = names[:half]
        key = last.partition(":")[0]
        if names and re.fullmatch("[ih][ifgorzn]", names[-1]):  # a gate of Flax's cells
            key = f"{names.pop()}/{key}"
        group = groups.setdefault("/".join(names), {})
        check(key not in group, path, "two arrays of one layer have this name")
        group[key] = array
    inner = {name: name.rpartition("/")[2] for name in groups}  # of a model within another
    return [_keras_layer(name, arrays, eps.get(name, eps.get(inner[name], default)))
            for name, arrays in groups.items()]  # fmt: skip


def _keras_layer(name: str, arrays: State, eps: float) -> Layer:
    """One layer of Keras or Flax; what is not known keeps its name."""
    arrays = _named(name, arrays) if "0" in arrays else dict(arrays)
    if {"kernel", "recurrent_kernel"} <= arrays.keys() <= {"kernel", "recurrent_kernel", "bias"}:
        return _recurrent(name, **arrays)
    if arrays.keys() & {"hf/kernel", "hz/kernel"}:
        return _flax_cell(name, arrays)
    if arrays.keys() in ({"embeddings"}, {"embedding"}):
        return Layer(name, "embedding", {"weight": arrays.popitem()[1]})
    if arrays.keys() <= NORMS.keys():
        return Layer(name, "norm", {NORMS[key]: array for key, array in arrays.items()}, eps)
    if not arrays.keys() & {"kernel", "depthwise_kernel"}:
        return Layer(name, "", arrays)
    deep = "kernel" not in arrays
    kernel = arrays.pop("depthwise_kernel" if deep else "kernel")
    kind, weight = "conv" if kernel.ndim > 2 else "linear", channels_first(kernel, deep)
    return Layer(name, kind, {"weight": weight} | arrays)


def _named(name: str, given: State) -> State:
    """The arrays that Keras 3 only numbers by their names, which their axes tell."""
    arrays = [given[key] for key in sorted(given)]
    axes, names = [array.ndim for array in arrays], tuple(sorted(given))
    if axes in ([1, 1], [1] * 4):
        names = NORM
    elif axes == [2] and "embedding" in name:
        names = ("embeddings",)
    elif axes[:2] == [2, 2] and len(axes) < 4:
        names = ("kernel", "recurrent_kernel", "bias")
    elif axes[0] > 1 and axes[1:] in ([], [1]):
        names = ("depthwise_kernel" if "depthwise" in name else "kernel", "bias")
    return dict(zip(names, arrays))


def channels_first(kernel: np.ndarray, depthwise: bool = False) -> np.ndarray:
    """A kernel (H, W, I, O) as (O, I, H, W), a depthwise one (H, W, I, M) as (I·M, 1, H, W)."""
    *sizes, i, m = kernel.shape
    if depthwise:
        return np.moveaxis(kernel, (-2, -1), (0, 1)).reshape(i * m, 1, *sizes)
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def _recurrent(name: str, kernel: np.ndarray, recurrent_kernel: np.ndarray,
               bias: np.ndarray | None = None) -> Layer:  # fmt: skip
    """A recurrent layer of Keras, which keeps (inputs, gates · hidden)."""
    shape = recurrent_kernel.shape
    gates = shape[1] // max(shape[0], 1) if len(shape) == 2 else 0
    kind = {1: "rnn", 3: "gru", 4: "lstm"}.get(gates, "")
    check(bool(kind), name, "a recurrent layer must have 1, 3 or 4 gates", kernel=recurrent_kernel)
    same = kind != "gru" or (bias is not None and bias.ndim == 2)
    check(same, name, "only a GRU with reset_after and biases computes what PyTorch's does")

    def turned(x: np.ndarray) -> np.ndarray:
        parts = np.split(x, gates, -1)
        order = (1, 0, 2) if kind == "gru" else range(gates)
        return np.concatenate([parts[i] for i in order], -1).T

    state = {"weight_ih": turned(kernel), "weight_hh": turned(recurrent_kernel)}
    if bias is not None:
        both = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        state |= {"bias_ih": turned(both[0]), "bias_hh": turned(both[1])}
    return Layer(name, kind, state)


def _flax_cell(name: str, arrays: State) -> Layer:
    """A recurrent cell of Flax, which keeps a dense layer for each gate."""
    kind, gates = ("gru", "rzn") if "hz/kernel" in arrays else ("lstm", "ifgo")
    state: State = {}
    for side in "ih":
        kernels = [arrays[f"{side}{gate}/kernel"] for gate in gates]
        none = np.zeros(kernels[0].shape[-1:], np.float32)
        biases = [arrays.get(f"{side}{gate}/bias", none) for gate in gates]
        state[f"weight_{side}h"] = np.concatenate(kernels, -1).T
        state[f"bias_{side}h"] = np.concatenate(biases)
    return Layer(name, kind, state)


def settings(config: Any) -> tuple[dict[str, int], dict[str, float]]:
    """A Keras model's configuration -> the places of its layers in it, the epsilons of its norms.

    Both by name, nested models' too.
    """
    places: dict[str, int] = {}
    eps: dict[str, float] = {}
    left = [config]
    while left:
        node = left.pop()
        if isinstance(node, Mapping):
            name = node.get("name")
            if isinstance(name, str):
                places.setdefault(name, len(places))
                if isinstance(node.get("epsilon"), float):
                    eps[name] = node["epsilon"]
            left += [*node.values()][::-1]
        elif isinstance(node, list):
            left += node[::-1]
    return places, eps


def by_number(layers: Sequence[Layer], places: Mapping[str, int]) -> list[Layer]:
    """Layers of Keras or Flax in the order in which they were made, as the module says.

    Raises CheckpointError where two of one kind and shape could come either way round.
    """

    def number(layer: Layer) -> Any:
        both = re.sub("(for|back)ward_", "", layer.name)
        texts = re.split(r"(\d+)", both)  # conv2d before conv2d_2 before conv2d_10
        texts[1::2] = map(int, texts[1::2])
        return texts, "backward_" in layer.name

    def place(layer: Layer) -> int:
        return max(places.get(name, -1) for name in (layer.name, *layer.name.split("/")))

    def text(layer: Layer) -> str:
        return re.sub(r"_?\d+|(for|back)ward_", "", layer.name)

    found: list[Layer] = []
    for kind in dict.fromkeys(layer.kind for layer in layers):
        same = sorted((layer for layer in layers if layer.kind == kind), key=number)
        if len({*map(text, same)}) > 1 and all(place(layer) >= 0 for layer in same):
            same.sort(key=place)
        else:
            seen: dict[Any, Layer] = {}
            for layer in same if kind else ():
                shapes = tuple(sorted((key, a.shape) for key, a in layer.arrays.items()))
                other = seen.setdefault(shapes, layer)
                rule = f"which of it and {other.name} comes first is not known"
                check(text(other) == text(layer), layer.name, rule)
        found += same
    return found


def caffe_layers(tree: Mapping[str, Mapping[str, np.ndarray]]) -> list[Layer]:
    """The layers of a Caffe net: a BatchNorm's mean and variance go with the Scale after it."""
    layers: list[Layer] = []
    norm = None  # the BatchNorm just before
    for name, blobs in tree.items():
        first, *others = blobs.values()
        sizes = [blob.size for blob in others]
        old = first.ndim == 4 and others and others[0].shape == (1, 1, 1, first.shape[2])
        if old and first.shape[:2] == (1, 1):  # a dense layer of the time when all had four axes
            first = first[0, 0]
        kind = {4: "conv", 2: "linear"}.get(first.ndim, "")
        if first.ndim == 1 and sizes == [first.size, 1]:  # what was added up, and how often
            factor = 1 / others[1].item() if others[1].item() else 0.0
            state = {"running_mean": first * factor, "running_var": others[0] * factor}
            norm = {"weight": np.ones_like(first), "bias": np.zeros_like(first)} | state
            layers.append(Layer(name, "norm", norm, 1e-5))
            continue
        if norm and first.shape == norm["weight"].shape and sizes in ([], [first.size]):
            norm |= dict(zip(("weight", "bias"), (first, *others)))
        elif kind and len(others) < 2:
            bias = {"bias": others[0].reshape(-1)} if others else {}
            layers.append(Layer(name, kind, {"weight": first} | bias))
        else:
            layers.append(Layer(name, "", dict(blobs)))
        norm = None
    return layers


def tflite_layers(arrays: State, graph: Sequence[Operator]) -> Iterator[Layer]:
    """The layers of a TensorFlow Lite graph, whose norms are folded into its convolutions."""
    constants = dict(arrays)
    for op in graph:
        name, *bias = *op.inputs[1:3], ""
        if op.kind == "dequantize" and op.inputs and op.inputs[0] in arrays:  # float16, widened
            constants |= dict.fromkeys(op.outputs, arrays[op.inputs[0]])
        if op.kind not in ("conv_2d", "depthwise_conv_2d", "fully_connected"):
            continue
        check(name in constants, op.kind, "its weight must be a constant", weight=name)
        weight, kind = constants[name], "linear"
        if op.kind != "fully_connected":
            axes = (0, 3, 1, 2) if op.kind == "conv_2d" else (3, 0, 1, 2)  # OHWI; 1HW(I·M)
            weight, kind = weight.transpose(axes), "conv"
        given = {"bias": constants[bias[0]]} if bias and bias[0] in constants else {}
        yield Layer(name, kind, {"weight": weight} | given)
