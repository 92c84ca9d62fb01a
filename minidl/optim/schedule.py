"""The base of the learning-rate schedules."""

from typing import Any

from minidl.errors import DTypeError, require
from minidl.optim.optimizer import Optimizer


class LRScheduler:
    """Sets `lr` in every group of `optimizer` at each `step()`; `last_epoch` is the step's number.

    A subclass gives `factor(t)`, the multiple of the first rate at step t. As in PyTorch a step
    multiplies the *current* rate by factor(t) / factor(t - 1), so schedules can be chained;
    rates fall towards `eta_min` where there is one.
    """

    last_epoch: Any
    eta_min: float = 0.0
    _last_lr: list[float] = []
    _hidden: tuple[str, ...] = ("optimizer",)  # names that are no state

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        name = type(self).__name__
        fits = isinstance(optimizer, Optimizer)
        require(fits, name, "optimizer must be an Optimizer", error=DTypeError, optimizer=optimizer)
        self.optimizer = optimizer
        for length in ("step_size", "total_iters", "T_max"):
            value: Any = getattr(self, length, 1)
            require(value > 0, name, f"{length} must be positive", **{length: value})
        for group in optimizer.param_groups:
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            rule = "to go on at last_epoch >= 0, each group needs an 'initial_lr'"
            fix = "load the optimizer's state_dict first"
            require("initial_lr" in group, name, rule, fix=fix, last_epoch=last_epoch)
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def factor(self, t: int) -> float:
        """The multiple of the first rate at step t."""
        raise NotImplementedError(f"{type(self).__name__} has no factor")

    def get_lr(self) -> list[float]:
        """The rates of step `last_epoch`, one a group, from those of the step before."""
        t, floor = self.last_epoch, self.eta_min
        now, lrs = self.factor(t), [group["lr"] for group in self.optimizer.param_groups]
        if t == 0:
            return [lr * now for lr in lrs]
        before = self.factor(t - 1)
        if before == 0:
            return [lr + (base - floor) * now for lr, base in zip(lrs, self.base_lrs, strict=True)]
        return [floor + (lr - floor) * (now / before) for lr in lrs]

    def step(self) -> None:
        """Go to the next step; call it after the optimizer's."""
        self.last_epoch += 1
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def _restart(self) -> None:
        """Go to step 0, from the first rates (what SequentialLR does at a milestone)."""
        groups = self.optimizer.param_groups
        first = vars(self).get("base_lrs") or [group["initial_lr"] for group in groups]
        for group, lr in zip(groups, first, strict=True):
            group["lr"] = lr
        self._rewind()
        self.step()

    def _rewind(self) -> None:
        self.last_epoch = -1

    def get_last_lr(self) -> list[float]:
        """The rates set last, one a group."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer (and functions)."""
        return {key: value for key, value in vars(self).items() if key not in self._hidden}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, or PyTorch's; the optimizer's rates are its own."""
        vars(self).update({k: v for k, v in state_dict.items() if k not in self._hidden})


class SmoothLR(LRScheduler):
    """One that, made with last_epoch >= 0, takes the present rates for those of the next step.

    As in PyTorch, where others then multiply them as any step does.
    """

    def get_lr(self) -> list[float]:
        going_on = self.last_epoch > 0 and not self._last_lr
        return [g["lr"] for g in self.optimizer.param_groups] if going_on else super().get_lr()


def per_group(name: str, option: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value for each group: the list given, or one value for all."""
    count = len(optimizer.param_groups)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    rule = f"{option} must have one value for each of {count} groups"
    require(len(values) == count, name, rule, value=value)
    return values


class CyclingMomentum(LRScheduler):
    """What schedules share that cycle momentum (or the first beta), written into the groups."""

    def _prepare_momentum(self, optimizer: Optimizer, base: Any, top: Any) -> None:
        name = type(self).__name__
        fits = "momentum" in optimizer.defaults or "betas" in optimizer.defaults
        rule = "the optimizer has neither momentum nor betas to cycle"
        require(fits, name, rule, fix="pass cycle_momentum=False")
        bases = per_group(name, "base_momentum", optimizer, base)
        tops = per_group(name, "max_momentum", optimizer, top)
        for group, low, high in zip(optimizer.param_groups, bases, tops, strict=True):
            group |= {"base_momentum": low, "max_momentum": high}

    def _set_momentum(self, group: dict[str, Any], momentum: float) -> None:
        rest = group.get("betas", ())[1:]
        group |= {"betas": (momentum, *rest)} if rest else {"momentum": momentum}
