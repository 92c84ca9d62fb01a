"""Clipping gradients, and all parameters as one vector."""

import math
from collections.abc import Iterable

from minidl import backend
from minidl.autograd import Tensor, no_grad, wrap
from minidl.errors import GraphError, require
from minidl.fusion import update
from minidl.nn.parameter import new_tensor
from minidl.ops.join import cat, stack


@update(inplace=("g",))
def _scaled(g, *, factor):
    return g * factor


def gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The gradients that there are."""
    listed = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in listed if p.grad is not None]


@no_grad()
def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0,
                    error_if_nonfinite: bool = False) -> Tensor:  # fmt: skip
    """Scale all gradients by max_norm / (norm + 1e-6) where that is below 1; returns the norm.

    The norm is that of all gradients as one vector, before scaling. error_if_nonfinite reads it
    on the host and raises GraphError where it is infinite or NaN.
    """
    grads = gradients(parameters)
    if not grads:
        return new_tensor(())
    norm = whole_norm(grads, float(norm_type))
    if error_if_nonfinite:
        value, rule = norm.item(), "the gradients' norm is not finite, so they cannot be clipped"
        require(math.isfinite(value), "clip_grad_norm_", rule, error=GraphError, norm=value)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    _scaled.apply_([(g.array,) for g in grads], factor=factor.array.reshape(1))
    for g in grads:
        g.bump()
    return norm


def whole_norm(grads: list[Tensor], order: float) -> Tensor:
    """The order-norm of all gradients as one vector, 0-d."""
    arrays = [g.array for g in grads]
    if order == 2 and len({a.dtype for a in arrays}) == 1:
        return wrap(backend.of(arrays[0]).square_sum(arrays)).sqrt()
    return stack([g.norm(order) for g in grads], 0).norm(order)


@no_grad()
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clamp every gradient element to ±clip_value."""
    for g in gradients(parameters):
        g.clamp_(-clip_value, clip_value)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, one after the other, as one vector (differentiable)."""
    return cat([p.reshape(-1) for p in parameters], 0)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the pieces of a vector into the parameters."""
    listed = list(parameters)
    total = sum(p.numel() for p in listed)
    fits = vec.shape == (total,)
    require(fits, "vector_to_parameters", f"vec must have {total} elements", vec=vec)
    with no_grad():
        for p, piece in zip(listed, vec.split([p.numel() for p in listed])):
            p.copy_(piece.reshape(p.shape))
