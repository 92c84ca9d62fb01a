"""Turns kernels into machine code: LLVM IR, or Python through Numba's front end, one way for both.

Every CPU kernel has one C signature, `void k(int64 *table, int64 lo, int64 hi, int64 slot)`: the
table holds pointers, sizes and scalars, lo..hi is the share of the work, slot the number of the
thread that does it (for scratch memory). Kernels allocate nothing and raise nothing.

A `@kernel` is a Python function compiled for float32 and float64 from the same text: `R` stands
for the real type, `exp`, `log`, … for our own vectorised maths, `gemm` for single-threaded BLAS.
Numba only lowers it to unoptimised IR; the maths library is linked in, LLVM optimises once and the
object code is kept on disk, so that later processes need llvmlite alone (2 ms a kernel).
"""

import ctypes
import functools
import hashlib
import inspect
import os
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from minidl.backend.cpu import blas, cache, maths, team
from minidl.backend.cpu.memory import address_of, empty
from minidl.errors import DTypeError, require

FORMAT = 3  # part of every cache key: raise it when the way kernels are built changes
PIECE = 1 << 14  # elements in a chunk of rows
SUM = 2048  # terms summed in the working precision before they go into a double
ENTRY = "ml_entry"  # name of a compiled kernel
_FAST = {"contract"}
_REASSOCIATED = {"contract", "reassoc", "nsz"}
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # no child in the middle of another thread's compilation
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release,
                        after_in_child=_lock.release)  # fmt: skip
_engines: list[Any] = []  # keeps loaded code alive


class Placeholder:
    """A name that means something only inside a kernel, where compilation replaces it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.name} can only be called inside a @kernel")


MATHS = ("exp", "log", "tanh", "sqrt", "erf", "expm1", "log1p", "sin", "cos")
R, at, gemm = map(Placeholder, ("R", "at", "gemm"))
exp, log, tanh, sqrt, erf, expm1, log1p, sin, cos = map(Placeholder, MATHS)


class Device:
    """A helper function that kernels may call; it is inlined into them."""

    def __init__(self, function: Callable) -> None:
        self.function = function


device = Device


class Kernel:
    """A kernel in Python; `kernel.address(dtype)` compiles it on first use."""

    def __init__(self, function: Callable, types: str, fast: bool, alias: bool) -> None:
        self.function, self.types = function, types.split()
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        self.fast, self.alias = fast, alias
        self._addresses: dict[str, int] = {}
        count = len(inspect.signature(function).parameters) - 3
        assert count == len(self.types), f"{self.name}: {count} arguments, {len(self.types)} types"

    def address(self, real: str) -> int:
        """Address of the machine code for real type "f4" or "f8"."""
        if real not in self._addresses:
            require(real in ("f4", "f8"), self.function.__name__.strip("_"),
                    "the CPU's kernels take float32 and float64", error=DTypeError, dtype=real,
                    fix="convert with .float()")  # fmt: skip
            with _lock:
                if real not in self._addresses:
                    key = _digest(self.name, _text(self), real, *self.types, self.fast, self.alias)
                    self._addresses[real] = _load(self.name, key, lambda: _lower(self, real), ENTRY)
        return self._addresses[real]


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


def kernel(types: str, *, fast: bool = False, alias: bool = False) -> Callable[[Callable], Kernel]:
    """Make a function `f(lo, hi, slot, *args)` a kernel; `types` names the types of args.

    Types: `R` `R*` (the real type), `int` (int64), `f4 f8 i1 i4 i8 u1 u4 u8` with or without `*`.
    fast lets sums be reassociated, so that they vectorise. Pointers must not overlap, unless
    alias is set.
    """
    return lambda function: Kernel(function, types, fast, alias)


class Scratch(NamedTuple):
    """Among the arguments of `launch`: so many numbers of scratch memory for each thread."""

    size: int


def launch(kernel: Kernel, total: int, chunk: int, *args: Any) -> None:
    """Run the kernel over range(total) in fixed chunks on the thread team.

    Arrays go as pointers to their first element, numbers by value. The real type is that of the
    first floating-point array. The chunks do not depend on the number of threads.
    """
    if total <= 0:
        return
    reals = (a.dtype.str[1:] for a in args if type(a) is np.ndarray and a.dtype.kind == "f")
    real = next(reals, "f4")
    crew = team.current()  # this one, whatever number of threads others set meanwhile
    given = [empty((crew.threads * a.size,), real) if type(a) is Scratch else a for a in args]
    words = table(given)
    crew.run(kernel.address(real), address_of(words), total, chunk)


def launch_rows(kernel: Kernel, rows: int, width: int, *args: Any) -> None:
    """Launch a kernel over rows of `width` elements, some PIECE elements a chunk."""
    if width:
        launch(kernel, rows, max(PIECE // width, 1 + (rows >> 18)), *args)


def table(args: tuple | list) -> np.ndarray:
    """The int64 table that a kernel reads: addresses, ints, and the bits of doubles."""
    words: list[int] = []
    for a in args:
        if type(a) is np.ndarray:
            words.append(address_of(a))
        elif isinstance(a, (float, np.floating)):
            words.append(int(np.float64(a).view(np.int64)))
        else:
            words.append(int(a))
    return np.array(words, np.int64)


def functions_of(text: str, name: str, kinds: dict[str, tuple]) -> dict[str, Any]:
    """Compile IR text with several entries; give each as a ctypes function that frees the GIL."""
    with _lock:
        key = _digest(name, text, *kinds)
        engine = _engine(name, key, lambda: text, tuple(kinds))
    return {
        entry: ctypes.CFUNCTYPE(None, *types)(engine.get_function_address(entry))
        for entry, types in kinds.items()
    }


def compile_ir(text: str, name: str, entry: str = "k") -> int:
    """Compile LLVM IR text (or load it from the disk cache) and return the address of `entry`."""
    with _lock:
        return _load(name, _digest(name, text), lambda: text, entry)


# ---- from text to an address -------------------------------------------------------------------


@functools.cache
def _llvm() -> tuple[Any, str]:
    """llvmlite's binding, started, and the processor's name."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm, llvm.get_host_cpu_name()


@functools.cache
def _symbols() -> dict[str, int]:
    """Addresses of the functions that object code calls: BLAS and the C library."""
    libm = ctypes.CDLL(None if os.name == "posix" else "msvcrt")
    return blas.symbols() | {n: blas.address(getattr(libm, n)) for n in maths.F32}


def _digest(*parts: object) -> str:
    _, processor = _llvm()
    text = "\0".join(map(str, parts)) + "\0".join(
        (str(FORMAT), cache.versions(), processor, str(blas.integer_bits()), maths.library())
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _load(name: str, key: str, source: Callable[[], str], entry: str) -> int:
    address = _engine(name, key, source, (entry,)).get_function_address(entry)
    assert address, f"{name}: no entry {entry} in its object code"
    return address


def _engine(name: str, key: str, source: Callable[[], str], entries: tuple[str, ...]) -> Any:
    llvm, _ = _llvm()
    code = cache.read(name, key)
    if code is None:
        code = _compile(source(), entries)
        cache.write(name, key, code)
    for symbol, address in _symbols().items():  # each time: Numba has its own log
        llvm.add_symbol(symbol, address)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine


def _machine() -> Any:
    """A target machine for this processor; each engine takes ownership of the one it is given."""
    llvm, processor = _llvm()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=processor, features=llvm.get_host_cpu_features().flatten(), opt=3, reloc="pic",
        codemodel="small",
    )  # fmt: skip


def _compile(text: str, entries: tuple[str, ...]) -> bytes:
    """Link the maths library, optimise for this processor, emit object code."""
    llvm, _ = _llvm()
    machine = _machine()
    module = llvm.parse_assembly(text)
    if "@ml_" in text:
        module.link_in(_library(), preserve=True)
    module.verify()
    for function in module.functions:
        if not function.is_declaration:
            function.linkage = "external" if function.name in entries else "internal"
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


@functools.cache
def _library() -> Any:
    llvm, _ = _llvm()
    return llvm.parse_assembly(maths.library().replace("define internal", "define"))


# ---- from Python to LLVM IR --------------------------------------------------------------------


def _parts(function: Callable) -> list[tuple[str, Any]]:
    """The globals that a kernel's text mentions, in the order of their names."""
    assert isinstance(function, FunctionType)
    names = sorted(set(function.__code__.co_names))
    return [(n, function.__globals__[n]) for n in names if n in function.__globals__]


def _text(k: Kernel | Device) -> str:
    """Source of a kernel, of the helpers it calls and of the constants it reads."""
    text = inspect.getsource(k.function)
    for name, value in _parts(k.function):
        if isinstance(value, Device):
            text += _text(value)
        elif isinstance(value, (int, float, str, tuple)):
            text += f"{name}={value!r}"
    return text


def _lower(k: Kernel, real: str) -> str:
    """Unoptimised LLVM IR of a kernel, with the C entry `ml_entry` that unpacks its table."""
    import numba
    from numba.core import config

    from minidl.backend.cpu import lowering

    level = config.OPT  # type: ignore[attr-defined]
    config.OPT = type(level)(0)  # type: ignore[attr-defined] # optimised once, after linking
    try:
        bound = _bind(k, real, lowering, k.fast)
        types = [lowering.numba_type(t, real) for t in k.types]
        signature = numba.void(*[numba.int64] * 3, *types)
        bound.compile(signature)
        text, name = lowering.unoptimised(bound, signature)
    finally:
        config.OPT = level  # type: ignore[attr-defined]
    return lowering.with_entry(text, name, k.types, real, ENTRY, k.alias)


def _bind(k: Kernel | Device, real: str, lowering: Any, fast: bool) -> Any:
    """The Numba dispatcher of a kernel or helper, with the placeholders bound to real types."""
    import numba

    function = k.function
    assert isinstance(function, FunctionType)
    names: dict[str, Any] = dict(function.__globals__)
    for name, value in _parts(function):
        if isinstance(value, Placeholder):
            value = names[name] = lowering.meaning(value.name, real)
        if isinstance(value, Device):
            names[name] = _bind(value, real, lowering, fast)
    flags = _REASSOCIATED if fast else _FAST
    twin = FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    return numba.njit(error_model="numpy", fastmath=flags, nogil=True)(twin)
