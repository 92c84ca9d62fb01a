"""What the projects' recipes share: parameter groups, optimizers, rates, augmentation.

Settings are those of any project that has the fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import minidl as ml
from minidl import nn, optim
from minidl.data import transforms

Mix = Callable[[Any, Any, np.ndarray, int], tuple[Any, ...]]  # x, y, rows, epoch -> the batch


def groups_of(
    parameters: Iterable[nn.Parameter], decay: float, **options: Any
) -> list[dict[str, Any]]:
    """Parameter groups: weight decay leaves biases and normalisation (all 1-d parameters) alone."""
    params = list(parameters)
    kinds = ([p for p in params if p.ndim > 1], decay), ([p for p in params if p.ndim <= 1], 0.0)
    return [{"params": own, "weight_decay": wd, **options} for own, wd in kinds if own]


def optimizer_of(
    settings: Any, groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999)
) -> optim.Optimizer:
    """SGD, Adam or AdamW over parameter groups; betas are of the latter two."""
    if settings.optimizer == "sgd":
        momentum, nesterov = settings.momentum, settings.nesterov and settings.momentum > 0
        return optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=nesterov)
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[settings.optimizer]
    return kind(groups, lr=settings.lr, betas=betas)


def falling(schedule: str, done: float) -> float:
    """The share of a learning rate that is left when a share of the run is done."""
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if schedule in ("linear", "onecycle"):  # as good as the cosine, and simpler
        return 1.0 - done
    if schedule == "step":  # He et al.: a tenth after a half and after three quarters
        return 0.1 ** ((done >= 0.5) + (done >= 0.75))
    return 1.0


def hits(logits: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
    """How many of logits (N, K) are largest at their labels, without a gradient.

    y (N,) class indices, or mixed labels (N, K), which count by their larger share.
    """
    label = y if y.ndim == 1 else y.argmax(1)
    return (logits.detach().argmax(1) == label).sum()


def last_steps(settings: Any, normalise: transforms.Normalize) -> list[transforms.Transform]:
    """What follows crops and flips of training images: policy, normalisation, erasing."""
    steps: list[transforms.Transform] = []
    if settings.policy != "none":
        kinds = {"randaugment": transforms.RandAugment, "autoaugment": transforms.AutoAugment}
        steps.append(kinds[settings.policy]())
    steps.append(normalise)
    if settings.erasing:
        steps.append(transforms.RandomErasing(settings.erasing))
    return steps


def mixing(settings: Any, classes: int) -> Mix | None:
    """CutMix, MixUp, or batch by batch one of them; None where neither is asked for."""
    kinds = ((transforms.CutMix, settings.cutmix), (transforms.MixUp, settings.mixup))
    mixes = [kind(num_classes=classes, alpha=alpha) for kind, alpha in kinds if alpha]

    def mix(x: Any, y: Any, rows: np.ndarray, epoch: int) -> tuple[Any, ...]:
        return mixes[int(rows.sum()) % len(mixes)](x, y, rows, epoch)

    return mix if mixes else None
