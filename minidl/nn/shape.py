"""Identity, Flatten, the dropouts and the pads."""

from typing import Any

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn.fields import Fields, Size
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
        value = self.value if self._mode == "constant" else None
        return F.pad(x, self.padding, self._mode, value)


class ConstantPad2d(ZeroPad2d, show="padding={padding}, value={value}"):
    """Pad with a value."""

    value: float


def _pad(name: str, mode: str, axes: int, base: Any = ZeroPad2d) -> Any:
    return type(name, (base,), {"__module__": __name__, "_mode": mode, "_axes": axes})


ZeroPad1d = _pad("ZeroPad1d", "constant", 1)
ConstantPad1d = _pad("ConstantPad1d", "constant", 1, ConstantPad2d)
ReflectionPad1d = _pad("ReflectionPad1d", "reflect", 1)
ReflectionPad2d = _pad("ReflectionPad2d", "reflect", 2)
ReplicationPad1d = _pad("ReplicationPad1d", "replicate", 1)
ReplicationPad2d = _pad("ReplicationPad2d", "replicate", 2)
CircularPad1d = _pad("CircularPad1d", "circular", 1)
CircularPad2d = _pad("CircularPad2d", "circular", 2)
