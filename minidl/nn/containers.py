"""Modules that hold modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from itertools import groupby
from typing import Any, Self

from minidl.errors import require
from minidl.nn.module import Module, _indent


class _Numbered(Module):
    """A list whose modules are registered under "0", "1", …"""

    def _fill(self, modules: Iterable[Module]) -> Self:
        self._modules.clear()
        return self.extend(modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._modules.values()))

    def _name(self, index: int) -> str:
        size = len(self)
        require(-size <= index < size, type(self).__name__, f"index out of {size}", index=index)
        return list(self._modules)[index]

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])  # type: ignore[call-arg]
        return self._modules[self._name(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.register_module(self._name(index), module)

    def __delitem__(self, index: int | slice) -> None:
        modules = list(self)
        del modules[index]
        self._fill(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.register_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add several modules at the end."""
        for module in list(modules):
            self.append(module)
        return self

    __iadd__ = extend

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before the one at index."""
        modules = list(self)
        modules.insert(index, module)
        return self._fill(modules)

    def pop(self, index: int = -1) -> Module:
        """Remove and return the module at index."""
        module = self[index]
        del self[index]
        return module


class Sequential(_Numbered):
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

    def forward(self, x: Any) -> Any:
        """The last module's output."""
        for module in self:
            x = module(x)
        return x


class ModuleList(_Numbered):
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
