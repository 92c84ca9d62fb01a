"""EfficientNet-B0 (arXiv 1905.11946), with torchvision's parameter names."""

from functools import partial

from minidl import nn
from minidl.models.blocks import ConvNorm, FeatureNet, InvertedResidual

# Widening, kernel, first stride, outputs and blocks of each run.
_RUNS = [
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
]  # fmt: skip


def efficientnet_b0(num_classes: int = 1000, *, padding: str = "torch", dropout: float = 0.2,
                    drop_path: float = 0.2) -> FeatureNet:  # fmt: skip
    """Inverted residuals with squeeze-and-excitation and SiLU.

    padding: "torch", or "same" for weights from TensorFlow; drop_path: how likely the last block's
    residual is left out for an image in training, rising from 0 in the first.
    """
    unit, width = partial(ConvNorm, act=nn.SiLU, padding=padding), 32
    features: list[nn.Module] = [unit(3, width, 3, 2)]
    total, done = sum(count for *_, count in _RUNS), 0
    for widen, kernel, stride, outputs, count in _RUNS:
        run = nn.Sequential()
        for i in range(count):
            given = (width, outputs, 1 if i else stride, widen, unit)
            drop = drop_path * done / total
            run.append(InvertedResidual(*given, kernel=kernel, excite=0.25, drop=drop))
            width, done = outputs, done + 1
        features.append(run)
    return FeatureNet([*features, unit(width, 1280, 1)], 1280, num_classes, dropout)
