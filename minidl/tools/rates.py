"""The learning-rate range test (Smith 2017): the loss as the rate grows from tiny to too large."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from minidl import random
from minidl.autograd import no_grad
from minidl.errors import DataError, require
from minidl.nn import Module
from minidl.optim import Optimizer


class LRFind(NamedTuple):
    """Rates tried, the smoothed losses there, and a rate to start from."""

    lrs: list[float]
    losses: list[float]
    suggestion: float


def lr_find(
    model: Module,
    loss_fn: Callable[[Any, Any], Any],
    loader: Iterable[Any],
    optimizer: Optimizer,
    *,
    start: float = 1e-6,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    diverged: float = 4.0,
) -> LRFind:
    """Train for `steps` batches (x, y) while the rate grows from start to end, then undo it all.

    loss_fn(model(x), y) -> scalar. Losses are smoothed by a bias-corrected moving average; it stops
    when one exceeds `diverged` times the smallest. The suggestion is a tenth of the rate at which
    the smoothed loss was smallest. Model, optimizer and random numbers are put back as they
    were. Raises DataError when the loader is empty or the very first loss is not finite.
    """
    require(0 < start < end, "lr_find", "0 < start < end", start=start, end=end)
    require(steps >= 3, "lr_find", "at least 3 steps are needed", steps=steps)
    undo = _remember(model, optimizer)
    lrs: list[float] = []
    losses: list[float] = []
    average, best = 0.0, math.inf
    batches = _endless(loader)
    model.train()
    try:
        for i in range(steps):
            lr = start * (end / start) ** (i / (steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = lr
            x, y = next(batches)
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            value = float(loss.item())
            finite = math.isfinite(value)
            require(finite or i > 0, "lr_find", "the first loss is not finite", error=DataError,
                    loss=value)  # fmt: skip
            average = smoothing * average + (1 - smoothing) * value
            smooth = average / (1 - smoothing ** (i + 1))
            if not finite or smooth > diverged * best:
                break
            best = min(best, smooth)
            lrs.append(lr)
            losses.append(smooth)
    finally:
        undo()
    return LRFind(lrs, losses, lrs[losses.index(min(losses))] / 10)


def _remember(model: Module, optimizer: Optimizer) -> Callable[[], None]:
    """A function that puts model, optimizer and random numbers back as they are now."""
    tensors = [*model.parameters(), *model.buffers()]
    kept = [(t, t.array.copy(), t.grad) for t in tensors]
    modes = [(module, module.training) for module in model.modules()]
    state = {p: {**entries} for p, entries in optimizer.state.items()}
    for entries in state.values():
        for key, value in entries.items():
            entries[key] = value.copy() if hasattr(value, "dtype") else value
    options = [dict(group) for group in optimizer.param_groups]
    draws = random.get_state()

    def undo() -> None:
        with no_grad():
            for t, array, gradient in kept:
                t.array[...] = array
                t.bump()
                t.grad = gradient
        for module, training in modes:
            module.training = training
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, before in zip(optimizer.param_groups, options, strict=True):
            group.update(before)
        random.set_state(draws)

    return undo


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Batches of the loader, over and over."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        require(not empty, "lr_find", "the loader has no batch", error=DataError)
