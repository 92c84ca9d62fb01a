"""The base of all optimizers: parameter groups, state per parameter, state dicts, one step."""

import copy
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import count
from numbers import Real
from typing import Any

from minidl import backend
from minidl.autograd import Tensor, enable_grad, no_grad, raw
from minidl.errors import CheckpointError, DTypeError, GraphError, require, reworded
from minidl.fusion import Update

Params = Iterable[Any]  # Tensors or group dicts
Scalars = dict[str, float | None]
Kernel = tuple[Update, dict[str, float | None]]


def _numbers(state: dict[str, Any]) -> Scalars:
    """What a parameter's state holds beside arrays."""
    return {key: value for key, value in state.items() if type(value) in (int, float)}


class Optimizer:
    """Groups of parameters with their options, and what the method remembers of each parameter.

    `params`: an iterable of leaf Tensors, or of dicts {"params": ..., option: value} that
    override `defaults`. Options are read at every step from `param_groups[i]`. `state[p]` holds raw
    arrays and Python numbers ("step" is an int). A subclass writes `_kernel` and `_scalars`.
    Parameters whose `.grad` is None are skipped.
    """

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        name, rule = type(self).__name__, "params must be an ordered iterable of Tensors or dicts"
        fits = isinstance(params, Iterable) and not isinstance(params, (Tensor, dict, str, set))
        require(fits, name, rule, error=DTypeError, params=params)
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        require(len(groups) > 0, name, "the list of parameters is empty")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take one more group, {"params": Tensors, option: value}; missing options get defaults.

        Raises DTypeError for what is no Tensor, ShapeError for an option out of range or a
        parameter that comes twice, GraphError for a Tensor that is computed from others.
        """
        name = type(self).__name__
        fits = isinstance(param_group, dict) and "params" in param_group
        require(fits, name, "a group is a dict with 'params'", error=DTypeError, group=param_group)
        given = param_group["params"]
        rule = "params must be in an ordered collection"
        require(not isinstance(given, (set, str)), name, rule, error=DTypeError, params=given)
        several = [given] if isinstance(given, Tensor) else given
        params = [p[1] if isinstance(p, tuple) else p for p in several]  # named_parameters()
        seen = {id(p) for p in self._all()}
        for p in params:
            fits, rule = isinstance(p, Tensor), "only Tensors can be optimized"
            require(fits, name, rule, error=DTypeError, param=p)
            require(p.is_leaf, name, "only leaf Tensors can be optimized", error=GraphError, p=p)
            require(id(p) not in seen, name, "a parameter is given twice", param=p)
            seen.add(id(p))
        group = {**self.defaults, **param_group, "params": params}
        self._check(group)
        self.param_groups.append(group)

    def _check(self, group: dict[str, Any]) -> None:
        """Refuse options out of range: all numbers are >= 0, betas lie in [0, 1)."""
        name, lr = type(self).__name__, group["lr"]
        require(isinstance(lr, Real), name, "lr must be a number", error=DTypeError, lr=lr)
        for key, value in group.items():
            if key == "betas":
                fits = (
                    isinstance(value, (tuple, list))
                    and len(value) == 2
                    and all(0 <= beta < 1 for beta in value)
                )
                require(fits, name, "betas must be two numbers in [0, 1)", betas=value)
            elif isinstance(value, Real):
                require(float(value) >= 0, name, f"{key} must not be negative", value=value)
                require(key != "rho" or value <= 1, name, "rho must lie in [0, 1]", rho=value)

    def _all(self) -> list[Any]:
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for p in self._all():
            if p.leaf_grad is not None:
                p.leaf_grad = None if set_to_none else p.leaf_grad.detach().zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return what `closure`, run first, returns."""
        loss = None if closure is None else enable_grad()(closure)()
        with no_grad():
            for group in self.param_groups:
                self._update(group, [p for p in group["params"] if p.leaf_grad is not None])
        return loss

    def _update(self, group: dict[str, Any], params: list[Any]) -> None:
        """One launch of the group's kernel for all parameters that have the same scalars."""
        kernel, given = self._kernel(group)
        slots = {name: value for name, value in given.items() if value is not None}
        absent = tuple([a for a, name in zip(kernel.arrays[2:], given) if name not in slots])
        alike: dict[tuple, list[Any]] = defaultdict(list)
        for p in params:
            state = self.state[p]
            alike[len(state), *_numbers(state).values()].append(p)
        for same in alike.values():
            again = functools.partial(self._next, kernel, group, same)
            scalars, rows = again(), []
            for p in same:
                state = self.state[p]
                for slot in [name for name in slots if name not in state]:
                    state[slot] = backend.of(p.array).full_like(p.array, slots[slot])
                rows.append([p.array, p.leaf_grad.array, *[state[s] for s in slots]])
            kernel.apply_(rows, absent, again, self.skip, **scalars)
            for p in same:
                p.bump()

    def _next(self, kernel: Update, group: dict[str, Any], params: list[Any]) -> Scalars:
        """The scalars of the next step, of a replay too, of parameters whose numbers are alike."""
        first, *others = [self.state[p] for p in params]
        if self._counted:
            first["step"] = first.get("step", 0) + 1
        known, numbers = {**group, **self._scalars(group, first)}, _numbers(first)
        for state in others:
            state |= numbers
        return {name: known[name] for name in kernel.scalars}

    skip: Any = None  # an array (1,): where it is not 0, a step changes nothing but its count
    _counted = True  # whether the state holds "step"

    def _kernel(self, group: dict[str, Any]) -> Kernel:
        """The update of rows (p, gradient, state arrays...), and the first values of the state.

        An array whose value is None is neither kept nor given to the update.
        The keywords of the update are options of the group or come from `_scalars`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no _kernel")

    def _scalars(self, group: dict[str, Any], state: dict[str, Any]) -> Scalars:
        """Scalars for a parameter of this state; arrays are missing from it at the first step."""
        raise NotImplementedError(f"{type(self).__name__} has no _scalars")

    def state_dict(self) -> dict[str, Any]:
        """{"state": {index: state of the parameter}, "param_groups": [...]}, as in PyTorch.

        Parameters are numbered through all groups; arrays are not copied.
        """
        state = {i: dict(self.state[p]) for i, p in enumerate(self._all()) if p in self.state}
        numbers = count()
        groups = [g | {"params": [next(numbers) for _ in g["params"]]} for g in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over options and state; arrays are copied to each parameter's dtype and device.

        A captured step goes on from it. Raises CheckpointError where the number of groups, of
        parameters or a shape differs; nothing has been changed then.
        """
        name = type(self).__name__
        with reworded(CheckpointError, f"{name}: the saved state lacks", KeyError):
            saved, states = state_dict["param_groups"], state_dict["state"]
        sizes, ours = ([len(g["params"]) for g in groups] for groups in (saved, self.param_groups))
        rule = "the saved groups must have as many parameters as this optimizer's"
        require(sizes == ours, name, rule, error=CheckpointError, saved=sizes, here=ours)
        known = {key for key, value in self.defaults.items() if not isinstance(value, bool)}
        lacking = sorted(known.difference(*saved))
        rule = "the saved groups lack options: another optimizer's"
        require(not lacking, name, rule, error=CheckpointError, lacking=lacking)
        numbers = [number for group in saved for number in group["params"]]
        taken = {p: {key: self._taken(p, key, value) for key, value in states[number].items()}
                 for p, number in zip(self._all(), numbers) if number in states}  # fmt: skip
        for group, new in zip(self.param_groups, saved, strict=True):
            group |= {**copy.deepcopy(new), "params": group["params"]}
        kept = {p: {key: _kept(self.state[p].get(key), value) for key, value in new.items()}
                for p, new in taken.items()}  # fmt: skip
        self.state = defaultdict(dict, kept)

    def _taken(self, p: Tensor, key: str, value: Any) -> Any:
        """One saved entry of `p`'s state, as this optimizer keeps it."""
        value = raw(value)
        if not hasattr(value, "dtype"):
            return value
        if value.ndim == 0 and (p.ndim or key in ("step", "mu_product")):  # PyTorch's are tensors
            return int(value) if key == "step" else float(value)
        rule = f"the saved {key} must have its parameter's shape"
        name = type(self).__name__
        require(value.shape == p.shape, name, rule, error=CheckpointError, saved=value, param=p)
        taken = backend.of(p.array).empty_like(p.array)
        backend.of(taken).put(taken, (...,), backend.beside(value, taken))
        return taken

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


def _kept(there: Any, value: Any) -> Any:
    """`value`, written into the array `there` if that is alike: a captured step holds it."""
    arrays = hasattr(value, "dtype") and type(there) is type(value)
    if not arrays or (there.shape, there.dtype) != (value.shape, value.dtype):
        return value
    backend.of(there).put(there, (...,), value)
    return there


def options(scope: dict[str, Any]) -> dict[str, Any]:
    """The options among the local variables of an optimizer's `__init__`.

    What PyTorch's take for the sake of speed (`hints`) is accepted, and changes nothing.
    """
    unknown = {*scope.get("hints", ())} - {"foreach", "fused", "capturable", "differentiable"}
    if unknown:
        raise TypeError(f"{type(scope['self']).__name__}: there is no option {min(unknown)!r}")
    skip = ("self", "params", "__class__", "hints")
    return {name: value for name, value in scope.items() if name not in skip}
