"""The layout census: how many times whole networks copy activations to another memory order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl as ml
import minidl.functional as F
from minidl import models, nn
from minidl.backend.cpu import memory


class UNet(nn.Module):
    """A small encoder and decoder with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.norm = nn.GroupNorm(4, 16)
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x: Any) -> Any:
        """(N, 3, H, W) -> (N, 4, H, W)."""
        top = F.relu(self.down(x))
        deep = F.relu(self.deep(F.max_pool2d(top, 2)))
        joined = ml.cat([top, self.up(deep)], 1)
        return self.out(F.silu(self.norm(joined)))


# Network, and the copies that one step may make: the picture at the door, and what is said beside.
NETWORKS: list[tuple[str, Callable[[], nn.Module], int]] = [
    ("vgg", lambda: models.vgg3(width=8, dense=16), 2),  # and the gradient behind flatten
    ("resnet", lambda: models.cifar_resnet(8, width=8), 2),  # and the gradient behind the mean
    ("se", lambda: models.cifar_resnet(8, width=8, squeeze_excite=True), 1),
    ("unet", UNet, 3),  # and the two halves of the gradient of cat
    ("vit", lambda: models.ViT(dim=16, depth=1, heads=2), 2),  # and the gradient behind flatten
]


@pytest.mark.parametrize(("name", "build", "allowed"), NETWORKS, ids=[n for n, *_ in NETWORKS])
def test_networks_stay_channels_last(name: str, build: Callable, allowed: int) -> None:
    model = build()
    images = ml.tensor(np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32))
    y = model(images)
    before = memory.conversions[0]
    y = model(images)
    (y * y).sum().backward()
    assert memory.conversions[0] - before <= allowed
