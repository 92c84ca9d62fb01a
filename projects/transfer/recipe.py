"""From a configuration to an objective, an optimizer and a learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minidl as ml
import minidl.functional as F
from minidl import nn, optim
from minidl.optim import lr_scheduler as schedules
from projects.recipe import falling, hits
from projects.transfer.config import Config, Schedule
from projects.transfer.methods.distil import distillation_loss
from projects.transfer.methods.semi import fixmatch_loss, pseudo_label_loss, ramp
from projects.transfer.model import Tuning

Forward = Callable[[nn.Module, Any], tuple[ml.Tensor, ml.Tensor]]


def forward_for(cfg: Config, tuning: Tuning, first: int, epoch: Callable[[], int],
                factors: np.ndarray | None, teacher: nn.Module | None) -> Forward:  # fmt: skip
    """The loss and the hits of a batch that section `first` is given; factors (K,): of the classes.

    Unlabelled images come as weak and strong views: the answer to the first, where it is sure
    enough, is what the second shall give.
    """
    weight = None if factors is None else ml.tensor(factors, device=cfg.device)

    def loss_of(x: ml.Tensor, logits: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
        if teacher is not None:
            with ml.no_grad():
                told = teacher(x)
            return distillation_loss(logits, told, y, cfg.temperature, cfg.soften)
        return F.cross_entropy(logits, y, weight=weight, label_smoothing=cfg.smoothing)

    def forward(model: nn.Module, batch: Any) -> tuple[ml.Tensor, ml.Tensor]:
        x, y, *_ = batch
        logits = tuning.run(x, first, epoch())
        return loss_of(x, logits, y), hits(logits, y)

    def with_unlabelled(model: nn.Module, batch: Any) -> tuple[ml.Tensor, ml.Tensor]:
        x, y, weak, strong = batch
        parts = [x, weak] if cfg.semi == "pseudo" else [x, weak, strong]
        out = tuning.run(ml.cat(parts), first, epoch())
        logits, *others = out.split([len(part) for part in parts])
        others[0] = aligned(others[0]) if cfg.align else others[0]
        loss, right = loss_of(x, logits, y), hits(logits, y)
        if cfg.semi == "pseudo":
            factor = ramp(epoch(), 0, cfg.epochs / 2, cfg.weight)
            return loss + factor * pseudo_label_loss(*others, cfg.threshold), right
        return loss + cfg.weight * fixmatch_loss(*others, cfg.threshold), right

    return forward if cfg.semi == "none" else with_unlabelled


def aligned(logits: ml.Tensor) -> ml.Tensor:
    """Logits (M, K) less the log of what a batch's classes have on average: none is preferred.

    Distribution alignment (Berthelot et al. 2020, arXiv 1911.09785) to equal shares, with the
    batch's mean in place of a running one.
    """
    return logits - F.softmax(logits.detach(), dim=1).mean(0).log()


def make_schedule(cfg: Config, tuning: Tuning, optimizer: optim.Optimizer,
                  steps: int) -> schedules.LambdaLR:  # fmt: skip
    """The learning rate of every update, `steps` of them an epoch: the head's and the others'."""
    head = {id(p) for p in tuning.model.parameters_of(tuning.sections[tuning.head]).values()}
    other = cfg.schedule if cfg.backbone_schedule == "same" else cfg.backbone_schedule
    kinds = [cfg.schedule if id(group["params"][0]) in head else other
             for group in optimizer.param_groups]  # fmt: skip
    return schedules.LambdaLR(
        optimizer, [lambda step, kind=kind: share(cfg, step / steps, kind) for kind in kinds]
    )


def share(cfg: Config, epoch: float, kind: Schedule) -> float:
    """The share of its rate that a group has `epoch` epochs (a fraction) into the run."""
    warm = min(cfg.warmup, cfg.epochs / 2)
    if epoch < warm:
        return max(epoch / warm, 1e-3)
    return falling(kind, min((epoch - warm) / (cfg.epochs - warm), 1.0))
