"""SGD, and RMSprop, Adagrad and Adadelta, which scale its steps by sums of squared gradients."""

from typing import Any

from minidl.errors import require
from minidl.fusion import sqrt, update
from minidl.optim.optimizer import Kernel, Optimizer, Params, Scalars, options


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
                 maximize: bool = False) -> None:  # fmt: skip
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
                 maximize: bool = False) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        wanted = {"square_avg": True, "grad_avg": group["centered"]}
        wanted["momentum_buffer"] = group["momentum"]
        return _rms, {name: 0.0 if given else None for name, given in wanted.items()}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        return {"fresh": 1 - group["alpha"]}


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011): p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(sum of g²) + eps)."""

    def __init__(self, params: Params, lr: float = 1e-2, lr_decay: float = 0,
                 weight_decay: float = 0, initial_accumulator_value: float = 0,
                 eps: float = 1e-10, *, maximize: bool = False) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        return _adagrad, {"sum": self.defaults["initial_accumulator_value"]}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        return {"rate": group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])}


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012): g scaled by the ratio of running root mean squares of step and g."""

    def __init__(self, params: Params, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
                 weight_decay: float = 0, *, maximize: bool = False) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        return _adadelta, {"square_avg": 0.0, "acc_delta": 0.0}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        return {"fresh": 1 - group["rho"]}
