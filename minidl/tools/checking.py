"""Gradient checks: derivatives along random directions against central differences, explained.

For each input x that requires grad, a random direction v and a random cotangent u of the outputs y,
the slope of u·y along v is taken twice: as (vjp of u)·v, and as a central difference in float64.
Random cotangents matter: under a cotangent of ones a softmax whose vjp returns zeros is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl.autograd import Tensor, enable_grad, grad
from minidl.errors import DTypeError, GraphError, require

_SMALL = 512  # inputs up to this size are searched for the element that is most wrong


class _Case(NamedTuple):
    """A function at a point: all that one comparison needs."""

    fn: Callable[..., tuple[Tensor, ...]]
    inputs: list[Any]
    checked: list[int]  # positions of the inputs that require grad
    eps: float


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-6,
    rtol: float = 1e-5,
    raise_exception: bool = True,
    seed: int = 0,
    directions: int = 3,
    order: int = 1,
) -> bool:
    """Check the gradients of `fn` at `inputs` (a Tensor or a sequence; others are passed on).

    fn: returns a Tensor or a tuple of them. Inputs that require grad are taken to float64. `order`
    checks the derivatives up to that order, the n-th as the gradient of the (n - 1)-th. Two slopes
    agree within atol + rtol |slope|; rounding alone makes them differ by about 1e-16 / eps of the
    outputs' size. True if all agree, else GraphError that names the input, the direction, both
    numbers and what it looks like (`raise_exception=False`: False). GraphError too, for a `fn` that
    is random, changes its inputs, or depends on no input that requires grad.
    """
    case, rng = _start(fn, inputs, eps), np.random.default_rng(seed)
    with enable_grad():
        for level in range(1, order + 1):
            complaint = _check(case, rng, atol, rtol, directions, level)
            if complaint and raise_exception:
                raise GraphError(f"gradcheck: {complaint}")
            if complaint:
                return False
            if level < order:
                case = _derivative(case, rng)
    return True


def gradgradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-6,
    rtol: float = 1e-5,
    raise_exception: bool = True,
    seed: int = 0,
    directions: int = 3,
) -> bool:
    """Check the gradients of the gradients of `fn`, also with respect to the cotangents.

    grad_outputs: the cotangents' values; random where None. Otherwise as `gradcheck`.
    """
    with enable_grad():
        case = _derivative(_start(fn, inputs, eps), np.random.default_rng(seed), grad_outputs)
    return gradcheck(case.fn, case.inputs, eps=eps, atol=atol, rtol=rtol,
                     raise_exception=raise_exception, seed=seed, directions=directions)  # fmt: skip


def _start(fn: Callable[..., Any], inputs: Any, eps: float) -> _Case:
    """`fn` at float64 copies of its inputs."""
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    points = [_doubled(x) for x in given]
    checked = [i for i, x in enumerate(points) if isinstance(x, Tensor) and x.requires_grad]
    rule = "no input is a floating-point Tensor that requires grad"
    require(len(checked) > 0, "gradcheck", rule, error=GraphError, inputs=len(given))
    return _Case(_tupled(fn), points, checked, eps)


def _doubled(x: Any) -> Any:
    """A float64 leaf in place of a Tensor that requires grad."""
    if not (isinstance(x, Tensor) and x.requires_grad):
        return x
    require(x.dtype.kind == "f", "gradcheck", "inputs must be real", error=DTypeError, x=x)
    return Tensor(np.array(x.detach(), np.float64, order="K"), True)


def _tupled(fn: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    """`fn` with a tuple of its floating-point outputs."""

    def tupled(*args: Any) -> tuple[Tensor, ...]:
        out = fn(*args)
        many = out if isinstance(out, (tuple, list)) else (out,)
        return tuple(y for y in many if isinstance(y, Tensor) and y.dtype.kind == "f")

    return tupled


def _derivative(case: _Case, rng: np.random.Generator, given: Any = None) -> _Case:
    """The gradient as a function of the same inputs and of the cotangents."""
    outputs = [y for y in case.fn(*case.inputs) if y.requires_grad]
    rule = "no output depends on an input that requires grad"
    require(len(outputs) > 0, "gradgradcheck", rule, error=GraphError)
    if given is None:
        given = [rng.standard_normal(y.shape) for y in outputs]
    values = (given,) if isinstance(given, Tensor) else given
    cotangents = [Tensor(np.array(u, np.float64), True) for u in values]
    count = len(case.inputs)

    def gradient(*args: Any) -> tuple[Tensor, ...]:
        ys = [y for y in case.fn(*args[:count]) if y.requires_grad]
        xs = [args[i] for i in case.checked]
        found = grad(ys, xs, list(args[count:]), create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    positions = case.checked + list(range(count, count + len(cotangents)))
    return _Case(gradient, [*case.inputs, *cotangents], positions, case.eps)


def _check(
    case: _Case, rng: np.random.Generator, atol: float, rtol: float, directions: int, level: int
) -> str:
    """What is wrong with the first derivatives of `case`, or ""."""
    before = [case.inputs[i].array.copy() for i in case.checked]
    outputs = case.fn(*case.inputs)
    again = case.fn(*case.inputs)
    for y, twin in zip(outputs, again, strict=True):
        if not np.array_equal(y.array, twin.array, equal_nan=True):
            return "fn gives different values when called twice; fix its random numbers or state"
    for i, x in zip(case.checked, before, strict=True):
        if not np.array_equal(case.inputs[i].array, x, equal_nan=True):
            return f"fn changes input {i} in place"
    live = [k for k, y in enumerate(outputs) if y.requires_grad]
    if not live:
        return "no output depends on an input that requires grad"
    xs = [case.inputs[i] for i in case.checked]
    for _ in range(directions):
        cotangents = [rng.standard_normal(y.shape) for y in outputs]
        us = [Tensor(cotangents[k].astype(outputs[k].dtype)) for k in live]
        ys = [outputs[k] for k in live]
        found = grad(ys, xs, us, retain_graph=True, allow_unused=True)
        for i, x, g in zip(case.checked, xs, found, strict=True):
            slopes = np.zeros(x.shape) if g is None else np.asarray(g.detach())
            v = rng.standard_normal(x.shape)
            complaint = _compare(case, i, v, cotangents, slopes, atol, rtol)
            if complaint:
                return f"derivative {level} of fn with respect to input {i} {complaint}"
    return ""


def _compare(
    case: _Case, i: int, v: np.ndarray, cotangents: list, slopes: Any, atol: float, rtol: float
) -> str:
    """What is wrong with the slope along v at input i, or ""."""
    shape = case.inputs[i].shape
    if slopes.shape != shape:
        return f"has shape {slopes.shape}, the input {shape}"
    ours = float((slopes * v).sum())
    behind, here, ahead = (_weighted(case, i, s * case.eps * v, cotangents) for s in (-1, 0, 1))
    theirs = (ahead - behind) / (2 * case.eps)
    error = abs(ours - theirs)
    if error <= atol + rtol * max(abs(ours), abs(theirs)):
        return ""
    left, right = (here - behind) / case.eps, (ahead - here) / case.eps
    lines = [f"{shape} is wrong:", f"  along a random direction: vjp {ours:.9g}, "
             f"central difference {theirs:.9g}, ratio {_ratio(ours, theirs)}"]  # fmt: skip
    if math.isnan(error):
        lines.append("  one of them is not a number: move the point away from the singularity")
    elif abs(right - left) >= error:
        lines.append(
            f"  one-sided differences disagree ({left:.9g} and {right:.9g}): it looks like a kink "
            "within eps of the point; move the point, or make eps smaller"
        )
    else:
        lines.append(
            f"  one-sided differences agree ({left:.9g} and {right:.9g}): it looks like an error "
            "in the gradient"
        )
        lines += _worst_element(case, i, cotangents, slopes)
    return "\n".join(lines)


def _weighted(case: _Case, i: int, shift: np.ndarray, cotangents: list[np.ndarray]) -> float:
    """Sum of cotangent times output, with input i moved by `shift`."""
    moved = list(case.inputs)
    x = case.inputs[i].array
    moved[i] = Tensor(np.asarray(x + shift), True)
    pairs = zip(case.fn(*moved), cotangents, strict=True)
    return sum(float((np.asarray(y.detach()) * u).sum()) for y, u in pairs)


def _worst_element(case: _Case, i: int, cotangents: list, slopes: np.ndarray) -> list[str]:
    """One line on the element whose own slope is most wrong, if the input is small."""
    if not 1 < slopes.size <= _SMALL:
        return []
    numeric = np.empty_like(slopes)
    for index in np.ndindex(slopes.shape):
        e = np.zeros(slopes.shape)
        e[index] = case.eps
        ahead, behind = (_weighted(case, i, s * e, cotangents) for s in (1, -1))
        numeric[index] = (ahead - behind) / (2 * case.eps)
    worst = np.unravel_index(np.argmax(np.abs(numeric - slopes)), slopes.shape)
    place = tuple(int(k) for k in worst)
    ours, theirs = float(slopes[worst]), float(numeric[worst])
    return [f"  most wrong at element {place}: vjp {ours:.9g}, central difference {theirs:.9g}"]


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.6g}" if theirs else "undefined"
