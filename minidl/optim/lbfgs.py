"""L-BFGS: quasi-Newton steps from a history of gradients, for losses without noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl.autograd import enable_grad, no_grad
from minidl.errors import require
from minidl.optim.optimizer import Optimizer, Params, filled_like

_ARMIJO, _CURVATURE = 1e-4, 0.9  # the constants c1, c2 of the strong Wolfe conditions


class _Point(NamedTuple):
    """A trial on the line: step length, loss, flat gradient, slope along the line."""

    t: float
    loss: float
    grad: Any
    slope: float


class LBFGS(Optimizer):
    """Limited-memory BFGS (Nocedal & Wright 2006, algorithms 7.4 and 3.5), as in PyTorch.

    `step(closure)` calls the closure, which clears the gradients, computes the loss and runs
    backward, up to max_eval times (by default 5/4 max_iter). line_search_fn: None (fixed step lr)
    or "strong_wolfe". One parameter group only. Reads losses and slopes on the host.
    """

    _free_shapes = ("d", "old_dirs", "old_stps", "prev_flat_grad")

    def __init__(self, params: Params, lr: float = 1, max_iter: int = 20,
                 max_eval: int | None = None, tolerance_grad: float = 1e-7,
                 tolerance_change: float = 1e-9, history_size: int = 100,
                 line_search_fn: str | None = None) -> None:  # fmt: skip
        known = line_search_fn in (None, "strong_wolfe")
        rule = "line_search_fn must be None or 'strong_wolfe'"
        require(known, "LBFGS", rule, line_search_fn=line_search_fn)
        max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
        super().__init__(params, {"lr": lr, "max_iter": max_iter, "max_eval": max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
            "history_size": history_size, "line_search_fn": line_search_fn})  # fmt: skip
        require(len(self.param_groups) == 1, "LBFGS", "all parameters must be in one group")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Up to max_iter iterations; returns what the first call of `closure` returned."""
        require(closure is not None, "LBFGS", "step needs a closure that computes the loss")
        assert closure is not None
        group = self.param_groups[0]
        state = self.state[group["params"][0]]
        start, evals = state.get("func_evals", 0), 1
        with enable_grad():
            first = closure()
        with no_grad():
            loss, grad = float(first), self._gradient()
            for n in range(group["max_iter"]):
                if _largest(grad) <= group["tolerance_grad"]:
                    break
                before = loss
                slope = self._aim(state, group, loss, grad)
                if slope > -group["tolerance_change"]:
                    break
                last = n + 1 == group["max_iter"]
                origin = _Point(0.0, loss, grad, slope)
                loss, grad, used = self._advance(closure, state, origin, last, evals)
                evals += used
                moved = _largest(state["d"]) * state["t"]
                if evals >= group["max_eval"] or moved <= group["tolerance_change"]:
                    break
                if abs(loss - before) < group["tolerance_change"]:
                    break
        state["func_evals"] = start + evals
        return first

    def _aim(self, state: dict[str, Any], group: dict[str, Any], loss: float, grad: Any) -> float:
        """Set the next direction and first step length; return the slope of the loss along it."""
        if state.setdefault("n_iter", 0) == 0:
            state |= {"d": -grad, "old_dirs": [], "old_stps": [], "ro": [], "H_diag": 1.0}
            state["t"] = min(1.0, 1.0 / float(abs(grad).sum())) * group["lr"]
        else:
            self._remember(state, group["history_size"], grad)
            state["d"] = _two_loops(state, grad)
            state["t"] = group["lr"]
        state["n_iter"] += 1
        state["prev_flat_grad"], state["prev_loss"] = grad, loss
        return float(grad.dot(state["d"]))

    def _remember(self, state: dict[str, Any], size: int, grad: Any) -> None:
        y, s = grad - state["prev_flat_grad"], state["t"] * state["d"]
        ys = float(y.dot(s))
        if ys <= 1e-10:
            return
        for key, value in (("old_dirs", y), ("old_stps", s), ("ro", 1.0 / ys)):
            state[key] = [*state[key], value][-size:]
        state["H_diag"] = ys / float(y.dot(y))

    def _advance(
        self,
        closure: Callable[[], Any],
        state: dict[str, Any],
        origin: _Point,
        last: bool,
        evals: int,
    ) -> tuple[float, Any, int]:
        """Go along the direction; the new loss and gradient, and how often `closure` was called."""
        group, direction = self.param_groups[0], state["d"]
        params = group["params"]
        if group["line_search_fn"] is None:
            self._move(state["t"], direction)
            if last:  # nobody asks for the loss there
                return origin.loss, origin.grad, 0
            point = self._evaluate(closure, state["t"], direction)
            return point.loss, point.grad, 1
        kept, calls = [p.array.copy("K") for p in params], 0

        def trial(t: float) -> _Point:
            nonlocal calls
            calls += 1
            self._move(t, direction)
            point = self._evaluate(closure, t, direction)
            for p, array in zip(params, kept, strict=True):
                p.array[...] = array
                p.bump()
            return point

        limit, tolerance = group["max_eval"] - evals, group["tolerance_change"]
        best = _strong_wolfe(trial, origin, state["t"], limit, tolerance / _largest(direction))
        self._move(best.t, direction)
        state["t"] = best.t
        return best.loss, best.grad, calls

    def _gradient(self) -> Any:
        """All gradients end to end, zeros where there is none."""
        params = self.param_groups[0]["params"]
        return np.concatenate(
            [
                (filled_like(p.array, 0) if p.grad is None else p.grad.array).reshape(-1)
                for p in params
            ]
        )

    def _evaluate(self, closure: Callable[[], Any], t: float, direction: Any) -> _Point:
        with enable_grad():
            loss = float(closure())
        grad = self._gradient()
        return _Point(t, loss, grad, float(grad.dot(direction)))

    def _move(self, t: float, direction: Any) -> None:
        offset = 0
        for p in self.param_groups[0]["params"]:
            size = p.array.size
            p.array[...] += t * direction[offset : offset + size].reshape(p.shape)
            p.bump()
            offset += size


def _largest(x: Any) -> float:
    return float(abs(x).max())


def _two_loops(state: dict[str, Any], grad: Any) -> Any:
    """Minus the inverse Hessian that the history implies, times the gradient."""
    history = list(zip(state["old_dirs"], state["old_stps"], state["ro"], strict=True))
    q, alphas = -grad, []
    for y, s, ro in reversed(history):
        alphas.append(float(s.dot(q)) * ro)
        q -= alphas[-1] * y
    q *= state["H_diag"]
    for (y, s, ro), alpha in zip(history, reversed(alphas), strict=True):
        q += (alpha - float(y.dot(q)) * ro) * s
    return q


def _cubic(a: _Point, b: _Point, low: float | None = None, high: float | None = None) -> float:
    """The minimum of the cubic through two points with their slopes, kept within low..high."""
    if a.t > b.t:
        a, b = b, a
    low, high = (a.t, b.t) if low is None or high is None else (low, high)
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2
    d2 = math.sqrt(square)
    t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return min(max(t, low), high)


def _too_high(point: _Point, origin: _Point) -> bool:
    return point.loss > origin.loss + _ARMIJO * point.t * origin.slope


def _flat(point: _Point, origin: _Point) -> bool:
    return abs(point.slope) <= -_CURVATURE * origin.slope


def _strong_wolfe(
    trial: Callable[[float], _Point], origin: _Point, t: float, limit: int, width: float
) -> _Point:
    """A step along the line that satisfies the strong Wolfe conditions, or the best one found.

    Steps grow until they enclose one that does; then the bracket shrinks, until it is narrower
    than `width` or `limit` steps were tried.
    """
    before, point = origin, trial(t)
    for k in range(limit):
        if _too_high(point, origin) or (k > 1 and point.loss >= before.loss):
            return _zoom(trial, origin, before, point, limit - k, width)
        if _flat(point, origin):
            return point
        if point.slope >= 0:
            return _zoom(trial, origin, before, point, limit - k, width)
        reach = point.t - before.t
        t = _cubic(before, point, point.t + 0.01 * reach, point.t * 10)
        before, point = point, trial(t)
    return origin if origin.loss <= point.loss else point


def _zoom(
    trial: Callable[[float], _Point], origin: _Point, a: _Point, b: _Point, limit: int, width: float
) -> _Point:
    low, high = (a, b) if a.loss <= b.loss else (b, a)
    stuck = False
    for _ in range(limit):
        left, right = sorted((low.t, high.t))
        if right - left < width:
            break
        t, margin = _cubic(low, high), 0.1 * (right - left)
        near = min(right - t, t - left) < margin
        if near and (stuck or not left < t < right):
            t = right - margin if right - t < t - left else left + margin
            near = False
        stuck = near
        point = trial(t)
        if _too_high(point, origin) or point.loss >= low.loss:
            high = point
            if high.loss < low.loss:
                low, high = high, low
            continue
        if _flat(point, origin):
            return point
        if point.slope * (high.t - low.t) >= 0:
            high = low
        low = point
    return low
