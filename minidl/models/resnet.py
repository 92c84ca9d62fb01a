"""Residual networks (arXiv 1512.03385): CIFAR's 6n+2 layers, and torchvision's ResNet-18/34/50."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.models.blocks import SqueezeExcite


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the new channels, half on each side."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.before = stride, (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, shortcut: str, squeeze_excite: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.excite = SqueezeExcite(width) if squeeze_excite else None
        self.downsample = _shortcut(inputs, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, width, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y = y if self.excite is None else self.excite(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions around a shortcut."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, shortcut: str, squeeze_excite: bool
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.excite = SqueezeExcite(outputs) if squeeze_excite else None
        self.downsample = _shortcut(inputs, outputs, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, 4 width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        y = y if self.excite is None else self.excite(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inputs: int, outputs: int, stride: int, option: str) -> nn.Module | None:
    """None where the input fits as it is; else zero padding (A) or a 1x1 projection (B)."""
    if stride == 1 and inputs == outputs:
        return None
    if option == "A":
        return PadShortcut(inputs, outputs, stride)
    projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average pooling and a classifier.

    stem: "cifar" (3x3), "imagenet" (7x7 stride 2, max-pool) or "patch" (2x2 stride 2). shortcut:
    "A" or "B" of the paper. Parameter names are torchvision's.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512), num_classes: int = 1000, *,
        in_channels: int = 3, stem: str = "imagenet", shortcut: str = "B",
        squeeze_excite: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        stems = {"cifar": (3, 1, 1), "imagenet": (7, 2, 3), "patch": (2, 2, 0)}
        require(stem in stems, "ResNet", f"stem must be one of {[*stems]}", stem=stem)
        require(shortcut in ("A", "B"), "ResNet", "shortcut must be A or B", shortcut=shortcut)
        self.conv1 = nn.Conv2d(in_channels, widths[0], *stems[stem], bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pooled, self.stages = stem == "imagenet", len(layers)
        inputs = widths[0]
        for i, (count, width) in enumerate(zip(layers, widths, strict=True)):
            blocks = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block(inputs, width, stride, shortcut, squeeze_excite))
                inputs = width * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """x (N, in_channels, H, W) -> what the classifier sees (N, features)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1) if self.pooled else x
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in_channels, H, W) -> logits (N, num_classes)."""
        return self.fc(self.features(x))


def cifar_resnet(
    depth: int = 20, num_classes: int = 10, *, in_channels: int = 3, width: int = 16,
    shortcut: str = "B", stem: str = "cifar", squeeze_excite: bool = False,
) -> ResNet:  # fmt: skip
    """The paper's network of 6n+2 layers for 32x32 images: 20, 56, 110 …"""
    require(depth % 6 == 2 and depth > 2, "cifar_resnet", "depth must be 6n+2", depth=depth)
    return ResNet(
        BasicBlock, [(depth - 2) // 6] * 3, (width, 2 * width, 4 * width), num_classes,
        in_channels=in_channels, stem=stem, shortcut=shortcut, squeeze_excite=squeeze_excite,
    )  # fmt: skip


def _imagenet(block: type, layers: tuple[int, ...]) -> Callable[..., ResNet]:
    def make(
        num_classes: int = 1000, *, in_channels: int = 3, width: int = 64, stem: str = "imagenet",
        squeeze_excite: bool = False,
    ) -> ResNet:  # fmt: skip
        """The network as torchvision's; stem="cifar" for 32x32 images."""
        return ResNet(
            block, layers, [width * 2**i for i in range(4)], num_classes,
            in_channels=in_channels, stem=stem, squeeze_excite=squeeze_excite,
        )  # fmt: skip

    return make


resnet18 = _imagenet(BasicBlock, (2, 2, 2, 2))
resnet34 = _imagenet(BasicBlock, (3, 4, 6, 3))
resnet50 = _imagenet(Bottleneck, (3, 4, 6, 3))
