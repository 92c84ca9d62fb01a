"""Work noted while it is done, to be done again on the same memory without the Python around it.

Every kernel is noted; of NumPy's work, copies, fills, the ufuncs of small arrays and checks of
indices. Notes refer to the arrays they read and write, which therefore live as long.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np

from minidl.config import bound
from minidl.errors import GraphError, require

warm_ups = 0  # calls before a function is recorded
# What is noted so far, in order; None outside of `record`, and in other threads.
notes: ContextVar[list[tuple[Callable, tuple]] | None] = ContextVar("notes", default=None)


def note(function: Callable, *args: Any) -> None:
    """Call function(*args), here and whenever what is being recorded is done again."""
    noted = notes.get()
    if noted is not None:
        noted.append((function, args))
    function(*args)


def made(function: Callable, *args: Any) -> Any:
    """function(*args), a new array of NumPy's; what is done again writes its values into it."""
    y = function(*args)
    noted = notes.get()
    if noted is not None:
        noted.append((_remake, (y, function, args)))
    return y


def _remake(y: Any, function: Callable, args: tuple) -> None:
    value = function(*args)
    check_held(value.shape == y.shape)
    y[...] = value


def check_held(held: bool) -> None:
    """Refuse to go on with what is done again where it would take another shape."""
    rule = "a shape that depends on values cannot be captured, and now it is another"
    require(held, "capture", rule, error=GraphError)


def recording() -> bool:
    """Whether work is being recorded here: no value may be read on the host then."""
    return notes.get() is not None


def record(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Do some work: its result, and a function that does it again on the same memory.

    Work that Python or NumPy does beside what is noted is not done again.
    """
    noted: list[tuple[Callable, tuple]] = []
    with bound(notes, noted):
        result = work()

    def again() -> None:
        with np.errstate(all="ignore"):
            for function, args in noted:
                function(*args)

    return result, again
