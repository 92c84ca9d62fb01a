"""Pruning by masks: name_orig is trained, name_mask kept, and their product used as the weight."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from minidl.autograd import Tensor, wrap
from minidl.errors import require
from minidl.nn.module import Module
from minidl.nn.utils import reparametrize


def L1Unstructured(weight: np.ndarray) -> np.ndarray:
    """Importance of single elements: their magnitude (a pruning_method)."""
    return np.abs(weight)


def global_unstructured(parameters: Iterable[tuple[Module, str]],
                        pruning_method: Callable[[np.ndarray], np.ndarray] = L1Unstructured, *,
                        amount: float) -> None:  # fmt: skip
    """Prune the least important elements of several weights, compared with each other.

    amount: a fraction of what earlier pruning has left, or (an int) a number of elements.
    """
    listed = list(parameters)
    weights = [np.asarray(getattr(m, name).detach().cpu()) for m, name in listed]
    masks = [getattr(m, name + "_mask", None) for m, name in listed]
    kept = [np.ones_like(w) if m is None else np.asarray(m.cpu()) for w, m in zip(weights, masks)]
    scores = np.concatenate([pruning_method(w).reshape(-1) for w in weights])
    flat = np.concatenate([mask.reshape(-1) for mask in kept])
    alive = np.flatnonzero(flat)
    whole = isinstance(amount, int)
    fits = 0 <= amount <= (len(alive) if whole else 1)
    require(fits, "prune", f"amount must be a fraction or at most {len(alive)}", amount=amount)
    lowest = alive[np.argsort(scores[alive], kind="stable")]
    flat[lowest[: round(amount if whole else amount * len(alive))]] = 0
    pieces = np.split(flat, np.cumsum([mask.size for mask in kept])[:-1])
    for (module, name), mask, piece in zip(listed, kept, pieces):
        _use(module, name, piece.reshape(mask.shape).astype(mask.dtype))


def _use(module: Module, name: str, mask: np.ndarray) -> None:
    """Multiply the weight by the mask, now and before every forward."""
    buffer = wrap(mask).to(getattr(module, name).device)
    if hasattr(module, name + "_mask"):
        module.register_buffer(name + "_mask", buffer)
        setattr(module, name, _masked(name, module))
    else:
        module.register_parameter(name + "_orig", reparametrize.take(module, "prune", name))
        module.register_buffer(name + "_mask", buffer)
        reparametrize.compute(module, "prune", name, partial(_masked, name))


def _masked(name: str, m: Module) -> Tensor:
    return getattr(m, name + "_orig") * getattr(m, name + "_mask")


def l1_unstructured(module: Module, name: str, amount: float) -> Module:
    """Prune the elements of least magnitude among those left."""
    global_unstructured([(module, name)], amount=amount)
    return module


def remove(module: Module, name: str) -> Module:
    """Make the pruned weight a plain parameter."""
    return reparametrize.settle(module, "prune", name, ("_orig", "_mask"))
