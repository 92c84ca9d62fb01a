"""The dtypes by name, and PyTorch's promotion rules: weak Python numbers, weak 0-d tensors."""

from functools import cache, reduce
from typing import Any

import numpy as np

from minidl.errors import DTypeError, require, reworded

float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")
int8, int16, int32, int64 = (np.dtype(f"int{n}") for n in (8, 16, 32, 64))
uint8, bool_ = np.dtype("uint8"), np.dtype("bool")
default = float32  # of Python floats, and of real results from integers

_WEAK = {bool: bool_, int: int64, float: default}


def __getattr__(name: str) -> np.dtype:
    if name != "bfloat16":
        raise AttributeError(f"module 'minidl.dtypes' has no attribute {name!r}")
    rule = "the package that adds it to NumPy is missing: pip install ml_dtypes"
    with reworded(DTypeError, f"bfloat16: {rule}", ImportError):
        from ml_dtypes import bfloat16
    return np.dtype(bfloat16)


def category(dtype: np.dtype) -> int:
    """0 for bool, 1 for integers, 2 for real numbers (bfloat16 is of kind "V"), 3 for complex."""
    return {"b": 0, "i": 1, "u": 1, "f": 2, "V": 2, "c": 3}[dtype.kind]


def is_real(dtype: np.dtype) -> bool:
    """Whether the dtype is a floating-point one, and so can carry a gradient."""
    return dtype.kind in "fV"


def real(dtype: np.dtype) -> np.dtype:
    """The dtype itself if it is floating-point, else the default one (as for exp of an int)."""
    return dtype if is_real(dtype) else default


@cache
def promote_types(a: np.dtype, b: np.dtype) -> np.dtype:
    """The dtype of a + b for two tensors with dimensions: the higher category wins whole."""
    if a == b:
        return a
    if category(a) != category(b):
        return a if category(a) > category(b) else b
    if a.kind == "V" or b.kind == "V":  # bfloat16 with float16 gives what holds both
        return default if a.itemsize == b.itemsize else max(a, b, key=lambda t: t.itemsize)
    return np.promote_types(a, b)


def result_type(*operands: Any) -> np.dtype:
    """The dtype of an operation on tensors, arrays and Python numbers, as PyTorch's result_type.

    Tensors with dimensions decide within their category; 0-d tensors count only if theirs is
    higher, Python numbers only if theirs is higher still (and then give the default dtype).
    """
    found: tuple[list[np.dtype], ...] = ([], [], [])  # with dimensions, 0-d, numbers
    for x in operands:
        if hasattr(x, "dtype"):
            found[0 if len(x.shape) else 1].append(x.dtype)
        else:
            weak = [dtype for kind, dtype in _WEAK.items() if isinstance(x, kind)]
            require(bool(weak), "result_type", "operands must be tensors or numbers",
                    error=DTypeError, operand=x)  # fmt: skip
            found[2].append(weak[0])
    return max((reduce(promote_types, dtypes) for dtypes in found if dtypes), key=category)
