"""Writing into tensors: in-place operators, x[key] = v, and what they do to the graph.

A write computes the new value as an op, copies it into the old memory, bumps the version that all
views share and gives the tensor the op's node. A view forwards the write to its base; other views
of that base, made earlier, refuse to be used in recorded operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import backend, random
from minidl.autograd import Tensor, is_grad_enabled, op, raw
from minidl.errors import DTypeError, GraphError, require
from minidl.ops import index, pointwise
from minidl.ops.shape import broadcast_to


@op
def _overlay(base: Any, v: Any, *, see: Callable) -> Any:
    """A copy of base in which the part that `see` shows is v."""
    y = backend.of(base).copy(base)
    see(y)[...] = v
    shape = v.shape

    def vjp(g: Any, need: Any) -> Any:
        zeros = np.zeros(shape, v_dtype)
        gb = _overlay(g, zeros, see=see) if need[0] else None
        return gb, see(g) if need[1] else None

    v_dtype = base.dtype
    return y, (), vjp


_KINDS = {"b": 0, "u": 1, "i": 1}  # and 2 for what is floating


def write(
    x: Tensor, compute: Callable[[Tensor], Any], name: str, *, narrow: bool = False
) -> Tensor:
    """Replace x's values by compute(x), in place; floats into integers only if `narrow`."""
    records = is_grad_enabled()
    require(
        not (records and x.requires and x.node is None and _root(x) is x),
        name, "a leaf that requires grad cannot be changed in place", error=GraphError,
        fix="use no_grad()", x=x,
    )  # fmt: skip
    require(x.array.flags.writeable, name, "an expanded tensor cannot be changed in place", x=x)
    before = Tensor(x.array, x.requires, x.node, x.index)
    if records:  # the op may save its input: give it memory that will not change
        before.array = backend.of(x.array).copy(x.array)
        before.requires = x.requires
    value = compute(before)
    new = value if isinstance(value, Tensor) else Tensor(np.asarray(value))
    require(
        np.broadcast_shapes(new.shape, x.shape) == x.shape, name,
        "the result must fit into the tensor", x=x, result=new,
    )  # fmt: skip
    require(
        narrow or _KINDS.get(new.dtype.kind, 2) <= _KINDS.get(x.dtype.kind, 2), name,
        "the result's dtype cannot be cast to the tensor's", error=DTypeError, x=x, result=new,
    )  # fmt: skip
    if records and x.requires and not new.requires:  # it goes on requiring grad, as in PyTorch
        new = pointwise.where(Tensor(np.zeros((), np.bool_)), before, new)
    _adopt(x, new, records)
    return x


def _root(x: Tensor) -> Tensor:
    while x.parent is not None:
        x = x.parent[0]
    return x


def _adopt(x: Tensor, new: Tensor, records: bool) -> None:
    np.copyto(x.array, new.array, casting="unsafe")
    cell = x.shared()
    cell.version += 1
    if not (records and (new.requires or x.requires)):
        return
    if new.shape != x.shape:
        new = broadcast_to(new, x.shape)
    if new.dtype != x.dtype:
        new = index.to_dtype(new, x.dtype)
    base, see = x, _itself
    path: list[Callable] = []
    while base.parent is not None:
        base, step = base.parent
        path.append(step)
    if path:
        see = _Path(tuple(reversed(path)))
        require(
            not (base.requires and base.node is None), "in place",
            "a view of a leaf that requires grad cannot be changed", error=GraphError, base=base,
        )  # fmt: skip
        old = Tensor(base.array, base.requires, base.node, base.index)
        made = _overlay(old, new, see=see)
        cell.rebased += 1
        base.node, base.index, base.requires = made.node, made.index, made.requires
        again = see(Tensor(base.array, base.requires, base.node, base.index))
        x.node, x.index, x.requires, x.seen = again.node, again.index, again.requires, cell.rebased
    else:
        cell.rebased += 1
        made = new if new.node is not None else index.to_dtype(new, x.dtype)
        x.node, x.index, x.requires = made.node, made.index, made.requires


def _itself(x: Any) -> Any:
    return x


class _Path:
    """The views that lead from a base to one of its views."""

    def __init__(self, steps: tuple[Callable, ...]) -> None:
        self.steps = steps

    def __call__(self, x: Any) -> Any:
        for step in self.steps:
            x = step(x)
        return x


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value, recorded."""
    key = index.as_key(x, key)
    index._check(x, key)
    v = value if isinstance(value, Tensor) else np.asarray(value, x.dtype)
    shape = np.broadcast_to(np.int8(0), x.shape)[key].shape
    try:
        fits = np.broadcast_shapes(v.shape[max(v.ndim - len(shape), 0) :], shape) == shape
    except ValueError:
        fits = False
    require(fits, "setitem", f"the value must fit into shape {shape}", value=v, x=x)
    if is_grad_enabled() and (x.requires or getattr(v, "requires", False)):
        if isinstance(v, Tensor) and v.dtype != x.dtype:
            v = index.to_dtype(v, x.dtype)
        write(x, lambda old: index.with_item(old, v, key=key), "setitem")
        return
    x.array[key] = raw(v)
    x.bump()


def _operator(name: str) -> Callable:
    function = getattr(pointwise, name)

    def in_place(self: Tensor, other: Any, **options: Any) -> Tensor:
        return write(self, lambda old: function(old, other, **options), f"{name}_")

    in_place.__doc__ = f"{name}, written into the tensor."
    return in_place


def _unary(name: str) -> Callable:
    function = getattr(pointwise, name)

    def in_place(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return write(self, lambda old: function(old, *args, **options), f"{name}_")

    in_place.__doc__ = f"{name}, written into the tensor."
    return in_place


def fill_(self: Tensor, value: Any) -> Tensor:
    """Every element becomes value."""
    return write(self, lambda old: np.asarray(raw(value), self.dtype), "fill_")


def zero_(self: Tensor) -> Tensor:
    """Every element becomes 0."""
    return fill_(self, 0)


def copy_(self: Tensor, source: Any) -> Tensor:
    """The elements of source (broadcast, converted), recorded."""
    return write(self, lambda old: source if isinstance(source, Tensor) else np.asarray(source),
                 "copy_", narrow=True)  # fmt: skip


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Normal random numbers."""
    stream = generator or random.default("tensor")
    return write(self, lambda old: mean + std * stream.normal(self.shape, self.dtype), "normal_")


def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Any = None) -> Tensor:
    """Uniform random numbers in [a, b)."""
    stream = generator or random.default("tensor")
    return write(self, lambda old: a + (b - a) * stream.uniform(self.shape, self.dtype), "uniform_")


METHODS: dict[str, Callable] = {
    **{f"{n}_": _operator(n) for n in ("add", "sub", "mul", "div", "pow")},
    **{f"{n}_": _unary(n) for n in (
        "clamp", "exp", "log", "sqrt", "neg", "abs", "tanh", "sigmoid", "relu", "masked_fill",
        "reciprocal", "rsqrt", "round", "floor", "ceil", "square", "sin", "cos",
    )},
    "fill_": fill_,
    "zero_": zero_,
    "copy_": copy_,
    "normal_": normal_,
    "uniform_": uniform_,
}  # fmt: skip
