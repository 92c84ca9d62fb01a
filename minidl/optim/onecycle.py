"""The one-cycle schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from minidl.errors import require
from minidl.optim.optimizer import Optimizer
from minidl.optim.schedule import LRScheduler, per_group


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr in pct_start of the steps, then down to the first rate
    / final_div_factor, momentum the other way (Smith & Topin 2018); `three_phase` comes down to
    the first rate before. Momentum (or the first beta) is written into the groups.
    """

    def __init__(self, optimizer: Optimizer, max_lr: float | Sequence[float],
                 total_steps: int | None = None, epochs: int | None = None,
                 steps_per_epoch: int | None = None, pct_start: float = 0.3,
                 anneal_strategy: str = "cos", cycle_momentum: bool = True,
                 base_momentum: float | Sequence[float] = 0.85,
                 max_momentum: float | Sequence[float] = 0.95, div_factor: float = 25.0,
                 final_div_factor: float = 1e4, three_phase: bool = False,
                 last_epoch: int = -1) -> None:  # fmt: skip
        name = "OneCycleLR"
        if total_steps is None and epochs is not None and steps_per_epoch is not None:
            total_steps = epochs * steps_per_epoch
        rule = "give total_steps, or epochs and steps_per_epoch, as positive integers"
        fits = isinstance(total_steps, int) and total_steps > 0
        require(fits, name, rule, total_steps=total_steps, epochs=epochs)
        require(0 <= pct_start <= 1, name, "pct_start must lie in [0, 1]", pct_start=pct_start)
        known = anneal_strategy in ("cos", "linear")
        rule = "anneal_strategy must be 'cos' or 'linear'"
        require(known, name, rule, anneal_strategy=anneal_strategy)
        assert total_steps is not None
        self.total_steps, self.anneal_strategy = total_steps, anneal_strategy
        self.cycle_momentum = cycle_momentum
        peak = pct_start * total_steps - 1
        ends, rates = [peak, total_steps - 1], ["initial_lr", "max_lr", "min_lr"]
        momenta = ["max_momentum", "base_momentum", "max_momentum"]
        if three_phase:
            ends.insert(1, 2 * peak)
            rates.insert(2, "initial_lr")
            momenta.append("max_momentum")
        self.phases = list(zip(ends, pairwise(rates), pairwise(momenta), strict=True))
        if last_epoch == -1:
            highs = per_group(name, "max_lr", optimizer, max_lr)
            for group, high in zip(optimizer.param_groups, highs, strict=True):
                first = high / div_factor
                group |= {"initial_lr": first, "max_lr": high, "min_lr": first / final_div_factor}
            if cycle_momentum:
                self._prepare_momentum(optimizer, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch)

    def _prepare_momentum(self, optimizer: Optimizer, base: Any, top: Any) -> None:
        fits = "momentum" in optimizer.defaults or "betas" in optimizer.defaults
        rule = "the optimizer has neither momentum nor betas to cycle"
        require(fits, "OneCycleLR", rule, fix="pass cycle_momentum=False")
        bases = per_group("OneCycleLR", "base_momentum", optimizer, base)
        tops = per_group("OneCycleLR", "max_momentum", optimizer, top)
        for group, low, high in zip(optimizer.param_groups, bases, tops, strict=True):
            group |= {"base_momentum": low, "max_momentum": high}

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        rule = f"all {self.total_steps} steps were taken"
        require(t <= self.total_steps, "OneCycleLR", rule, step=t)
        start, (end, rates, momenta) = 0.0, self.phases[0]
        for phase in self.phases[1:]:
            if t > end:
                start, (end, rates, momenta) = end, phase
        share = (t - start) / (end - start) if end != start else 1.0
        groups = self.optimizer.param_groups
        for group in groups if self.cycle_momentum else ():
            momentum = self._between(group, momenta, share)
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum
        return [self._between(group, rates, share) for group in groups]

    def _between(self, group: dict[str, Any], names: tuple[str, str], share: float) -> float:
        start, end = (group[name] for name in names)
        if self.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
