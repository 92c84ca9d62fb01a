"""Convolutions; weights are (out, in / groups, *kernel), transposed ones (in, out / groups, …)."""

import math
from typing import Any

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require, require_one_of
from minidl.nn import init
from minidl.nn.fields import Layer, Size, Switch
from minidl.nn.parameter import new_parameter
from minidl.ops.arguments import ints_of

_SHOW = "{in_channels}, {out_channels}, kernel_size={kernel_size}, stride={stride}…"


class _Conv(Layer, show=_SHOW):
    """What all convolutions share: sizes as tuples, parameters uniform in ±1/√(fan-in)."""

    _axes, _transposed = 2, False
    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size = 1
    padding: Size | str = 0

    def _build(self, *where: Any) -> None:
        name, inner, outer = type(self).__name__, self.in_channels, self.out_channels
        groups, mode = self.groups, self.padding_mode
        fits = groups > 0 and inner % groups == 0 and outer % groups == 0
        rule = "groups must divide in_channels and out_channels"
        require(fits, name, rule, groups=groups, in_channels=inner, out_channels=outer)
        modes = ("zeros",) if self._transposed else ("zeros", "reflect", "replicate", "circular")
        require_one_of(name, modes, padding_mode=mode)
        for field in ("kernel_size", "stride", "padding", "output_padding", "dilation"):
            named = field == "padding" and self.padding in ("same", "valid")
            if field in self._fields and not named:
                least = 0 if "padding" in field else 1
                setattr(self, field, ints_of(name, field, getattr(self, field), self._axes, least))
        first, second = (inner, outer) if self._transposed else (outer, inner)
        self.weight = new_parameter((first, second // groups, *self.kernel_size), *where)
        self.bias: Any = new_parameter((outer,), *where) if self.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.fan_in_uniform_(self.parameters(), math.prod(self.weight.shape[1:]))


class Conv2d(_Conv, show=_SHOW):
    """Convolve (N, C, H, W)."""

    _function = staticmethod(F.conv2d)
    dilation: Size = 1
    groups: int = 1
    bias: Switch = True
    padding_mode: str = "zeros"

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, *sizes) or (C, *sizes) -> (N, K, *sizes) or (K, *sizes)."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._widths(), self.padding_mode), 0
        given = (x, self.weight, self.bias, self.stride, padding, self.dilation)
        return self._function(*given, self.groups)

    def _widths(self) -> tuple[int, ...]:
        """The padding as F.pad takes it: last axis first, before and after."""
        padding: Any = self.padding
        if padding == "valid":
            padding = (0,) * self._axes
        if padding == "same":
            padding = [d * (k - 1) / 2 for d, k in zip(self.dilation, self.kernel_size)]
        return tuple(w for n in reversed(padding) for w in (math.floor(n), math.ceil(n)))


class ConvTranspose2d(_Conv, show=_SHOW):
    """The adjoint of Conv2d."""

    _function, _transposed = staticmethod(F.conv_transpose2d), True
    output_padding: Size = 0
    groups: int = 1
    bias: Switch = True
    dilation: Size = 1
    padding_mode: str = "zeros"

    def forward(self, x: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        """x (N, C, *sizes) -> (N, K, *larger); output_size picks one of the possible sizes."""
        extra = self.output_padding if output_size is None else self._extra(x, output_size)
        given = (x, self.weight, self.bias, self.stride, self.padding, extra)
        return self._function(*given, self.groups, self.dilation)

    def _extra(self, x: Tensor, output_size: tuple[int, ...]) -> tuple[int, ...]:
        """The output_padding that gives output_size."""
        axes, settings = self._axes, (self.stride, self.padding, self.dilation, self.kernel_size)
        sizes = zip(x.shape[-axes:], *settings)
        smallest = tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in sizes)
        extra = tuple(w - m for w, m in zip(output_size[-axes:], smallest))
        fits = all(0 <= e < s for e, s in zip(extra, self.stride, strict=True))
        rule = f"output_size must be {smallest} or less than a stride more"
        require(fits, type(self).__name__, rule, output_size=output_size)
        return extra


class Conv1d(Conv2d):
    """Convolve (N, C, L)."""

    _axes, _function = 1, staticmethod(F.conv1d)


class ConvTranspose1d(ConvTranspose2d):
    """The adjoint of Conv1d."""

    _axes, _function = 1, staticmethod(F.conv_transpose1d)
