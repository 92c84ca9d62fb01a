"""Module, the base of every layer and model: parameters, state, hooks and the printed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any, NamedTuple, Self

import numpy as np

from minidl.autograd import Tensor, no_grad, wrap
from minidl.errors import CheckpointError, DTypeError, require
from minidl.methods import Handle
from minidl.nn.parameter import Parameter, assign
from minidl.ops.creation import as_tensor

Shapes = dict[str, tuple[int, ...]]  # of parameters and buffers, by name


class Module:
    """Base class of layers and models; subclasses define `forward` and call `super().__init__()`.

    Parameters, buffers and modules assigned to attributes are found by name, as in PyTorch.
    """

    training: bool
    _optional_state: frozenset[str] = frozenset()  # state that a checkpoint may lack

    def __init__(self) -> None:
        put = super().__setattr__
        put("training", True)
        put("_non_persistent", set())
        for name in (*_KINDS, "_forward_hooks", "_forward_pre_hooks"):
            put(name, {})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the module's outputs; every subclass says how."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    # ---- calling and hooks
    @property
    def has_hooks(self) -> bool:
        """Whether hooks, or a forward assigned to this very object, come into a call."""
        return bool(self._forward_hooks or self._forward_pre_hooks or "forward" in vars(self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._forward_hooks and not self._forward_pre_hooks:
            return self.forward(*args, **kwargs)
        for hook in tuple(self._forward_pre_hooks.values()):
            if (changed := hook(self, args)) is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = self.forward(*args, **kwargs)
        for hook in tuple(self._forward_hooks.values()):
            changed = hook(self, args, result)
            result = result if changed is None else changed
        return result

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(module, args)` before `forward`; what it returns replaces the arguments."""
        return Handle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable[..., Any]) -> Handle:
        """Call `hook(module, args, output)` after `forward`; what it returns replaces output."""
        return Handle(self._forward_hooks, hook)

    # ---- attributes
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._register("_parameters", name, value)
        elif isinstance(value, Module):
            self._register("_modules", name, value)
        else:
            state = self.__dict__
            for kind in _KINDS:
                if name in state.get(kind, ()):
                    self._check_kind(kind, name, value)
                    state[kind][name] = value
                    return
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        state = self.__dict__
        for kind in _KINDS:
            if kind in state and name in state[kind]:
                return state[kind][name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for kind in _KINDS:
            if name in self.__dict__[kind]:
                del self.__dict__[kind][name]
                return
        super().__delattr__(name)

    def _check_kind(self, kind: str, name: str, value: Any) -> None:
        wanted, given = _KINDS[kind], type(value).__name__
        fits = value is None or isinstance(value, wanted)
        rule = f"cannot assign {given} to {name!r} ({wanted.__name__} or None expected)"
        require(fits, type(self).__name__, rule, error=TypeError)

    def _register(self, kind: str, name: str, value: Any) -> None:
        """Put value under name, taking the name from wherever else it stands."""
        who = f"{type(self).__name__}.{name}"
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"{who}: cannot assign before super().__init__()")
        self._check_kind(kind, name, value)
        fits = isinstance(name, str) and name != "" and "." not in name
        require(fits, who, "a name must be a string that is not empty and has no dot", name=name)
        state = self.__dict__
        for place in (state, *(state[other] for other in _KINDS if other != kind)):
            place.pop(name, None)
        self._non_persistent.discard(name)
        state[kind][name] = value

    def _add(self, kind: str, name: str, value: Any) -> None:
        """Register under a name that nothing else has."""
        free = name in vars(self).get(kind, ()) or not hasattr(self, str(name))
        require(free, type(self).__name__, "the attribute exists", name=name)
        self._register(kind, name, value)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter (None keeps the name without a tensor)."""
        self._add("_parameters", name, param)

    def register_module(self, name: str, module: Module | None) -> None:
        """Add a child module under a name."""
        self._add("_modules", name, module)

    add_module = register_module

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not trained; persistent ones are in the state_dict."""
        self._add("_buffers", name, tensor)
        (self._non_persistent.discard if persistent else self._non_persistent.add)(name)

    # ---- walking
    def get_submodule(self, target: str) -> Any:
        """What a dotted name ("layer1.0.weight") means here; "" is this module."""
        return reduce(getattr, target.split(".") if target else (), self)

    get_parameter = get_buffer = get_submodule

    def named_modules(self, memo: set[int] | None = None, prefix: str = "",
                      remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:  # fmt: skip
        """This module and everything below it, parents first."""
        memo = set() if memo is None else memo
        if id(self) in memo:
            return
        if remove_duplicate:
            memo.add(id(self))
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                below = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, below, remove_duplicate)

    def _members(self, kind: str, prefix: str, recurse: bool, unique: bool) -> Iterator[Any]:
        seen: set[int] = set()
        modules = self.named_modules(None, prefix, unique) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in getattr(module, kind).items():
                if value is not None and id(value) not in seen:
                    seen.update([id(value)] if unique else [])
                    yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Names and parameters; a shared one appears once, under its first name."""
        return self._members("_parameters", prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and buffers, persistent or not."""
        return self._members("_buffers", prefix, recurse, remove_duplicate)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The immediate children, each once."""
        return iter(list(self._members("_modules", "", False, True)))

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once."""
        return (value for _, value in self.named_parameters(recurse=recurse))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, each once."""
        return (value for _, value in self.named_buffers(recurse=recurse))

    def modules(self) -> Iterator[Module]:
        """This module and everything below it, each once."""
        return (module for _, module in self.named_modules())

    def children(self) -> Iterator[Module]:
        """The immediate children, each once."""
        return (module for _, module in self.named_children())

    # ---- state
    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> dict[str, Tensor]:
        """Parameters and persistent buffers by name, sharing memory with the module's."""
        state: dict[str, Tensor] = {}
        for path, module in self.named_modules(remove_duplicate=False):
            start = f"{prefix}{path}." if path else prefix
            for name, value in (*module._parameters.items(), *module._buffers.items()):
                if value is not None and name not in module._non_persistent:
                    state[start + name] = value if keep_vars else value.detach()
        return state

    def _told(self, weight: tuple[int, ...]) -> tuple[Shapes, Callable[[], None]] | None:
        """For a lazy layer: all shapes beside a weight of that shape, and what gives it them."""
        return None

    def load_state_dict(self, state_dict: Mapping[str, Any],
                        strict: bool = True) -> IncompatibleKeys:  # fmt: skip
        """Copy values (Tensors or arrays) into parameters and buffers of the same names.

        Raises one CheckpointError that lists every missing, unexpected and wrong-shaped name
        (with strict=False only the wrong shapes), and then nothing has been changed.
        """
        fits, rule = isinstance(state_dict, Mapping), "needs a dict of values by name"
        require(fits, "load_state_dict", rule, error=DTypeError, state_dict=state_dict)
        state = {name: as_tensor(value) for name, value in state_dict.items()}
        own, optional = self.state_dict(keep_vars=True), set()
        shapes = {name: value.shape for name, value in own.items()}
        makers: list[Callable[[], None]] = []
        for path, module in self.named_modules(remove_duplicate=False):
            start = f"{path}." if path else ""
            optional |= {start + name for name in module._optional_state}
            weight = state.get(f"{start}weight")
            told = None if weight is None else module._told(weight.shape)
            if told is not None:
                shapes |= {start + k: shape for k, shape in told[0].items()}
                makers.append(told[1])
        missing = [k for k in own if k not in state and k not in optional]
        unexpected = [k for k in state if k not in own]
        wrong = [k for k, v in state.items() if k in own and v.shape != shapes[k]]
        groups = (
            ("missing", [f"{k} {own[k].shape}" for k in missing if strict]),
            ("unexpected", [f"{k} {state[k].shape}" for k in unexpected if strict]),
            ("wrong shape", [f"{k} {state[k].shape}, the model has {shapes[k]}" for k in wrong]),
        )
        listed = "".join(f"\n  {kind}: " + "; ".join(names) for kind, names in groups if names)
        rule = f"the state does not fit {type(self).__name__}{listed}"
        require(not listed, "load_state_dict", rule, error=CheckpointError)
        for make in makers:
            make()
        with no_grad():
            for name in [k for k in state if k in own]:
                own[name].copy_(state[name])
        return IncompatibleKeys(missing, unexpected)

    # ---- changing everything below
    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call fn on every module below, then on this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device and/or convert floating state to a dtype, as `Tensor.to` takes them."""
        probe = wrap(np.zeros((), np.bool_)).to(*args, **kwargs)  # shows what was asked for
        kind = probe.dtype.kind
        require(kind in "bfV", "Module.to", "the dtype must be a floating one", dtype=probe.dtype)

        def convert(tensor: Tensor) -> Tensor:
            keep = kind == "b" or tensor.dtype.kind in "iub"
            return tensor.to(probe.device, tensor.dtype if keep else probe.dtype)

        with no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                grad = tensor.grad
                assign(tensor, convert(tensor))  # the object stays
                tensor.grad = None if grad is None else convert(grad)
        return self

    def float(self) -> Self:
        """Convert floating state to float32."""
        return self.to(np.float32)

    def double(self) -> Self:
        """Convert floating state to float64."""
        return self.to(np.float64)

    def cpu(self) -> Self:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self) -> Self:
        """Move to the GPU; DeviceError where there is none."""
        return self.to("cuda")

    def train(self, mode: bool = True) -> Self:
        """Switch everything below to training (dropout draws, batch norm uses the batch)."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch everything below to evaluation."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Say whether the parameters are trained."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or fill them with zeros."""
        for param in self.parameters():
            if param.grad is not None:
                param.grad = None if set_to_none else param.grad.detach().zero_()

    # ---- the printed form
    def extra_repr(self) -> str:
        """The module's own settings in its repr."""
        return ""

    def _child_lines(self) -> list[str]:
        return [f"({name}): {module!r}" for name, module in self._modules.items()]

    def __repr__(self) -> str:
        extra, children = self.extra_repr(), self._child_lines()
        name = type(self).__name__
        if not children and "\n" not in extra:
            return f"{name}({extra})"
        lines = "\n".join(filter(None, [extra, *children]))
        return f"{name}(\n  " + lines.replace("\n", "\n  ") + "\n)"


_KINDS = {"_parameters": Parameter, "_buffers": Tensor, "_modules": Module}  # of what a name holds


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` could not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


@contextmanager
def kept_modes(model: Module) -> Iterator[None]:
    """Put the training modes of model and everything below it back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
