"""SqueezeNet (arXiv 1602.07360), with torchvision's parameter names."""

from collections.abc import Sequence
from functools import partial

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.models.blocks import Classifier, GlobalPool, he_init
from minidl.ops.join import cat


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then a 1x1 and a 3x3 side by side."""

    def __init__(self, inputs: int, squeeze: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, 4 * squeeze, 1)
        self.expand3x3 = nn.Conv2d(squeeze, 4 * squeeze, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, 8 · squeeze, H, W)."""
        x = F.relu(self.squeeze(x))
        return F.relu(cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(Classifier):
    """A convolution of stride 2, Fire modules with max-pools between, a 1x1 as classifier.

    runs: squeezed channels of the Fires behind each max-pool. ceil_mode: whether a max-pool keeps
    an incomplete window at the end, as in torchvision; Keras's weights were trained without.
    """

    head_name = "classifier.1"

    def __init__(self, width: int, kernel: int, runs: Sequence[Sequence[int]],
                 num_classes: int = 1000, *, ceil_mode: bool = True,
                 dropout: float = 0.5) -> None:  # fmt: skip
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, kernel, 2), nn.ReLU())
        for run in runs:
            self.features.append(nn.MaxPool2d(3, 2, ceil_mode=ceil_mode))
            for squeeze in run:
                self.features.append(Fire(width, squeeze))
                width = 8 * squeeze
        head = nn.Conv2d(width, num_classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), head, nn.ReLU(), GlobalPool())
        he_init(self)


squeezenet1_0 = partial(SqueezeNet, 96, 7, ((16, 16, 32), (32, 48, 48, 64), (64,)))
squeezenet1_1 = partial(SqueezeNet, 64, 3, ((16, 16), (32, 32), (48, 48, 64, 64)))
