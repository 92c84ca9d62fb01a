"""Learning-rate schedules with PyTorch's names, arguments and values."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from minidl.errors import DTypeError, require, require_one_of
from minidl.optim.optimizer import Optimizer
from minidl.optim.schedule import CyclingMomentum, LRScheduler, SmoothLR, per_group
from minidl.optim.wide import CyclicLR as CyclicLR

_LRScheduler = LRScheduler

# ---- a factor of the first rate at each step -----------------------------------------------------


class LambdaLR(LRScheduler):
    """First rate times lr_lambda(t); one function for all groups or a list of one each.

    Functions are not in the state_dict.
    """

    _hidden = ("optimizer", "lr_lambdas")

    def __init__(self, optimizer: Optimizer,
                 lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
                 last_epoch: int = -1) -> None:  # fmt: skip
        self.lr_lambdas = per_group("LambdaLR", "lr_lambda", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [base * function(self.last_epoch) for base, function in pairs]


class StepLR(LRScheduler):
    """Multiplied by gamma every step_size steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1,
                 last_epoch: int = -1) -> None:  # fmt: skip
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """Multiplied by gamma at each milestone."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1,
                 last_epoch: int = -1) -> None:  # fmt: skip
        self.milestones, self.gamma = Counter(milestones), gamma  # how often each
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.gamma ** sum(n for at, n in Counter(self.milestones).items() if at <= t)


class ConstantLR(LRScheduler):
    """Multiplied by `factor` until step total_iters."""

    _hidden = ("optimizer", "factor")  # PyTorch's name for start_factor, here a method's

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5,
                 last_epoch: int = -1) -> None:  # fmt: skip
        require(0 <= factor <= 1, "ConstantLR", "factor must lie in [0, 1]", factor=factor)
        self.start_factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return self.start_factor if t < self.total_iters else 1.0


class LinearLR(SmoothLR):
    """From start_factor to end_factor in a straight line of total_iters steps."""

    def __init__(self, optimizer: Optimizer, start_factor: float = 1.0 / 3,
                 end_factor: float = 1.0, total_iters: int = 5,
                 last_epoch: int = -1) -> None:  # fmt: skip
        fits = 0 < start_factor <= 1 and 0 <= end_factor <= 1
        rule = "start_factor must lie in (0, 1], end_factor in [0, 1]"
        require(fits, "LinearLR", rule, start_factor=start_factor, end_factor=end_factor)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        share = min(1.0, t / self.total_iters)
        return self.start_factor + (self.end_factor - self.start_factor) * share


class ExponentialLR(SmoothLR, StepLR):
    """Multiplied by gamma every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        super().__init__(optimizer, 1, gamma, last_epoch)


class PolynomialLR(SmoothLR):
    """(1 - t / total_iters)^power, then 0."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0,
                 last_epoch: int = -1) -> None:  # fmt: skip
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return (1.0 - min(self.total_iters, t) / self.total_iters) ** self.power


class CosineAnnealingLR(SmoothLR):
    """Half a cosine from the first rate to eta_min in T_max steps, and back (no jumps)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0,
                 last_epoch: int = -1) -> None:  # fmt: skip
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        return (1 + math.cos(math.pi * t / self.T_max)) / 2


class CosineAnnealingWarmRestarts(LRScheduler):
    """Cosine from the first rate to eta_min in T_0 steps, again in T_0 T_mult, ... (SGDR 2017)."""

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0,
                 last_epoch: int = -1) -> None:  # fmt: skip
        fits = isinstance(T_0, int) and isinstance(T_mult, int) and T_0 > 0 and T_mult > 0
        rule = "T_0 and T_mult must be positive integers"
        require(fits, "CosineAnnealingWarmRestarts", rule, T_0=T_0, T_mult=T_mult)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, last_epoch)

    def factor(self, t: float) -> float:
        length = self.T_0
        while t >= length:
            t, length = t - length, length * self.T_mult
        return (1 + math.cos(math.pi * t / length)) / 2

    def step(self, epoch: float | None = None) -> None:
        """Go to the next step, or to a step (or a part of one) by its number."""
        if epoch is not None:
            require(epoch >= 0, "CosineAnnealingWarmRestarts", "epoch must be >= 0", epoch=epoch)
            self.last_epoch = epoch - 1
        super().step()

    def get_lr(self) -> list[float]:
        share, low = self.factor(self.last_epoch), self.eta_min
        return [low + (base - low) * share for base in self.base_lrs]


class OneCycleLR(CyclingMomentum):
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
        total = total_steps or (epochs or 0) * (steps_per_epoch or 0)
        rule = "give total_steps, or epochs and steps_per_epoch, as positive integers"
        require(total > 0, name, rule, total_steps=total_steps, epochs=epochs)
        require(0 <= pct_start <= 1, name, "pct_start must lie in [0, 1]", pct_start=pct_start)
        require_one_of(name, ("cos", "linear"), anneal_strategy=anneal_strategy)
        self.total_steps, self.anneal_strategy = total, anneal_strategy
        self.cycle_momentum, peak = cycle_momentum, pct_start * total - 1
        ends, rates = [peak, total - 1], ["initial_lr", "max_lr", "min_lr"]
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

    def get_lr(self) -> list[float]:
        t, most = self.last_epoch, self.total_steps
        require(t <= most, "OneCycleLR", f"all {most} steps were taken", step=t)
        passed = [end for end, *_ in self.phases[:-1] if t > end]
        start, (end, rates, momenta) = [0.0, *passed][-1], self.phases[len(passed)]
        share = (t - start) / (end - start) if end != start else 1.0
        groups = self.optimizer.param_groups
        for group in groups if self.cycle_momentum else ():
            self._set_momentum(group, self._between(group, momenta, share))
        return [self._between(group, rates, share) for group in groups]

    def _between(self, group: dict[str, Any], names: tuple[str, str], share: float) -> float:
        start, end = (group[name] for name in names)
        if self.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


# ---- made of other schedules ---------------------------------------------------------------------


class _Composite(LRScheduler):
    """What schedules made of others share."""

    _hidden = ("optimizer", "_schedulers")

    def __init__(self, schedulers: Sequence[LRScheduler],
                 optimizer: Optimizer | None = None) -> None:  # fmt: skip
        name = type(self).__name__
        require(len(schedulers) > 0, name, "the list of schedulers is empty")
        self.optimizer = optimizer or schedulers[0].optimizer
        for scheduler in schedulers:
            fits = isinstance(scheduler, LRScheduler)
            rule = "only schedulers whose step takes no metric fit"
            require(fits, name, rule, error=DTypeError, scheduler=scheduler)
            same = scheduler.optimizer is self.optimizer
            require(same, name, "all schedulers must belong to the same optimizer")
        self._schedulers, self.last_epoch = list(schedulers), 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def step(self) -> None:
        self.last_epoch += 1
        self._advance()
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _advance(self) -> None:
        """Step the parts, at `last_epoch`."""
        for scheduler in self._schedulers:
            scheduler.step()

    def _rewind(self) -> None:
        super()._rewind()
        for scheduler in self._schedulers:
            scheduler._rewind()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rest = dict(state_dict)
        for scheduler, part in zip(self._schedulers, rest.pop("_schedulers"), strict=True):
            scheduler.load_state_dict(part)
        super().load_state_dict(rest)


class SequentialLR(_Composite):
    """One scheduler after the other: the i-th from milestone i - 1 on, counting from 0 again."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler],
                 milestones: Sequence[int], last_epoch: int = -1) -> None:  # fmt: skip
        super().__init__(schedulers, optimizer)
        parts, rule = len(schedulers), "there must be one scheduler more than milestones"
        require(len(milestones) == parts - 1, "SequentialLR", rule, schedulers=parts)
        self._milestones = list(milestones)
        self._restart()
        self.last_epoch = last_epoch + 1

    def _advance(self) -> None:
        part = self._schedulers[bisect_right(self._milestones, self.last_epoch)]
        (part._restart if self.last_epoch in self._milestones else part.step)()


class ChainedScheduler(_Composite):
    """All schedulers at every step, each multiplying what the one before left."""


# ---- following a metric --------------------------------------------------------------------------


class ReduceLROnPlateau:
    """Multiply by `factor` when the metric given to `step` has not got better for `patience` steps.

    Better: by more than `threshold`, relative or absolute. `cooldown` steps are not counted
    after a cut; rates stay above `min_lr`, and cuts of less than `eps` are not made.
    """

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1,
                 patience: int = 10, threshold: float = 1e-4, threshold_mode: str = "rel",
                 cooldown: int = 0, min_lr: float | Sequence[float] = 0,
                 eps: float = 1e-8) -> None:  # fmt: skip
        name = "ReduceLROnPlateau"
        require(factor < 1, name, "factor must be below 1", factor=factor)
        require_one_of(name, ("min", "max"), mode=mode)
        require_one_of(name, ("rel", "abs"), threshold_mode=threshold_mode)
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.eps = cooldown, eps
        self.min_lrs = per_group(name, "min_lr", optimizer, min_lr)
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = self.num_bad_epochs = self.last_epoch = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def step(self, metrics: Any) -> None:
        """Look at one more value of the metric (a number or a 0-d Tensor)."""
        current = float(metrics)
        self.last_epoch += 1
        better, cooling = self._better(current), self.cooldown_counter > 0
        self.best = current if better else self.best
        self.num_bad_epochs = 0 if better or cooling else self.num_bad_epochs + 1
        self.cooldown_counter -= cooling
        if self.num_bad_epochs > self.patience:
            for group, low in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                lr = max(group["lr"] * self.factor, low)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _better(self, value: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * value > sign * self.best * (1 + sign * self.threshold)
        return sign * value > sign * self.best + self.threshold

    _hidden, get_last_lr = LRScheduler._hidden, LRScheduler.get_last_lr
    state_dict, load_state_dict = LRScheduler.state_dict, LRScheduler.load_state_dict
