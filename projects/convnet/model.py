"""From a configuration to a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import minidl as ml
import minidl.functional as F
from minidl import models, nn
from projects.convnet.config import Config
from projects.convnet.convnext import ConvNeXt
from projects.convnet.speedrun import SpeedrunNet
from projects.settings import UsageError


class Contrastive(nn.Module):
    """An encoder with two heads: a projection for contrastive learning, an MLP to classify.

    Khosla et al. 2020 (arXiv 2004.11362), with an MLP in place of their linear classifier.
    """

    def __init__(self, encoder: models.ResNet, classes: int, projected: int = 128) -> None:
        super().__init__()
        width = encoder.fc.in_features
        encoder.fc = nn.Identity()
        self.encoder = encoder
        self.projection = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, projected)
        )
        self.head = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, classes)
        )

    def embed(self, x: ml.Tensor) -> ml.Tensor:
        """Images (N, C, H, W) -> projections of unit length (N, projected)."""
        return F.normalize(self.projection(self.encoder.features(x)), dim=1)

    def forward(self, x: ml.Tensor) -> ml.Tensor:
        """Logits (N, classes) of a frozen encoder: neither its weights nor statistics change."""
        self.encoder.eval()
        with ml.no_grad():
            features = self.encoder.features(x)
        return self.head(features)


def build(cfg: Config, shape: Sequence[int], classes: int) -> nn.Module:
    """The network of `cfg` for images of shape (C, H, W)."""
    channels, size, _ = shape
    if cfg.loss == "supcon" and cfg.model != "resnet":
        raise UsageError(f"loss=supcon is offered for model=resnet; got model={cfg.model}")
    if cfg.model in ("resnet", "resnet18"):
        how: Any = {"in_channels": channels, "width": cfg.width, "squeeze_excite": cfg.se}
        how["stem"] = resnet_stem(cfg)
        if cfg.model == "resnet18":
            return models.resnet18(classes, **how)
        network = models.cifar_resnet(cfg.depth, classes, **how)
        return Contrastive(network, classes) if cfg.loss == "supcon" else network
    how = {"in_channels": channels, "kernel_size": cfg.kernel, "patch_size": cfg.patch}
    if cfg.model == "convnext":
        return ConvNeXt(classes, dims=(cfg.width, 2 * cfg.width, 4 * cfg.width), **how)
    if cfg.model == "convmixer":
        return models.ConvMixer(classes, dim=cfg.width, depth=cfg.depth, **how)
    if cfg.model == "speedrun":
        widths = (cfg.width, 4 * cfg.width, 4 * cfg.width)
        return SpeedrunNet(classes, widths=widths, in_channels=channels)
    return models.vgg3(
        classes,
        image_size=size,
        width=cfg.width,
        blocks=cfg.blocks,
        dense=cfg.dense,
        norm=cfg.norm,
        dropout=cfg.dropout,
        rising=cfg.rising,
        dropout_first=cfg.order == "dropout-norm",
        downsample="stride" if cfg.stride else "pool",
        skip=cfg.skip,
        squeeze_excite=cfg.se,
        depthwise=cfg.depthwise,
        **how,
    )


def resnet_stem(cfg: Config) -> str:
    """The residual networks' stem: 3x3, or patches of 2x2."""
    if cfg.patch > 2:
        raise UsageError(f"patch must be 1 or 2 for model={cfg.model}; got {cfg.patch}")
    return "patch" if cfg.patch == 2 else "cifar"
