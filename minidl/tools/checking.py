"""Gradient checks: derivatives along random directions against central differences, explained.

For each input x that requires grad, a random direction v and a random cotangent u of the outputs y,
the slope of u·y along v is taken twice: as (vjp of u)·v, and as a central difference in float64.
Random cotangents matter: under a cotangent of ones a softmax whose vjp returns zeros is right.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl.autograd import Tensor, enable_grad, grad, wrap
from minidl.errors import DTypeError, GraphError, require


class _Case(NamedTuple):
    """A function at a point: all that one comparison needs."""

    fn: Callable[..., tuple[Tensor, ...]]
    inputs: list[Any]
    eps: float
    atol: float
    rtol: float


def gradcheck(fn: Callable[..., Any], inputs: Any, *, eps: float = 1e-6, atol: float = 1e-6,
              rtol: float = 1e-5, raise_exception: bool = True, seed: int = 0,
              directions: int = 3) -> bool:  # fmt: skip
    """Check the gradients of `fn` at `inputs` (a Tensor or a sequence; others are passed on).

    fn: returns a Tensor or a tuple of them. Inputs that require grad are taken to float64. Two
    slopes agree within atol + rtol |slope|; rounding alone makes them differ by about 1e-16 / eps
    of the outputs' size. True if all agree, else GraphError that names the input, the direction,
    both numbers and what it looks like (`raise_exception=False`: False). GraphError too, for a `fn`
    that is random, changes its inputs, or depends on no input that requires grad.
    """
    points, checked = _points(inputs)
    with enable_grad():
        case = _Case(_tupled(fn, inputs), points, eps, atol, rtol)
        complaint = _check(case, checked, np.random.default_rng(seed), directions)
    if complaint and raise_exception:
        raise GraphError(f"gradcheck: {complaint}")
    return not complaint


def gradgradcheck(fn: Callable[..., Any], inputs: Any, grad_outputs: Any = None, *,
                  eps: float = 1e-6, atol: float = 1e-6, rtol: float = 1e-5,
                  raise_exception: bool = True, seed: int = 0,
                  directions: int = 3) -> bool:  # fmt: skip
    """Check the gradients of the gradients of `fn`, also with respect to the cotangents.

    grad_outputs: the cotangents' values; random where None. Otherwise as `gradcheck`.
    """
    (points, checked), forward = _points(inputs), _tupled(fn, inputs)
    with enable_grad():
        shapes = [y.shape for y in forward(*points) if y.requires_grad]
    rule = "no output depends on an input that requires grad"
    require(len(shapes) > 0, "gradgradcheck", rule, error=GraphError)
    rng = np.random.default_rng(seed)
    given = [rng.standard_normal(s) for s in shapes] if grad_outputs is None else grad_outputs
    values = (given,) if isinstance(given, Tensor) else given
    cotangents = [wrap(np.array(u, np.float64), True) for u in values]

    def gradient(*args: Any) -> tuple[Tensor, ...]:
        ys = [y for y in forward(*args[: len(points)]) if y.requires_grad]
        xs, us = [args[i] for i in checked], list(args[len(points) :])
        found = grad(ys, xs, us, create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    return gradcheck(gradient, [*points, *cotangents], eps=eps, atol=atol, rtol=rtol,
                     raise_exception=raise_exception, seed=seed, directions=directions)  # fmt: skip


def _points(inputs: Any) -> tuple[list[Any], list[int]]:
    """The inputs, those that require grad as float64 leaves, and the positions of these."""
    points = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [i for i, x in enumerate(points) if isinstance(x, Tensor) and x.requires_grad]
    rule = "no input is a floating-point Tensor that requires grad"
    require(len(checked) > 0, "gradcheck", rule, error=GraphError, inputs=len(points))
    for i in checked:
        x = points[i]
        require(x.dtype.kind == "f", "gradcheck", "inputs must be real", error=DTypeError, x=x)
        points[i] = wrap(np.array(x.detach(), np.float64, order="K"), True)
    return points, checked


def _tupled(fn: Callable[..., Any], inputs: Any) -> Callable[..., tuple[Tensor, ...]]:
    """`fn` on the inputs' device with a tuple of its floating-point outputs, here."""
    given = [inputs] if isinstance(inputs, Tensor) else [x for x in inputs if isinstance(x, Tensor)]
    there = next((x.device for x in given if x.device.type != "cpu"), None)

    def tupled(*args: Any) -> tuple[Tensor, ...]:
        if there is not None:
            args = tuple([a.to(there) if isinstance(a, Tensor) else a for a in args])
        out = fn(*args)
        many = out if isinstance(out, (tuple, list)) else (out,)
        return tuple(y.cpu() for y in many if isinstance(y, Tensor) and y.dtype.kind == "f")

    return tupled


def _check(case: _Case, checked: list[int], rng: np.random.Generator, directions: int) -> str:
    """What is wrong with the derivatives of `case`, or ""."""
    xs = [case.inputs[i] for i in checked]
    before = [x.array.copy() for x in xs]
    outputs, again = case.fn(*case.inputs), case.fn(*case.inputs)
    for y, twin in zip(outputs, again, strict=True):
        if not np.array_equal(y.array, twin.array, equal_nan=True):
            return "fn gives different values when called twice; fix its random numbers or state"
    for i, x, kept in zip(checked, xs, before, strict=True):
        if not np.array_equal(x.array, kept, equal_nan=True):
            return f"fn changes input {i} in place"
    live = [k for k, y in enumerate(outputs) if y.requires_grad]
    if not live:
        return "no output depends on an input that requires grad"
    for _ in range(directions):
        cotangents = [rng.standard_normal(y.shape) for y in outputs]
        us = [wrap(cotangents[k].astype(outputs[k].dtype)) for k in live]
        found = grad([outputs[k] for k in live], xs, us, retain_graph=True, allow_unused=True)
        for i, x, g in zip(checked, xs, found, strict=True):
            slopes = np.zeros(x.shape) if g is None else np.asarray(g.detach())
            if complaint := _compare(case, i, rng.standard_normal(x.shape), cotangents, slopes):
                return f"the derivative of fn with respect to input {i} {complaint}"
    return ""


def _compare(case: _Case, i: int, v: np.ndarray, cotangents: list, slopes: np.ndarray) -> str:
    """What is wrong with the slope along v at input i, or ""."""
    shape = case.inputs[i].shape
    if slopes.shape != shape:
        return f"has shape {slopes.shape}, the input {shape}"
    ours = float((slopes * v).sum())
    behind, here, ahead = (_weighted(case, i, s * case.eps * v, cotangents) for s in (-1, 0, 1))
    theirs = (ahead - behind) / (2 * case.eps)
    error = abs(ours - theirs)
    if error <= case.atol + case.rtol * max(abs(ours), abs(theirs)):
        return ""
    left, right = (here - behind) / case.eps, (ahead - here) / case.eps
    sides = f"({left:.9g} and {right:.9g}): it looks like"
    if math.isnan(error):
        cause = "one of them is not a number: move the point away from the singularity"
    elif abs(right - left) >= error:
        cause = (f"one-sided differences disagree {sides} a kink within eps of the point; "
                 "move the point, or make eps smaller")  # fmt: skip
    else:
        cause = f"one-sided differences agree {sides} an error in the gradient"
    ratio = f"{ours / theirs:.6g}" if theirs else "undefined"
    return (f"{shape} is wrong:\n  along a random direction: vjp {ours:.9g}, "
            f"central difference {theirs:.9g}, ratio {ratio}\n  {cause}")  # fmt: skip


def _weighted(case: _Case, i: int, shift: np.ndarray, cotangents: list[np.ndarray]) -> float:
    """Sum of cotangent times output, with input i moved by `shift`."""
    moved = list(case.inputs)
    moved[i] = wrap(np.asarray(moved[i].array + shift), True)
    pairs = zip(case.fn(*moved), cotangents, strict=True)
    return sum(float((np.asarray(y.detach()) * u).sum()) for y, u in pairs)
