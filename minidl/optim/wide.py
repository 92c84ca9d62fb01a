"""Wide optimizers: by signs, by the norms of layers, orthogonal; wrappers; CyclicLR."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from minidl import backend
from minidl.autograd import Tensor, enable_grad, no_grad, wrap
from minidl.errors import CheckpointError, GraphError, require, require_one_of, reworded
from minidl.fusion import sign, sqrt, update
from minidl.ops import pointwise as pw
from minidl.optim.ema import blend
from minidl.optim.optimizer import Kernel, Optimizer, Params, Scalars, options
from minidl.optim.rules import SGD, Betas
from minidl.optim.schedule import CyclingMomentum, per_group


@update(inplace=("p", "m"))
def _lion(p, g, m, *, maximize, b1, b2, lr, keep):
    g = -g if maximize else g
    return keep * p - lr * sign(b1 * m + (1 - b1) * g), b2 * m + (1 - b2) * g


class Lion(Optimizer):
    """Steps of ±lr, by the sign of b1 m + (1 - b1) g, with decoupled decay (Chen et al. 2023)."""

    _counted = False

    def __init__(self, params: Params, lr: float = 1e-4, betas: Betas = (0.9, 0.99),
                 weight_decay: float = 0, *, maximize: bool = False) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        return _lion, {"exp_avg": 0.0}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        b1, b2 = group["betas"]
        return {"b1": b1, "b2": b2, "keep": 1 - group["lr"] * group["weight_decay"]}


# ---- scaled by the norms of whole parameters -----------------------------------------------------


def _ratio(above: Any, below: Any, factor: float = 1.0) -> Any:
    """factor |above| / |below|, 1 where one of them is 0: on the device, read by nobody."""
    size, length = above.norm(), below.norm()
    fits = pw.logical_and(size > 0, length > 0)
    return pw.where(fits, size * factor / pw.where(fits, length, 1.0), 1.0)


class LARS(SGD):
    """SGD whose g + weight_decay p is scaled by trust_coefficient |p| / (|g| + weight_decay |p|).

    Parameters of one axis (biases, norms) take plain steps (You et al. 2017).
    """

    def __init__(self, params: Params, lr: float = 1e-1, momentum: float = 0.9,
                 dampening: float = 0, weight_decay: float = 0, nesterov: bool = False,
                 trust_coefficient: float = 1e-3, *, maximize: bool = False) -> None:  # fmt: skip
        Optimizer.__init__(self, params, options(locals()))

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        grads = [p.grad for p in params]
        decay = -group["weight_decay"] if group["maximize"] else group["weight_decay"]
        try:
            for p in params:
                if p.ndim > 1:  # SGD's own kernel adds decay p again
                    below = p.grad.norm() + group["weight_decay"] * p.norm()
                    trust = _ratio(p, below, group["trust_coefficient"])
                    p.grad = (p.grad + decay * p) * trust - decay * p
            super()._update(group, params)
        finally:
            for p, g in zip(params, grads, strict=True):
                p.grad = g


@update(inplace=("p",))
def _moved(p, d, *, keep, lr):
    return keep * p - lr * d


class _Directed(Optimizer):
    """p = keep p - lr direction, of a direction that the kernel writes and `_shaped` completes."""

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        super()._update(group, params)
        for p in params:
            direction = self._shaped(group, p, wrap(self.state[p].pop("direction"))).array
            scalars = partial(self._steps, group, p)
            _moved.apply_([(p.array, direction)], again=scalars, skip=self.skip, **scalars())
            p.bump()

    def _shaped(self, group: dict[str, Any], p: Tensor, direction: Tensor) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no _shaped")

    def _steps(self, group: dict[str, Any], p: Tensor) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} has no _steps")


@update(inplace=("m", "v", "d"))
def _adam_direction(p, g, m, v, d, *, maximize, weight_decay, b2, c1, c2, first, root, eps):
    g = -g if maximize else g
    m, v = m + c1 * (g - m), b2 * v + c2 * g * g
    return m, v, m / first / (sqrt(v) / root + eps) + weight_decay * p


class LAMB(_Directed):
    """AdamW's direction scaled to the norm of its parameter (You et al. 2020)."""

    def __init__(self, params: Params, lr: float = 1e-3, betas: Betas = (0.9, 0.999),
                 eps: float = 1e-6, weight_decay: float = 0, *,
                 maximize: bool = False) -> None:  # fmt: skip
        super().__init__(params, options(locals()))

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        return _adam_direction, {"exp_avg": 0.0, "exp_avg_sq": 0.0, "direction": 0.0}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        (b1, b2), step = group["betas"], state["step"]
        shared = {"b2": b2, "c1": 1 - b1, "c2": 1 - b2}
        return {**shared, "first": 1 - b1**step, "root": math.sqrt(1 - b2**step)}

    def _shaped(self, group: dict[str, Any], p: Tensor, direction: Tensor) -> Any:
        return direction * _ratio(p, direction)

    def _steps(self, group: dict[str, Any], p: Tensor) -> dict[str, Any]:
        return {"keep": 1.0, "lr": group["lr"]}


@update(inplace=("m", "d"))
def _momentum_direction(p, g, m, d, *, fresh, nesterov):
    m = m + fresh * (g - m)
    return m, g + (1 - fresh) * (m - g) if nesterov else m


class Muon(_Directed):
    """Momentum made nearly orthogonal by Newton and Schulz's iteration (Jordan et al. 2024).

    For matrices alone; give other parameters, embeddings and the last layer to AdamW. As PyTorch's,
    but for the iteration, which is in float32 here. adjust_lr_fn: "original" multiplies lr by
    sqrt(max(1, rows / columns)), "match_rms_adamw" by 0.2 sqrt(max(rows, columns)).
    """

    _counted = False

    def __init__(self, params: Params, lr: float = 1e-3, weight_decay: float = 0.1,
                 momentum: float = 0.95, nesterov: bool = True,
                 ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
                 eps: float = 1e-7, ns_steps: int = 5,
                 adjust_lr_fn: str | None = None) -> None:  # fmt: skip
        require_one_of("Muon", (None, "original", "match_rms_adamw"), adjust_lr_fn=adjust_lr_fn)
        super().__init__(params, options(locals()))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            require(p.ndim == 2, "Muon", "every parameter must be a matrix", param=p)

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        return _momentum_direction, {"momentum_buffer": 0.0, "direction": 0.0}

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        return {"fresh": 1 - group["momentum"]}

    def _shaped(self, group: dict[str, Any], p: Tensor, direction: Tensor) -> Any:
        a, b, c = group["ns_coefficients"]
        tall = p.shape[0] > p.shape[1]
        x = direction.T if tall else direction
        x = x / x.norm().clamp(min=group["eps"])
        for _ in range(group["ns_steps"]):
            square = x @ x.T
            x = a * x + (b * square + c * (square @ square)) @ x
        return (x.T if tall else x).contiguous()

    def _steps(self, group: dict[str, Any], p: Tensor) -> dict[str, Any]:
        rows, columns = p.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            factor = 0.2 * math.sqrt(max(rows, columns))
        else:
            factor = math.sqrt(max(1, rows / columns))
        lr = group["lr"]
        return {"keep": 1 - lr * group["weight_decay"], "lr": lr * factor}


# ---- around another optimizer --------------------------------------------------------------------


class _Around(Optimizer):
    """An optimizer that shares the groups and the state of the one it holds."""

    def __init__(self, optimizer: Optimizer) -> None:
        fits = isinstance(optimizer, Optimizer)
        require(fits, type(self).__name__, "needs an optimizer to hold", optimizer=optimizer)
        self.base_optimizer = optimizer
        self.defaults, self.param_groups = optimizer.defaults, optimizer.param_groups
        self.state = optimizer.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.base_optimizer.add_param_group(param_group)

    def _base_step(self) -> None:
        self.base_optimizer.skip = self.skip
        self.base_optimizer.step()
        self.base_optimizer.skip = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base_optimizer.load_state_dict(state_dict)
        self.state = self.base_optimizer.state


class SAM(_Around):
    """Steps by the gradient at the worst place nearby: rho away, uphill (Foret et al. 2021).

    base_optimizer, a class, is called with the params and the keywords. `step(closure)` calls the
    closure, which clears the gradients, runs backward and returns the loss, at both places; or call
    `first_step()`, forward and backward again, `second_step()`. adaptive: distances relative to the
    parameters (Kwon et al. 2021).
    """

    def __init__(self, params: Params, base_optimizer: Callable[..., Optimizer], rho: float = 0.05,
                 adaptive: bool = False, **options: Any) -> None:  # fmt: skip
        require(rho >= 0, "SAM", "rho must not be negative", rho=rho)
        super().__init__(base_optimizer(params, **options))
        self.rho, self.adaptive = rho, adaptive
        self._before: list[tuple[Tensor, Tensor]] = []

    @no_grad()
    def first_step(self) -> None:
        """Climb to the place whose gradient the step is to take."""
        require(not self._before, "SAM", "first_step was called twice in a row")
        held = [p for p in self._all() if p.grad is not None]
        scales = [p.abs() if self.adaptive else 1.0 for p in held]
        squares = [(p.grad * s).square().sum() for p, s in zip(held, scales)]
        length = sum(squares[1:], squares[0]).sqrt() if squares else 1.0
        for p, s in zip(held, scales):
            self._before.append((p, p.clone()))
            p.add_(p.grad * s * s * (self.rho / (length + 1e-12)))

    @no_grad()
    def second_step(self) -> None:
        """Go back and take the base optimizer's step."""
        for p, before in self._before:
            p.copy_(before)
        self._before = []
        self._base_step()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Both steps; returns the loss at the first place."""
        require(closure is not None, "SAM", "step needs a closure; or use first_step, second_step")
        assert closure is not None
        with enable_grad():
            loss = closure()
            self.first_step()
            closure()
        self.second_step()
        return loss


class Lookahead(_Around):
    """Every k steps of an optimizer, go back to alpha of the way since the last time.

    Zhang et al. 2019. The slow weights are in the state ("slow").
    """

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        fits = k >= 1 and 0 <= alpha <= 1
        require(fits, "Lookahead", "needs k >= 1 and alpha in [0, 1]", k=k, alpha=alpha)
        super().__init__(optimizer)
        self.k, self.alpha, self.count = k, alpha, 0
        self.slow: dict[Tensor, Any] = {}

    @no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The optimizer's step, and every k-th time the slow weights'."""
        with enable_grad():
            loss = None if closure is None else closure()
        for p in self._all():
            be = backend.of(p.array)
            rule = "the k-th step differs from the others, so that none can be captured"
            require(not be.recording(), "Lookahead", rule, error=GraphError)
            if p not in self.slow:
                self.slow[p] = be.copy(p.array)
        self._base_step()
        self.count += 1
        if self.count % self.k == 0:
            blend.apply_([(self.slow[p], p.array) for p in self._all()], rate=self.alpha)
            for p in self._all():
                p.copy_(wrap(self.slow[p]))
        return loss

    def state_dict(self) -> dict[str, Any]:
        slow = {i: self.slow[p] for i, p in enumerate(self._all()) if p in self.slow}
        return super().state_dict() | {"count": self.count, "slow": slow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        with reworded(CheckpointError, "Lookahead: the saved state lacks", KeyError):
            count, saved = state_dict["count"], state_dict["slow"]
        pairs = [(p, saved[i]) for i, p in enumerate(self._all()) if i in saved]
        slow = {p: self._taken(p, "slow", value) for p, value in pairs}
        super().load_state_dict(state_dict)
        self.count, self.slow = count, slow


# ---- schedules ----------------------------------------------------------------------------------


class CyclicLR(CyclingMomentum):
    """From base_lr up to max_lr and back, again and again, momentum the other way (Smith 2017).

    mode: "triangular"; "triangular2", whose height halves each cycle; "exp_range", whose height
    falls by gamma each step. Or scale_fn gives the height's factor, of the number of the cycle
    (from 1) or, with scale_mode "iterations", of the step.
    """

    _hidden = ("optimizer", "scale_fn")

    def __init__(self, optimizer: Optimizer, base_lr: float | Sequence[float],
                 max_lr: float | Sequence[float], step_size_up: int = 2000,
                 step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0,
                 scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle",
                 cycle_momentum: bool = True, base_momentum: float | Sequence[float] = 0.8,
                 max_momentum: float | Sequence[float] = 0.9,
                 last_epoch: int = -1) -> None:  # fmt: skip
        name, down = "CyclicLR", step_size_up if step_size_down is None else step_size_down
        require_one_of(name, ("triangular", "triangular2", "exp_range"), mode=mode)
        require_one_of(name, ("cycle", "iterations"), scale_mode=scale_mode)
        rule = "step_size_up and step_size_down must be positive"
        require(min(step_size_up, down) > 0, name, rule, step_size_up=step_size_up, down=down)
        self.total_size, self.step_ratio = step_size_up + down, step_size_up / (step_size_up + down)
        self.mode, self.gamma, self.scale_fn = mode, gamma, scale_fn
        self.by_step = mode == "exp_range" if scale_fn is None else scale_mode == "iterations"
        self.cycle_momentum = cycle_momentum
        self.max_lrs = per_group(name, "max_lr", optimizer, max_lr)
        if last_epoch == -1:
            lows = per_group(name, "base_lr", optimizer, base_lr)
            for group, low in zip(optimizer.param_groups, lows, strict=True):
                group["initial_lr"] = low
            if cycle_momentum:
                self._prepare_momentum(optimizer, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        whole = self.last_epoch / self.total_size
        cycle = math.floor(whole) + 1
        x, ratio = whole + 1 - cycle, self.step_ratio
        share = x / ratio if x <= ratio else (x - 1) / (ratio - 1)
        share *= self._scale(self.last_epoch if self.by_step else cycle)
        for group in self.optimizer.param_groups if self.cycle_momentum else ():
            high, low = group["max_momentum"], group["base_momentum"]
            self._set_momentum(group, high - (high - low) * share)
        pairs = zip(self.base_lrs, self.max_lrs, strict=True)
        return [low + (high - low) * share for low, high in pairs]

    def _scale(self, t: int) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(t)
        return {"triangular": 1.0, "triangular2": 0.5 ** (t - 1)}.get(self.mode, self.gamma**t)
