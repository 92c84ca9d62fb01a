"""From other frameworks' names and layouts to those of PyTorch's modules, each turned once.

PyTorch's, safetensors' and ONNX's names are taken as they are, without what wraps them. Of other
files the layers are listed, with PyTorch's names for their arrays, and then matched with the
model's: by a table where the network is known by its names (SqueezeNet of Keras and Caffe, the ViT
of Google's .npz), else in order, each kind for itself (convolutions, dense layers, norms, …). The
order is assumed to be the model's: two layers of one kind and shape that the model made the other
way round would be exchanged. So it must be known: the file's own (Caffe, TensorFlow Lite), the
numbers in names that differ in nothing else, or that of a Keras model's configuration or of its
file's list of layers.

Layouts: kernels HWIO and OHWI become OIHW, of depthwise ones HWIM (I·M)1HW, dense (I, O) becomes
(O, I), and where it is the next layer behind a convolution of C channels, and I a multiple of C,
its rows HWC become CHW: what it sees is the flattened picture. A GRU's gates z, r, h become r, z,
n; an LSTM's i, f, c, o are those of PyTorch. A batch norm's epsilon other than the model's goes
into its variance (a layer norm's cannot: the model must have the file's). A bias of a convolution
whose batch norm was folded into it becomes that norm's bias, with mean 0 and variance 1 - eps: the
norm does no more.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl import nn
from minidl.io.layers import (
    NORMS,
    Layer,
    State,
    by_number,
    caffe_layers,
    channels_first,
    keras_layers,
    settings,
    tflite_layers,
)
from minidl.io.positions import resampled
from minidl.io.safetensors import check
from minidl.io.tflite import Operator

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
BESIDE = ("optimizer.", "scheduler.", "ema.", "scaler.")  # what else flat checkpoints may have
KINDS: dict[str, Any] = {
    "conv": nn.Conv2d, "linear": nn.Linear, "embedding": nn.Embedding,
    "lstm": (nn.LSTM, nn.LSTMCell), "gru": (nn.GRU, nn.GRUCell), "rnn": (nn.RNN, nn.RNNCell),
    "norm": (nn.BatchNorm2d, nn.LayerNorm),
}  # fmt: skip
VIT = {  # names in Google's .npz, and torchvision's for them
    r"^Transformer/encoderblock_(\d+)/": r"encoder.layers.encoder_layer_\1.",
    r"^Transformer/posembed_input/pos_embedding$": "encoder.pos_embedding",
    "^Transformer/encoder_norm/": "encoder.ln.", "^embedding/": "conv_proj.",
    "^cls$": "class_token", "^head/": "heads.head.", "LayerNorm_0/": "ln_1.",
    "LayerNorm_2/": "ln_2.", "MlpBlock_3/Dense_0/": "mlp.0.", "MlpBlock_3/Dense_1/": "mlp.3.",
    "MultiHeadDotProductAttention_1/out/": "self_attention.out_proj.",
    "MultiHeadDotProductAttention_1/": "self_attention.", "(scale|kernel)$": "weight",
}  # fmt: skip


def state_for(kind: str, tree: Any, model: nn.Module, graph: Sequence[Operator]) -> State:
    """A file's arrays by the model's names; what the model has no place for keeps the file's.

    Positions of a Vision Transformer are brought to the number of patches that the model has.
    """
    own = model.state_dict()
    state = _renamed(kind, tree, model, graph)
    for name in own.keys() & state.keys():
        if name.endswith(("pos_embed", "pos_embedding")):
            state[name] = resampled(state[name], own[name].shape)
    return state


def _renamed(kind: str, tree: Any, model: nn.Module, graph: Sequence[Operator]) -> State:
    own = model.state_dict().keys()
    flat = unwrapped(tree, own)
    if kind in ("PyTorch", "safetensors", "ONNX") or any("weight" in n for n in flat.keys() & own):
        return flat
    if kind == "TensorFlow Lite":
        return in_order([*tflite_layers(tree, graph)], model)
    places: Mapping[str, int] = {}
    if kind == "Caffe":
        layers = caffe_layers(tree)
    else:
        if "params" in tree:  # Flax: beside them the optimizer's state may be kept
            tree = {key: tree[key] for key in ("params", "batch_stats") if key in tree}
        order = tree.get("layer_names")
        named = [{"name": name} for name in order] if isinstance(order, list) else []
        flat, (places, eps) = flatten(tree, "/"), settings([tree.get("model_config"), named])
        if "Transformer/encoderblock_0/LayerNorm_0/scale" in flat:
            return _vision_transformer(flat)
        layers = keras_layers(flat, eps, 1e-3 if kind == "Keras" else 1e-5)
    names = _squeezenet(model)
    if any(layer.name in names and layer.name.startswith("fire") for layer in layers):
        return {f"{names.get(layer.name, layer.name)}.{key}": value
                for layer in layers for key, value in layer.arrays.items()}  # fmt: skip
    if kind != "Caffe":
        layers = by_number(layers, places)
    return in_order(layers, model, kind != "Caffe")


def flatten(tree: Any, between: str = ".") -> State:
    """The arrays in nested dicts and lists by the path to them; CheckpointError: one path twice."""
    flat: State = {}
    left = [("", tree)]
    while left:
        path, node = left.pop()
        if isinstance(node, np.ndarray):
            check(path not in flat, "flatten", f"two arrays have the path {path!r}")
            flat[path] = node
        elif isinstance(node, Mapping | list | tuple):
            items = [*(node.items() if isinstance(node, Mapping) else enumerate(node))]
            left += [(f"{path}{between if path else ''}{key}", x) for key, x in items[::-1]]
    return flat


def unwrapped(tree: Any, own: Collection[str]) -> State:
    """The state in a checkpoint, without the dicts and prefixes that may be around all of it.

    Beside a prefix there may be names of BESIDE; any others leave the file as it is.

    own: the model's names. Where the file has one of them nothing (more) is around it.
    """
    flat = flatten(tree)
    while flat and flat.keys().isdisjoint(own):
        keys = WRAPPERS if isinstance(tree, Mapping) else ()
        inner = [tree[key] for key in keys if isinstance(tree.get(key), Mapping)]
        named = [name for name in flat if not name.startswith(BESIDE)]
        prefix = [p for p in PREFIXES if named and all(name.startswith(p) for name in named)]
        if inner:
            tree = inner[0]
            flat = flatten(tree)
        elif prefix:
            flat = {name.removeprefix(prefix[0]): flat[name] for name in named}
        else:
            break
    return flat


# ---- the model's names ---------------------------------------------------------------------------


def in_order(layers: Sequence[Layer], model: nn.Module, channels_last: bool = True) -> State:
    """The layers' arrays by the model's names: the n-th of a kind is the n-th of the model's."""
    types = tuple(KINDS.values())
    modules = [(f"{name}.".lstrip("."), m) for name, m in model.named_modules()
               if isinstance(m, types)]  # fmt: skip
    layers = [*_with_heads(layers, sum(isinstance(m, nn.Conv2d) for _, m in modules))]
    state: State = {}
    for kind in (*KINDS, ""):
        theirs = [layer for layer in layers if layer.kind == kind]
        own = [(name, m, suffix) for name, m in modules if kind and isinstance(m, KINDS[kind])
               for suffix in _suffixes(m)]  # fmt: skip
        for (name, module, suffix), layer in zip(own, theirs):
            fits = suffix.endswith("reverse") == ("backward_" in layer.name)
            check(fits, layer.name, f"it runs in the other direction than {name}weight_ih{suffix}")
            arrays = dict(layer.arrays)
            if layer.eps is not None and "running_var" in arrays:
                arrays["running_var"] = arrays["running_var"] + np.float32(layer.eps - module.eps)
            state |= {f"{name}{key}{suffix}": array for key, array in arrays.items()}
        for layer in theirs[len(own) :]:
            state |= {f"{layer.name}.{key}": array for key, array in layer.arrays.items()}
    _unfold_norms(state, modules)
    if channels_last:
        _turn_flattened(state, [(n, m) for n, m in modules if not isinstance(m, KINDS["norm"])])
    return state


def _with_heads(layers: Sequence[Layer], convolutions: int) -> Iterator[Layer]:
    """The layers, but 1x1 convolutions beyond the model's own as dense ones: heads on means."""
    for layer in layers:
        weight, convolutions = layer.arrays.get("weight"), convolutions - (layer.kind == "conv")
        if weight is not None and weight.shape[2:] == (1, 1) and convolutions < 0:
            layer = Layer(layer.name, "linear", layer.arrays | {"weight": weight[:, :, 0, 0]})
        yield layer


def _suffixes(module: nn.Module) -> list[str]:
    """What PyTorch puts behind the names of a module's arrays: "", or _l0, _l0_reverse, _l1 …"""
    own = [name for name, _ in module.named_parameters(recurse=False)]
    return [n.removeprefix("weight_ih") for n in own if n.startswith("weight_ih")] or [""]


def _unfold_norms(state: State, modules: Sequence[tuple[str, Any]]) -> None:
    """Give the biases of layers that have none to the batch norms behind them, as the module says.

    Only to norms that the file lacks.
    """
    for (name, layer), (after, norm) in zip(modules, modules[1:]):
        without = isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is None
        lacking = isinstance(norm, nn.BatchNorm2d) and f"{after}weight" not in state
        if without and lacking and f"{name}bias" in state:
            bias = state.pop(f"{name}bias")
            one, zero = np.ones_like(bias), np.zeros_like(bias)
            made = dict(zip(NORMS.values(), (one, bias, zero, one - norm.eps)))
            state |= {f"{after}{key}": value for key, value in made.items()}


def _turn_flattened(state: State, modules: Sequence[tuple[str, Any]]) -> None:
    """Turn the inputs HWC of dense layers next behind convolutions to CHW."""
    for (_, before), (name, layer) in zip(modules, modules[1:]):
        weight = state.get(f"{name}weight", np.empty(0))
        if isinstance(before, nn.Conv2d) and isinstance(layer, nn.Linear) and weight.ndim == 2:
            (o, i), c = weight.shape, before.out_channels
            if i % c == 0:
                state[f"{name}weight"] = weight.reshape(o, i // c, c).swapaxes(1, 2).reshape(o, i)


def _squeezenet(model: nn.Module) -> dict[str, str]:
    """The model's names of conv1, fire2/squeeze1x1 … conv10, if it is a SqueezeNet."""
    fires = [name for name, m in model.named_modules() if hasattr(m, "expand3x3")]
    names = {"conv1": "features.0", "conv10": "classifier.1"} if fires else {}
    for number, name in enumerate(fires, 2):
        for theirs, ours in (("squeeze1x1", "squeeze"), *[(f"expand{n}x{n}",) * 2 for n in (1, 3)]):
            names[f"fire{number}/{theirs}"] = f"{name}.{ours}"
    return names


def _vision_transformer(flat: Mapping[str, np.ndarray]) -> State:
    """The ViT of Google's .npz by torchvision's names; its attention has (dim, heads, width)."""
    state: State = {}
    for path, array in flat.items():
        name = path
        for theirs, ours in VIT.items():
            name = re.sub(theirs, ours, name)
        if path.endswith("out/kernel"):
            array = array.reshape(-1, array.shape[-1]).T
        elif path.endswith(("query/kernel", "key/kernel", "value/kernel")):
            array = array.reshape(len(array), -1).T
        elif path.endswith(("query/bias", "key/bias", "value/bias")):
            array = array.reshape(-1)
        elif path.endswith("kernel"):
            array = channels_first(array)
        state[name] = array
    for last in ("query/weight", "query/bias"):
        for name in [name for name in state if name.endswith(last)]:
            parts = [state.pop(name.replace("query", part)) for part in ("query", "key", "value")]
            state[name.replace("query/", "in_proj_")] = np.concatenate(parts)
    return state
