"""ConvNeXt (arXiv 2201.03545), with timm's parameter names."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from minidl import nn
from minidl.autograd import Tensor
from minidl.models.blocks import Classifier, GlobalPool, LayerNorm2d, Perceptron


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm, a perceptron at every pixel, a scale per channel, residual."""

    def __init__(self, dim: int, layer_scale: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(np.full(dim, layer_scale, np.float32))
        self.conv_dw = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Perceptron(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, dim, H, W) -> the same shape; the perceptron sees (N, H, W, dim)."""
        y = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(Classifier):
    """A stem of 4x4 patches, stages of blocks with 2x2 convolutions between, pooling, a head."""

    head_name = "head.fc"

    def __init__(self, depths: Sequence[int], dims: Sequence[int], num_classes: int = 1000, *,
                 layer_scale: float = 1e-6) -> None:  # fmt: skip
        super().__init__()
        norm = partial(LayerNorm2d, eps=1e-6)
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), norm(dims[0]))
        self.stages, inputs = nn.Sequential(), dims[0]
        for dim, depth in zip(dims, depths, strict=True):
            halve = [norm(inputs), nn.Conv2d(inputs, dim, 2, stride=2)] if len(self.stages) else []
            blocks = nn.Sequential(*(ConvNeXtBlock(dim, layer_scale) for _ in range(depth)))
            stage = {"downsample": nn.Sequential(*halve), "blocks": blocks}
            self.stages.append(nn.Sequential(stage))
            inputs = dim
        last = nn.LayerNorm(inputs, eps=1e-6), nn.Linear(inputs, num_classes)
        self.head = nn.Sequential({"global_pool": GlobalPool(), "norm": last[0], "fc": last[1]})
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


convnext_tiny = partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768))
convnext_small = partial(ConvNeXt, (3, 3, 27, 3), (96, 192, 384, 768))
convnext_base = partial(ConvNeXt, (3, 3, 27, 3), (128, 256, 512, 1024))
