"""The learning-rate range test (Smith 2017): the loss as the rate grows from tiny to too large."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

from minidl import backend, random
from minidl.errors import DataError, require
from minidl.nn.module import Module, kept_modes
from minidl.optim import Optimizer


class LRFind(NamedTuple):
    """Rates tried, the smoothed losses there, and a rate to start from."""

    lrs: list[float]
    losses: list[float]
    suggestion: float


def lr_find(model: Module, loss_fn: Callable[[Any, Any], Any], loader: Iterable[Any],
            optimizer: Optimizer, *, start: float = 1e-6, end: float = 10.0, steps: int = 100,
            smoothing: float = 0.9, diverged: float = 4.0) -> LRFind:  # fmt: skip
    """Train for `steps` batches (x, y) while the rate grows from start to end, then undo it all.

    loss_fn(model(x), y) -> scalar. Losses are smoothed by a bias-corrected moving average; it stops
    when one exceeds `diverged` times the smallest. The suggestion is a tenth of the rate at which
    the smoothed loss was smallest. Model, optimizer and random numbers are put back as they
    were. Raises DataError when the loader is empty or the very first loss is not finite.
    """
    require(0 < start < end, "lr_find", "0 < start < end", start=start, end=end)
    require(steps >= 3, "lr_find", "at least 3 steps are needed", steps=steps)
    tried: list[tuple[float, float]] = []
    average, best = 0.0, math.inf
    batches = islice(chain.from_iterable(repeat(loader, steps)), steps)
    with _undone(model, optimizer):
        model.train()
        for i, (x, y) in enumerate(batches):
            lr = start * (end / start) ** (i / (steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            value, rule = float(loss.item()), "the first loss is not finite"
            require(math.isfinite(value) or i > 0, "lr_find", rule, error=DataError, loss=value)
            average = smoothing * average + (1 - smoothing) * value
            smooth = average / (1 - smoothing ** (i + 1))
            if not smooth <= diverged * best:  # NaN too
                break
            best = min(best, smooth)
            tried.append((lr, smooth))
    require(len(tried) > 0, "lr_find", "the loader has no batch", error=DataError)
    lrs, losses = [lr for lr, _ in tried], [smooth for _, smooth in tried]
    return LRFind(lrs, losses, lrs[losses.index(best)] / 10)


@contextmanager
def _undone(model: Module, optimizer: Optimizer) -> Iterator[None]:
    """Put model, optimizer and random numbers back afterwards as they are now."""
    tensors = (*model.parameters(), *model.buffers())
    kept = [(t, backend.of(t.array).copy(t.array), t.grad) for t in tensors]
    state, draws = copy.deepcopy(optimizer.state_dict()), random.get_state()
    try:
        with kept_modes(model):
            yield
    finally:
        for t, array, gradient in kept:
            backend.of(array).put(t.array, (...,), array)
            t.bump()
            t.grad = gradient
        optimizer.load_state_dict(state)
        random.set_state(draws)
