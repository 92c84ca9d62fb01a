"""Schedules made of other schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from minidl.errors import DTypeError, require
from minidl.optim.lr_scheduler.base import LRScheduler
from minidl.optim.optimizer import Optimizer


class _Composite(LRScheduler):
    """What schedules made of others share."""

    _hidden = ("optimizer", "_schedulers")

    def _take(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
        name = type(self).__name__
        require(len(schedulers) > 0, name, "the list of schedulers is empty")
        self.optimizer = optimizer or schedulers[0].optimizer
        for scheduler in schedulers:
            fits = isinstance(scheduler, LRScheduler)
            rule = "only schedulers whose step takes no metric fit"
            require(fits, name, rule, error=DTypeError, scheduler=scheduler)
            same = scheduler.optimizer is self.optimizer
            require(same, name, "all schedulers must belong to the same optimizer")
        self._schedulers = list(schedulers)

    def step(self) -> None:
        self.last_epoch += 1
        self._advance()
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _advance(self) -> None:
        """Step the parts, at `last_epoch`."""
        raise NotImplementedError

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
        self._take(schedulers, optimizer)
        fits = len(milestones) == len(schedulers) - 1
        rule = "there must be one scheduler more than milestones"
        require(fits, "SequentialLR", rule, schedulers=len(schedulers), milestones=milestones)
        self._milestones = list(milestones)
        self._restart()
        self.last_epoch = last_epoch + 1

    def _advance(self) -> None:
        index = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[index]
        if index > 0 and self._milestones[index - 1] == self.last_epoch:
            scheduler._restart()
        else:
            scheduler.step()


class ChainedScheduler(_Composite):
    """All schedulers at every step, each multiplying what the one before left."""

    def __init__(self, schedulers: Sequence[LRScheduler],
                 optimizer: Optimizer | None = None) -> None:  # fmt: skip
        self._take(schedulers, optimizer)
        self.last_epoch = 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _advance(self) -> None:
        for scheduler in self._schedulers:
            scheduler.step()
