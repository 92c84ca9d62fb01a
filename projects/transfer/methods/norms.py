"""Batch norms in finetuning: which parts adapt, and statistics for norms that were folded.

Converters fold a batch norm into its convolution; `minidl.io` then gives the norm mean 0 and
variance 1 - eps, with which it only adds a bias. Training with batch statistics would change such a
network's outputs at once, so the true statistics are measured and put back first.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np

from minidl import nn
from minidl.autograd import Tensor, no_grad, wrap
from minidl.errors import DataError, require
from minidl.nn.module import kept_modes


class FixedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that uses its running statistics, and leaves them, in training too."""

    @property
    def training(self) -> bool:  # type: ignore[override]
        """Never."""
        return False

    @training.setter
    def training(self, mode: bool) -> None:
        pass


def set_norms(model: nn.Module, affine: bool, statistics: bool) -> None:
    """Say what of the model's BatchNorm2d adapts.

    affine: their scale and shift get gradients. statistics: in training they use each batch's and
    update the running ones; if not, they compute as in evaluation, whatever `model.train()` says.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(affine)
            if type(module) in (nn.BatchNorm2d, FixedBatchNorm2d):
                module.__class__ = nn.BatchNorm2d if statistics else FixedBatchNorm2d


class Moments:
    """Mean and population variance of each channel over all pictures, one batch after another.

    In float64 by Chan et al. 1983: each batch's own deviations, then those of the means.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(()), np.zeros(())

    def add(self, x: np.ndarray) -> None:
        """Take in x (N, C, H, W)."""
        values = x.astype(np.float64)
        count, mean = x.size // x.shape[1], values.mean((0, 2, 3))
        squares = ((values - mean[:, None, None]) ** 2).sum((0, 2, 3))
        both, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart**2 * (self.count * count / both)
        self.mean = self.mean + apart * (count / both)
        self.count = both

    @property
    def variance(self) -> np.ndarray:
        """(C,)."""
        return self.squares / self.count


def unfold_norms(model: nn.Module, batches: Iterable[Tensor]) -> list[str]:
    """Give norms without statistics those of their inputs over the batches -> names of the norms.

    They are the BatchNorm2d with mean 0 and variance 1 or 1 - eps. Their inputs' exact mean and
    variance over all of batches, each (N, C, H, W), become the running ones, and scale and shift
    are such that outputs in evaluation stay as they were (to rounding). So one pass is enough: what
    a later norm sees does not change either. Raises DataError: no batch goes through one of them;
    ShapeError: one has no scale and shift.
    """
    named = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    found: dict[str, Any] = {name: m for name, m in named.items() if _says_nothing(m)}
    plain = [name for name, m in found.items() if m.weight is None or m.bias is None]
    require(not plain, "unfold_norms", "folded norms must have scale and shift", without=plain)
    seen = {id(norm): Moments() for norm in found.values()}
    if not found:
        return []

    def look(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[id(norm)].add(args[0].float().cpu().numpy())

    with ExitStack() as stack, kept_modes(model), no_grad():
        for norm in found.values():
            stack.enter_context(norm.register_forward_pre_hook(look))
        model.eval()
        for x in batches:
            model(x)
    unseen = [name for name, norm in found.items() if not seen[id(norm)].count]
    rule = "the batches must go through every folded norm"
    require(not unseen, "unfold_norms", rule, error=DataError, unseen=unseen)
    for norm in found.values():
        _restate(norm, seen[id(norm)])
    return list(found)


def _says_nothing(norm: Any) -> bool:
    """Whether the statistics are those of a norm that is folded, or new."""
    if norm.running_mean is None:
        return False
    mean, var = norm.running_mean.cpu().numpy(), norm.running_var.cpu().numpy()
    return bool((mean == 0).all() and (np.abs(var - 1) <= 1.5 * norm.eps).all())


def _restate(norm: Any, seen: Moments) -> None:
    """Other statistics, and the scale and shift with which they make the same function."""
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    scale, shift, mean, var = (t.detach().cpu().numpy().astype(np.float64) for t in tensors)
    slope = scale / np.sqrt(var + norm.eps)
    shift = shift + slope * (seen.mean - mean)
    scale = slope * np.sqrt(seen.variance + norm.eps)
    with no_grad():
        for tensor, value in zip(tensors, (scale, shift, seen.mean, seen.variance), strict=True):
            tensor.copy_(wrap(value.astype(np.float32)))
