"""A small Vision Transformer (arXiv 2010.11929)."""

import numpy as np

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.ops.join import cat


class Block(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each within a residual."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, round(mlp_ratio * dim))
        self.fc2 = nn.Linear(round(mlp_ratio * dim), dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, dim) -> the same shape."""
        n, t, dim = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, dim)
        x = x + self.dropout(self.proj(y))
        return x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class ViT(nn.Module):
    """Patches as tokens behind a class token, learnt positions, pre-norm blocks, a head."""

    def __init__(self, num_classes: int = 10, *, image_size: int = 32, patch_size: int = 4,
                 dim: int = 192, depth: int = 9, heads: int = 3, mlp_ratio: float = 4.0,
                 dropout: float = 0.0, in_channels: int = 3) -> None:  # fmt: skip
        super().__init__()
        fits, rule = image_size % patch_size == 0, "patch_size must divide image_size"
        require(fits, "ViT", rule, image_size=image_size, patch_size=patch_size)
        tokens = (image_size // patch_size) ** 2
        self.patch_embed = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(np.zeros((1, 1, dim), np.float32))
        self.pos_embed = nn.Parameter(np.zeros((1, 1 + tokens, dim), np.float32))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> Tensor:
        """x (N, in_channels, size, size) -> the class token at the end (N, dim)."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.norm(self.blocks(self.dropout(x)))[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in_channels, size, size) -> logits (N, num_classes)."""
        return self.head(self.features(x))
