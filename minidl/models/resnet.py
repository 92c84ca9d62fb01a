"""Residual networks (arXiv 1512.03385): CIFAR's 6n+2 layers, and torchvision's ResNet-18/34/50."""

from collections.abc import Callable, Sequence
from typing import Any

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.models.blocks import SqueezeExcite, relu_of


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; projected by a 1x1 where the shape changes."""

    expansion = 1  # outputs per width
    kernels: tuple[int, ...] = (3, 3)

    def __init__(self, inputs: int, width: int, stride: int, squeeze_excite: bool) -> None:
        super().__init__()
        outputs = width * self.expansion
        widths = (inputs, *(width,) * (len(self.kernels) - 1), outputs)
        for i, kernel in enumerate(self.kernels):
            step = stride if i == self.kernels.index(3) else 1
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, bias=False)
            self.register_module(f"conv{i + 1}", conv)
            self.register_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.excite = SqueezeExcite(outputs) if squeeze_excite else None
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, expansion · width, H / stride, W / stride)."""
        y, last = x, len(self.kernels)
        for i in range(1, last):
            y = relu_of(getattr(self, f"bn{i}"), getattr(self, f"conv{i}")(y))
        y, norm = getattr(self, f"conv{last}")(y), getattr(self, f"bn{last}")
        return relu_of(norm, y, x if self.downsample is None else self.downsample(x), self.excite)


class Bottleneck(BasicBlock):
    """1x1, 3x3 (with the stride) and 1x1 convolutions around a shortcut."""

    expansion, kernels = 4, (1, 3, 1)


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling and a classifier.

    stem: "cifar" (3x3), "imagenet" (7x7 stride 2, max-pool) or "patch" (2x2 stride 2). Parameter
    names are torchvision's.
    """

    def __init__(self, block: type[BasicBlock], layers: Sequence[int],
                 widths: Sequence[int] = (64, 128, 256, 512), num_classes: int = 1000, *,
                 in_channels: int = 3, stem: str = "imagenet",
                 squeeze_excite: bool = False) -> None:  # fmt: skip
        super().__init__()
        stems = {"cifar": (3, 1, 1), "imagenet": (7, 2, 3), "patch": (2, 2, 0)}
        require(stem in stems, "ResNet", f"stem must be one of {[*stems]}", stem=stem)
        self.conv1 = nn.Conv2d(in_channels, widths[0], *stems[stem], bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pooled, self.stages = stem == "imagenet", len(layers)
        inputs = widths[0]
        for i, (count, width) in enumerate(zip(layers, widths, strict=True)):
            blocks = []
            for j in range(count):
                blocks.append(block(inputs, width, 2 if i and not j else 1, squeeze_excite))
                inputs = width * block.expansion
            self.register_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """x (N, in_channels, H, W) -> what the classifier sees (N, features)."""
        x = relu_of(self.bn1, self.conv1(x))
        x = F.max_pool2d(x, 3, 2, 1) if self.pooled else x
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in_channels, H, W) -> logits (N, num_classes)."""
        return self.fc(self.features(x))


def cifar_resnet(
    depth: int = 20, num_classes: int = 10, *, width: int = 16, stem: str = "cifar", **options: Any
) -> ResNet:
    """The paper's network of 6n+2 layers for 32x32 images: 20, 56, 110 … (shortcuts: option B).

    options: in_channels and squeeze_excite of ResNet.
    """
    require(depth % 6 == 2 and depth > 2, "cifar_resnet", "depth must be 6n+2", depth=depth)
    layers, widths = [(depth - 2) // 6] * 3, (width, 2 * width, 4 * width)
    return ResNet(BasicBlock, layers, widths, num_classes, stem=stem, **options)


def _imagenet(block: type[BasicBlock], layers: Sequence[int]) -> Callable[..., ResNet]:
    def make(num_classes: int = 1000, *, width: int = 64, **options: Any) -> ResNet:
        """The network as torchvision's; stem="cifar" for 32x32 images; options of ResNet."""
        return ResNet(block, layers, [width * 2**i for i in range(4)], num_classes, **options)

    return make


resnet18 = _imagenet(BasicBlock, (2, 2, 2, 2))
resnet34 = _imagenet(BasicBlock, (3, 4, 6, 3))
resnet50 = _imagenet(Bottleneck, (3, 4, 6, 3))
