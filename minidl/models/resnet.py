"""Residual networks (arXiv 1512.03385): CIFAR's 6n+2 layers, torchvision's, MLPerf Tiny's."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import require, require_one_of

# isort: off
from minidl.models.blocks import (
    Classifier, GlobalPool, SqueezeExcite, conv2d, refuse_weights, relu_of,
)  # fmt: skip
# isort: on


class Subsample(nn.Module):
    """Pixels a stride apart, and channels of zeros around theirs: a shortcut without weights."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = outputs - inputs, stride

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        before, kept = self.more // 2, slice(None, None, self.stride)
        return F.pad(x[:, :, kept, kept], (0, 0, 0, 0, before, self.more - before))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, as ResNet says what it is where the shape changes."""

    expansion = 1  # outputs per width
    kernels: tuple[int, ...] = (3, 3)

    def __init__(self, inputs: int, width: int, stride: int, squeeze_excite: bool, shortcut: str,
                 conv: Callable[..., nn.Module],
                 norm: Callable[[int], nn.Module]) -> None:  # fmt: skip
        super().__init__()
        outputs = width * self.expansion
        widths = (inputs, *(width,) * (len(self.kernels) - 1), outputs)
        for i, kernel in enumerate(self.kernels):
            step = stride if i == self.kernels.index(3) else 1
            self.register_module(f"conv{i + 1}", conv(widths[i], widths[i + 1], kernel, step))
            self.register_module(f"bn{i + 1}", norm(widths[i + 1]))
        self.excite = SqueezeExcite(outputs) if squeeze_excite else None
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            layers = [] if shortcut == "A" else [conv(inputs, outputs, 1, stride)]
            layers += [norm(outputs)] if shortcut == "B" else []
            without = Subsample(inputs, outputs, stride)
            self.downsample = nn.Sequential(*layers) if layers else without

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


class ResNet(Classifier):
    """A stem, stages of residual blocks, global average pooling and a classifier.

    stem: "cifar" (3x3), "imagenet" (7x7 stride 2, max-pool) or "patch" (2x2 stride 2). shortcut,
    where the shape changes: "A" (pixels a stride apart, zeros for channels), "B" (a 1x1 convolution
    and norm) or "conv" (without the norm). keras: convolutions with biases and SAME padding,
    Keras's constants in batch norm. Parameter names are torchvision's; head_name is the
    classifier's.
    """

    def __init__(self, block: type[BasicBlock], layers: Sequence[int],
                 widths: Sequence[int] = (64, 128, 256, 512), num_classes: int = 1000, *,
                 in_channels: int = 3, stem: str = "imagenet", squeeze_excite: bool = False,
                 shortcut: str = "B", keras: bool = False,
                 head_name: str = "fc") -> None:  # fmt: skip
        super().__init__()
        stems = {"cifar": (3, 1), "imagenet": (7, 2), "patch": (2, 2)}
        require_one_of("ResNet", stems, stem=stem)
        require_one_of("ResNet", ("A", "B", "conv"), shortcut=shortcut)
        conv = partial(conv2d, bias=keras, padding="same" if keras else "torch")
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01) if keras else nn.BatchNorm2d
        self.conv1 = conv(in_channels, widths[0], *stems[stem])
        self.bn1, self.relu = norm(widths[0]), nn.ReLU()
        if stem == "imagenet":
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = widths[0]
        for i, (count, width) in enumerate(zip(layers, widths, strict=True)):
            blocks = []
            for j in range(count):
                stride = 2 if i and not j else 1
                blocks.append(block(inputs, width, stride, squeeze_excite, shortcut, conv, norm))
                inputs = width * block.expansion
            self.register_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool, self.head_name = GlobalPool(), head_name
        self.register_module(head_name, nn.Linear(inputs, num_classes))
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and "excite" not in name:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    features = Classifier.embed


def cifar_resnet(depth: int = 20, num_classes: int = 10, *, width: int = 16, stem: str = "cifar",
                 **options: Any) -> ResNet:  # fmt: skip
    """The paper's network of 6n+2 layers for 32x32 images: 20, 56, 110 … (shortcuts: option B).

    options: those of ResNet.
    """
    require(depth % 6 == 2 and depth > 2, "cifar_resnet", "depth must be 6n+2", depth=depth)
    layers, widths = [(depth - 2) // 6] * 3, (width, 2 * width, 4 * width)
    return ResNet(BasicBlock, layers, widths, num_classes, stem=stem, **options)


def resnet8(num_classes: int = 10) -> ResNet:
    """MLPerf Tiny's network for CIFAR-10 (arXiv 2106.07597), as in Keras; pixels are 0 … 255."""
    options: dict[str, Any] = {"stem": "cifar", "shortcut": "conv", "keras": True}
    return ResNet(BasicBlock, (1, 1, 1), (16, 32, 64), num_classes, **options)


def _imagenet(block: type[BasicBlock], layers: Sequence[int], num_classes: int = 1000, *,
              width: int = 64, weights: Any = None, pretrained: Any = False,
              **options: Any) -> ResNet:  # fmt: skip
    """The network as torchvision's; stem="cifar" for 32x32 images; options of ResNet."""
    refuse_weights(weights, pretrained)
    return ResNet(block, layers, [width * 2**i for i in range(4)], num_classes, **options)


resnet18 = partial(_imagenet, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(_imagenet, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(_imagenet, Bottleneck, (3, 4, 6, 3))
resnet101 = partial(_imagenet, Bottleneck, (3, 4, 23, 3))
resnet152 = partial(_imagenet, Bottleneck, (3, 8, 36, 3))

# With shortcuts of option A, as in the paper, named as in akamaster/pytorch_resnet_cifar10.
cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56, cifar_resnet110 = (
    partial(cifar_resnet, n, shortcut="A", head_name="linear") for n in (20, 32, 44, 56, 110)
)
