"""`autocast`: the dtypes of mixed precision, and the functions by which ops follow it.

Products (linear, matmul, convolutions, attention, recurrent layers) are made in the lower dtype,
sums, softmax and losses in float32; the rest follows its inputs. Parameters stay float32, and so do
their gradients: each is converted where it is used (Micikevicius et al. 2018).
"""

from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, is_grad_enabled, raw
from minidl.backend import live
from minidl.config import bound, casting
from minidl.dtypes import default, is_real
from minidl.errors import DeviceError, DTypeError, require
from minidl.ops.shape import to_dtype


class autocast(bound):
    """Within it, products of float32 tensors on the GPU are made in a half type (PyTorch's).

        with ml.autocast("cuda", dtype=ml.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()  # outside

    float16 needs `ml.amp.GradScaler`, bfloat16 does not. enabled=False switches an outer one off.
    Raises DeviceError for a CPU, which has no such products, DTypeError for another dtype.
    """

    def __init__(self, device_type: str = "cuda", dtype: Any = np.float16, enabled: bool = True,
                 cache_enabled: bool = True) -> None:  # fmt: skip
        rule, fix = "only a GPU multiplies in half types", "pass enabled=False on a CPU"
        fits = device_type == "cuda" or not enabled
        require(fits, "autocast", rule, error=DeviceError, fix=fix, device_type=device_type)
        self.dtype, self.enabled, self.cache = np.dtype(dtype), enabled, cache_enabled
        rule = "dtype must be float16 or bfloat16"
        fits = not enabled or (self.dtype.itemsize == 2 and is_real(self.dtype))
        require(fits, "autocast", rule, error=DTypeError, dtype=self.dtype)
        self.converted: dict[tuple, tuple[Tensor, tuple[int, int], Tensor]] = {}
        super().__init__(casting, self if enabled else None)

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self.converted.clear()

    def _recreate_cm(self) -> "autocast":
        return autocast("cuda", self.dtype, self.enabled, self.cache)  # as set_grad_enabled's

    def low(self, x: Any) -> Any:
        """x in the lower dtype, if it is a tensor that this is for; parameters once."""
        if not _moves(x) or x.dtype == self.dtype:
            return x
        if not (self.cache and isinstance(x, Tensor) and x.requires and x.is_leaf):
            return to_dtype(x, self.dtype)
        # a graph makes its own copies, anew in each replay
        key, state = (id(x), is_grad_enabled(), live.table.get()), (x.version, live.replays[0])
        found = self.converted.get(key)
        if found is None or found[1] != state:
            found = self.converted[key] = (x, state, to_dtype(x, self.dtype))
        return found[2]


def _moves(x: Any) -> bool:
    """Whether x is an array or tensor on a GPU, of a dtype that autocast changes."""
    if not hasattr(x, "dtype") or not is_real(x.dtype) or x.dtype.itemsize > 4:
        return False
    return "float16" in backend.of(raw(x)).FLOATS


def is_autocast_enabled() -> bool:
    """Whether an `autocast` is in force."""
    return casting.get() is not None


def lowered(*xs: Any) -> tuple:
    """The operands of a product, in the lower dtype under autocast."""
    current = casting.get()
    return xs if current is None else tuple([current.low(x) for x in xs])


def raised(x: Any) -> Any:
    """What is summed or exponentiated, in float32 under autocast."""
    return x if casting.get() is None or not _moves(x) else to_dtype(x, default)


def alike(x: Any, *others: Any) -> tuple:
    """Operands of one kernel: under autocast the others are given x's dtype."""
    if casting.get() is None:
        return others
    return tuple([to_dtype(y, x.dtype) if _moves(y) and _moves(x) else y for y in others])
