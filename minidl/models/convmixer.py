"""ConvMixer: depthwise and 1x1 convolutions on patches (arXiv 2201.09792)."""

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.models.blocks import Classifier, GlobalPool


class Mixer(nn.Module):
    """A depthwise convolution within a residual, then a 1x1, each with GELU and batch norm."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(dim, dim, kernel_size, padding="same", groups=dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.pointwise = nn.Conv2d(dim, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, dim, H, W) -> the same shape."""
        x = x + self.norm1(F.gelu(self.spatial(x)))
        return self.norm2(F.gelu(self.pointwise(x)))


class ConvMixer(Classifier):
    """Patches, `depth` mixers, global average pooling, a head; as it stands for 32x32 images."""

    head_name = "head"

    def __init__(self, num_classes: int = 10, *, dim: int = 256, depth: int = 8,
                 kernel_size: int = 5, patch_size: int = 2,
                 in_channels: int = 3) -> None:  # fmt: skip
        super().__init__()
        self.stem = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.act, self.norm = nn.GELU(), nn.BatchNorm2d(dim)
        self.blocks = nn.Sequential(*(Mixer(dim, kernel_size) for _ in range(depth)))
        self.avgpool = GlobalPool()
        self.head = nn.Linear(dim, num_classes)
