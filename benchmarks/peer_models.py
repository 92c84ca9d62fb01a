"""The models of minidl/models that the steps use, in PyTorch, as its users write them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def vgg3() -> nn.Module:
    """3 blocks of two 3x3 convolutions with batch norm, dense 128."""
    layers: list[nn.Module] = []
    c = 3
    for k in (32, 64, 128):
        for _ in range(2):
            layers += [nn.Conv2d(c, k, 3, padding=1), nn.BatchNorm2d(k), nn.ReLU(inplace=True)]
            c = k
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(c * 16, 128), nn.ReLU(inplace=True), nn.Linear(128, 10)]
    return nn.Sequential(*layers, *head)


class Residual(nn.Module):
    """torchvision's basic block (kernels 3, 3) or bottleneck (1, 3, 1)."""

    def __init__(self, c: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        k = width * (4 if bottleneck else 1)
        plan = [(c, width, 1, 1), (width, width, 3, stride), (width, k, 1, 1)]
        plan = plan if bottleneck else [(c, width, 3, stride), (width, width, 3, 1)]
        layers: list[nn.Module] = []
        for inputs, outputs, size, step in plan:
            conv = nn.Conv2d(inputs, outputs, size, step, size // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c != k:
            conv = nn.Conv2d(c, k, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(k))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H / stride, W / stride)."""
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """Stages of blocks behind a CIFAR or an ImageNet stem."""

    def __init__(
        self, widths: tuple[int, ...], depths: tuple[int, ...], classes: int, imagenet: bool = False
    ) -> None:
        super().__init__()
        size, stride = (7, 2) if imagenet else (3, 1)
        c = widths[0]
        stem = nn.Conv2d(3, c, size, stride, size // 2, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(c), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(3, 2, 1)] if imagenet else []
        for i, (width, depth) in enumerate(zip(widths, depths)):
            for j in range(depth):
                layers.append(Residual(c, width, 2 if i and not j else 1, imagenet))
                c = width * (4 if imagenet else 1)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(c, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> logits."""
        return self.fc(self.features(x))


def cifar_resnet(depth: int) -> nn.Module:
    """ResNet-20 and its like."""
    return ResNet((16, 32, 64), ((depth - 2) // 6,) * 3, 10)


def resnet18(stem: str, num_classes: int) -> nn.Module:
    """ResNet-18 with a CIFAR stem."""
    return ResNet((64, 128, 256, 512), (2, 2, 2, 2), num_classes, stem == "imagenet")


def resnet50() -> nn.Module:
    """ResNet-50 for 224 x 224 images."""
    return ResNet((64, 128, 256, 512), (3, 4, 6, 3), 1000, imagenet=True)


class Skip(nn.Sequential):
    """x + body(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        return x + super().forward(x)


def ConvMixer() -> nn.Module:
    """The paper's few lines, with dim 256, depth 8, kernel 5, patch 2."""
    layers: list[nn.Module] = [nn.Conv2d(3, 256, 2, 2), nn.GELU(), nn.BatchNorm2d(256)]
    for _ in range(8):
        spatial = nn.Conv2d(256, 256, 5, groups=256, padding="same")
        layers.append(Skip(spatial, nn.GELU(), nn.BatchNorm2d(256)))
        layers += [nn.Conv2d(256, 256, 1), nn.GELU(), nn.BatchNorm2d(256)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


class Transformer(nn.Module):
    """A pre-norm block; with a cache it appends its keys and values."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """(B, T, dim) -> the same."""
        b, t, dim = x.shape
        parts = self.qkv(self.norm1(x)).split(dim, 2)
        q, k, v = (a.view(b, t, self.heads, dim // self.heads).transpose(1, 2) for a in parts)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal and t > 1)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, dim))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """ViT-tiny for 32 x 32 images: patch 4, 192 wide, 9 deep, 3 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 192, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 192) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 65, 192) * 0.02)
        self.blocks = nn.Sequential(*(Transformer(192, 3, causal=False) for _ in range(9)))
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> logits."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class CharRNN(nn.Module):
    """Embedding, 2 LSTM layers of 256, a classifier."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 256)
        self.rnn = nn.LSTM(256, 256, 2, batch_first=True)
        self.head = nn.Linear(256, vocab_size)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Tokens (B, T) and a state -> logits, the next state."""
        y, state = self.rnn(self.embedding(x), state)
        return self.head(y), state


class GPT(nn.Module):
    """nanoGPT: 6 layers, 6 heads, 384 wide, a head that shares the token table."""

    def __init__(self, vocab_size: int, *, block_size: int = 256) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, 384), nn.Embedding(block_size, 384)
        self.blocks = nn.ModuleList(Transformer(384, 6, causal=True) for _ in range(6))
        self.ln_f, self.lm_head = nn.LayerNorm(384), nn.Linear(384, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        for param in self.parameters():
            if param.ndim == 2:
                nn.init.normal_(param, std=0.02)

    def forward(self, x: Tensor, cache: list[list[Tensor]] | None = None) -> Tensor:
        """Tokens (B, T) -> logits (B, T, vocabulary); a cache holds a list a layer."""
        before = cache[0][0].shape[2] if cache and cache[0] else 0
        y = self.wte(x) + self.wpe.weight[before : before + x.shape[1]]
        for i, block in enumerate(self.blocks):
            y = block(y, None if cache is None else cache[i])
        return self.lm_head(self.ln_f(y))

    @torch.no_grad()
    def generate(self, x: Tensor, count: int, temperature: float) -> Tensor:
        """Tokens (B, T) -> (B, T + count), greedily."""
        assert temperature == 0
        cache: list[list[Tensor]] = [[] for _ in self.blocks]
        feed = x
        for _ in range(count):
            feed = self(feed, cache)[:, -1].argmax(-1, keepdim=True)
            x = torch.cat([x, feed], 1)
        return x
