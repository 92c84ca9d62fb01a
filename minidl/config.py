"""Process-wide switches: threads, sums, precision, the folder of compiled kernels."""

import os
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from pathlib import Path
from typing import Any, Self

from minidl.errors import require

_threads = 0
_deterministic = True
_precision = "highest"
casting: ContextVar[Any] = ContextVar("casting", default=None)  # the `autocast` in force


class bound(ContextDecorator):
    """Within it, the context variable has the value; it may be entered again while it is."""

    def __init__(self, variable: ContextVar[Any], value: Any) -> None:
        self.variable, self.value = variable, value
        self.tokens: list[Token] = []

    def __enter__(self) -> Self:
        self.tokens.append(self.variable.set(self.value))
        return self

    def __exit__(self, *exc: object) -> None:
        self.variable.reset(self.tokens.pop())


def threads() -> int:
    """Number of CPU threads that kernels use (`MINIDL_NUM_THREADS`, else the cores allowed)."""
    global _threads
    if not _threads:
        given = os.environ.get("MINIDL_NUM_THREADS", "")
        fits = not given or (given.isdigit() and int(given) > 0)
        require(fits, "MINIDL_NUM_THREADS", "must be a positive integer", value=given)
        _threads = int(given) if given else allowed_cores()
    return _threads


def set_num_threads(n: int) -> None:
    """Set the number of CPU threads (n >= 1); results do not depend on it."""
    global _threads
    require(isinstance(n, int) and n >= 1, "set_num_threads", "n must be an int >= 1", n=n)
    _threads = n


def deterministic() -> bool:
    """Whether sums have one order, so that results are the same every time (the default)."""
    return _deterministic


def use_deterministic_algorithms(mode: bool = True) -> None:
    """Whether results must be the same every time; if not, a GPU may add in any order."""
    global _deterministic
    _deterministic = bool(mode)


def get_float32_matmul_precision() -> str:
    """How a GPU multiplies float32 matrices: "highest" or "high"."""
    return _precision


def set_float32_matmul_precision(precision: str) -> None:
    """Choose how a GPU multiplies float32 matrices, in products and convolutions.

    "highest" (the default): in float32. "high": tensor cores multiply them rounded to tf32, with 10
    bits behind the point instead of 23, and add in float32. "medium" is taken as "high". Nothing
    changes on a CPU, nor for other dtypes.
    """
    global _precision
    require(precision in ("highest", "high", "medium"), "set_float32_matmul_precision",
            "must be 'highest', 'high' or 'medium'", precision=precision)  # fmt: skip
    _precision = "highest" if precision == "highest" else "high"


def allowed_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_dir() -> Path:
    """Folder of compiled kernels: `MINIDL_CACHE`, else `minidl/kernels` in the user's cache."""
    given = os.environ.get("MINIDL_CACHE")
    return Path(given) if given else user_cache("kernels")


def user_cache(folder: str) -> Path:
    """A folder of minidl's in the user's cache folder (`XDG_CACHE_HOME`)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "minidl" / folder
