"""A ConvNeXt-style network for small images (arXiv 2201.03545)."""

from collections.abc import Sequence

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.models.blocks import LayerNorm2d


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm, a dense layer to 4 dim and back, scale, residual."""

    def __init__(self, dim: int, kernel_size: int, layer_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(nn.init.constant_(self.norm.bias.detach().clone(), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, dim, H, W) -> the same shape; the dense layers see (N, H, W, dim)."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(F.gelu(self.pwconv1(y))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """A patch stem, stages of blocks with 2x2 stride-2 convolutions between, pooling, a head."""

    def __init__(
        self, num_classes: int = 10, *, dims: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (3, 3, 3), kernel_size: int = 7, patch_size: int = 2,
        layer_scale: float = 1e-6, in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        stem = nn.Conv2d(in_channels, dims[0], patch_size, stride=patch_size)
        self.downsamples = nn.ModuleList([nn.Sequential(stem, LayerNorm2d(dims[0], eps=1e-6))])
        for small, large in zip(dims[:-1], dims[1:]):
            halve = nn.Conv2d(small, large, 2, stride=2)
            self.downsamples.append(nn.Sequential(LayerNorm2d(small, eps=1e-6), halve))
        self.stages = nn.ModuleList()
        for dim, depth in zip(dims, depths, strict=True):
            blocks = (ConvNeXtBlock(dim, kernel_size, layer_scale) for _ in range(depth))
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> Tensor:
        """x (N, in_channels, H, W) -> what the head sees (N, dims[-1])."""
        for downsample, stage in zip(self.downsamples, self.stages):
            x = stage(downsample(x))
        return self.norm(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in_channels, H, W) -> logits (N, num_classes)."""
        return self.head(self.features(x))
