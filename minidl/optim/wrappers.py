"""What wraps a model or an optimizer: EMA, Lookahead and SAM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from minidl.autograd import Tensor, enable_grad, no_grad
from minidl.dtypes import is_real
from minidl.errors import CheckpointError, DTypeError, require
from minidl.fusion import update
from minidl.optim.layerwise import norm
from minidl.optim.optimizer import Optimizer


@update(inplace=("a",))
def _blend(a, x, *, rate):
    return a + rate * (x - a)


class _Model(Protocol):
    def named_parameters(self) -> Any: ...
    def named_buffers(self) -> Any: ...


class EMA:
    """A moving average of a model's parameters and floating-point buffers, for evaluation.

    average = decay average + (1 - decay) value at each `update`; the first update copies, as
    PyTorch's AveragedModel does. `with ema.swapped(model):` puts the averages into the model and
    afterwards the very same values back.
    """

    def __init__(self, model: _Model, decay: float = 0.999) -> None:
        require(0 <= decay <= 1, "EMA", "decay must lie in [0, 1]", decay=decay)
        self.decay, self.updates = decay, 0
        self.average = {name: t.array.copy("K") for name, t in _floats(model).items()}

    def update(self, model: _Model) -> None:
        """Take one more look at the model's values; call it after the optimizer's step."""
        rows = [(self.average[name], t.array) for name, t in _floats(model).items()]
        _blend.apply_(rows, rate=1 - self.decay if self.updates else 1.0)
        self.updates += 1

    @contextmanager
    def swapped(self, model: _Model) -> Iterator[None]:
        """Inside the `with`, the model holds the averages."""
        kept = {name: t.array.copy("K") for name, t in _floats(model).items()}
        try:
            _write(model, self.average)
            yield
        finally:
            _write(model, kept)

    def state_dict(self) -> dict[str, Any]:
        """{"decay", "updates", "average": {name: array}}; the arrays are not copied."""
        return {"decay": self.decay, "updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved average; CheckpointError unless names and shapes are this model's."""
        saved = state_dict["average"]
        here = {name: array.shape for name, array in self.average.items()}
        there = {name: array.shape for name, array in saved.items()}
        names = here.keys() | there.keys()
        wrong = sorted(name for name in names if here.get(name) != there.get(name))
        rule = "the saved average belongs to another model"
        require(not wrong, "EMA", rule, error=CheckpointError, differing=wrong)
        for name, array in self.average.items():
            array[...] = saved[name]
        self.decay, self.updates = state_dict["decay"], state_dict["updates"]


def _floats(model: _Model) -> dict[str, Tensor]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: t for name, t in tensors.items() if is_real(t.dtype)}


def _write(model: _Model, values: dict[str, Any]) -> None:
    for name, t in _floats(model).items():
        t.array[...] = values[name]
        t.bump()


class _Wrapper(Optimizer):
    """An optimizer around another one, whose parameter groups it shares (so schedulers work)."""

    def __init__(self, optimizer: Optimizer) -> None:
        name = type(self).__name__
        fits = isinstance(optimizer, Optimizer)
        require(fits, name, "optimizer must be an Optimizer", error=DTypeError, optimizer=optimizer)
        self.optimizer = optimizer
        self.defaults, self.param_groups = optimizer.defaults, optimizer.param_groups
        self.state = {}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict["optimizer"])
        super().load_state_dict(state_dict)

    def _all(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


class Lookahead(_Wrapper):
    """Every k steps of `optimizer`, slow weights go alpha of the way to the fast ones, which then
    start anew from there (Zhang et al. 2019)."""

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        super().__init__(optimizer)
        require(k >= 1, "Lookahead", "k must be positive", k=k)
        require(0 <= alpha <= 1, "Lookahead", "alpha must lie in [0, 1]", alpha=alpha)
        self.k, self.alpha, self.count = k, alpha, 0
        self.state = {p: {"slow": p.array.copy("K")} for p in self._all()}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = self.optimizer.step(closure)
        self.count += 1
        if self.count % self.k == 0:
            for p in self._all():  # groups may have been added since
                self.state.setdefault(p, {"slow": p.array.copy("K")})
            rows = [(self.state[p]["slow"], p.array) for p in self._all()]
            _blend.apply_(rows, rate=self.alpha)
            for p in self._all():
                p.array[...] = self.state[p]["slow"]
                p.bump()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.count = state_dict["count"]


class SAM(_Wrapper):
    """Sharpness-aware minimization (Foret et al. 2021): the step of `optimizer` from the gradient
    at the worst point within rho, found along the gradient.

    Either `step(closure)`, the closure clearing and computing the gradients, or for a loop of one's
    own `first_step()`, a second backward, `second_step()`. `adaptive` measures rho relative to
    each weight (Kwon et al. 2021).
    """

    def __init__(self, optimizer: Optimizer, rho: float = 0.05, adaptive: bool = False) -> None:
        super().__init__(optimizer)
        require(rho >= 0, "SAM", "rho must not be negative", rho=rho)
        self.rho, self.adaptive = rho, adaptive
        self._kept: list[tuple[Tensor, Any]] = []

    def first_step(self) -> None:
        """Climb from the current point, which is remembered, to the worst one near it."""
        params: list[Any] = [p for p in self._all() if p.grad is not None]
        self._kept = [(p, p.array.copy("K")) for p in params]
        scaled = [p.array * p.grad.array if self.adaptive else p.grad.array for p in params]
        scale = self.rho / (np.sqrt(sum(norm(x) ** 2 for x in scaled)) + 1e-12)
        for p, direction in zip(params, scaled, strict=True):
            ascent = p.array * direction if self.adaptive else direction
            p.array[...] += scale.astype(p.dtype) * ascent
            p.bump()

    def second_step(self) -> None:
        """Go back to the remembered point and step from there with the gradients found since."""
        for p, array in self._kept:
            p.array[...] = array
            p.bump()
        self._kept = []
        self.optimizer.step()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Both steps; `closure` clears the gradients, computes the loss and runs backward."""
        rule = "step needs a closure, which is run twice"
        require(closure is not None, "SAM", rule, fix="or call first_step and second_step")
        assert closure is not None
        with enable_grad():
            loss = closure()
        with no_grad():
            self.first_step()
        with enable_grad():
            closure()
        with no_grad():
            self.second_step()
        return loss
