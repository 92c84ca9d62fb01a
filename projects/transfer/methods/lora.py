"""Low-rank updates of frozen weights: LoRA (Hu et al. 2021, arXiv 2106.09685)."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from minidl import nn
from minidl.autograd import Tensor, wrap
from minidl.errors import CheckpointError, ShapeError, require, reworded
from minidl.nn.parameter import new_parameter
from minidl.nn.utils.reparametrize import compute, settle, take
from minidl.random import Generator

ADDED = ("lora_a", "lora_b")  # what is trained of a layer


def add_lora(
    model: nn.Module, pattern: str, rank: int, alpha: float, *, seed: int = 0
) -> list[str]:
    """Freeze the model; weights W of layers that `pattern` names become W + alpha / rank · B A.

    Layers are Linear and Conv2d whose whole dotted name the regular expression matches. A weight
    (K, …) counts as a matrix with a row an output, so that grouped and depthwise convolutions need
    no rule of their own (the paper adapts dense matrices only). A (rank, …) starts from
    N(0, 1 / columns), B (K, rank) from zero: outputs are unchanged at first. What else is to be
    tuned, such as the head, wants `requires_grad_()` afterwards. -> names of the layers, in whose
    state weight_orig, lora_a and lora_b now stand for weight.
    Raises ShapeError: no layer matches, one has an update (or another reparametrisation) already,
    no regular expression, rank < 1.
    """
    require(rank >= 1, "add_lora", "rank must be at least 1", rank=rank)
    with reworded(ShapeError, f"add_lora: {pattern!r} is no regular expression", re.error):
        wanted = re.compile(pattern)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    found = {name: m for name, m in layers.items() if wanted.fullmatch(name)}
    require(bool(found), "add_lora", f"none of the layers matches: {[*layers]}", pattern=pattern)
    taken = [name for name, m in found.items() if "weight" not in m._parameters]
    require(not taken, "add_lora", "weights must be plain parameters", computed=taken)
    model.requires_grad_(False)
    draws = Generator(seed, "init")
    for layer in found.values():
        _adapt(layer, rank, alpha / rank, draws)
    return list(found)


def _adapt(layer: Any, rank: int, scale: float, draws: Generator) -> None:
    weight = take(layer, "add_lora", "weight")
    rows, columns = len(weight), math.prod(weight.shape[1:])
    a = new_parameter((rank, columns), weight.device, weight.dtype)
    a.detach().copy_(wrap(draws.normal((rank, columns)) / math.sqrt(columns)))
    layer.register_parameter("weight_orig", weight)
    layer.register_parameter("lora_a", a)
    b = new_parameter((rows, rank), weight.device, weight.dtype)
    layer.register_parameter("lora_b", b)
    layer.lora_scale = scale
    compute(layer, "lora", "weight", _updated)


def _updated(layer: Any) -> Tensor:
    """The weight that the layer computes with."""
    low = (layer.lora_b @ layer.lora_a) * layer.lora_scale
    return layer.weight_orig + low.reshape(layer.weight_orig.shape)


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that have an update, by name."""
    return ((name, m) for name, m in model.named_modules() if hasattr(m, "lora_scale"))


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """A and B of every layer that has an update: what is to be trained."""
    return [getattr(layer, part) for _, layer in _adapted(model) for part in ADDED]


def merge_lora(model: nn.Module) -> list[str]:
    """Fold the updates into the weights -> names of the layers.

    The model has its plain modules and names again, and the same outputs; the merged weights are
    trainable, and last in their layers' order of parameters.
    """
    merged = list(_adapted(model))
    for _, layer in merged:
        layer.weight = _updated(layer)  # the one at hand may be older than the last step
        settle(layer, "lora", "weight", ("_orig",))
        for name in (*ADDED, "lora_scale"):
            delattr(layer, name)
    return [name for name, _ in merged]


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """The updates alone by their names in `state_dict`: all that a finetuned model need store."""
    return {
        f"{name}.{part}": getattr(layer, part).detach()
        for name, layer in _adapted(model)
        for part in ADDED
    }


def load_lora(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put what `lora_state` gave into a model with the same updates.

    Raises CheckpointError: names or shapes differ; then nothing has been changed.
    """
    own = lora_state(model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    rule = "the state must hold exactly the model's updates"
    require(not missing and not unexpected, "load_lora", rule, error=CheckpointError,
            missing=missing, unexpected=unexpected)  # fmt: skip
    model.load_state_dict(state, strict=False)
