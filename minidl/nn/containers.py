"""Modules that hold modules or parameters: Sequential, ModuleList, ModuleDict, ParameterList."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Generic, Self, TypeVar

from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn.module import Module, _indent
from minidl.nn.parameter import Parameter

T = TypeVar("T")


class _Numbered(Module, Generic[T]):
    """A list whose items are registered under "0", "1", …"""

    _kind = "_modules"

    def _fill(self, items: Iterable[T]) -> None:
        self.__dict__[self._kind].clear()
        for i, item in enumerate(items):
            self._add(str(i), item)

    def _add(self, name: str, item: Any) -> None:
        self.register_module(name, item)

    def _items(self) -> list[T]:
        return list(self.__dict__[self._kind].values())

    def _name(self, index: int) -> str:
        size = len(self)
        require(-size <= index < size, type(self).__name__, f"index out of {size}", index=index)
        return list(self.__dict__[self._kind])[index]

    def __len__(self) -> int:
        return len(self.__dict__[self._kind])

    def __iter__(self) -> Iterator[T]:
        return iter(self._items())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._sliced(self._items()[index])
        return self.__dict__[self._kind][self._name(index)]

    def _sliced(self, items: list[T]) -> Self:
        return type(self)(items)  # type: ignore[call-arg]

    def __setitem__(self, index: int, item: T) -> None:
        self._add(self._name(index), item)

    def __delitem__(self, index: int | slice) -> None:
        items = self._items()
        del items[index]
        self._fill(items)

    def append(self, item: T) -> Self:
        """Add an item at the end."""
        self._add(str(len(self)), item)
        return self

    def extend(self, items: Iterable[T]) -> Self:
        """Add several items at the end."""
        for item in list(items):
            self.append(item)
        return self

    def insert(self, index: int, item: T) -> Self:
        """Put an item before the one at index."""
        items = self._items()
        items.insert(index, item)
        self._fill(items)
        return self

    def pop(self, index: int = -1) -> T:
        """Remove and return the item at index."""
        item = self[index]
        del self[index]
        return item

    def __iadd__(self, items: Iterable[T]) -> Self:
        return self.extend(items)


class Sequential(_Numbered[Module]):
    """Call modules one after the other: `Sequential(a, b)` or `Sequential({"first": a, …})`."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.register_module(name, module)
        else:
            self._fill(modules)  # type: ignore[arg-type]

    def _sliced(self, items: list[Module]) -> Self:
        names = {id(module): name for name, module in self._modules.items()}
        return type(self)({names[id(module)]: module for module in items})

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)[index]
        for name in [names] if isinstance(names, str) else names:
            del self._modules[name]
        if all(name.isdigit() for name in self._modules):
            self._fill(self._items())

    def forward(self, x: Any) -> Any:
        """The last module's output."""
        for module in self:
            x = module(x)
        return x


class ModuleList(_Numbered[Module]):
    """A list of modules."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self._fill(modules or ())

    def _child_lines(self) -> list[str]:
        """One line for each run of equal modules, as PyTorch shows them."""
        lines, start = [], 0
        for text, run in groupby(repr(module) for module in self):
            n = len(list(run))
            end = start + n - 1
            shown = f"({start}): {text}" if n == 1 else f"({start}-{end}): {n} x {text}"
            lines.append(_indent(shown))
            start += n
        return lines


class ModuleDict(Module):
    """Modules by name."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules."""
        for name, module in dict(modules).items():
            self[name] = module

    def __getitem__(self, name: str) -> Module:
        require(
            name in self._modules, "ModuleDict", f"the names are {list(self._modules)}", name=name
        )
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def pop(self, name: str) -> Module:
        """Remove and return a module."""
        module = self[name]
        del self._modules[name]
        return module

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules."""
        return self._modules.items()


class ParameterList(_Numbered[Tensor]):
    """A list of parameters (plain Tensors are made parameters)."""

    _kind = "_parameters"

    def __init__(self, values: Iterable[Tensor] | None = None) -> None:
        super().__init__()
        self._fill(values or ())

    def _add(self, name: str, item: Any) -> None:
        self.register_parameter(name, item if isinstance(item, Parameter) else Parameter(item))

    def extra_repr(self) -> str:
        """Each parameter's dtype and shape."""
        return "\n".join(
            f"  ({i}): Parameter containing: [{p.dtype} of size {'x'.join(map(str, p.shape))}]"
            for i, p in enumerate(self)
        )
