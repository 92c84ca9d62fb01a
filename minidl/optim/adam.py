"""Adam and its relatives: steps scaled by running moments of the gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.autograd import Tensor
from minidl.fusion import abs as absolute
from minidl.fusion import maximum, sqrt, update
from minidl.optim.optimizer import Optimizer, Params

# Every kernel takes: sign (-1 to maximize), decay (its share of p joins the gradient), keep (1 -
# decoupled decay), b2, and c1 = 1 - b1, c2 = 1 - b2, subtracted in double precision.
_MOMENTS = ("exp_avg", "exp_avg_sq")


def _moments(p, g, m, v, sign, decay, b2, c1, c2):
    g = sign * g + decay * p
    return g, m + c1 * (g - m), b2 * v + c2 * g * g


@update(inplace=("p", "m", "v"))
def _adam(p, g, m, v, *, sign, decay, keep, b2, c1, c2, rate, root, eps):
    g, m, v = _moments(p, g, m, v, sign, decay, b2, c1, c2)
    return keep * p - rate * m / (sqrt(v) / root + eps), m, v


@update(inplace=("p", "m", "v", "top"))
def _amsgrad(p, g, m, v, top, *, sign, decay, keep, b2, c1, c2, rate, root, eps):
    g, m, v = _moments(p, g, m, v, sign, decay, b2, c1, c2)
    top = maximum(top, v)
    return keep * p - rate * m / (sqrt(top) / root + eps), m, v, top


@update(inplace=("p", "m", "v"))
def _nadam(p, g, m, v, *, sign, decay, keep, b2, c1, c2, rate_g, rate_m, correction, eps):
    g, m, v = _moments(p, g, m, v, sign, decay, b2, c1, c2)
    scale = sqrt(v / correction) + eps
    return keep * p - rate_g * g / scale - rate_m * m / scale, m, v


@update(inplace=("p", "m", "v"))
def _radam(p, g, m, v, *, sign, decay, keep, b2, c1, c2, rate, eps):
    g, m, v = _moments(p, g, m, v, sign, decay, b2, c1, c2)
    return keep * p - rate * m / (sqrt(v) + eps), m, v


@update(inplace=("p", "m", "v"))
def _radam_start(p, g, m, v, *, sign, decay, keep, b2, c1, c2, rate):
    g, m, v = _moments(p, g, m, v, sign, decay, b2, c1, c2)
    return keep * p - rate * m, m, v


@update(inplace=("p", "m", "u"))
def _adamax(p, g, m, u, *, sign, decay, b2, c1, rate, eps):
    g = sign * g + decay * p
    m = m + c1 * (g - m)
    u = maximum(b2 * u, absolute(g) + eps)
    return p - rate * m / u, m, u


class _Adaptive(Optimizer):
    """What the methods of this file share: the scalars of their kernels."""

    def _scalars(self, group: dict[str, Any]) -> dict[str, float]:
        (b1, b2), decay = group["betas"], group["weight_decay"]
        decoupled = group.get("decoupled_weight_decay", False)
        keep = 1.0 - group["lr"] * decay if decoupled else 1.0
        return {"sign": -1.0 if group["maximize"] else 1.0, "decay": 0.0 if decoupled else decay,
                "keep": keep, "b2": b2, "c1": 1 - b1, "c2": 1 - b2}  # fmt: skip


class Adam(_Adaptive):
    """Adam (Kingma & Ba 2015): p -= lr m̂ / (sqrt(v̂) + eps), with bias-corrected moments.

    `amsgrad` divides by the largest v so far (Reddi et al. 2018); `weight_decay` is added to the
    gradient, or with `decoupled_weight_decay` taken from p directly, as AdamW does.
    """

    def __init__(self, params: Params, lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0, amsgrad: bool = False, *, maximize: bool = False,
                 decoupled_weight_decay: bool = False) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                    "amsgrad": amsgrad, "maximize": maximize,
                    "decoupled_weight_decay": decoupled_weight_decay}  # fmt: skip
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        kernel = _amsgrad if group["amsgrad"] else _adam
        slots = (*_MOMENTS, "max_exp_avg_sq")[: 3 if group["amsgrad"] else 2]
        scalars, (b1, b2) = self._scalars(group), group["betas"]
        for step, rows in self._counted(params, **dict.fromkeys(slots, 0.0)):
            rate, root = group["lr"] / (1 - b1**step), math.sqrt(1 - b2**step)
            self._apply(kernel, rows, slots, **scalars, rate=rate, root=root, eps=group["eps"])


class AdamW(Adam):
    """Adam whose weight decay acts on the parameter directly (Loshchilov & Hutter 2019)."""

    def __init__(self, params: Params, lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2, amsgrad: bool = False, *,
                 maximize: bool = False) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize,
                         decoupled_weight_decay=True)  # fmt: skip


class NAdam(_Adaptive):
    """Adam with Nesterov momentum (Dozat 2016); the momentum grows with `momentum_decay`."""

    def __init__(self, params: Params, lr: float = 2e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0, momentum_decay: float = 4e-3,
                 decoupled_weight_decay: bool = False, *,
                 maximize: bool = False) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                    "momentum_decay": momentum_decay,
                    "decoupled_weight_decay": decoupled_weight_decay,
                    "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        scalars, (b1, b2) = self._scalars(group), group["betas"]
        lr, growth = group["lr"], group["momentum_decay"]
        for step, rows in self._counted(params, exp_avg=0.0, exp_avg_sq=0.0):
            mu = b1 * (1 - 0.5 * 0.96 ** (step * growth))
            following = b1 * (1 - 0.5 * 0.96 ** ((step + 1) * growth))
            products: dict[float, list[Tensor]] = {}
            for p in rows:
                before = self.state[p].get("mu_product", 1.0)
                product = float(np.float32(before) * np.float32(mu))  # PyTorch's precision for it
                self.state[p]["mu_product"] = product
                products.setdefault(product, []).append(p)
            for product, same in products.items():
                rates = {"rate_g": lr * (1 - mu) / (1 - product),
                         "rate_m": lr * following / (1 - product * following),
                         "correction": 1 - b2**step, "eps": group["eps"]}  # fmt: skip
                self._apply(_nadam, same, _MOMENTS, **scalars, **rates)


class RAdam(_Adaptive):
    """Adam with a rectified step, plain momentum while v is too uncertain (Liu et al. 2020)."""

    def __init__(self, params: Params, lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0, decoupled_weight_decay: bool = False, *,
                 maximize: bool = False) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                    "decoupled_weight_decay": decoupled_weight_decay,
                    "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        scalars, (b1, b2) = self._scalars(group), group["betas"]
        limit = 2 / (1 - b2) - 1
        for step, rows in self._counted(params, exp_avg=0.0, exp_avg_sq=0.0):
            rate, correction = group["lr"] / (1 - b1**step), 1 - b2**step
            length = limit - 2 * step * b2**step / correction
            if length > 5:
                ratio = (length - 4) * (length - 2) * limit / (limit - 4) / (limit - 2) / length
                rate *= math.sqrt(ratio * correction)
                self._apply(_radam, rows, _MOMENTS, **scalars, rate=rate, eps=group["eps"])
            else:
                self._apply(_radam_start, rows, _MOMENTS, **scalars, rate=rate)


class Adamax(_Adaptive):
    """Adam with the infinity norm in place of the second moment (Kingma & Ba 2015, section 7)."""

    def __init__(self, params: Params, lr: float = 2e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0, *, maximize: bool = False) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                    "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        scalars = self._scalars(group)
        chosen = {key: scalars[key] for key in ("sign", "decay", "b2", "c1")}
        for step, rows in self._counted(params, exp_avg=0.0, exp_inf=0.0):
            rate = group["lr"] / (1 - group["betas"][0] ** step)
            slots = ("exp_avg", "exp_inf")
            self._apply(_adamax, rows, slots, **chosen, rate=rate, eps=group["eps"])
