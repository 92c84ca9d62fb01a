"""LARS, LAMB, Lion and Muon: steps whose length is set by signs or by norms of whole layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.errors import require
from minidl.fusion import sign as signum
from minidl.fusion import sqrt, update
from minidl.optim.optimizer import Optimizer, Params, filled_like
from minidl.optim.sgd import momentum_step


@update(inplace=("r", "m", "v"))
def _lamb_direction(r, p, g, m, v, *, decay, b1, b2, c1, c2, m_scale, v_scale, eps):
    m = b1 * m + c1 * g
    v = b2 * v + c2 * g * g
    return m_scale * m / (sqrt(v_scale * v) + eps) + decay * p, m, v


@update(inplace=("p", "m"))
def _lion(p, g, m, *, lr, keep, b1, b2, c1, c2):
    return keep * p - lr * signum(b1 * m + c1 * g), b2 * m + c2 * g


def norm(x: Any) -> Any:
    """The 2-norm of a raw array, as a scalar of its dtype that stays on its device."""
    return np.sqrt((x * x).sum())


def _ratio(numerator: Any, denominator: Any) -> Any:
    """numerator / denominator, or 1 where either is 0."""
    usable = (numerator > 0) & (denominator > 0)
    ratio = np.where(usable, numerator / np.where(usable, denominator, 1), 1)
    return ratio.astype(numerator.dtype)


class LARS(Optimizer):
    """SGD with a learning rate per layer, trust |p| / (|g| + weight_decay |p|) (You et al. 2017).

    Parameters of fewer than two axes (biases, norms) take the plain step, as is usual.
    """

    def __init__(self, params: Params, lr: float = 1.0, momentum: float = 0.9,
                 weight_decay: float = 1e-4, trust: float = 1e-3,
                 eps: float = 1e-8) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "trust": trust, "eps": eps})

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        decay, rows = group["weight_decay"], []
        for p in params:
            w, g = p.array, p.grad.array
            scaled = g + decay * w
            if p.ndim > 1:
                size = norm(w)
                scaled *= _ratio(group["trust"] * size, norm(g) + decay * size + group["eps"])
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = filled_like(w, 0)
            rows.append((w, scaled, state["momentum_buffer"]))
        options = {"sign": 1.0, "decay": 0.0, "fresh": 1.0, "nesterov": 0.0}
        momentum_step.apply_(rows, lr=group["lr"], momentum=group["momentum"], **options)
        for p in params:
            p.bump()


class LAMB(Optimizer):
    """Adam's direction scaled layer by layer to the parameter's norm (You et al. 2020)."""

    def __init__(self, params: Params, lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        b1, b2 = group["betas"]
        scalars = {"decay": group["weight_decay"], "eps": group["eps"],
                   "b1": b1, "b2": b2, "c1": 1 - b1, "c2": 1 - b2}  # fmt: skip
        for step, same in self._counted(params, exp_avg=0.0, exp_avg_sq=0.0):
            rows = []
            for p in same:
                state = self.state[p]
                moments = state["exp_avg"], state["exp_avg_sq"]
                rows.append((filled_like(p.array, 0), p.array, p.grad.array, *moments))
            scales = {"m_scale": 1 / (1 - b1**step), "v_scale": 1 / (1 - b2**step)}
            _lamb_direction.apply_(rows, **scalars, **scales)
            for p, (direction, *_) in zip(same, rows, strict=True):
                direction *= group["lr"] * _ratio(norm(p.array), norm(direction))
                p.array[...] -= direction
                p.bump()


class Lion(Optimizer):
    """The sign of an interpolated momentum, decoupled decay (Chen et al. 2023)."""

    def __init__(self, params: Params, lr: float = 1e-4,
                 betas: tuple[float, float] = (0.9, 0.99),
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        (b1, b2), lr = group["betas"], group["lr"]
        scalars = {"b1": b1, "b2": b2, "c1": 1 - b1, "c2": 1 - b2}
        keep = 1 - lr * group["weight_decay"]
        for _, rows in self._counted(params, exp_avg=0.0):
            self._apply(_lion, rows, ("exp_avg",), lr=lr, keep=keep, **scalars)


class Muon(Optimizer):
    """Momentum made orthogonal by Newton-Schulz steps, for matrices only (Jordan et al. 2024).

    PyTorch's options and rates, but the iteration runs in the parameter's dtype, not bfloat16.
    `adjust_lr_fn`: None or "original" scales by sqrt(max(1, rows/columns)), "match_rms_adamw" by
    0.2 sqrt(max(rows, columns)).
    """

    def __init__(self, params: Params, lr: float = 1e-3, weight_decay: float = 0.1,
                 momentum: float = 0.95, nesterov: bool = True,
                 ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
                 eps: float = 1e-7, ns_steps: int = 5,
                 adjust_lr_fn: str | None = None) -> None:  # fmt: skip
        known = adjust_lr_fn in (None, "original", "match_rms_adamw")
        rule = "adjust_lr_fn must be None, 'original' or 'match_rms_adamw'"
        require(known, "Muon", rule, adjust_lr_fn=adjust_lr_fn)
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum,
            "nesterov": nesterov, "ns_coefficients": ns_coefficients, "eps": eps,
            "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn})  # fmt: skip

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        for p in group["params"]:
            fix = "give the others to another optimizer"
            require(p.ndim == 2, "Muon", "only matrices can be optimized", fix=fix, param=p)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        momentum, decay = group["momentum"], 1 - group["lr"] * group["weight_decay"]
        for p in params:
            g, state = p.grad.array, self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = filled_like(p.array, 0)
            mean = state["momentum_buffer"]
            mean += (1 - momentum) * (g - mean)
            direction = g + momentum * (mean - g) if group["nesterov"] else mean
            p.array[...] = decay * p.array - _rate(group, *p.shape) * _orthogonal(direction, group)
            p.bump()


def _orthogonal(u: Any, group: dict[str, Any]) -> Any:
    """About U Vᵀ of the matrix u = U S Vᵀ: a quintic iteration brings singular values near 1."""
    a, b, c = group["ns_coefficients"]
    tall = u.shape[0] > u.shape[1]
    x = u.T if tall else u
    x = x / np.maximum(norm(x), group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


def _rate(group: dict[str, Any], rows: int, columns: int) -> float:
    if group["adjust_lr_fn"] == "match_rms_adamw":
        return group["lr"] * 0.2 * math.sqrt(max(rows, columns))
    return group["lr"] * math.sqrt(max(1, rows / columns))
