"""ShuffleNet V1 (arXiv 1707.01083) and V2 (arXiv 1807.11164), V2 with torchvision's names."""

from collections.abc import Callable, Sequence
from functools import partial

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import require_one_of
from minidl.models.blocks import Classifier, ConvNorm, GlobalPool
from minidl.ops.join import cat

_V1 = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # the first stage's outputs by groups


class ChannelShuffle(nn.Module):
    """Interleave `groups` runs of channels, so that each of the next groups sees them all."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> the same shape, channels-last."""
        x = x.permute(0, 2, 3, 1).unflatten(-1, (self.groups, -1))
        return x.transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2)


class UnitV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; with stride 2 beside an average pool."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        width, made = outputs // 4, outputs - inputs if stride > 1 else outputs
        self.stride, first = stride, groups if outputs <= 3 * inputs else 1  # of the stem: one
        self.branch2 = nn.Sequential(
            *ConvNorm(inputs, width, 1, groups=first), ChannelShuffle(groups),
            *ConvNorm(width, width, 3, stride, width, act=None),
            *ConvNorm(width, made, 1, groups=groups, act=None),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.branch2(x)
        return F.relu(x + y if self.stride == 1 else cat([F.avg_pool2d(x, 3, 2, 1), y], 1))


class UnitV2(nn.Module):
    """1x1, depthwise 3x3, 1x1 on half of the channels, or on all with stride 2; then shuffle."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.branch1 = None if stride == 1 else nn.Sequential(
            *ConvNorm(inputs, inputs, 3, stride, inputs, act=None), *ConvNorm(inputs, half, 1)
        )  # fmt: skip
        self.branch2 = nn.Sequential(
            *ConvNorm(inputs if stride > 1 else half, half, 1),
            *ConvNorm(half, half, 3, stride, half, act=None), *ConvNorm(half, half, 1),
        )  # fmt: skip
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        kept, seen = x.chunk(2, 1) if self.branch1 is None else (self.branch1(x), x)
        return self.shuffle(cat([kept, self.branch2(seen)], 1))


class ShuffleNet(Classifier):
    """A convolution and max-pool, three stages of units, (a 1x1,) pooling, a classifier.

    channels: outputs of the first convolution, of the stages, and of the 1x1 if there is one.
    """

    def __init__(self, unit: Callable[[int, int, int], nn.Module], channels: Sequence[int],
                 num_classes: int = 1000) -> None:  # fmt: skip
        super().__init__()
        width, *stages = channels
        self.conv1 = ConvNorm(3, width, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for i, (count, outputs) in enumerate(zip((4, 8, 4), stages)):
            units = [unit(width, outputs, 2)]
            units += [unit(outputs, outputs, 1) for _ in range(count - 1)]
            self.register_module(f"stage{i + 2}", nn.Sequential(*units))
            width = outputs
        if len(stages) > 3:
            self.conv5 = ConvNorm(width, stages[3], 1)
        self.avgpool = GlobalPool()
        self.fc = nn.Linear(channels[-1], num_classes)


def shufflenet_v1(num_classes: int = 1000, *, groups: int = 3,
                  width_mult: float = 1.0) -> ShuffleNet:  # fmt: skip
    """The paper's network for 1, 2, 3, 4 or 8 groups, named in V2's style."""
    require_one_of("shufflenet_v1", _V1, groups=groups)
    channels = [int(n * width_mult) for n in (24, *[_V1[groups] * n for n in (1, 2, 4)])]
    return ShuffleNet(partial(UnitV1, groups=groups), channels, num_classes)


shufflenet_v2_x0_5 = partial(ShuffleNet, UnitV2, (24, 48, 96, 192, 1024))
shufflenet_v2_x1_0 = partial(ShuffleNet, UnitV2, (24, 116, 232, 464, 1024))
shufflenet_v2_x1_5 = partial(ShuffleNet, UnitV2, (24, 176, 352, 704, 1024))
shufflenet_v2_x2_0 = partial(ShuffleNet, UnitV2, (24, 244, 488, 976, 2048))
