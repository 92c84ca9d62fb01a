"""Modules that hold modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from itertools import groupby, pairwise
from typing import Any, Self

from minidl.nn.module import Module
from minidl.nn.norm import BatchNorm2d
from minidl.nn.thin import ReLU, ReLU6

_ACTS: dict[Any, str] = {ReLU: "relu", ReLU6: "relu6"}  # that batch norm takes along


class Holder(Module):
    """What lists and dicts of modules share: where the items are, and how one gets there."""

    _kind = "_modules"

    @property
    def _items(self) -> dict[str, Any]:
        return getattr(self, self._kind)

    def _put(self, name: str, item: Any) -> None:
        self._register(self._kind, name, item)

    def __len__(self) -> int:
        return len(self._items)


class Numbered(Holder, MutableSequence[Any]):
    """A list whose items are registered under "0", "1", …; changes number them anew."""

    def _fill(self, items: Iterable[Any]) -> None:
        self._items.clear()
        self.extend(items)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._items.values()))

    def __getitem__(self, index: int | slice) -> Any:
        found = list(self)[index]
        return type(self)(found) if isinstance(index, slice) else found  # type: ignore[call-arg]

    def __setitem__(self, index: Any, item: Any) -> None:
        self._put(list(self._items)[index], item)

    def __delitem__(self, index: int | slice) -> None:
        items = list(self)
        del items[index]
        self._fill(items)

    def insert(self, index: int, item: Any) -> None:
        """Put an item before the one at index."""
        self._fill([*self][:index] + [item] + [*self][index:])

    def append(self, item: Any) -> Self:  # type: ignore[override]
        """Add an item at the end."""
        self._put(str(len(self)), item)
        return self


class Sequential(Numbered):
    """Call modules one after the other: `Sequential(a, b)` or `Sequential({"first": a, …})`."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        named = len(modules) == 1 and isinstance(modules[0], Mapping)
        items: Any = modules[0].items() if named else enumerate(modules)
        for name, module in items:
            self._put(str(name), module)

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *other)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(dict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def forward(self, x: Any) -> Any:
        """The last module's output; batch norm and a ReLU or ReLU6 behind it work in one pass."""
        modules, done = [*self._modules.values(), None], False
        for module, after in pairwise(modules):
            act = _ACTS.get(type(after)) if isinstance(module, BatchNorm2d) else None
            joined = act is not None and not after.has_hooks
            if not done:
                x = module.activated(x, act) if joined else module(x)
            done = joined
        return x


class ModuleList(Numbered):
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


class ModuleDict(Holder, MutableMapping[str, Any]):
    """Modules by name, with a dict's methods."""

    __hash__, __eq__ = object.__hash__, object.__eq__

    def __init__(self, modules: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __setitem__(self, name: str, item: Any) -> None:
        self._put(name, item)

    def __delitem__(self, name: str) -> None:
        del self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)
