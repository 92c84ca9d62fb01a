"""The same training steps in PyTorch, written as its users write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.workloads import STEPS, pictures


def vgg3() -> nn.Module:
    """3 blocks of two 3x3 convolutions with batch norm, dense 128: 551k parameters."""
    layers: list[nn.Module] = []
    c = 3
    for k in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(c, k, 3, padding=1), nn.BatchNorm2d(k), nn.ReLU()]
            c = k
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(c * 16, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers, *head)


class Block(nn.Module):
    """A basic residual block with a 1x1 projection where the shape changes."""

    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(k)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))
            if stride > 1 or c != k
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H/stride, W/stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet(widths: tuple[int, ...], depth: int) -> nn.Module:
    """A CIFAR ResNet of basic blocks."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, widths[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    c = widths[0]
    for i, k in enumerate(widths):
        for j in range(depth):
            layers.append(Block(c, k, 2 if i and not j else 1))
            c = k
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10)]
    return nn.Sequential(*layers, *head)


BUILD: dict[str, Callable[[], nn.Module]] = {
    "vgg3": vgg3,
    "resnet20": lambda: resnet((16, 32, 64), 3),
    "resnet18": lambda: resnet((64, 128, 256, 512), 2),
}


def torch_step(name: str, channels_last: bool) -> Callable[[], float]:
    """A function that does one training step and returns the loss."""
    torch.manual_seed(0)
    model = BUILD[name]()
    x, y = pictures(STEPS[name].batch)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
