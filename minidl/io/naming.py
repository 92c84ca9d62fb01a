"""From other frameworks' names and layouts to those of PyTorch's modules, each turned once.

PyTorch's, safetensors' and ONNX's names are taken as they are, without what wraps them. Of other
files the layers are listed, with PyTorch's names for their arrays, and then matched with the
model's: by a table where the network is known by its names (SqueezeNet of Keras and Caffe, the ViT
of Google's .npz), else in order, each kind for itself (convolutions, dense layers, norms, …).
Layouts: kernels HWIO and OHWI become OIHW, of depthwise ones HWIM (I·M)1HW, dense (I, O) becomes
(O, I). A GRU's gates z, r, h become r, z, n; an LSTM's i, f, c, o are those of PyTorch. A norm's
epsilon other than the model's goes into its variance. A bias of a convolution whose batch norm was
folded into it becomes that norm's bias, with mean 0 and variance 1 - eps: the norm does no more.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl import nn
from minidl.io.safetensors import check
from minidl.io.tflite import Operator

State = dict[str, np.ndarray]
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
KINDS: dict[str, Any] = {
    "conv": nn.Conv2d, "linear": nn.Linear, "embedding": nn.Embedding, "lstm": nn.LSTM,
    "gru": nn.GRU, "rnn": nn.RNN, "norm": (nn.BatchNorm2d, nn.BatchNorm1d, nn.LayerNorm),
}  # fmt: skip
NORM = ("gamma", "beta", "moving_mean", "moving_variance")  # in Keras's order
NORMS = dict(zip(NORM, ("weight", "bias", "running_mean", "running_var"), strict=True))
NORMS |= {"scale": "weight", "mean": "running_mean", "var": "running_var"}  # Flax's names


class Layer(NamedTuple):
    """A layer of a file: its name there, its kind (one of KINDS), arrays by PyTorch's names."""

    name: str
    kind: str
    arrays: State
    eps: float | None = None  # that was added to its variance


def state_for(kind: str, tree: Any, model: nn.Module, graph: list[Operator] | None) -> State:
    """A file's arrays by the model's names; what the model has no place for keeps the file's."""
    if kind in ("PyTorch", "safetensors", "ONNX"):
        return unwrapped(tree)
    flat = flatten(tree, "/")
    if any(name.startswith("Transformer/encoderblock_0/") for name in flat):
        return _vision_transformer(flat)
    if kind == "TensorFlow Lite":
        layers = [*tflite_layers(tree, graph or [])]
    elif kind == "Caffe":
        layers = [*caffe_layers(tree)]
    else:
        layers = [*keras_layers(flat, _epsilons(tree))]
    names = _squeezenet(model) if any(layer.name.startswith("fire") for layer in layers) else {}
    if names:
        return {f"{names.get(layer.name, layer.name)}.{key}": value
                for layer in layers for key, value in layer.arrays.items()}  # fmt: skip
    return in_order(layers, model)


def flatten(tree: Any, between: str = ".") -> State:
    """The arrays in nested dicts and lists by the path to them."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    flat: State = {}
    for key, value in items:
        if isinstance(value, np.ndarray):
            flat[str(key)] = value
        elif isinstance(value, Mapping | list | tuple):
            flat |= {f"{key}{between}{name}": a for name, a in flatten(value, between).items()}
    return flat


def unwrapped(tree: Any) -> State:
    """The state of a model in a checkpoint, without wrapping dicts and prefixes of all names."""
    while isinstance(tree, Mapping):
        inner = [tree[key] for key in WRAPPERS if isinstance(tree.get(key), Mapping)]
        if not inner:
            break
        tree = inner[0]
    flat = flatten(tree) if isinstance(tree, Mapping | list | tuple) else {}
    for prefix in PREFIXES:
        if flat and all(name.startswith(prefix) for name in flat):
            flat = {name.removeprefix(prefix): value for name, value in flat.items()}
    return flat


# ---- layers of a file ----------------------------------------------------------------------------


def keras_layers(flat: Mapping[str, np.ndarray], eps: Mapping[str, float]) -> Iterator[Layer]:
    """The layers of a Keras or Flax file, in the order of their names' numbers."""
    groups: dict[str, State] = {}
    for path, array in flat.items():
        parts = re.sub(r"^(model_weights|layers|params|batch_stats)/", "", path).split("/")
        parts = [part for part in parts if part != "vars"]
        *names, last = parts
        half = len(names) // 2  # Keras repeats a layer's name, at times with a number
        twice = len(names) % 2 == 0 and all(
            b.startswith(a) for a, b in zip(names[:half], names[half:], strict=True)
        )
        name = "/".join(names[:half] if twice else names)
        if not path.startswith("optimizer"):
            groups.setdefault(name, {})[last.partition(":")[0]] = array
    for name in sorted(groups, key=_natural):
        yield _keras_layer(name, groups[name], eps.get(name, 1e-3))


def _natural(name: str) -> list[tuple[str, int]]:
    """A key that sorts conv2d before conv2d_1 before conv2d_10."""
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D+)(\d*)", name)]


def _keras_layer(name: str, given: State, eps: float) -> Layer:
    """One layer of Keras or Flax."""
    arrays = dict(given)
    if "0" in arrays:  # Keras 3 has no names: known by how many there are, and of what shape
        known = NORM if len(arrays) == 4 else ("kernel", "bias")
        arrays = {new: arrays[str(i)] for i, new in enumerate(known) if str(i) in arrays}
    if "recurrent_kernel" in arrays:
        return _recurrent(name, arrays)
    if "embeddings" in arrays or "embedding" in arrays:
        return Layer(name, "embedding", {"weight": next(iter(arrays.values()))})
    kernel = arrays.pop("kernel", arrays.pop("depthwise_kernel", None))
    if kernel is not None:
        bias = {"bias": arrays["bias"]} if "bias" in arrays else {}
        if kernel.ndim == 4:
            deep = "depthwise_kernel" in given
            return Layer(name, "conv", {"weight": hwio(kernel, deep)} | bias)
        return Layer(name, "linear", {"weight": kernel.T} | bias)
    return Layer(name, "norm", {NORMS.get(k, k): v for k, v in arrays.items()}, eps)


def hwio(kernel: np.ndarray, depthwise: bool = False) -> np.ndarray:
    """A kernel (H, W, I, O) as (O, I, H, W), a depthwise one (H, W, I, M) as (I·M, 1, H, W)."""
    if depthwise:
        h, w, i, m = kernel.shape
        return kernel.transpose(2, 3, 0, 1).reshape(i * m, 1, h, w)
    return kernel.transpose(3, 2, 0, 1)


def _recurrent(name: str, arrays: State) -> Layer:
    """A recurrent layer of Keras, which keeps (inputs, gates · hidden)."""
    width = arrays["recurrent_kernel"].shape
    gates = width[1] // max(width[0], 1)
    kind = {1: "rnn", 3: "gru", 4: "lstm"}.get(gates, "rnn")

    def turned(x: np.ndarray) -> np.ndarray:
        parts = np.split(x, gates, -1)
        order = (1, 0, 2) if kind == "gru" else range(gates)
        return np.concatenate([parts[i] for i in order], -1).T

    state = {"weight_ih_l0": turned(arrays["kernel"]),
             "weight_hh_l0": turned(arrays["recurrent_kernel"])}  # fmt: skip
    if "bias" in arrays:
        bias = arrays["bias"]
        both = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
        state |= {"bias_ih_l0": turned(both[0]), "bias_hh_l0": turned(both[1])}
    return Layer(name, kind, state)


def _epsilons(tree: Any) -> dict[str, float]:
    """The epsilon of each of a Keras model's norms, where the file has a configuration."""
    config = tree.get("model_config", {}).get("config", {}) if isinstance(tree, Mapping) else {}
    found = config.get("layers", []) if isinstance(config, Mapping) else []
    settings = (layer["config"] for layer in found if isinstance(layer.get("config"), Mapping))
    return {s["name"]: float(s["epsilon"]) for s in settings if "epsilon" in s and "name" in s}


def caffe_layers(tree: Mapping[str, Mapping[str, np.ndarray]]) -> Iterator[Layer]:
    """The layers of a Caffe net: a BatchNorm's mean and variance go with the Scale after it."""
    waiting: State = {}
    for name, blobs in tree.items():
        first, *others = blobs.values()
        kind = {4: "conv", 2: "linear"}.get(first.ndim, "norm")
        if first.ndim == 4 and first.shape[:2] == (1, 1):  # a dense layer of the old format
            first, kind = first[0, 0], "linear"
        if kind != "norm":
            bias = {"bias": others[0].reshape(-1)} if others else {}
            yield Layer(name, kind, {"weight": first} | bias)
        elif len(others) == 2:  # what was added up, and how often
            factor = 1 / max(float(others[1].ravel()[0]), 1e-30)
            waiting = {"running_mean": first * factor, "running_var": others[0] * factor}
        else:
            yield Layer(name, "norm", waiting | {"weight": first, "bias": others[0]}, 1e-5)
            waiting = {}


def tflite_layers(arrays: State, graph: Sequence[Operator]) -> Iterator[Layer]:
    """The layers of a TensorFlow Lite graph, whose norms are folded into its convolutions."""
    for op in graph:
        if op.kind not in ("conv_2d", "depthwise_conv_2d", "fully_connected"):
            continue
        name, *bias = op.inputs[1:3]
        check(name in arrays, "load_weights", f"the weight {name!r} is no constant")
        weight, kind = arrays[name], "linear"
        if op.kind != "fully_connected":
            axes = (0, 3, 1, 2) if op.kind == "conv_2d" else (3, 0, 1, 2)  # OHWI; 1HW(I·M)
            weight, kind = weight.transpose(axes), "conv"
        given = {"bias": arrays[bias[0]]} if bias and bias[0] in arrays else {}
        yield Layer(name, kind, {"weight": weight} | given)


# ---- the model's names ---------------------------------------------------------------------------


def in_order(layers: Sequence[Layer], model: nn.Module) -> State:
    """The layers' arrays by the model's names: the n-th of a kind is the n-th of the model's."""
    modules = [(name, m) for name, m in model.named_modules() if isinstance(m, (*_types(),))]
    layers = _with_heads(layers, sum(isinstance(m, nn.Conv2d) for _, m in modules))
    state: State = {}
    for kind, types in KINDS.items():
        own = [(name, m) for name, m in modules if isinstance(m, types)]
        given = [layer for layer in layers if layer.kind == kind]
        for (name, module), layer in zip(own, given):
            state |= {f"{name}.{key}": value for key, value in _fitted(layer, module).items()}
        for layer in given[len(own) :]:
            state |= {f"{layer.name}.{key}": value for key, value in layer.arrays.items()}
    for (name, module), (after, norm) in zip(modules, modules[1:]):
        folded = isinstance(norm, nn.BatchNorm2d) and f"{after}.weight" not in state
        if folded and module.bias is None and f"{name}.bias" in state:
            bias = state.pop(f"{name}.bias")
            one, zero = np.ones_like(bias), np.zeros_like(bias)
            made = {
                "weight": one,
                "bias": bias,
                "running_mean": zero,
                "running_var": one - norm.eps,
            }
            state |= {f"{after}.{key}": value for key, value in made.items()}
    return state


def _with_heads(layers: Sequence[Layer], convolutions: int) -> list[Layer]:
    """The layers, but 1x1 convolutions beyond the model's own as dense ones: heads on means."""
    found = []
    for layer in layers:
        convolutions -= layer.kind == "conv"
        if convolutions < 0 and layer.kind == "conv":
            weight = layer.arrays["weight"]
            if weight.shape[2:] == (1, 1):
                arrays = layer.arrays | {"weight": weight[:, :, 0, 0]}
                layer = Layer(layer.name, "linear", arrays)
        found.append(layer)
    return found


def _types() -> Iterator[type]:
    for types in KINDS.values():
        yield from types if isinstance(types, tuple) else (types,)


def _fitted(layer: Layer, module: Any) -> State:
    """A layer's arrays for a module: its variance for the module's epsilon."""
    arrays = dict(layer.arrays)
    if layer.eps is not None and "running_var" in arrays:
        arrays["running_var"] = arrays["running_var"] + np.float32(layer.eps - module.eps)
    return arrays


def _squeezenet(model: nn.Module) -> dict[str, str]:
    """The model's names of conv1, fire2/squeeze1x1 … conv10, if it is a SqueezeNet."""
    fires = [name for name, m in model.named_modules() if hasattr(m, "expand3x3")]
    names = {"conv1": "features.0", "conv10": "classifier.1"} if fires else {}
    for number, name in enumerate(fires, 2):
        for theirs, ours in (("squeeze1x1", "squeeze"), *[(f"expand{n}x{n}",) * 2 for n in (1, 3)]):
            names[f"fire{number}/{theirs}"] = f"{name}.{ours}"
    return names


def _vision_transformer(flat: Mapping[str, np.ndarray]) -> State:
    """The ViT of Google's .npz by torchvision's names."""
    plain = {"cls": "class_token", "embedding/bias": "conv_proj.bias",
             "Transformer/posembed_input/pos_embedding": "encoder.pos_embedding",
             "Transformer/encoder_norm/scale": "encoder.ln.weight",
             "Transformer/encoder_norm/bias": "encoder.ln.bias",
             "head/bias": "heads.head.bias"}  # fmt: skip
    state = {ours: flat[name] for name, ours in plain.items() if name in flat}
    state["conv_proj.weight"] = hwio(flat["embedding/kernel"])
    if "head/kernel" in flat:
        state["heads.head.weight"] = flat["head/kernel"].T
    heads, i = "MultiHeadDotProductAttention_1", 0
    while f"{(start := f'Transformer/encoderblock_{i}')}/LayerNorm_0/scale" in flat:
        to = f"encoder.layers.encoder_layer_{i}"
        for theirs, ours in (("LayerNorm_0", "ln_1"), ("LayerNorm_2", "ln_2")):
            state[f"{to}.{ours}.weight"] = flat[f"{start}/{theirs}/scale"]
            state[f"{to}.{ours}.bias"] = flat[f"{start}/{theirs}/bias"]
        for theirs, ours in (("Dense_0", "mlp.0"), ("Dense_1", "mlp.3")):
            state[f"{to}.{ours}.weight"] = flat[f"{start}/MlpBlock_3/{theirs}/kernel"].T
            state[f"{to}.{ours}.bias"] = flat[f"{start}/MlpBlock_3/{theirs}/bias"]
        parts = [f"{start}/{heads}/{name}" for name in ("query", "key", "value")]
        dim = flat[f"{parts[0]}/kernel"].shape[0]
        weights = [flat[f"{part}/kernel"].reshape(dim, -1).T for part in parts]
        state[f"{to}.self_attention.in_proj_weight"] = np.concatenate(weights)
        biases = [flat[f"{part}/bias"].reshape(-1) for part in parts]
        state[f"{to}.self_attention.in_proj_bias"] = np.concatenate(biases)
        out = flat[f"{start}/{heads}/out/kernel"].reshape(-1, dim).T
        state[f"{to}.self_attention.out_proj.weight"] = out
        state[f"{to}.self_attention.out_proj.bias"] = flat[f"{start}/{heads}/out/bias"]
        i += 1
    return state
