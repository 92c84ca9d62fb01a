"""Kernels written in Python: turned into LLVM IR by Numba's front end, and launched on the team.

A `@kernel` is a Python function compiled for float32 and float64 from the same text: `R` stands
for the real type, `exp`, `log`, … for our own vectorised maths, `gemm` for single-threaded BLAS.
Numba only lowers it to unoptimised IR; the maths library is linked in and LLVM optimises once.
"""

import functools
import inspect
import struct
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

from minidl.backend.cpu import blas, team
from minidl.backend.cpu.compiler import digest, load
from minidl.backend.cpu.memory import HEADER, Array, empty, word_at
from minidl.errors import DTypeError, require

PIECE = 1 << 14  # elements in a chunk of rows
ALONE = 1 << 18  # multiply-adds not worth waking another thread for: some 20 us
SUM = 2048  # terms summed in the working precision before they go into a double
ENTRY = "ml_entry"  # name of a compiled kernel
_FAST = {"contract"}
_REASSOCIATED = {"contract", "reassoc", "nsz"}


class Placeholder:
    """A name that means something only inside a kernel, where compilation replaces it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.name} can only be called inside a @kernel")


R, at, gemm, panel, cblas_gemm = map(Placeholder, "R at gemm panel cblas_gemm".split())
move, fetch, stream = map(Placeholder, ("move", "fetch", "stream"))  # of memory.ll
exp, log, tanh, sqrt, sin, cos = map(Placeholder, ("exp", "log", "tanh", "sqrt", "sin", "cos"))
larger = Placeholder("larger")  # of two numbers, any of them where one is NaN


class Device:
    """A helper function that kernels may call; it is inlined into them."""

    def __init__(self, function: Any, apart: bool, exact: bool) -> None:
        self.function, self.apart, self.exact = function, apart, exact


def device(function: Callable | None = None, *, apart: bool = False, exact: bool = False) -> Any:
    """Make a function a helper of kernels.

    apart: what its pointers point to never overlaps. exact: its sums are taken in the order of its
    text, in fast kernels too.
    """
    return Device(function, apart, exact) if function else lambda f: Device(f, apart, exact)


def special(function: Any, name: str = "", **names: Any) -> Any:
    """The function with some of the global names in its text standing for something else."""
    return FunctionType(function.__code__, function.__globals__ | names, name or function.__name__)


class Kernel:
    """A kernel in Python; `kernel.address(dtype)` compiles it on first use."""

    apart = True  # its pointers never overlap

    def __init__(self, function: Any, types: str, fast: bool) -> None:
        self.function, self.types, self.fast = function, types.split(), fast
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        # A table holds addresses, ints, and the bits of doubles.
        kinds = ("d" if t in ("R", "f4", "f8") else "Q" if t == "u8" else "q" for t in self.types)
        self.pack = struct.Struct("".join(kinds)).pack
        self.first = self.types.index("R*") if "R*" in self.types else None
        self._addresses: dict[str, int] = {}
        self.leads = len(inspect.signature(function).parameters) - len(self.types)
        assert self.leads in (1, 2, 3), f"{self.name}: not as many arguments as types"

    def address(self, real: str) -> int:
        """Address of the machine code for real type "f4" or "f8"."""
        if real not in self._addresses:
            require(real in ("f4", "f8"), self.function.__name__.strip("_"),
                    "the CPU's kernels take float32 and float64", error=DTypeError, dtype=real,
                    fix="convert with .float()")  # fmt: skip
            key = digest(self.name, _text(self), real, *self.types, self.fast)
            self._addresses[real] = load(self.name, key, lambda: _lower(self, real), ENTRY)[ENTRY]
        return self._addresses[real]


@device
def zero(x, n):
    """Set n numbers to 0."""
    for j in range(n):
        x[j] = R(0)


@device
def dot(x, y, n):
    """Σ x y over n elements (in a fast kernel, vectorised)."""
    s = R(0)
    for p in range(n):
        s += x[p] * y[p]
    return s


@device
def move_rows(to, apart, of, step, rows, n):
    """Copy rows of n numbers, `step` apart, to where they are `apart`."""
    for r in range(rows):
        move(at(to, r * apart), at(of, r * step), n)


@device
def sum_of(x, n):
    """Sum of n values as a double, SUM of them at a time in their own precision."""
    total = 0.0
    for j0 in range(0, n, SUM):
        s = R(0)
        for j in range(j0, min(j0 + SUM, n)):
            s += x[j]
        total += s
    return total


@device
def _blas_gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """c = alpha op(a) op(b) + beta c. 101: row-major; 111: as it is, 112: transposed."""
    cblas_gemm(101, 111 + ta, 111 + tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)


@device
def _own_gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """c = alpha op(a) op(b) + beta c, as row updates c[i] += a[i, p] b[p], which vectorise."""
    for i in range(m):
        row = at(c, i * ldc)
        for j in range(n):
            row[j] = R(0) if beta == R(0) else beta * row[j]
        for p in range(k):
            factor = alpha * (a[p * lda + i] if ta else a[i * lda + p])
            if tb:
                for j in range(n):
                    row[j] += factor * b[j * ldb + p]
            else:
                for j in range(n):
                    row[j] += factor * b[p * ldb + j]


def kernel(types: str, *, fast: bool = False) -> Callable[[Callable], Kernel]:
    """Make a function `f(i, *args)` a kernel that does the i-th item of the work.

    `f(i, slot, *args)` is told which thread it runs on, and `f(lo, hi, slot, *args)` does the items
    lo..hi together. `types` names the types of args.
    Types: `R` `R*` (the real type), `int` (int64), `f4 f8 i1 i4 i8 u1 u4 u8` with or without `*`.
    fast lets sums be reassociated, so that they vectorise. Pointers must not overlap.
    """
    return lambda function: Kernel(function, types, fast)


class Scratch(NamedTuple):
    """Among the arguments of `launch`: so many numbers of scratch memory for each thread."""

    size: int


def launch(kernel: Kernel, total: int, chunk: int, *args: Any) -> None:
    """Run the kernel over range(total) in fixed chunks on the thread team.

    Arrays go as pointers to their first element, numbers by value. The real type is that of the
    first array for `R*`. The chunks do not depend on the number of threads.
    """
    if total <= 0:
        return
    crew = team.current()  # this one, whatever number of threads others set meanwhile
    real = "f4" if kernel.first is None else args[kernel.first].dtype.str[1:]
    if Scratch in map(type, args):
        args = tuple(
            empty((crew.threads * a.size,), real) if type(a) is Scratch else a for a in args
        )
    # address_of, without a call
    words = [word_at(id(a) + HEADER).value if type(a) is Array else a for a in args]
    crew.run(kernel.address(real), kernel.pack(*words), total, chunk, args)


def launch_rows(kernel: Kernel, rows: int, width: int, *args: Any) -> bool:
    """Launch a kernel over rows of `width` elements, some PIECE elements a chunk.

    Whether all were one chunk.
    """
    few = 0 < rows * width <= 2 * PIECE  # not worth waking another thread for
    if width:
        launch(kernel, rows, rows if few else max(PIECE // width, 1 + (rows >> 18)), *args)
    return few


# ---- from Python to LLVM IR --------------------------------------------------------------------


def _parts(function: Any) -> list[tuple[str, Any]]:
    """The globals that a kernel's text mentions, in the order of their names."""
    names = sorted(set(function.__code__.co_names))
    return [(n, function.__globals__[n]) for n in names if n in function.__globals__]


def _family(k: Kernel | Device) -> Iterator[Kernel | Device]:
    """A kernel, the helpers that it calls, and those that they call."""
    yield k
    for _, value in _parts(k.function):
        if isinstance(value, Device):
            yield from _family(value)


def _text(k: Kernel) -> str:
    """Source of a kernel, of the helpers it calls and of the constants they read."""
    parts: list[Any] = []
    for f in _family(k):
        constants = [p for p in _parts(f.function) if isinstance(p[1], (int, float, str, tuple))]
        parts += [inspect.getsource(f.function), constants]
    return "".join(map(str, parts))


def _lower(k: Kernel, real: str) -> str:
    """Unoptimised LLVM IR of a kernel, with the C entry `ml_entry` that unpacks its table."""
    import numba
    from numba.core import config

    from minidl.backend.cpu import lowering

    level = config.OPT  # type: ignore[attr-defined]
    config.OPT = type(level)(0)  # type: ignore[attr-defined] # optimised once, after linking
    try:
        bound = _bind(k, real, k.fast)
        types = [lowering.numba_type(t, real) for t in k.types]
        signature = numba.void(*[numba.int64] * k.leads, *types)
        bound.compile(signature)
        made = bound.overloads[signature.args]
        text, name = made.library.get_llvm_str(), made.fndesc.mangled_name
    finally:
        config.OPT = level  # type: ignore[attr-defined]
    apart = {rf"\d{f.function.__code__.co_name}B" for f in _family(k) if f.apart}  # as mangled
    text = lowering.without_overlap(text, apart)
    return lowering.with_entry(text, name, k.leads, k.types, real, ENTRY)


@functools.cache
def _bind(k: Kernel | Device, real: str, fast: bool) -> Any:
    """The Numba dispatcher of a kernel or helper, with the placeholders bound to real types.

    Kept, so that a helper of several kernels is compiled once.
    """
    import numba

    from minidl.backend.cpu import lowering

    names: dict[str, Any] = {}
    for name, value in _parts(k.function):
        if isinstance(value, Placeholder):
            ours = _blas_gemm if blas.integer_bits() else _own_gemm
            value = names[name] = ours if value is gemm else lowering.meaning(value.name, real)
        if isinstance(value, Device):
            names[name] = _bind(value, real, fast and not value.exact)
    flags = _REASSOCIATED if fast else _FAST
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": flags, "nogil": True}
    options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # only kernels call it
    return numba.njit(**options)(special(k.function, **names))
