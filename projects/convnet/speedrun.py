"""The CIFAR speed-run network of airbench94: a whitening stem, GELU (arXiv 2404.00498)."""

import numpy as np

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor, wrap
from minidl.errors import require


def _norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with a learnt shift, a fixed scale and fast statistics."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution without bias that first passes its inputs on."""
    conv = nn.Conv2d(inputs, outputs, 3, padding="same", bias=False)
    nn.init.dirac_(conv.weight.detach()[:inputs])
    return conv


class ConvGroup(nn.Module):
    """Convolution, 2x2 max-pool, norm, GELU; convolution, norm, GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs), _norm(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, outputs, H / 2, W / 2)."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class SpeedrunNet(nn.Module):
    """A 2x2 stem of fixed whitening filters and their negatives, three groups, a scaled head."""

    def __init__(
        self, num_classes: int = 10, *, widths: tuple[int, int, int] = (64, 256, 256),
        in_channels: int = 3, scale: float = 1 / 9,
    ) -> None:  # fmt: skip
        super().__init__()
        stem = 2 * 4 * in_channels
        self.whiten = nn.Conv2d(in_channels, stem, 2)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)
        groups = zip((stem, *widths[:-1]), widths)
        self.groups = nn.Sequential(*(ConvGroup(i, o) for i, o in groups))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        self.scale = scale

    def init_whiten(self, images: np.ndarray, eps: float = 5e-4) -> None:
        """Set the stem to the patches' eigenvectors over √(eigenvalue + eps), and their negatives.

        images (N, C, H, W): normalised training images; a few thousand are enough.
        """
        weight = self.whiten.weight
        require(images.ndim == 4 and images.shape[1] == weight.shape[1], "init_whiten",
                "images must be (N, C, H, W)", images=images)  # fmt: skip
        windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), (2, 3))
        patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, len(weight) // 2)
        covariance = patches.T.astype(np.float64) @ patches / len(patches)
        values, vectors = np.linalg.eigh(covariance)
        filters = (vectors / np.sqrt(values + eps)).T[::-1].reshape(-1, *weight.shape[1:])
        filters = np.concatenate([filters, -filters]).astype(weight.dtype)
        weight.detach().copy_(wrap(filters))

    def features(self, x: Tensor) -> Tensor:
        """x (N, in_channels, 32, 32) -> what the head sees (N, widths[-1])."""
        x = self.groups(F.gelu(self.whiten(x)))
        return F.max_pool2d(x, x.shape[-1]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in_channels, 32, 32) -> logits (N, num_classes)."""
        return self.head(self.features(x)) * self.scale
