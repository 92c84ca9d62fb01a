"""Modules that hold modules: Sequential, ModuleList, ModuleDict."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from itertools import groupby, pairwise
from typing import Any, Self

from minidl.nn.module import Module
from minidl.nn.norm import BatchNorm2d
from minidl.nn.thin import ReLU


class _Numbered(Module, MutableSequence[Module]):
    """A list whose modules are registered under "0", "1", …; changes number them anew."""

    def _fill(self, modules: Iterable[Module]) -> None:
        self._modules.clear()
        self.extend(modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._modules.values()))

    def __getitem__(self, index: int | slice) -> Any:
        found = list(self)[index]
        return type(self)(found) if isinstance(index, slice) else found  # type: ignore[call-arg]

    def __setitem__(self, index: Any, module: Any) -> None:
        self.register_module(list(self._modules)[index], module)

    def __delitem__(self, index: int | slice) -> None:
        modules = list(self)
        del modules[index]
        self._fill(modules)

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one at index."""
        self._fill([*self][:index] + [module] + [*self][index:])

    def append(self, module: Module) -> Self:  # type: ignore[override]
        """Add a module at the end."""
        self.register_module(str(len(self)), module)
        return self


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
        """The last module's output; batch norm and a ReLU behind it work in one pass."""
        modules, done = [*self._modules.values(), None], False
        for module, after in pairwise(modules):
            joined = isinstance(module, BatchNorm2d) and type(after) is ReLU and not after.has_hooks
            if not done:
                x = module.relu(x) if joined else module(x)
            done = joined
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
            lines.append(shown + text)
            start += n
        return lines


class ModuleDict(Module, MutableMapping[str, Module]):
    """Modules by name, with a dict's methods."""

    __hash__, __eq__ = object.__hash__, object.__eq__

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __delitem__(self, name: str) -> None:
        del self._modules[name]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)
