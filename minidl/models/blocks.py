"""Pieces that several image models share: norms by name, relu behind them, excitation."""

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import require


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels at every pixel of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> the same; free views where memory is channels-last."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm2d(kind: str, channels: int) -> nn.Module:
    """batch, layer (over channels), group (of 8 channels or fewer), instance, or none."""
    kinds = ("batch", "layer", "group", "instance", "none")
    require(kind in kinds, "norm2d", f"kind must be one of {kinds}", kind=kind)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "layer":
        return LayerNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(max(n for n in range(1, 9) if channels % n == 0), channels)
    return nn.InstanceNorm2d(channels, affine=True) if kind == "instance" else nn.Identity()


def relu_of(
    norm: nn.Module, x: Tensor, more: Tensor | None = None, excite: nn.Module | None = None
) -> Tensor:
    """relu(excite(norm(x)) + more); batch norm without excitation does it in one pass."""
    if isinstance(norm, nn.BatchNorm2d) and excite is None and not norm.has_hooks:
        return norm.relu(x, more)
    y = norm(x) if excite is None else excite(norm(x))
    return F.relu(y if more is None else y + more)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means (arXiv 1709.01507)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(channels // reduction, 4)
        self.fc1 = nn.Linear(channels, inner)
        self.fc2 = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> the same shape."""
        gate = F.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * gate[:, :, None, None]
