"""The errors minidl raises for its user's mistakes, and `require`, which words them all alike."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any


class MinidlError(RuntimeError):
    """Base of every error that minidl raises on purpose; PyTorch's are RuntimeErrors, too."""


class ShapeError(MinidlError, ValueError):
    """A shape, dimension or argument does not fit the operation."""


class DTypeError(MinidlError, ValueError, TypeError):
    """A dtype does not fit the operation."""


class RangeError(MinidlError, IndexError, ValueError):
    """An index or label lies outside its range."""


class DeviceError(MinidlError):
    """A device is missing, or tensors live on different ones."""


class GraphError(MinidlError):
    """The recorded graph cannot answer what was asked of it."""


class CheckpointError(MinidlError):
    """A file of weights or state cannot be read, written or matched."""


class DataError(MinidlError, ValueError):
    """A data set, image or label is missing, damaged or out of range."""


def require(ok: bool, op: str, rule: str, *, error: type[Exception] = ShapeError, fix: str = "",
            **got: Any) -> None:  # fmt: skip
    """Raise `error` worded `op: rule; got name value, …` (and the fix, when known) unless `ok`."""
    if ok:
        return
    shown = ", ".join(f"{name} {describe(value)}" for name, value in got.items())
    message = f"{op}: {rule}" + (f"; got {shown}" if shown else "") + (f"; {fix}" if fix else "")
    raise error(message)


def require_one_of(op: str, choices: Collection[Any], **got: Any) -> None:
    """Raise ShapeError unless the one value given is among the choices."""
    ((name, value),) = got.items()
    require(value in choices, op, f"{name} must be one of {[*choices]}", **got)


@contextmanager
def reworded(error: type[Exception], text: str, *kinds: type[Exception]) -> Iterator[None]:
    """Within it, errors of other kinds become `error`, worded `text: the reason`."""
    try:
        yield
    except kinds as e:
        raise error(f"{text}: {getattr(e, 'strerror', None) or e}") from e


def describe(value: Any) -> str:
    """Show an array or tensor by shape and dtype, anything else by its repr."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{tuple(value.shape)} {value.dtype}"
    return repr(value)
