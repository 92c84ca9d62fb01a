"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Any

from minidl.errors import require
from minidl.fusion import update, where
from minidl.optim.optimizer import Optimizer, Params, filled_like


@update(inplace=("p",))
def _plain(p, g, *, lr, sign, decay):
    return p - lr * (sign * g + decay * p)


@update(inplace=("p", "m"))
def momentum_step(p, g, m, *, lr, sign, decay, momentum, fresh, nesterov):
    """`fresh` is the weight of the new gradient, `nesterov` 0 or 1."""
    g = sign * g + decay * p
    m = momentum * m + fresh * g
    return p - lr * where(nesterov > 0, g + momentum * m, m), m


class SGD(Optimizer):
    """Gradient descent; momentum m = momentum m + (1 - dampening) g, of which the first is g.

    lr, momentum, dampening, weight_decay are plain factors; with `nesterov` the step is
    g + momentum m (Sutskever et al. 2013, in PyTorch's form: lr is outside m).
    """

    def __init__(self, params: Params, lr: float = 1e-3, momentum: float = 0,
                 dampening: float = 0, weight_decay: float = 0, nesterov: bool = False, *,
                 maximize: bool = False) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening,
                    "weight_decay": weight_decay, "nesterov": nesterov,
                    "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        momentum, dampening = group["momentum"], group["dampening"]
        fits = not group["nesterov"] or (momentum > 0 and dampening == 0)
        rule = "nesterov needs momentum and zero dampening"
        require(fits, "SGD", rule, momentum=momentum, dampening=dampening)

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        sign = -1.0 if group["maximize"] else 1.0
        common = {"lr": group["lr"], "sign": sign, "decay": group["weight_decay"]}
        momentum = group["momentum"]
        if momentum == 0:
            self._apply(_plain, params, (), **common)
            return
        new = [p for p in params if "momentum_buffer" not in self.state[p]]
        started = [p for p in params if "momentum_buffer" in self.state[p]]
        for p in new:
            self.state[p]["momentum_buffer"] = filled_like(p.array, 0)
        for rows, fresh in ((new, 1.0), (started, 1.0 - group["dampening"])):
            if rows:
                nesterov = float(group["nesterov"])
                options = {"momentum": momentum, "fresh": fresh, "nesterov": nesterov}
                self._apply(momentum_step, rows, ("momentum_buffer",), **common, **options)
