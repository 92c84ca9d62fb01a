"""Fields: modules declared by their annotated settings, as dataclasses are."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform

from minidl.autograd import Tensor
from minidl.errors import reworded
from minidl.nn.module import Module

Size = Any  # an int, or a tuple with one for each axis
Switch = Any  # a bool in the constructor; afterwards the parameter that it switches on, or None
_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
_KEYWORD, _NONE = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty


@dataclass_transform(eq_default=False)
class Fields(Module):
    """A module whose annotated attributes are its constructor's arguments and its repr.

    A subclass that gives class keywords declares fields, after its parent's (`without` one). `of`
    is a function that takes the fields by keyword: forward calls it. `show` is a format for the
    repr (ending in "…": and whatever differs from its default); without it every field is shown.
    A field `inplace` is taken for the sake of PyTorch's scripts and changes nothing: a new tensor
    is returned.
    """

    _function: ClassVar[Callable[..., Any]]
    _fields: ClassVar[tuple[str, ...]] = ()
    _where: ClassVar[tuple[str, ...]] = ()
    _keyword_only: ClassVar[tuple[str, ...]] = ()
    _signature: ClassVar[inspect.Signature] = inspect.Signature()
    _show: ClassVar[str | None] = None

    def __init_subclass__(cls, of: Callable[..., Any] | None = None, show: str | None = None,
                          without: str = "") -> None:  # fmt: skip
        if "__init__" in vars(cls):
            cls.__signature__ = None  # type: ignore[attr-defined] # not its parent's
        if of is None and show is None:
            return
        if of is not None:
            cls._function = staticmethod(of)
            cls.__doc__ = f"`F.{of.__name__}` as a module. {inspect.getdoc(of) or ''}"
        cls._show = show
        fields = {name: cls._signature.parameters[name] for name in cls._fields if name != without}
        for name, hint in inspect.get_annotations(cls).items():
            if name.startswith("_"):
                continue
            default = cls.__dict__.get(name, _NONE)
            if default is not _NONE:  # left on the class it would hide a buffer of that name
                delattr(cls, name)
            kind = _KEYWORD if name in cls._keyword_only else _POSITIONAL
            fields[name] = inspect.Parameter(name, kind, default=default, annotation=hint)
        where = [inspect.Parameter(name, _POSITIONAL, default=None) for name in cls._where]
        cls._fields = tuple(fields)
        cls._signature = inspect.Signature(sorted([*fields.values(), *where], key=lambda p: p.kind))
        cls.__signature__ = cls._signature  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        with reworded(TypeError, type(self).__name__, TypeError):
            bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        place = [bound.arguments.pop(name) for name in self._where]
        for name, value in bound.arguments.items():
            if name.endswith("weight") or isinstance(value, Tensor):
                self._register("_buffers", name, value)
            else:
                setattr(self, name, value)
        self._build(*place)

    def _build(self, *where: Any) -> None:
        """Check the fields, and make what depends on them."""

    def forward(self, *inputs: Any) -> Any:
        """The function of the inputs with this module's settings."""
        settings = {name: getattr(self, name) for name in self._fields if name != "inplace"}
        return self._function(*inputs, **settings)

    def extra_repr(self) -> str:
        values = {name: getattr(self, name) for name in self._fields}
        if "bias" in values:
            values["bias"] = values["bias"] is not None and values["bias"] is not False
        if self._show is None:
            return ", ".join(f"{k}={v!r}" for k, v in values.items() if k != "inplace" or v)
        text = self._show.removesuffix("…").format(**values)
        for name, value in values.items() if self._show.endswith("…") else ():
            usual = self._signature.parameters[name].default
            same = value == (usual,) * len(value) if type(value) is tuple else value == usual
            if f"{{{name}" not in self._show and not same:
                text += f", {name}={value}"
        return text


class Layer(Fields):
    """Fields with parameters, which `_build(device, dtype)` makes; the constructor takes both."""

    _where = ("device", "dtype")
