"""Weights computed from other tensors before each forward: weight_norm, spectral_norm."""

from collections.abc import Callable
from functools import partial
from typing import Any

from minidl import functional as F
from minidl.autograd import Tensor, no_grad
from minidl.errors import require
from minidl.nn import init
from minidl.nn.module import Module, kept_modes
from minidl.nn.parameter import Parameter, new_tensor


def take(module: Module, kind: str, name: str) -> Parameter:
    """Take the parameter out of the module, so that a computed tensor can stand in its place."""
    param = module._parameters.get(name)
    rule = f"{type(module).__name__} has no parameter of that name (or it is computed already)"
    require(param is not None, kind, rule, name=name)
    del module._parameters[name]
    return param


def compute(module: Module, kind: str, name: str, function: Callable[[Module], Tensor]) -> Module:
    """Compute module.name now and before every forward; returns the module."""
    hook = partial(_put, kind, name, function)
    module.register_forward_pre_hook(hook)
    hook(module, ())
    return module


def _put(kind: str, name: str, function: Callable, module: Module, inputs: Any) -> None:
    setattr(module, name, function(module))


def settle(module: Module, kind: str, name: str, extra: tuple[str, ...]) -> Module:
    """Make what the parameters now give a parameter, drop the hook and what it used; the module."""
    hooks = module._forward_pre_hooks
    mine = [key for key, hook in hooks.items() if getattr(hook, "args", ())[:2] == (kind, name)]
    require(bool(mine), kind, f"{type(module).__name__}.{name} is not computed so", name=name)
    with kept_modes(module), no_grad():
        hooks.pop(mine[0])(module.eval(), ())  # a last time, without spectral_norm's iteration
    for suffix in extra:
        delattr(module, name + suffix)
    setattr(module, name, Parameter(getattr(module, name).detach().clone()))
    return module


def _norm_but(v: Tensor, dim: int | None) -> Tensor:
    """Norms over all axes but dim, kept as axes of 1 (over all of them, 0-d, without dim)."""
    axes = None if dim is None else [i for i in range(v.ndim) if i != dim % v.ndim]
    return (v * v).sum(axes, keepdim=dim is not None).sqrt()


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Train name_g · name_v / ‖name_v‖ in place of a weight (arXiv 1602.07868).

    Norms are taken of each slice along dim, or of the whole with dim=None.
    """
    weight = take(module, "weight_norm", name).detach()
    module.register_parameter(name + "_g", Parameter(_norm_but(weight, dim)))
    module.register_parameter(name + "_v", Parameter(weight))
    return compute(module, "weight_norm", name, partial(_scaled, name, dim))


def _scaled(name: str, dim: int | None, m: Module) -> Tensor:
    v = getattr(m, name + "_v")
    return v * (getattr(m, name + "_g") / _norm_but(v, dim))


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make the weight a plain parameter again."""
    return settle(module, "weight_norm", name, ("_g", "_v"))


def spectral_norm(module: Module, name: str = "weight", n_power_iterations: int = 1,
                  eps: float = 1e-12, dim: int | None = None) -> Module:  # fmt: skip
    """Divide a weight by its largest singular value, by power iteration (arXiv 1802.05957).

    The iteration goes on at every forward in training; dim (1 for transposed convolutions, else
    0) is the axis of outputs.
    """
    axis = dim if dim is not None else int(getattr(module, "_transposed", False))
    module.register_parameter(name + "_orig", take(module, "spectral_norm", name))
    for suffix, size in zip(("_u", "_v"), _matrix(name, axis, module).shape, strict=True):
        weight = getattr(module, name + "_orig")
        start = init.normal_(new_tensor((size,), weight.device, weight.dtype))
        module.register_buffer(name + suffix, F.normalize(start, dim=0, eps=eps))
    function = partial(_divided, name, axis, n_power_iterations, eps)
    return compute(module, "spectral_norm", name, function)


def _matrix(name: str, axis: int, m: Module) -> Tensor:
    return getattr(m, name + "_orig").movedim(axis, 0).flatten(1)


def _divided(name: str, axis: int, iterations: int, eps: float, m: Module) -> Tensor:
    w, u, v = _matrix(name, axis, m), getattr(m, name + "_u"), getattr(m, name + "_v")
    if m.training:
        with no_grad():
            for _ in range(iterations):
                v.copy_(F.normalize(w.t() @ u, dim=0, eps=eps))
                u.copy_(F.normalize(w @ v, dim=0, eps=eps))
        u, v = u.clone(), v.clone()  # the graph keeps these; the buffers go on changing
    return getattr(m, name + "_orig") / (u * (w @ v)).sum()


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make the weight a plain parameter again."""
    return settle(module, "spectral_norm", name, ("_orig", "_u", "_v"))
