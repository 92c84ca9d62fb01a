"""Pruning by masks: name_orig is trained, name_mask kept, and their product used as the weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minidl import random
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn.module import Module
from minidl.nn.utils import reparametrize


def L1Unstructured(weight: np.ndarray) -> np.ndarray:
    """Importance of single elements: their magnitude (a pruning_method)."""
    return np.abs(weight)


def RandomUnstructured(weight: np.ndarray) -> np.ndarray:
    """Importance of single elements: a draw from the stream "init" (a pruning_method)."""
    return random.default("init").uniform(weight.shape)


def _values(module: Module, name: str) -> np.ndarray:
    return np.asarray(getattr(module, name).detach().cpu())


def _mask(module: Module, name: str) -> np.ndarray:
    mask = getattr(module, name + "_mask", None)
    return np.ones_like(_values(module, name)) if mask is None else np.asarray(mask.cpu())


def _without_lowest(scores: np.ndarray, kept: np.ndarray, amount: float) -> np.ndarray:
    """The flat mask `kept` without a fraction (or, of an int, a number) of its lowest scores."""
    alive = np.flatnonzero(kept)
    whole = isinstance(amount, int)
    fits = 0 <= amount <= (len(alive) if whole else 1)
    rule = f"amount must be a fraction or at most {len(alive)}"
    require(fits, "prune", rule, amount=amount)
    lowest = alive[np.argsort(scores[alive], kind="stable")]
    mask = kept.copy()
    mask[lowest[: round(amount if whole else amount * len(alive))]] = 0
    return mask


def custom_from_mask(module: Module, name: str, mask: Any) -> Module:
    """Prune where the mask is 0 (and wherever was pruned before)."""
    weight = getattr(module, name)
    fits = mask.shape == weight.shape
    require(fits, "prune", "mask must have the weight's shape", mask=mask, weight=weight)
    whole = np.asarray(mask) * _mask(module, name)
    first = reparametrize.find(module, "prune", name) is None
    if first:
        module.register_parameter(name + "_orig", reparametrize.take(module, "prune", name))
    module.register_buffer(name + "_mask", Tensor(whole.astype(weight.dtype)).to(weight.device))

    def function(m: Module) -> Tensor:
        return getattr(m, name + "_orig") * getattr(m, name + "_mask")

    if first:
        reparametrize.compute(module, "prune", name, function)
    else:
        setattr(module, name, function(module))
    return module


def identity(module: Module, name: str) -> Module:
    """Prune nothing, but set up the mask."""
    return custom_from_mask(module, name, _mask(module, name))


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: Callable[[np.ndarray], np.ndarray] = L1Unstructured, *, amount: float,
) -> None:  # fmt: skip
    """Prune the least important elements of several weights, compared with each other."""
    listed = list(parameters)
    scores = np.concatenate([pruning_method(_values(m, name)).reshape(-1) for m, name in listed])
    masks = [_mask(m, name) for m, name in listed]
    kept = np.concatenate([mask.reshape(-1) for mask in masks])
    pieces = np.split(
        _without_lowest(scores, kept, amount), np.cumsum([mask.size for mask in masks])[:-1]
    )
    for (m, name), mask, piece in zip(listed, masks, pieces):
        custom_from_mask(m, name, piece.reshape(mask.shape))


def l1_unstructured(module: Module, name: str, amount: float) -> Module:
    """Prune the elements of least magnitude among those left."""
    global_unstructured([(module, name)], L1Unstructured, amount=amount)
    return module


def random_unstructured(module: Module, name: str, amount: float) -> Module:
    """Prune elements at random among those left."""
    global_unstructured([(module, name)], RandomUnstructured, amount=amount)
    return module


def ln_structured(module: Module, name: str, amount: float, n: float, dim: int) -> Module:
    """Prune whole slices along dim, those of least n-norm among those left."""
    weight, mask = (np.moveaxis(f(module, name), dim, 0).copy() for f in (_values, _mask))
    norms: Any = np.linalg.norm(weight.reshape(len(weight), -1), n, axis=1)
    kept = mask.reshape(len(mask), -1).any(1).astype(mask.dtype)
    mask[_without_lowest(norms, kept, amount) == 0] = 0
    return custom_from_mask(module, name, np.moveaxis(mask, 0, dim))


def remove(module: Module, name: str) -> Module:
    """Make the pruned weight a plain parameter."""
    reparametrize.settle(module, "prune", name, ("_orig", "_mask"))
    return module


def is_pruned(module: Module) -> bool:
    """Whether anything in the module or below it is pruned."""
    hooks = [hook for m in module.modules() for hook, _ in m._forward_pre_hooks.values()]
    return any(isinstance(h, reparametrize.Computed) and h.kind == "prune" for h in hooks)
