"""The checks of arguments that all ops share: axes, sizes, dtypes."""

from typing import Any

import numpy as np

from minidl.dtypes import is_real
from minidl.errors import DTypeError, ShapeError, require

Sizes = tuple[int, ...]


def axis_of(dim: int, ndim: int, name: str) -> int:
    """dim as an axis 0..ndim-1; a 0-d tensor counts as one axis, as in PyTorch."""
    n = ndim or 1
    if not (isinstance(dim, (int, np.integer)) and -n <= dim < n):
        require(False, name, f"dim must be in [{-n}, {n - 1}]", dim=dim)
    return int(dim) % n


def length_of(dim: int, x: Any, name: str) -> tuple[int, int]:
    """dim as an axis of x, which is no number, and its length."""
    i = axis_of(dim, x.ndim, name)
    require(x.ndim > 0, name, "x must have an axis", x=x)
    return i, x.shape[i]


def axes_of(dim: Any, ndim: int, name: str) -> tuple[int, ...]:
    """dim (None: all; an int; several) as sorted distinct axes."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(ndim))
    dims: list = [dim] if isinstance(dim, (int, np.integer)) else list(dim)
    axes = sorted(axis_of(d, ndim, name) for d in dims)
    require(len(set(axes)) == len(axes), name, "every dim may appear once", dim=dim)
    return tuple(a for a in axes if a < ndim)


def sizes_of(shape: tuple, name: str) -> tuple[int, ...]:
    """Sizes given as f(2, 3) or f((2, 3))."""
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    others = [n for n in shape if not isinstance(n, (int, np.integer))]
    counts = all(getattr(n, "shape", None) == () and n.dtype.kind in "iu" for n in others)
    require(counts, name, "sizes must be ints", sizes=shape)
    return tuple([int(n) for n in shape])


def ints_of(name: str, what: str, value: Any, n: int, least: int) -> tuple[int, ...]:
    """An int for each of n axes, each at least `least`, given as one int or as n."""
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    given = given * n if len(given) == 1 else given
    ok = len(given) == n and all(isinstance(v, (int, np.integer)) and v >= least for v in given)
    count = "one or two ints" if n == 2 else "an int"
    require(ok, name, f"{what} must be {count} >= {least}", **{what: value})
    return tuple(int(v) for v in given)


def check_real(name: str, x: Any) -> None:
    """Raise unless x is floating point."""
    require(is_real(x.dtype), name, "x must be floating point", error=DTypeError, x=x)


def check_same_dtype(name: str, **tensors: Any) -> None:
    """Raise unless all tensors (None: not given) have one dtype."""
    kinds = [x.dtype for x in tensors.values() if x is not None]
    same = not kinds or kinds.count(kinds[0]) == len(kinds)
    fix = "convert with .to(dtype)"
    require(same, name, "dtypes must be equal", error=DTypeError, fix=fix, **tensors)


def fitted(name: str, value: Any, dtype: np.dtype) -> Any:
    """A number as elements of a dtype are: cut off; -1 is the largest unsigned one, as in PyTorch.

    Anything but a number stays as it is.
    """
    if is_real(dtype) or not isinstance(value, (int, float)):
        return value
    if dtype.kind == "b":
        return bool(value)
    least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    fits = (least if least or isinstance(value, float) else -most) <= value <= most
    require(fits, name, f"the number must fit into {dtype}", error=DTypeError, value=value)
    return int(value) if least else int(value) & most


def broadcast_shapes(*shapes: tuple[int, ...], name: str = "broadcast") -> tuple[int, ...]:
    """The common shape of operands broadcast together."""
    if shapes and shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        shown = " and ".join(map(str, shapes))
        raise ShapeError(f"{name}: shapes {shown} cannot be broadcast together") from None
