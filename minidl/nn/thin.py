"""Modules without parameters: identity, dropouts, pads, and those that hold F's arguments."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from types import new_class
from typing import Any

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn.fields import Fields, Size
from minidl.nn.module import Module
from minidl.ops.arguments import ints_of


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


class Dropout2d(Dropout):
    """Drop whole channels of (N, C, H, W)."""

    _function = staticmethod(F.dropout2d)


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
        return F.pad(x, self.padding, self._mode, self.value)


class ConstantPad2d(ZeroPad2d, show="padding={padding}, value={value}"):
    """Pad with a value."""

    value: float


def _pad(name: str, mode: str, axes: int, base: Any = ZeroPad2d) -> Any:
    return type(name, (base,), {"__module__": __name__, "_mode": mode, "_axes": axes})


ZeroPad1d = _pad("ZeroPad1d", "constant", 1)
ConstantPad1d = _pad("ConstantPad1d", "constant", 1, ConstantPad2d)
ReflectionPad1d, ReflectionPad2d = (_pad(f"ReflectionPad{n}d", "reflect", n) for n in (1, 2))
ReplicationPad1d, ReplicationPad2d = (_pad(f"ReplicationPad{n}d", "replicate", n) for n in (1, 2))
CircularPad1d, CircularPad2d = (_pad(f"CircularPad{n}d", "circular", n) for n in (1, 2))


# ---- modules that only hold arguments of a function of F: activations, losses, pools, resampling


def thin(name: str, of: Callable[..., Any] | None = None, show: str | None = None, *,
         fields: str = "", inputs: int = 1, base: type = Fields) -> Any:  # fmt: skip
    """The class `name` whose forward calls `of` (F's function of that name in lower case).

    Its fields are those parameters of `of`, with their defaults, that come after the inputs.
    """
    snake = re.sub("(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower()
    of = of or getattr(F, name.lower(), None) or getattr(F, snake)
    known = inspect.signature(of).parameters
    names = fields.split() or [*known][inputs:]

    def fill(space: dict[str, Any]) -> None:
        space |= {k: known[k].default for k in names if known[k].default is not known[k].empty}
        space |= {"__module__": "minidl.nn", "__annotations__": dict.fromkeys(names, Any)}

    return new_class(name, (base,), {"of": of, "show": show}, fill)


class _Pool(Fields):
    """A window whose stride is the window's size unless given."""

    _axes = 0  # where not 0, sizes are kept as tuples of this length

    def _build(self) -> None:
        self.stride: Any = self.kernel_size if self.stride is None else self.stride
        for name in ("kernel_size", "stride", "padding") if self._axes else ():
            setattr(self, name, ints_of("AvgPool1d", name, getattr(self, name), self._axes, 0))


class _Upsample(Fields):
    def _build(self) -> None:
        scale = self.scale_factor
        self.scale_factor: Any = float(scale) if isinstance(scale, int) else scale

    def extra_repr(self) -> str:
        name = "size" if self.scale_factor is None else "scale_factor"
        return f"{name}={getattr(self, name)}, mode={self.mode!r}"


ReLU, ReLU6, ELU, CELU, SELU, GELU = map(thin, "ReLU ReLU6 ELU CELU SELU GELU".split())
SiLU, Mish, GLU, Softsign, Softplus = map(thin, "SiLU Mish GLU Softsign Softplus".split())
Sigmoid, LogSigmoid, Hardsigmoid = map(thin, "Sigmoid LogSigmoid Hardsigmoid".split())
Tanh, Tanhshrink, Hardtanh, Hardswish = map(thin, "Tanh Tanhshrink Hardtanh Hardswish".split())
Threshold, Unfold, Fold, PixelShuffle = map(thin, "Threshold Unfold Fold PixelShuffle".split())
LeakyReLU = thin("LeakyReLU", F.leaky_relu)
Softshrink, Hardshrink = (thin(name, show="{lambd}") for name in ("Softshrink", "Hardshrink"))
Softmax, Softmin, LogSoftmax = (thin(n, fields="dim") for n in "Softmax Softmin LogSoftmax".split())

loss = partial(thin, show="", inputs=2)
_NAMES = "NLLLoss MSELoss L1Loss SmoothL1Loss HuberLoss CosineSimilarity"
NLLLoss, MSELoss, L1Loss, SmoothL1Loss, HuberLoss, CosineSimilarity = map(loss, _NAMES.split())
CrossEntropyLoss = loss("CrossEntropyLoss", F.cross_entropy)
BCEWithLogitsLoss = loss("BCEWithLogitsLoss", F.binary_cross_entropy_with_logits)
BCELoss, KLDivLoss = loss("BCELoss", F.binary_cross_entropy), loss("KLDivLoss", F.kl_div)

_AVG = "kernel_size={kernel_size}, stride={stride}, padding={padding}"
_MAX = _AVG + ", dilation={dilation}, ceil_mode={ceil_mode}"
_BEST = "kernel_size stride padding dilation return_indices ceil_mode"
MaxPool1d, MaxPool2d, MaxPool3d = (
    thin(f"MaxPool{n}d", show=_MAX, fields=_BEST, base=_Pool) for n in (1, 2, 3)
)
AvgPool1d, AvgPool2d, AvgPool3d = (thin(f"AvgPool{n}d", show=_AVG, base=_Pool) for n in (1, 2, 3))
AvgPool1d._axes = 1
AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d = (
    thin(f"AdaptiveAvgPool{n}d") for n in (1, 2, 3)
)
_SIZES = "size scale_factor mode align_corners"
Upsample = thin("Upsample", F.interpolate, fields=_SIZES, base=_Upsample)
