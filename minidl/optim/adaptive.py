"""RMSprop, Adagrad and Adadelta: steps scaled by sums of squared gradients."""

from __future__ import annotations

from typing import Any

from minidl.fusion import sqrt, update
from minidl.optim.optimizer import Optimizer, Params


def _rms_square(p, g, s, sign, decay, alpha, fresh):
    g = sign * g + decay * p
    return g, alpha * s + fresh * g * g


@update(inplace=("p", "s"))
def _rms(p, g, s, *, lr, sign, decay, alpha, fresh, eps):
    g, s = _rms_square(p, g, s, sign, decay, alpha, fresh)
    return p - lr * g / (sqrt(s) + eps), s


@update(inplace=("p", "s", "m"))
def _rms_momentum(p, g, s, m, *, lr, sign, decay, alpha, fresh, eps, momentum):
    g, s = _rms_square(p, g, s, sign, decay, alpha, fresh)
    m = momentum * m + g / (sqrt(s) + eps)
    return p - lr * m, s, m


@update(inplace=("p", "s", "a"))
def _rms_centered(p, g, s, a, *, lr, sign, decay, alpha, fresh, eps):
    g, s = _rms_square(p, g, s, sign, decay, alpha, fresh)
    a = a + fresh * (g - a)
    return p - lr * g / (sqrt(s - a * a) + eps), s, a


@update(inplace=("p", "s", "m", "a"))
def _rms_centered_momentum(p, g, s, m, a, *, lr, sign, decay, alpha, fresh, eps, momentum):
    g, s = _rms_square(p, g, s, sign, decay, alpha, fresh)
    a = a + fresh * (g - a)
    m = momentum * m + g / (sqrt(s - a * a) + eps)
    return p - lr * m, s, m, a


@update(inplace=("p", "s"))
def _adagrad(p, g, s, *, lr, sign, decay, eps):
    g = sign * g + decay * p
    s = s + g * g
    return p - lr * g / (sqrt(s) + eps), s


@update(inplace=("p", "s", "d"))
def _adadelta(p, g, s, d, *, lr, sign, decay, rho, fresh, eps):
    g = sign * g + decay * p
    s = rho * s + fresh * g * g
    delta = sqrt(d + eps) / sqrt(s + eps) * g
    return p - lr * delta, s, rho * d + fresh * delta * delta


class RMSprop(Optimizer):
    """RMSprop (Hinton's lecture 6e): p -= lr g / (sqrt(mean of g²) + eps).

    `centered` subtracts the squared mean gradient (Graves 2013); eps is outside the root.
    """

    def __init__(self, params: Params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0, momentum: float = 0, centered: bool = False, *,
                 maximize: bool = False) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps,
                    "centered": centered, "weight_decay": weight_decay,
                    "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        alpha, momentum, centered = group["alpha"], group["momentum"], group["centered"]
        kernel = (
            (_rms_centered_momentum if momentum else _rms_centered)
            if centered
            else (_rms_momentum if momentum else _rms)
        )
        slots = ["square_avg"]
        slots += ["momentum_buffer"] if momentum else []
        slots += ["grad_avg"] if centered else []
        scalars = {**_common(group), "alpha": alpha, "fresh": 1 - alpha}
        if momentum:
            scalars["momentum"] = momentum
        for _, rows in self._counted(params, **dict.fromkeys(slots, 0.0)):
            self._apply(kernel, rows, slots, **scalars)


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011): p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(sum of g²) + eps)."""

    def __init__(self, params: Params, lr: float = 1e-2, lr_decay: float = 0,
                 weight_decay: float = 0, initial_accumulator_value: float = 0,
                 eps: float = 1e-10, *, maximize: bool = False) -> None:  # fmt: skip
        defaults = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
                    "initial_accumulator_value": initial_accumulator_value,
                    "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        start = self.defaults["initial_accumulator_value"]
        for step, rows in self._counted(params, sum=start):
            lr = group["lr"] / (1 + (step - 1) * group["lr_decay"])
            self._apply(_adagrad, rows, ("sum",), **{**_common(group), "lr": lr})


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012): g scaled by the ratio of running root mean squares of step and g."""

    def __init__(self, params: Params, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
                 weight_decay: float = 0, *, maximize: bool = False) -> None:  # fmt: skip
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay,
                    "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        scalars = {**_common(group), "rho": group["rho"], "fresh": 1 - group["rho"]}
        slots = ("square_avg", "acc_delta")
        for _, rows in self._counted(params, square_avg=0.0, acc_delta=0.0):
            self._apply(_adadelta, rows, slots, **scalars)


def _common(group: dict[str, Any]) -> dict[str, float]:
    sign = -1.0 if group["maximize"] else 1.0
    return {"lr": group["lr"], "sign": sign, "decay": group["weight_decay"], "eps": group["eps"]}
