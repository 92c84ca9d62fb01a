"""Whole derivatives of functions, as `autograd.functional`."""

from collections.abc import Callable, Sequence
from typing import Any

from minidl.autograd import Tensor, enable_grad, grad
from minidl.derivatives import jvp, own_leaves, several, vjp
from minidl.errors import require
from minidl.ops.join import stack
from minidl.ops.shape import reshape

__all__ = ["hessian", "jacobian", "jvp", "vjp"]


def jacobian(func: Callable, inputs: Any, create_graph: bool = False) -> Any:
    """Derivatives of every element of func(*inputs) by every element of the inputs.

    For tensors x -> y one tensor (*y.shape, *x.shape); a tuple of those for a tuple of inputs, and
    an item for each result of a tuple. One backward for each element of the results.
    """
    taken, alone = own_leaves(inputs, create_graph), isinstance(inputs, Tensor)
    with enable_grad():
        y = func(*taken)
        table = [_by_elements(out, taken, create_graph) for out in several(y)]
    found = [blocks[0] if alone else blocks for blocks in table]
    return found[0] if isinstance(y, Tensor) else tuple(found)


def _by_elements(y: Tensor, xs: Sequence[Tensor], create_graph: bool) -> tuple[Tensor, ...]:
    """A tensor (*y.shape, *x.shape) for each x."""
    rows = [_slopes(part, xs, create_graph) for part in reshape(y, -1)] if y.array.size else []
    columns = [stack(column) for column in zip(*rows)] or [x.new_zeros((0, *x.shape)) for x in xs]
    return tuple(reshape(c, (*y.shape, *x.shape)) for c, x in zip(columns, xs))


def _slopes(y: Tensor, xs: Sequence[Tensor], create_graph: bool) -> tuple[Tensor, ...]:
    """Gradients of a number, zeros where it does not depend on an x."""
    found: Sequence = [None] * len(xs)
    if y.requires:
        found = grad(y, xs, None, True, create_graph, allow_unused=True)
    return tuple(x.new_zeros(x.shape) if g is None else g for g, x in zip(found, xs))


def hessian(func: Callable, inputs: Any, create_graph: bool = False) -> Any:
    """Second derivatives of a function with one result, by every two elements of the inputs.

    For a tensor x one tensor (*x.shape, *x.shape), for a tuple of inputs a tuple of tuples.
    """

    def slopes(*xs: Tensor) -> tuple[Tensor, ...]:
        y = func(*xs)
        fits = isinstance(y, Tensor) and y.array.size == 1
        require(fits, "hessian", "the function must give a tensor of one element", result=y)
        return _slopes(y, xs, True)

    found = jacobian(slopes, several(inputs), create_graph)
    return found[0][0] if isinstance(inputs, Tensor) else found
