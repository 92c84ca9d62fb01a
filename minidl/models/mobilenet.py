"""MobileNet V1 (arXiv 1704.04861) and V2 (arXiv 1801.04381), V2 with torchvision's names."""

from functools import partial
from typing import Any

from minidl import nn
from minidl.models.blocks import ConvNorm, FeatureNet, InvertedResidual, refuse_weights

# Outputs and stride of V1's blocks; widening, outputs, blocks and first stride of V2's runs.
_V1 = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
_V1 += [(1024, 2), (1024, 1)]
_V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)]
_V2 += [(6, 320, 1, 1)]


def _eights(channels: float) -> int:
    """The nearest multiple of 8, and no less than 8 or nine tenths."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def mobilenet_v1(num_classes: int = 1000, *, width_mult: float = 1.0, padding: str = "torch",
                 dropout: float = 0.2) -> FeatureNet:  # fmt: skip
    """Depthwise 3x3 and 1x1 convolutions in turn, named in V2's style (features.N).

    width_mult: channels in multiples of the paper's; padding: "torch", or "same" for weights from
    TensorFlow. Activations are ReLU6, as in all released weights.
    """
    unit, width = partial(ConvNorm, act=nn.ReLU6, padding=padding), int(32 * width_mult)
    features: list[nn.Module] = [unit(3, width, 3, 2)]
    for outputs, stride in _V1:
        inputs, width = width, int(outputs * width_mult)
        spatial = unit(inputs, inputs, 3, stride, inputs)
        features.append(nn.Sequential(spatial, unit(inputs, width, 1)))
    return FeatureNet(features, width, num_classes, dropout)


def mobilenet_v2(num_classes: int = 1000, *, width_mult: float = 1.0, padding: str = "torch",
                 dropout: float = 0.2, weights: Any = None,
                 pretrained: Any = False) -> FeatureNet:  # fmt: skip
    """Inverted residuals between a convolution and a 1x1.

    width_mult: channels in multiples of the paper's, rounded to eights; padding: "torch", or "same"
    for weights from TensorFlow.
    """
    refuse_weights(weights, pretrained)
    unit, width = partial(ConvNorm, act=nn.ReLU6, padding=padding), _eights(32 * width_mult)
    features: list[nn.Module] = [unit(3, width, 3, 2)]
    for widen, outputs, count, stride in _V2:
        for i in range(count):
            inputs, width = width, _eights(outputs * width_mult)
            features.append(InvertedResidual(inputs, width, 1 if i else stride, widen, unit))
    last = _eights(1280 * max(1.0, width_mult))
    return FeatureNet([*features, unit(width, last, 1)], last, num_classes, dropout)
