"""Steps along the gradient or its momentum."""

from typing import Any

from minidl.errors import require
from minidl.fusion import update
from minidl.optim.optimizer import Kernel, Optimizer, Params, Scalars, options


@update(inplace=("p",))
def _plain(p, g, *, lr, weight_decay, maximize):
    g = -g if maximize else g
    return p - lr * (g + weight_decay * p)


@update(inplace=("p", "m"))
def _momentum(p, g, m, *, lr, weight_decay, maximize, momentum, fresh, nesterov):
    """`fresh` is the weight of the new gradient."""
    g = (-g if maximize else g) + weight_decay * p
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
        return (_momentum, {"momentum_buffer": 0.0}) if group["momentum"] else (_plain, {})

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        return {"fresh": 1.0 - group["dampening"] if "momentum_buffer" in state else 1.0}
