"""Whole training steps in minidl: what `python -m benchmarks` times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Step:
    """A classifier's training step on 32x32 pictures."""

    batch: int
    note: str


STEPS = {
    "vgg3": Step(128, "3-block VGG 32-64-128, batch norm, dense 128; SGD with momentum"),
    "resnet20": Step(128, "CIFAR ResNet-20, 1x1 projection shortcuts; SGD with momentum"),
    "resnet18": Step(64, "ResNet-18 with a CIFAR stem; SGD with momentum"),
}


def pictures(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures (N, 3, 32, 32) float32 and labels (N,)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, batch)


def minidl_step(name: str) -> Callable[[], float]:
    """A function that does one training step and returns the loss."""
    import minidl as ml
    import minidl.functional as F
    from minidl import models, nn, optim

    ml.manual_seed(0)
    build: dict[str, Callable[[], nn.Module]] = {
        "vgg3": lambda: models.vgg3(),
        "resnet20": lambda: models.cifar_resnet(20),
        "resnet18": lambda: models.resnet18(stem="cifar", num_classes=10),
    }
    model = build[name]()
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    x, y = pictures(STEPS[name].batch)
    images, labels = ml.tensor(x), ml.tensor(y)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
