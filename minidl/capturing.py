"""`capture`: a function of tensors recorded once, then replayed without Python between kernels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import backend, config
from minidl.dtypes import is_real
from minidl.errors import GraphError, require
from minidl.tape import no_grad, set_grad_enabled
from minidl.tensor import Tensor, wrap


class capture:
    """Record a function of tensors, whose calls then cost little more than their kernels.

        step = ml.capture(model)
        y = step(x)  # runs and records
        y = step(x)  # replays: y's memory is written anew

    function(*tensors) gives a tensor or a tuple of them, which the next call overwrites. It runs
    without grad (unless `training`), once for every combination of shapes and dtypes; what it does
    must be a function of its inputs' values and of tensors that stay where they are, written in
    place or not. What it writes to other tensors must follow from its inputs too, like a cache's
    entry at a given place.
    Reading a value on the host (`item`, `if x > 0`) raises GraphError, and so does work that cannot
    be recorded: until every input has had other values, a call with such is also run as usual and
    compared bit by bit.

    training: the function also computes gradients and updates parameters, and every call takes one
    step; it may give nothing. On a GPU the first calls run as usual and the next is recorded, with
    learning rates, counts of steps and random numbers that go on; the CPU runs every call as usual.
    Python beside the tensors' work (a scheduler's step, a printed loss) belongs outside of it.
    """

    def __init__(self, function: Callable[..., Any], *, training: bool = False) -> None:
        self.function, self.training = function, training
        self._steps: dict[tuple, _Step] = {}
        self._calls: dict[tuple, int] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        fits = bool(inputs) and all(isinstance(x, Tensor) for x in inputs)
        require(fits, "capture", "the function takes tensors, at least one", error=GraphError)
        warm_ups = backend.of(inputs[0].array).warm_ups
        if self.training and not warm_ups:
            return self.function(*inputs)
        half = getattr(config.casting.get(), "dtype", None)
        key = (config.threads(), half, *[(x.shape, x.dtype, x.device) for x in inputs])
        step = self._steps.get(key)
        if step is not None:
            try:
                return step.again(self.function, inputs)
            except GraphError:
                del self._steps[key]  # it holds the values that failed
                raise
        calls = self._calls[key] = self._calls.get(key, 0) + 1
        with set_grad_enabled(self.training):
            if calls <= warm_ups:
                return self.function(*inputs)
            step = self._steps[key] = _Step(self.function, inputs, proven=self.training)
        return step.result


class _Step:
    """What a function did with inputs of one signature; its inputs' and outputs' memory."""

    def __init__(self, function: Callable, inputs: tuple[Tensor, ...], proven: bool) -> None:
        self.inputs = [wrap(backend.of(x.array).copy(x.array)) for x in inputs]
        record = backend.of(inputs[0].array).record
        self.result, self.replay = record(lambda: function(*self.inputs))
        fits = all(isinstance(y, Tensor) for y in _all(self.result))
        rule = "the function must give a tensor or a tuple of tensors"
        require(fits and (proven or self.result is not None), "capture", rule, error=GraphError)
        # inputs that had the same values so far
        self.unproven = set() if proven else {*range(len(inputs))}

    def again(self, function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Any:
        """The function's result for new values of the inputs."""
        expected = None
        new = {i for i in self.unproven if not _same(inputs[i], self.inputs[i])}
        if new:
            with no_grad():
                expected = function(*inputs)
        for own, x in zip(self.inputs, inputs, strict=True):
            backend.of(own.array).put(own.array, (...,), x.array)
        self.replay()
        if expected is not None:
            given, made = _all(expected), _all(self.result)
            rule = "the function does work that cannot be recorded: its replay gives other values"
            same = len(given) == len(made) and all(map(_same, given, made))
            require(same, "capture", rule, error=GraphError)
            self.unproven -= new
        return self.result


def _all(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else () if result is None else (result,)


def _same(x: Tensor, y: Tensor) -> bool:
    """Whether tensors hold the same values, bit by bit but for the kind of NaN."""
    a, b = x.detach().numpy(), y.detach().numpy()
    return np.array_equal(a, b, equal_nan=is_real(a.dtype))
