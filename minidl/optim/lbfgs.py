"""L-BFGS: steps by a model of the curvature from the last steps, for losses without noise."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from minidl import backend
from minidl.autograd import Tensor, enable_grad, no_grad, raw, wrap
from minidl.errors import require, require_one_of
from minidl.ops.creation import zeros_like
from minidl.ops.join import cat, split
from minidl.optim.optimizer import Optimizer, Params, options

CURVED = 1e-10  # a step whose change of gradient, along it, is less says nothing of the curvature
LOWER, FLATTER = 1e-4, 0.9  # Wolfe's conditions on the loss and on its slope
TRIES = 25  # places that a line search looks at


class Place(NamedTuple):
    """A place on a line: how far along, the loss there, its slope along the line, the gradient."""

    t: float
    loss: float
    slope: float
    g: Tensor


class LBFGS(Optimizer):
    """Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.5), with PyTorch's options.

    `step(closure)` takes up to max_iter steps; the closure clears the gradients, runs backward and
    returns the loss. line_search_fn None: steps of length lr, the first one shorter;
    "strong_wolfe": as long as makes the loss and its slope small enough (algorithms 3.5 and 3.6).
    One group of parameters. Losses and slopes are read on the host.
    """

    def __init__(self, params: Params, lr: float = 1, max_iter: int = 20,
                 max_eval: int | None = None, tolerance_grad: float = 1e-7,
                 tolerance_change: float = 1e-9, history_size: int = 100,
                 line_search_fn: str | None = None) -> None:  # fmt: skip
        require_one_of("LBFGS", (None, "strong_wolfe"), line_search_fn=line_search_fn)
        max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
        super().__init__(params, options(locals()))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        rule = "takes one group of parameters"
        require(not self.param_groups, "LBFGS", rule, group=list(param_group))
        super().add_param_group(param_group)

    @no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Up to max_iter steps; returns the loss that the closure gave first."""
        require(closure is not None, "LBFGS", "step needs a closure")
        assert closure is not None
        group, state = self.param_groups[0], self.state[self._all()[0]]
        kept = {"n_iter": 0, "func_evals": 0, "old_dirs": [], "old_stps": [], "ro": []}
        state |= {key: value for key, value in kept.items() if key not in state}
        first, loss, g = self._evaluated(closure)
        evaluations, least = 1, group["tolerance_change"]
        for n in range(1, group["max_iter"] + 1):
            if evaluations >= group["max_eval"] or _largest(g) <= group["tolerance_grad"]:
                break
            d, before = self._direction(state, g), loss
            state["n_iter"] += 1
            state["t"] = group["lr"] * (min(1.0, 1 / _number(g.abs().sum()))
                                        if state["n_iter"] == 1 else 1.0)  # fmt: skip
            slope = _number(g.dot(d))
            if slope > -least:
                break
            count = 0
            if group["line_search_fn"] is not None:
                start = Place(0.0, loss, slope, g)
                line = _Line(self, closure, d, group["max_eval"] - evaluations)
                state["t"], loss, _, g = line.search(start, state["t"], least)
                count = line.count
            else:
                self._put([p.clone() for p in self._all()], d, state["t"])
                if n < group["max_iter"]:
                    _, loss, g = self._evaluated(closure)
                    count = 1
            evaluations += count
            if abs(state["t"]) * _largest(d) <= least or abs(loss - before) < least:
                break
        state["func_evals"] += evaluations
        return first

    def _evaluated(self, closure: Callable[[], Any]) -> tuple[Any, float, Tensor]:
        """The loss, as a number too, and all gradients in a row."""
        with enable_grad():
            loss = closure()
        grads = [zeros_like(p) if p.grad is None else p.grad for p in self._all()]
        return loss, float(loss), cat([g.reshape(-1) for g in grads])

    def _put(self, start: list[Any], d: Tensor, t: float) -> None:
        """The parameters t along d from where they started."""
        parts = split(d, [p.array.size for p in start])
        for p, x, part in zip(self._all(), start, parts, strict=True):
            p.copy_(x + part.reshape(x.shape) * t)

    def _direction(self, state: dict[str, Any], g: Tensor) -> Tensor:
        """-g times the inverse Hessian that the last steps suggest (algorithm 7.4)."""
        if "d" in state:
            y = g - wrap(state["prev_flat_grad"])
            s = wrap(state["d"]) * state["t"]
            curvature = _number(y.dot(s))
            if curvature > CURVED:
                state["H_diag"] = curvature / _number(y.dot(y))
                for key, value in (("old_dirs", y.array), ("old_stps", s.array),
                                   ("ro", 1 / curvature)):  # fmt: skip
                    state[key] = [*state[key], value][-self.param_groups[0]["history_size"] :]
        memory = [(wrap(y), wrap(s), ro) for y, s, ro in
                  zip(state["old_dirs"], state["old_stps"], state["ro"], strict=True)]  # fmt: skip
        d, shares = -g, []
        for y, s, ro in reversed(memory):
            shares.append(s.dot(d) * ro)
            d = d - y * shares[-1]
        d = d * state.get("H_diag", 1.0)
        for (y, s, ro), share in zip(memory, reversed(shares), strict=True):
            d = d + s * (share - y.dot(d) * ro)
        state["d"], state["prev_flat_grad"] = d.array, g.array
        return d

    def _taken(self, p: Tensor, key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._taken(p, key, item) for item in value]
        value = raw(value)
        if not getattr(value, "ndim", 0):
            return value.item() if hasattr(value, "dtype") else value
        be = backend.of(p.array)
        return be.copy(be.cast(backend.beside(value, p.array), p.dtype))


def _number(x: Any) -> float:
    return float(x.item())


def _largest(x: Tensor) -> float:
    return _number(x.abs().max()) if x.array.size else 0.0


class _Line:
    """The way from the parameters along d, and a search on it for a place to step to."""

    def __init__(self, optimizer: LBFGS, closure: Callable[[], Any], d: Tensor, most: int) -> None:
        self.optimizer, self.closure, self.d = optimizer, closure, d
        self.start = [p.clone() for p in optimizer._all()]
        self.count, self.most = 0, max(1, min(TRIES, most))

    def at(self, t: float) -> Place:
        """Go t along the line and evaluate."""
        self.count += 1
        self.optimizer._put(self.start, self.d, t)
        _, loss, g = self.optimizer._evaluated(self.closure)
        return Place(t, loss, _number(g.dot(self.d)), g)

    def search(self, start: Place, t: float, least: float) -> Place:
        """A place that meets Wolfe's strong conditions, else the best one seen; goes there."""
        low, high = self._bracket(start, t)
        reach = _largest(self.d)
        while high is not None and self.count < self.most and abs(high.t - low.t) * reach > least:
            here = self.at(_between(low, high))
            if self._too_high(start, here) or here.loss >= low.loss:
                high = here
            elif abs(here.slope) <= -FLATTER * start.slope:
                low, high = here, None
            else:
                high = low if here.slope * (high.t - low.t) >= 0 else high
                low = here
        self.optimizer._put(self.start, self.d, low.t)
        return low

    def _bracket(self, start: Place, t: float) -> tuple[Place, Place | None]:
        """The best place so far, and one beyond which to look no further (None: none needed)."""
        before = start
        while True:
            here = self.at(t)
            if self._too_high(start, here) or (self.count > 1 and here.loss >= before.loss):
                return before, here
            if abs(here.slope) <= -FLATTER * start.slope or self.count >= self.most:
                return here, None
            if here.slope >= 0:
                return here, before
            t, before = min(10 * t, max(2 * t, _minimum(before, here))), here

    def _too_high(self, start: Place, here: Place) -> bool:
        return not here.loss <= start.loss + LOWER * here.t * start.slope  # NaN is too high


def _minimum(a: Place, b: Place) -> float:
    """Where the cubic through both losses and slopes is least (equation 3.59); NaN if nowhere."""
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    d2 = math.copysign(math.sqrt(square), b.t - a.t) if square >= 0 else math.nan
    below = b.slope - a.slope + 2 * d2
    return b.t - (b.t - a.t) * (b.slope + d2 - d1) / below if below else math.nan


def _between(a: Place, b: Place) -> float:
    """The cubic's minimum, kept off the ends by a tenth of the distance; else the middle."""
    t, (low, high) = _minimum(a, b), sorted((a.t, b.t))
    margin = 0.1 * (high - low)
    return min(max(t, low + margin), high - margin) if math.isfinite(t) else (low + high) / 2
