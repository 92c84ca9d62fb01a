"""Writing into tensors: in-place operators, x[key] = v, and what they do to the graph.

A write computes the new value as an op, copies it into the old memory, bumps the version that all
views share and gives the tensor the op's node. A view forwards the write to its base; other views
of that base, made earlier, are given nodes of the new values where they are next used.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, is_grad_enabled, op, raw, wrap
from minidl.dtypes import category, is_real
from minidl.errors import DTypeError, GraphError, require
from minidl.ops import pointwise
from minidl.ops.arguments import broadcast_shapes, fitted
from minidl.ops.creation import as_tensor, moved, stream_of
from minidl.ops.index import placed, shape_at, with_item
from minidl.ops.shape import alias, broadcast_to, reshape, to_dtype
from minidl.tape import noted, refresh, take_place, views_to


@op
def _overlay(base: Any, v: Any, *, see: Callable) -> Any:
    """A copy of base in which the part that `see` shows is v."""
    be, shape, dtype = backend.of(base), v.shape, base.dtype
    y = be.copy(base)
    be.put(see(y), (...,), v)

    def vjp(g: Any, need: Any) -> Any:
        gb = _overlay(g, be.zeros(shape, dtype), see=see) if need[0] else None
        return gb, see(g) if need[1] else None

    return y, (), vjp


def _check_writable(name: str, x: Tensor) -> None:
    flags = x.array.flags
    sizes = () if flags.c_contiguous else zip(x.array.strides, x.shape)
    steps = sorted((abs(s), n) for s, n in sizes if n > 1)
    reached = itertools.accumulate(((n - 1) * s for s, n in steps), initial=0)  # by nearer axes
    apart = all(s > end for (s, _), end in zip(steps, reached))
    rule = "an expanded, overlapping or read-only tensor cannot be changed in place"
    require(apart and getattr(flags, "writeable", True), name, rule, x=x)


def write(x: Tensor, compute: Callable[[Tensor], Any], name: str, *,
          narrow: bool = False) -> Tensor:  # fmt: skip
    """Replace x's values by compute(x), in place; floats into integers only if `narrow`."""
    records, base = is_grad_enabled() and is_real(x.dtype), views_to(x)[0]
    leaf = base.requires and base.node is None
    rule = "a leaf that requires grad, or a view of one, cannot be changed in place"
    require(not (records and leaf), name, rule, error=GraphError, fix="use no_grad()", x=x)
    _check_writable(name, x)
    if records:
        refresh(x)
    be = backend.of(x.array)
    # the op may save its input: give it memory that will not change
    before = wrap(be.copy(x.array) if records else x.array, x.requires, x.node, x.index)
    value = compute(before)
    new = value if isinstance(value, Tensor) else wrap(be.from_host(np.asarray(value)))
    fits = broadcast_shapes(new.shape, x.shape, name=name) == x.shape
    require(fits, name, "the result must fit into the tensor", x=x, result=new)
    fits = narrow or category(new.dtype) <= category(x.dtype)
    rule = "the result's dtype cannot be cast to the tensor's"
    require(fits, name, rule, error=DTypeError, x=x, result=new)
    be.put(x.array, (...,), new.array)
    x.bump()
    if records and (x.requires or new.requires):
        if not new.requires:  # the tensor goes on requiring grad, as in PyTorch
            new = pointwise.where(wrap(np.zeros((), np.bool_)), before, new)
        _rebase(x, to_dtype(broadcast_to(new, x.shape), x.dtype))
    return x


def _rebase(x: Tensor, new: Tensor) -> None:
    """Give x the place of `new` in the graph; if it is a view, through its base."""
    views = views_to(x)
    steps = [view.parent[1] for view in views[1:]]
    see = functools.partial(functools.reduce, lambda made, step: step(made), steps)
    x.shared().rebased += 1
    made = _overlay(views[0], new, see=see) if steps else alias(new)
    take_place(views[0], made)
    for view, step in zip(views[1:], steps):
        made = step(made)
        take_place(view, made)


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value, recorded."""
    x, key, tensors = placed(x, key)
    shape, v = shape_at(x, key), fitted("setitem", value, x.dtype)
    if not isinstance(v, (Tensor, bool, int, float)):
        v = as_tensor(value, x.dtype, x.device)
    own = np.shape(v)
    given = own[max(len(own) - len(shape), 0) :]
    fits = broadcast_shapes(given, shape, name="setitem") == shape
    require(fits, "setitem", f"the value must fit into shape {shape}", value=v, x=x)
    v = v if given == own else reshape(v, given)
    if is_grad_enabled() and (x.requires or getattr(v, "requires", False)):
        new = to_dtype(v, x.dtype) if hasattr(v, "dtype") else v
        write(x, lambda old: noted(with_item(old, new, key=key), *tensors), "setitem")
    else:
        _check_writable("setitem", x)
        backend.of(x.array).put(x.array, key, raw(v))
        x.bump()


def method(name: str, function: Callable) -> Callable:
    """The method that writes a function's result into the tensor."""

    def in_place(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return write(self, lambda old: function(old, *args, **options), f"{name}_")

    in_place.__doc__ = f"{name}, written into the tensor."
    return in_place


def fill_(self: Tensor, value: Any) -> Tensor:
    """Every element becomes value."""
    if not hasattr(value, "dtype"):
        value = fitted("fill_", value, self.dtype)
        value = wrap(backend.of(self.array).full((), value, self.dtype))
    return write(self, lambda old: value, "fill_", narrow=True)


def zero_(self: Tensor) -> Tensor:
    """Every element becomes 0."""
    return fill_(self, 0)


def copy_(self: Tensor, source: Any, non_blocking: bool = False) -> Tensor:
    """The elements of source (broadcast, converted), recorded."""
    if isinstance(source, Tensor):
        source = moved(source, self.device)
    return write(self, lambda old: source, "copy_", narrow=True)


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Normal random numbers."""
    require(std >= 0, "normal_", "std must not be negative", std=std)
    stream = stream_of(generator)
    return write(self, lambda old: mean + std * stream.normal(self.shape, self.dtype), "normal_")


def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Any = None) -> Tensor:
    """Uniform random numbers in [a, b)."""
    require(a <= b, "uniform_", "a must not lie above b", a=a, b=b)
    stream = stream_of(generator)
    return write(self, lambda old: a + (b - a) * stream.uniform(self.shape, self.dtype), "uniform_")


METHODS = {f.__name__: f for f in (fill_, zero_, copy_, normal_, uniform_)}
