"""Numbers that differ from call to call of a captured function: a learning rate, a draw's number.

A launch gets them by value. While a function is captured it gets the address of each in a table on
the device instead, which every replay fills anew before its kernels run.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol


class Table(Protocol):
    """The numbers of one captured function."""

    def add(self, values: Sequence[Any], again: Callable[[], Sequence[Any]], dtype: Any) -> list:
        """Arrays (1,) that hold values now, and what again() gives before each replay."""


table: ContextVar[Table | None] = ContextVar("table", default=None)
replays = [0]  # so far, of all functions: they change tensors, but not their versions


def live(values: Sequence[Any], again: Callable[[], Sequence[Any]] | None, dtype: Any) -> list[Any]:
    """The values; for a function being captured, arrays of them that again() renews."""
    here = table.get()
    return [*values] if here is None or again is None else here.add(values, again, dtype)
