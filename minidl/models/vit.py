"""Vision Transformers: ViT (arXiv 2010.11929) and DeiT (arXiv 2012.12877)."""

from functools import partial
from typing import ClassVar

import numpy as np

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import require
from minidl.models.blocks import Classifier, Perceptron, Section
from minidl.ops.join import cat


class _Transformer(Classifier):
    """Patches as tokens behind a class token, learnt positions, blocks, a norm, a head.

    `pieces` are the paths of those: the patches' convolution, token, positions, blocks, norm.
    """

    pieces: ClassVar[tuple[str, ...]]

    def tokens(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, 1 + patches, dim) with their positions."""
        patches, token, places = map(self.get_submodule, self.pieces[:3])
        x = patches(x).flatten(2).transpose(1, 2)
        x = cat([token.expand(len(x), -1, -1), x], 1) + places
        return F.dropout(x, self.dropout, self.training)

    def pooled(self, x: Tensor) -> Tensor:
        """x (N, T, dim) -> the class token through the norm (N, dim)."""
        return self.get_submodule(self.pieces[4])(x[:, 0])

    def sections(self) -> list[Section]:
        """The tokens, each block, the class token, the head."""
        *first, blocks, norm = self.pieces
        links = self.get_submodule(blocks).named_children()
        each = [Section((f"{blocks}.{k}",), block) for k, block in links]
        last = Section((self.head_name,), [*self.children()][-1])
        return [Section((*first,), self.tokens), *each, Section((norm,), self.pooled), last]

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, size, size) -> logits (N, num_classes)."""
        return self.run(x)


def _tokens_of(name: str, image_size: int, patch_size: int) -> int:
    """Patches of an image, and the class token."""
    fits, rule = image_size % patch_size == 0, "patch_size must divide image_size"
    require(fits, name, rule, image_size=image_size, patch_size=patch_size)
    return 1 + (image_size // patch_size) ** 2


class SelfAttention(nn.Module):
    """Heads of softmax(q kᵀ / √d) v; q, k and v come from one matrix."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, dim) -> the same shape."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts.unbind(0))
        return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each within a residual."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Perceptron(dim, round(mlp_ratio * dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, dim) -> the same shape."""
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class ViT(_Transformer):
    """A small one for 32x32 images as it stands; parameter names are timm's, as are DeiT's."""

    head_name = "head"
    pieces = "patch_embed.proj", "cls_token", "pos_embed", "blocks", "norm"

    def __init__(self, num_classes: int = 10, *, image_size: int = 32, patch_size: int = 4,
                 dim: int = 192, depth: int = 9, heads: int = 3, mlp_ratio: float = 4.0,
                 dropout: float = 0.0, in_channels: int = 3) -> None:  # fmt: skip
        super().__init__()
        tokens, self.dropout = _tokens_of("ViT", image_size, patch_size), dropout
        patches = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.patch_embed = nn.Sequential({"proj": patches})
        self.cls_token = nn.Parameter(np.zeros((1, 1, dim), np.float32))
        self.pos_embed = nn.Parameter(np.zeros((1, tokens, dim), np.float32))
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


def cifar_vit(num_classes: int = 10, *, image_size: int = 32, width: int = 192) -> ViT:
    """ViT's own small network; each head is 64 wide, patches are of 4x4 pixels."""
    return ViT(num_classes, image_size=image_size, dim=width, heads=max(1, width // 64))


def _deit(dim: int, heads: int, num_classes: int = 1000, *, image_size: int = 224,
          dropout: float = 0.0) -> ViT:  # fmt: skip
    """The network for patches of 16x16, without the distillation token."""
    sizes: dict[str, int] = {"patch_size": 16, "dim": dim, "depth": 12, "heads": heads}
    return ViT(num_classes, image_size=image_size, dropout=dropout, **sizes)


deit_tiny_patch16_224 = partial(_deit, 192, 3)
deit_small_patch16_224 = partial(_deit, 384, 6)
deit_base_patch16_224 = partial(_deit, 768, 12)


class EncoderBlock(nn.Module):
    """A Block whose parts have torchvision's names."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(dim, eps=1e-6)
        layers = nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        self.mlp = nn.Sequential(*layers, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, dim) -> the same shape."""
        y = self.ln_1(x)
        x = x + self.dropout(self.self_attention(y, y, y, need_weights=False)[0])
        return x + self.mlp(self.ln_2(x))


class VisionTransformer(_Transformer):
    """The same network with torchvision's parameter names."""

    head_name = "heads.head"
    pieces = "conv_proj", "class_token", "encoder.pos_embedding", "encoder.layers", "encoder.ln"

    def __init__(self, patch_size: int, dim: int, depth: int, heads: int, num_classes: int = 1000,
                 *, image_size: int = 224, dropout: float = 0.0) -> None:  # fmt: skip
        super().__init__()
        tokens, self.dropout = _tokens_of("VisionTransformer", image_size, patch_size), dropout
        self.class_token = nn.Parameter(np.zeros((1, 1, dim), np.float32))
        self.conv_proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        block = partial(EncoderBlock, dim, heads, 4 * dim, dropout)
        layers = nn.Sequential({f"encoder_layer_{i}": block() for i in range(depth)})
        self.encoder = nn.Sequential({"layers": layers, "ln": nn.LayerNorm(dim, eps=1e-6)})
        places = nn.Parameter(np.zeros((1, tokens, dim), np.float32))
        nn.init.normal_(places, std=0.02)
        self.encoder.register_parameter("pos_embedding", places)
        self.heads = nn.Sequential({"head": nn.Linear(dim, num_classes)})
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and ".mlp." in name:
                nn.init.xavier_uniform_(module.weight)
                nn.init.normal_(module.bias, std=1e-6)


vit_b_16 = partial(VisionTransformer, 16, 768, 12, 12)
vit_b_32 = partial(VisionTransformer, 32, 768, 12, 12)
vit_l_16 = partial(VisionTransformer, 16, 1024, 24, 16)
