"""Optimizers: SGD, those that scale its steps by squared gradients, and Adam with its relatives."""

import math
from typing import Any

import numpy as np

from minidl.errors import require
from minidl.fusion import abs as absolute
from minidl.fusion import maximum, sqrt, update
from minidl.optim.optimizer import Kernel, Optimizer, Params, Scalars, options

Betas = tuple[float, float]


def _gradient(p, g, weight_decay, maximize):
    return (-g if maximize else g) + weight_decay * p


@update(inplace=("p", "m"))
def _sgd(p, g, m, *, lr, weight_decay, maximize, momentum, fresh, nesterov):
    """`fresh` is the weight of the new gradient in m, the momentum (None: without)."""
    g = _gradient(p, g, weight_decay, maximize)
    if m is None:
        return p - lr * g, m
    m = momentum * m + fresh * g
    return p - lr * (g + momentum * m if nesterov else m), m


class SGD(Optimizer):
    """Gradient descent; momentum m = momentum m + (1 - dampening) g, of which the first is g.

    lr, momentum, dampening, weight_decay are plain factors; with `nesterov` the step is
    g + momentum m (Sutskever et al. 2013, in PyTorch's form: lr is outside m).
    """

    _counted = False

    def __init__(self, params: Params, lr: float = 1e-3, momentum: float = 0,
                 dampening: float = 0, weight_decay: float = 0, nesterov: bool = False, *,
                 maximize: bool = False, **hints: Any) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        momentum, dampening = group["momentum"], group["dampening"]
        fits = not group["nesterov"] or (momentum > 0 and dampening == 0)
        rule = "nesterov needs momentum and zero dampening"
        require(fits, "SGD", rule, momentum=momentum, dampening=dampening)

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        return _sgd, {"momentum_buffer": 0.0 if group["momentum"] else None}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        return {"fresh": 1.0 - group["dampening"] if "momentum_buffer" in state else 1.0}


# ---- scaled by squares ---------------------------------------------------------------------------


@update(inplace=("p", "s", "a", "m"))
def _rms(p, g, s, a, m, *, lr, weight_decay, maximize, alpha, fresh, eps, momentum):
    """a, the mean gradient, and m, the momentum, may be None."""
    g = _gradient(p, g, weight_decay, maximize)
    s, a = alpha * s + fresh * g * g, None if a is None else a + fresh * (g - a)
    root = sqrt(s if a is None else s - a * a) + eps
    if m is None:
        return p - lr * g / root, s, a, m
    m = momentum * m + g / root
    return p - lr * m, s, a, m


@update(inplace=("p", "s"))
def _adagrad(p, g, s, *, rate, weight_decay, maximize, eps):
    g = _gradient(p, g, weight_decay, maximize)
    s = s + g * g
    return p - rate * g / (sqrt(s) + eps), s


@update(inplace=("p", "s", "d"))
def _adadelta(p, g, s, d, *, lr, weight_decay, maximize, rho, fresh, eps):
    g = _gradient(p, g, weight_decay, maximize)
    s = rho * s + fresh * g * g
    delta = sqrt(d + eps) / sqrt(s + eps) * g
    return p - lr * delta, s, rho * d + fresh * delta * delta


class RMSprop(Optimizer):
    """RMSprop (Hinton's lecture 6e): p -= lr g / (sqrt(mean of g²) + eps).

    `centered` subtracts the squared mean gradient (Graves 2013); eps is outside the root.
    """

    def __init__(self, params: Params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0, momentum: float = 0, centered: bool = False, *,
                 maximize: bool = False, **hints: Any) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        mean, m = (0.0 if group[option] else None for option in ("centered", "momentum"))
        return _rms, {"square_avg": 0.0, "grad_avg": mean, "momentum_buffer": m}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        return {"fresh": 1 - group["alpha"]}


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011): p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(sum of g²) + eps)."""

    def __init__(self, params: Params, lr: float = 1e-2, lr_decay: float = 0,
                 weight_decay: float = 0, initial_accumulator_value: float = 0,
                 eps: float = 1e-10, *, maximize: bool = False, **hints: Any) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        return _adagrad, {"sum": self.defaults["initial_accumulator_value"]}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        return {"rate": group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])}


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012): g scaled by the ratio of running root mean squares of step and g."""

    def __init__(self, params: Params, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
                 weight_decay: float = 0, *, maximize: bool = False,
                 **hints: Any) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        return _adadelta, {"square_avg": 0.0, "acc_delta": 0.0}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        return {"fresh": 1 - group["rho"]}


# ---- scaled by running moments -------------------------------------------------------------------

# Every kernel takes: decay (its share of p joins the gradient), keep (1 - decoupled decay), b2,
# and c1 = 1 - b1, c2 = 1 - b2, subtracted in double precision.


@update(inplace=("p", "m", "v", "top"))
def _adam(p, g, m, v, top, *, maximize, decay, keep, b2, c1, c2, rate, rate_g, root, eps):
    """rate_g None: no gradient beside its mean in the step; root None: no scaling by v.

    top: the largest v so far, which scales in its place, or None.
    """
    g = _gradient(p, g, decay, maximize)
    m, v = m + c1 * (g - m), b2 * v + c2 * g * g
    top = top if top is None else maximum(top, v)
    step = rate * m if rate_g is None else rate * m + rate_g * g
    if root is not None:
        step = step / (sqrt(v if top is None else top) / root + eps)
    return keep * p - step, m, v, top


@update(inplace=("p", "m", "u"))
def _adamax(p, g, m, u, *, maximize, decay, b2, c1, rate, eps):
    g = _gradient(p, g, decay, maximize)
    m = m + c1 * (g - m)
    u = maximum(b2 * u, absolute(g) + eps)
    return p - rate * m / u, m, u


class _Adaptive(Optimizer):
    """What the methods of this file share; each adds the scalars that depend on the step."""

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        top = 0.0 if group.get("amsgrad") else None
        return _adam, {"exp_avg": 0.0, "exp_avg_sq": 0.0, "max_exp_avg_sq": top}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        (b1, b2), decay = group["betas"], group["weight_decay"]
        decoupled = group.get("decoupled_weight_decay", False)
        keep = 1.0 - group["lr"] * decay if decoupled else 1.0
        shared = {"decay": 0.0 if decoupled else decay, "keep": keep, "rate_g": None}
        rates = self._rates(group, state, state["step"])
        return {**shared, "b2": b2, "c1": 1 - b1, "c2": 1 - b2, **rates}

    def _rates(self, group: dict[str, Any], state: dict[str, Any], step: int) -> Scalars:
        raise NotImplementedError(f"{type(self).__name__} has no _rates")


class Adam(_Adaptive):
    """Adam (Kingma & Ba 2015): p -= lr m̂ / (sqrt(v̂) + eps), with bias-corrected moments.

    `amsgrad` divides by the largest v so far (Reddi et al. 2018); `weight_decay` is added to the
    gradient, or with `decoupled_weight_decay` taken from p directly, as AdamW does.
    """

    def __init__(self, params: Params, lr: float = 1e-3, betas: Betas = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False, *,
                 maximize: bool = False, decoupled_weight_decay: bool = False,
                 **hints: Any) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _rates(self, group: dict[str, Any], state: dict[str, Any], step: int) -> Scalars:
        b1, b2 = group["betas"]
        return {"rate": group["lr"] / (1 - b1**step), "root": math.sqrt(1 - b2**step)}


class AdamW(Adam):
    """Adam whose weight decay acts on the parameter directly (Loshchilov & Hutter 2019)."""

    def __init__(self, params: Params, lr: float = 1e-3, betas: Betas = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 1e-2, amsgrad: bool = False, *,
                 maximize: bool = False, **hints: Any) -> None:  # fmt: skip
        super().__init__(params, **options(locals()), decoupled_weight_decay=True)


class NAdam(_Adaptive):
    """Adam with Nesterov momentum (Dozat 2016); the momentum grows with `momentum_decay`."""

    def __init__(self, params: Params, lr: float = 2e-3, betas: Betas = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, momentum_decay: float = 4e-3,
                 decoupled_weight_decay: bool = False, *,
                 maximize: bool = False, **hints: Any) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _rates(self, group: dict[str, Any], state: dict[str, Any], step: int) -> Scalars:
        (b1, b2), lr, growth = group["betas"], group["lr"], group["momentum_decay"]
        mu, following = (b1 * (1 - 0.5 * 0.96 ** (t * growth)) for t in (step, step + 1))
        before = state.get("mu_product", 1.0)
        product = float(np.float32(before) * np.float32(mu))  # PyTorch's precision for it
        state["mu_product"] = product
        rate = lr * following / (1 - product * following)
        rate_g = lr * (1 - mu) / (1 - product)
        return {"rate": rate, "rate_g": rate_g, "root": math.sqrt(1 - b2**step)}


class RAdam(_Adaptive):
    """Adam with a rectified step, plain momentum while v is too uncertain (Liu et al. 2020)."""

    def __init__(self, params: Params, lr: float = 1e-3, betas: Betas = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, decoupled_weight_decay: bool = False,
                 *, maximize: bool = False, **hints: Any) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _rates(self, group: dict[str, Any], state: dict[str, Any], step: int) -> Scalars:
        b1, b2 = group["betas"]
        limit, correction = 2 / (1 - b2) - 1, 1 - b2**step
        rate, root = group["lr"] / (1 - b1**step), None
        length = limit - 2 * step * b2**step / correction
        if length > 5:
            ratio = (length - 4) * (length - 2) * limit / (limit - 4) / (limit - 2) / length
            rate, root = rate * math.sqrt(ratio * correction), 1.0
        return {"rate": rate, "root": root}


class Adamax(_Adaptive):
    """Adam with the infinity norm in place of the second moment (Kingma & Ba 2015, section 7)."""

    def __init__(self, params: Params, lr: float = 2e-3, betas: Betas = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, *,
                 maximize: bool = False, **hints: Any) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        return _adamax, {"exp_avg": 0.0, "exp_inf": 0.0}

    def _rates(self, group: dict[str, Any], state: dict[str, Any], step: int) -> Scalars:
        return {"rate": group["lr"] / (1 - group["betas"][0] ** step)}
