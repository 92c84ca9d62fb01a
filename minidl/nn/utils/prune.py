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


class L1Unstructured:
    """Ranks single elements by magnitude."""

    @staticmethod
    def scores(weight: Tensor) -> np.ndarray:
        """The importance of each element."""
        return np.abs(np.asarray(weight.detach().cpu()))


class RandomUnstructured:
    """Ranks single elements at random (stream "init")."""

    @staticmethod
    def scores(weight: Tensor) -> np.ndarray:
        """The importance of each element."""
        return random.default("init").uniform(tuple(weight.shape))


def _count(amount: float, size: int) -> int:
    """How many of size to prune: a fraction, or a number of them if an int."""
    whole = isinstance(amount, int)
    fits = 0 <= amount <= (size if whole else 1)
    require(fits, "prune", f"amount must be a fraction or at most {size}", amount=amount)
    return round(amount if whole else amount * size)


def _drop_lowest(scores: np.ndarray, kept: np.ndarray, amount: float) -> np.ndarray:
    """The mask `kept` without the lowest of the scores that it still keeps."""
    alive = np.flatnonzero(kept)
    lowest = alive[np.argsort(scores.reshape(-1)[alive], kind="stable")]
    mask = kept.copy().reshape(-1)
    mask[lowest[: _count(amount, len(alive))]] = 0
    return mask.reshape(kept.shape)


def _mask(module: Module, name: str) -> np.ndarray:
    mask = getattr(module, name + "_mask", None)
    shape = getattr(module, name).shape
    return np.ones(shape, np.float32) if mask is None else np.asarray(mask.cpu())


def custom_from_mask(module: Module, name: str, mask: Tensor) -> Module:
    """Prune where the mask is 0 (and wherever was pruned before)."""
    weight = getattr(module, name)
    fits = mask.shape == weight.shape
    require(fits, "prune", "mask must have the weight's shape", mask=mask, weight=weight)
    whole = np.asarray(mask.cpu()) * _mask(module, name)
    if not is_pruned_parameter(module, name):
        module.register_parameter(name + "_orig", reparametrize.take(module, "prune", name))
    made = Tensor(whole.astype(weight.dtype)).to(weight.device)
    module.register_buffer(name + "_mask", made)

    def function(m: Module) -> Tensor:
        return getattr(m, name + "_orig") * getattr(m, name + "_mask")

    hook = reparametrize.find(module, "prune", name)
    if hook is None:
        reparametrize.compute(module, "prune", name, function)
    else:
        setattr(module, name, function(module))
    return module


def identity(module: Module, name: str) -> Module:
    """Prune nothing, but set up the mask."""
    return custom_from_mask(module, name, Tensor(_mask(module, name)))


def _unstructured(module: Module, name: str, amount: float, scores: np.ndarray) -> Module:
    mask = _drop_lowest(scores, _mask(module, name), amount)
    return custom_from_mask(module, name, Tensor(mask))


def l1_unstructured(module: Module, name: str, amount: float) -> Module:
    """Prune the elements of least magnitude among those left."""
    return _unstructured(module, name, amount, L1Unstructured.scores(getattr(module, name)))


def random_unstructured(module: Module, name: str, amount: float) -> Module:
    """Prune elements at random among those left."""
    return _unstructured(module, name, amount, RandomUnstructured.scores(getattr(module, name)))


def ln_structured(module: Module, name: str, amount: float, n: float, dim: int) -> Module:
    """Prune whole slices along dim, those of least n-norm."""
    weight = np.abs(np.asarray(getattr(module, name).detach().cpu()))
    rows = np.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)
    kept = np.moveaxis(_mask(module, name), dim, 0).reshape(len(rows), -1).any(1)
    norms: Any = np.linalg.norm(rows, n, axis=1)
    mask = _drop_lowest(norms, kept.astype(np.float32), amount)
    shape = [-1 if i == dim % weight.ndim else 1 for i in range(weight.ndim)]
    whole = np.broadcast_to(mask.reshape(shape), weight.shape)
    return custom_from_mask(module, name, Tensor(np.ascontiguousarray(whole)))


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: type[L1Unstructured] | type[RandomUnstructured] = L1Unstructured,
    *,
    amount: float,
) -> None:
    """Prune the lowest elements of several weights, compared with each other."""
    listed = list(parameters)
    rank: Callable[[Tensor], np.ndarray] = pruning_method.scores
    scores = np.concatenate([rank(getattr(m, name)).reshape(-1) for m, name in listed])
    kept = np.concatenate([_mask(m, name).reshape(-1) for m, name in listed])
    mask, start = _drop_lowest(scores, kept, amount), 0
    for m, name in listed:
        shape = getattr(m, name).shape
        size = int(np.prod(shape))
        custom_from_mask(m, name, Tensor(mask[start : start + size].reshape(shape)))
        start += size


def remove(module: Module, name: str) -> Module:
    """Make the pruned weight a plain parameter."""
    reparametrize.settle(module, "prune", name, ("_orig", "_mask"))
    return module


def is_pruned_parameter(module: Module, name: str) -> bool:
    """Whether this weight of this module is computed from a mask."""
    return reparametrize.find(module, "prune", name) is not None


def is_pruned(module: Module) -> bool:
    """Whether anything in the module or below it is pruned."""
    return any(
        isinstance(hook, reparametrize.Computed) and hook.kind == "prune"
        for m in module.modules()
        for hook, _ in m._forward_pre_hooks.values()
    )
