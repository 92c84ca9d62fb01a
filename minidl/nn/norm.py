"""Normalisation layers."""

from typing import Any, ClassVar

import numpy as np

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.derivatives import recomputing
from minidl.errors import require
from minidl.nn import init
from minidl.nn.fields import Layer, Switch
from minidl.nn.parameter import new_parameter, new_tensor
from minidl.ops.norm import batch_norm_with

_CHANNELS = "{num_features}, eps={eps}, momentum={momentum}, affine={affine}, bias={bias}"
_CHANNELS += ", track_running_stats={track_running_stats}"
_GROUPS = "{num_groups}, {num_channels}, eps={eps}, affine={affine}, bias={bias}"
_LAST = "{normalized_shape}, eps={eps}, elementwise_affine={elementwise_affine}"


class _Norm(Layer):
    """A learnt scale (from 1) and shift (from 0), where wanted."""

    def _affine(self, shape: tuple[int, ...], wanted: bool, *where: Any) -> None:
        self.weight: Any = new_parameter(shape, *where) if wanted else None
        self.bias: Any = new_parameter(shape, *where) if wanted and self.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for param, fill in ((self.weight, init.ones_), (self.bias, init.zeros_)):
            if param is not None:
                fill(param)


class _ChannelNorm(_Norm, show=_CHANNELS):
    """Batch and instance norm: one scale, shift, running mean and variance a channel."""

    _keyword_only = ("bias",)
    _optional_state = frozenset({"num_batches_tracked"})
    _dims: ClassVar[tuple[int, ...]] = (4,)
    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True
    bias: Switch = True

    def _build(self, *where: Any) -> None:
        shape, tracked = (self.num_features,), self.track_running_stats
        self.register_buffer("running_mean", new_tensor(shape, *where) if tracked else None)
        self.register_buffer("running_var", new_tensor(shape, *where) if tracked else None)
        count = new_tensor((), where[0], np.int64) if tracked else None
        self.register_buffer("num_batches_tracked", count)
        self._affine(shape, self.affine, *where)

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        super().reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget the running mean and variance."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def _arguments(self, x: Tensor) -> tuple[Any, Any, Any, Any, Any]:
        """What F takes first; x must have as many axes as the layer is for."""
        rule = f"x must have {' or '.join(map(str, self._dims))} axes"
        require(x.ndim in self._dims, type(self).__name__, rule, x=x)
        return x, self.running_mean, self.running_var, self.weight, self.bias


class BatchNorm2d(_ChannelNorm):
    """Normalise each channel of (N, C, H, W) over the batch (arXiv 1502.03167)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, …) -> the same shape."""
        return self._normalise(x, None, None)

    def activated(self, x: Tensor, act: str, more: Tensor | None = None) -> Tensor:
        """act(self(x) + more), act "relu" or "relu6", more like x; in one pass where self(x) is."""
        if type(self).forward is BatchNorm2d.forward and not self.has_hooks:
            return self._normalise(x, more, act)
        return getattr(F, act)(self(x) if more is None else self(x) + more)

    def _normalise(self, x: Tensor, more: Tensor | None, act: str | None) -> Tensor:
        arguments, momentum = self._arguments(x), self.momentum
        if self.training and self.num_batches_tracked is not None and not recomputing.get():
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the plain mean over all batches; reads the count on the host
                momentum = 1.0 / self.num_batches_tracked.item()
        training = self.training or self.running_mean is None
        return batch_norm_with(more, act, *arguments, training, momentum or 0.0, self.eps)


class BatchNorm1d(BatchNorm2d):
    """Normalise each channel of (N, C) or (N, C, L) over the batch (arXiv 1502.03167)."""

    _dims = (2, 3)


class InstanceNorm2d(_ChannelNorm, show=_CHANNELS):
    """Normalise each channel of each sample of (N, C, H, W) (arXiv 1607.08022)."""

    _dims = (3, 4)
    affine: bool = False
    track_running_stats: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, …) or unbatched (C, …) -> the same shape."""
        if x.ndim == self._dims[0]:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        own = self.training or not self.track_running_stats
        return F.instance_norm(*self._arguments(x), own, self.momentum or 0.0, self.eps)


class InstanceNorm1d(InstanceNorm2d):
    """Normalise each channel of each sample of (N, C, L) (arXiv 1607.08022)."""

    _dims = (2, 3)


class GroupNorm(_Norm, show=_GROUPS):
    """Normalise each group of channels of each sample (arXiv 1803.08494)."""

    _keyword_only = ("bias",)
    num_groups: int
    num_channels: int
    eps: float = 1e-5
    affine: bool = True
    bias: Switch = True

    def _build(self, *where: Any) -> None:
        groups, channels = self.num_groups, self.num_channels
        fits, rule = groups > 0 and channels % groups == 0, "num_groups must divide num_channels"
        require(fits, "GroupNorm", rule, num_groups=groups, num_channels=channels)
        self._affine((channels,), self.affine, *where)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, …) -> the same shape."""
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class _LastAxes(_Norm):
    """Layer and RMS norm: one scale an element of the last axes."""

    def _build(self, *where: Any) -> None:
        shape = self.normalized_shape
        self.normalized_shape: Any = (shape,) if isinstance(shape, int) else tuple(shape)
        self._affine(self.normalized_shape, self.elementwise_affine, *where)


class LayerNorm(_LastAxes, show=_LAST + ", bias={bias}"):
    """Normalise over the last axes, of the given sizes (arXiv 1607.06450)."""

    normalized_shape: int | tuple[int, ...]
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: Switch = True

    def forward(self, x: Tensor) -> Tensor:
        """x (…, *normalized_shape) -> the same shape."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(_LastAxes, show=_LAST):
    """Divide by the root mean square over the last axes (arXiv 1910.07467)."""

    bias = None  # has none
    normalized_shape: int | tuple[int, ...]
    eps: float | None = None
    elementwise_affine: bool = True

    def forward(self, x: Tensor) -> Tensor:
        """x (…, *normalized_shape) -> the same shape."""
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
