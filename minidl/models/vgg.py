"""VGG (arXiv 1409.1556): small ones for 32x32 images, with a course's variations; torchvision's."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import require, require_one_of

# isort: off
from minidl.models.blocks import (
    Classifier, GlobalPool, SqueezeExcite, conv2d, he_init, norm2d, refuse_weights, relu_of,
)  # fmt: skip
# isort: on


class VGGBlock(nn.Module):
    """Two convolutions (conv, norm, relu each), then halve the size, then dropout.

    skip adds the block's input, through a 1x1 convolution, before the second relu; downsample
    "stride" gives the second convolution stride 2 in place of max-pooling; dropout_first drops
    before the block's last norm instead of at its end.
    """

    def __init__(self, inputs: int, width: int, *, norm: str = "batch", kernel_size: int = 3,
                 depthwise: bool = False, downsample: str = "pool", dropout: float = 0.0,
                 dropout_first: bool = False, skip: bool = False,
                 squeeze_excite: bool = False) -> None:  # fmt: skip
        super().__init__()
        require_one_of("VGGBlock", ("pool", "stride"), downsample=downsample)
        stride = 2 if downsample == "stride" else 1
        self.conv1 = _conv(inputs, width, kernel_size, 1, depthwise and inputs > 3)
        self.norm1 = norm2d(norm, width)
        self.conv2 = _conv(width, width, kernel_size, stride, depthwise)
        self.norm2 = norm2d(norm, width)
        self.excite = SqueezeExcite(width) if squeeze_excite else None
        self.skip = nn.Conv2d(inputs, width, 1, stride=stride) if skip else None
        self.pool = nn.MaxPool2d(2) if downsample == "pool" else None
        self.dropout, self.dropout_first = nn.Dropout(dropout), dropout_first

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, width, H / 2, W / 2)."""
        y = self.conv2(relu_of(self.norm1, self.conv1(x)))
        y = self.dropout(y) if self.dropout_first else y
        y = relu_of(self.norm2, y, None if self.skip is None else self.skip(x), self.excite)
        y = y if self.pool is None else self.pool(y)
        return y if self.dropout_first else self.dropout(y)


def _conv(inputs: int, width: int, kernel: int, stride: int, depthwise: bool) -> nn.Module:
    """A convolution that keeps the size, or a depthwise one and a 1x1."""
    if not depthwise:
        return nn.Conv2d(inputs, width, kernel, stride=stride, padding=kernel // 2)
    spatial = nn.Conv2d(inputs, inputs, kernel, stride=stride, padding=kernel // 2, groups=inputs)
    return nn.Sequential(spatial, nn.Conv2d(inputs, width, 1))


class VGG(Classifier):
    """Blocks of two convolutions, then a dense layer (or global average pooling), a classifier.

    As it stands: 32, 64, 128 channels, 551k parameters. Block i has width * 2^i channels and drops
    with probability dropout + i * rising, as does the head after the last; dense=0 pools globally;
    block: the other options of VGGBlock.
    """

    head_name = "classifier"

    def __init__(self, num_classes: int = 10, *, in_channels: int = 3, image_size: int = 32,
                 width: int = 32, blocks: int = 3, dense: int = 128, dropout: float = 0.0,
                 rising: float = 0.0, downsample: str = "pool", patch_size: int = 1,
                 **block: Any) -> None:  # fmt: skip
        super().__init__()
        side = image_size // patch_size
        rule = f"{blocks} blocks leave no pixels"
        require(side >> blocks > 0, "VGG", rule, image_size=image_size, patch_size=patch_size)
        stem = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.stem = stem if patch_size > 1 else nn.Identity()
        self.blocks, inputs = nn.Sequential(), width if patch_size > 1 else in_channels
        for i in range(blocks):
            settings = {**block, "downsample": downsample, "dropout": dropout + i * rising}
            self.blocks.append(VGGBlock(inputs, width * 2**i, **settings))
            inputs, side = width * 2**i, (side + (downsample == "stride")) // 2
        if dense:
            self.flatten, self.fc = nn.Flatten(), nn.Linear(inputs * side * side, dense)
            self.relu = nn.ReLU()
        else:
            self.avgpool = GlobalPool()
        self.dropout = nn.Dropout(dropout + blocks * rising)
        self.classifier = nn.Linear(dense or inputs, num_classes)


vgg3 = VGG


class ImageNetVGG(Classifier):
    """Five runs of 3x3 convolutions with a max-pool behind each, then three dense layers.

    counts: convolutions a run; norm: batch norm behind each; hidden: the dense layers' width.
    Parameter names are torchvision's.
    """

    head_name = "classifier.6"

    def __init__(self, counts: Sequence[int], num_classes: int = 1000, *, norm: bool = False,
                 hidden: int = 4096, dropout: float = 0.5, weights: Any = None,
                 pretrained: Any = False) -> None:  # fmt: skip
        super().__init__()
        refuse_weights(weights, pretrained)
        self.features, inputs = nn.Sequential(), 3
        for count, width in zip(counts, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                self.features.append(conv2d(inputs, width, 3, bias=True))
                self.features.extend([nn.BatchNorm2d(width), nn.ReLU()] if norm else [nn.ReLU()])
                inputs = width
            self.features.append(nn.MaxPool2d(2))
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(7), nn.Flatten()
        layers: list[nn.Module] = []
        for n, width in ((inputs * 49, hidden), (hidden, hidden)):
            layers += [nn.Linear(n, width), nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*layers, nn.Linear(hidden, num_classes))
        he_init(self)


vgg11, vgg13, vgg16, vgg19 = (
    partial(ImageNetVGG, counts)
    for counts in ((1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4))
)
vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = (
    partial(make, norm=True) for make in (vgg11, vgg13, vgg16, vgg19)
)
