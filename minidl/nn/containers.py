"""Modules that hold modules or parameters: Sequential, ModuleList, ModuleDict, ParameterList."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
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
        self.extend(items)

    def _add(self, name: str, item: Any) -> None:
        self.register_module(name, item)

    def _items(self) -> list[T]:
        return list(self.__dict__[self._kind].values())

    def __len__(self) -> int:
        return len(self.__dict__[self._kind])

    def __iter__(self) -> Iterator[T]:
        return iter(self._items())

    def _name(self, index: int) -> str:
        size = len(self)
        require(-size <= index < size, type(self).__name__, f"index out of {size}", index=index)
        return list(self.__dict__[self._kind])[index]

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(self._items()[index])  # type: ignore[call-arg]
        return self.__dict__[self._kind][self._name(index)]

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

    __iadd__ = extend

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


class Sequential(_Numbered[Module]):
    """Call modules one after the other: `Sequential(a, b)` or `Sequential({"first": a, …})`."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        named = len(modules) == 1 and isinstance(modules[0], Mapping)
        items: Any = modules[0].items() if named else enumerate(modules)
        for name, module in items:
            self.register_module(str(name), module)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(dict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def __delitem__(self, index: int | slice) -> None:
        if all(name.isdigit() for name in self._modules):
            super().__delitem__(index)
        else:
            gone = list(self._modules)[index]
            for name in [gone] if isinstance(gone, str) else gone:
                del self._modules[name]

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
        for text, run in groupby(map(repr, self)):
            n = len(list(run))
            shown = f"({start}): " if n == 1 else f"({start}-{start + n - 1}): {n} x "
            lines.append(_indent(shown + text))
            start += n
        return lines


class ModuleDict(Module, MutableMapping[str, Module]):
    """Modules by name, with a dict's methods."""

    __hash__, __eq__ = object.__hash__, object.__eq__

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, name: str) -> Module:
        require(name in self, "ModuleDict", f"the names are {list(self)}", name=name)
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __delitem__(self, name: str) -> None:
        self[name]  # refuses an unknown name
        del self._modules[name]

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)


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
