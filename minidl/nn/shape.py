"""Modules without parameters that reshape, pad, drop or compare."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn.fields import Fields, Size, variant
from minidl.nn.module import Module


class Identity(Module):
    """Return the input; any arguments are taken and ignored, as in PyTorch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        """x -> x."""
        return x


class Flatten(Fields, show="start_dim={start_dim}, end_dim={end_dim}"):
    """Join the axes start_dim … end_dim into one."""

    start_dim: int = 1
    end_dim: int = -1

    def forward(self, x: Tensor) -> Tensor:
        """x (N, …) -> (N, features) by default."""
        return x.flatten(self.start_dim, self.end_dim)


class Unflatten(Fields, show="dim={dim}, unflattened_size={unflattened_size}"):
    """Split one axis into several."""

    dim: int
    unflattened_size: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        """x (…, prod(sizes), …) -> (…, *sizes, …)."""
        dim = self.dim % x.ndim
        return x.reshape(*x.shape[:dim], *self.unflattened_size, *x.shape[dim + 1 :])


class Dropout(Fields, show="p={p}, inplace={inplace}"):
    """Zero inputs with probability p while training, and scale the others by 1/(1 - p)."""

    _function = staticmethod(F.dropout)
    p: float = 0.5
    inplace: bool = False

    def _build(self) -> None:
        require(0 <= self.p <= 1, type(self).__name__, "p must be between 0 and 1", p=self.p)

    def forward(self, x: Tensor) -> Tensor:
        """x -> the same shape (x itself when not training)."""
        return self._function(x, self.p, self.training)


Dropout2d = variant("Dropout2d", Dropout, of=F.dropout2d)


class ZeroPad2d(Fields, show="{padding}"):
    """Pad the last axes by (left, right, top, bottom), or by one number on every side."""

    _axes, _mode, value = 2, "constant", 0.0
    padding: Size

    def _build(self) -> None:
        given, count = self.padding, 2 * self._axes
        self.padding = (given,) * count if isinstance(given, int) else tuple(given)
        rule = f"padding must be a number or {count} of them"
        require(len(self.padding) == count, type(self).__name__, rule, padding=given)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, H, W) -> (…, H + top + bottom, W + left + right)."""
        value = self.value if self._mode == "constant" else None
        return F.pad(x, self.padding, self._mode, value)


class ConstantPad2d(ZeroPad2d, show="padding={padding}, value={value}"):
    value: float


ZeroPad1d = variant("ZeroPad1d", ZeroPad2d, _axes=1)
ConstantPad1d = variant("ConstantPad1d", ConstantPad2d, _axes=1)
ReflectionPad1d = variant("ReflectionPad1d", ZeroPad2d, _axes=1, _mode="reflect")
ReflectionPad2d = variant("ReflectionPad2d", ZeroPad2d, _mode="reflect")
ReplicationPad1d = variant("ReplicationPad1d", ZeroPad2d, _axes=1, _mode="replicate")
ReplicationPad2d = variant("ReplicationPad2d", ZeroPad2d, _mode="replicate")
CircularPad1d = variant("CircularPad1d", ZeroPad2d, _axes=1, _mode="circular")
CircularPad2d = variant("CircularPad2d", ZeroPad2d, _mode="circular")


class CosineSimilarity(Fields, of=F.cosine_similarity, show=""):
    dim: int = 1
    eps: float = 1e-8


class PairwiseDistance(Fields, of=F.pairwise_distance, show=""):
    p: float = 2.0
    eps: float = 1e-6
    keepdim: bool = False


class LocalResponseNorm(
    Fields, of=F.local_response_norm, show="{size}, alpha={alpha}, beta={beta}, k={k}"
):
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0
