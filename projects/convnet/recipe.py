"""From a configuration to an objective, an optimizer and a learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable

import minidl as ml
import minidl.functional as F
from minidl import nn, optim
from minidl.optim import lr_scheduler as schedules
from projects.convnet.config import Config
from projects.recipe import falling, groups_of, optimizer_of


def objective(cfg: Config) -> Callable[[ml.Tensor, ml.Tensor], ml.Tensor]:
    """The loss of logits (N, K) against class indices (N,) or probabilities (N, K)."""
    if cfg.loss == "sce":
        return symmetric_cross_entropy
    return lambda logits, y: F.cross_entropy(logits, y, label_smoothing=cfg.smoothing)


def symmetric_cross_entropy(logits: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
    """0.1 CE + reverse CE, whose log 0 is cut at log 1e-4 (Wang et al. 2019, arXiv 1908.06112)."""
    target = F.one_hot(y, logits.shape[1]).float() if y.ndim == 1 else y
    reverse = -(F.softmax(logits, dim=1) * target.clamp(1e-4, 1.0).log()).sum(1).mean()
    return 0.1 * F.cross_entropy(logits, y) + reverse


def supervised_contrastive(z: ml.Tensor, y: ml.Tensor, temperature: float) -> ml.Tensor:
    """L_out of Khosla et al. 2020 (arXiv 2004.11362): pull together what shares a label.

    z (2N, D) of unit rows, the two views of N images one after the other; y (N,).
    """
    labels = ml.cat([y, y])
    others = 1.0 - ml.eye(len(labels), device=z.device)
    same = (labels.reshape(-1, 1) == labels.reshape(1, -1)).float() * others
    logits = z @ z.T / temperature
    logits = logits - logits.detach().amax(1, keepdim=True)
    log_share = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    return -((same * log_share).sum(1) / same.sum(1)).mean()


def make_optimizer(cfg: Config, model: nn.Module) -> optim.Optimizer:
    """The optimizer of what is trained of a model."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return optimizer_of(cfg, groups_of(parameters, cfg.weight_decay))


def make_schedule(cfg: Config, optimizer: optim.Optimizer, steps: int) -> schedules.LambdaLR:
    """The learning rate of every update, `steps` of them an epoch."""
    return schedules.LambdaLR(optimizer, lambda step: share(cfg, step / steps))


def share(cfg: Config, epoch: float) -> float:
    """The share of `cfg.lr` that holds `epoch` epochs (a fraction) into the run.

    Contrastive runs have two phases, each with the whole schedule.
    """
    start, end = (0.0, float(cfg.epochs))
    if cfg.pretrain:
        start, end = (start, cfg.pretrain) if epoch < cfg.pretrain else (cfg.pretrain, end)
    at, length = epoch - start, end - start
    warm = min(cfg.warmup, length / 2)
    if at < warm:
        return max(at / warm, 0.04 if cfg.schedule == "onecycle" else 1e-3)
    done = min((at - warm) / (length - warm), 1.0)
    if cfg.schedule == "restarts":  # SGDR: periods of 1, 2, 4 and 8 fifteenths of the run
        period, left = 1 / 15, done
        while left >= period and period < 8 / 15:
            left, period = left - period, 2 * period
        return falling("cosine", min(left / period, 1.0))
    return falling(cfg.schedule, done)
