"""Masked finetuning: tune the entries of the weights with the largest gradients, no others.

After Zhang et al. 2023 (GPS, arXiv 2312.10136). Kept: the choice is made once, before training, by
the magnitude of the gradient of a loss over the training set; every neuron keeps its own top
connections, so that all layers are tuned; the head is tuned whole; the gradient is masked. Left
out: the loss without a head (supervised contrastive) by which the paper takes the gradients is the
caller's to give; its study of which scores to use. Added: the entries not chosen are put back after
every step, so that weight decay does not move them either.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import minidl as ml
from minidl import nn, optim
from minidl.autograd import Tensor, raw, wrap
from minidl.errors import GraphError, require

Masks = dict[str, np.ndarray]  # by parameter: True where it is tuned


def select_masks(
    model: nn.Module, losses: Iterable[Tensor], share: float, *, whole: Sequence[str] = ()
) -> Masks:
    """Masks of all trainable parameters, by the gradients of the losses' sum.

    losses: the loss of one batch after another, best a generator that computes each when it is
    asked for. A weight (K, …) keeps of each of its K rows the round(share · inputs) entries, one
    at least, of largest magnitude of gradient; ties go to the first. Parameters of fewer than two
    axes (biases, norms) keep none; those whose names begin with one of `whole` keep all (the head).
    The model's gradients are dropped before and after. Raises ShapeError: share outside (0, 1];
    GraphError: no loss depends on a trainable parameter.
    """
    require(0 < share <= 1, "select_masks", "share must lie in (0, 1]", share=share)
    model.zero_grad()
    for loss in losses:
        loss.backward()
    tuned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reached = any(p.grad is not None for p in tuned.values())
    rule = "no loss depends on a trainable parameter"
    require(reached, "select_masks", rule, error=GraphError, parameters=len(tuned))
    masks = {name: np.zeros(p.shape, bool) for name, p in tuned.items()}
    for name, p in tuned.items():
        if name.startswith(tuple(whole)):
            masks[name][...] = True
        elif p.ndim > 1 and p.grad is not None:
            masks[name] = _top(p.grad.cpu().numpy(), share)
    model.zero_grad()
    return masks


def _top(gradient: np.ndarray, share: float) -> np.ndarray:
    """True at each row's entries of largest magnitude."""
    rows = np.abs(gradient).reshape(len(gradient), -1)
    kept = max(1, round(share * rows.shape[1]))
    mask = np.zeros(rows.shape, bool)
    np.put_along_axis(mask, np.argsort(-rows, axis=1, kind="stable")[:, :kept], True, axis=1)
    return mask.reshape(gradient.shape)


class MaskedUpdate(optim.Optimizer):
    """An optimizer whose steps leave whatever is False in the masks as it was, bit for bit.

    Gradients are masked as they arrive, so that a bound on their norm counts what is tuned;
    after each step the other entries are put back, whatever weight decay or momentum did to them.
    State, groups and options are the optimizer's. Masks of `weights != 0` keep a pruned model
    sparse.
    """

    def __init__(
        self, optimizer: optim.Optimizer, model: nn.Module, masks: Mapping[str, np.ndarray]
    ) -> None:
        named = dict(model.named_parameters())
        fits = all(name in named and named[name].shape == m.shape for name, m in masks.items())
        require(fits, "MaskedUpdate", "masks must have the names and shapes of parameters",
                masks={name: m.shape for name, m in masks.items()})  # fmt: skip
        self.optimizer = optimizer
        self.rows = [self._held(named[name], mask) for name, mask in masks.items()]

    @staticmethod
    def _held(param: nn.Parameter, mask: np.ndarray) -> tuple[nn.Parameter, Tensor, Tensor]:
        """A parameter, where it is tuned, and a copy of what it is."""
        chosen = wrap(mask).to(param.device)
        if param.requires_grad:
            param.register_hook(lambda g: g * chosen)
        return param, chosen, param.detach().clone()

    def step(self, closure: Any = None) -> Any:
        """The optimizer's step, undone where nothing is tuned."""
        result = self.optimizer.step(closure)
        with ml.no_grad():
            for param, chosen, kept in self.rows:
                param.copy_(ml.where(chosen, param, kept))
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The optimizer's: its state says nothing of the masks."""
        self.optimizer.load_state_dict(state_dict)

    def __getattr__(self, name: str) -> Any:
        """param_groups, state and defaults, of which there is one."""
        return getattr(self.optimizer, name)


def tuned_share(masks: Mapping[str, np.ndarray], model: nn.Module) -> float:
    """Tuned entries over all of the model's parameters."""
    total = sum(raw(p).size for p in model.parameters())
    return sum(int(mask.sum()) for mask in masks.values()) / total
