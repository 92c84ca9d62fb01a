"""Turns LLVM IR into machine code, kept on disk for later processes (2 ms a kernel).

Every CPU kernel has one C signature, `void k(int64 *table, int64 lo, int64 hi, int64 slot)`: the
table holds pointers, sizes and scalars, lo..hi is the share of the work, slot the number of the
thread that does it (for scratch memory). Kernels allocate nothing and raise nothing.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidl import config
from minidl.backend.cpu import blas, maths, panel

FORMAT = 5  # part of every cache key: raise it when the way kernels are built changes
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # no child in the middle of another thread's compilation
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release,
                        after_in_child=_lock.release)  # fmt: skip
_engines: list[Any] = []  # keeps loaded code alive


def compile_ir(name: str, text: str, *entries: str) -> dict[str, int]:
    """Compile LLVM IR text (or load it from the disk cache): the addresses of its entries."""
    return load(name, digest(name, text, *entries), lambda: text, *entries)


@functools.cache
def _llvm() -> Any:
    """llvmlite's binding, started."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


THREADS = os.name == "posix"  # elsewhere there are no pthreads: a team is of one, and calls none
PTHREADS = "pthread_mutex_init pthread_mutex_lock pthread_mutex_unlock pthread_cond_init".split()
PTHREADS += "pthread_cond_wait pthread_cond_broadcast sched_yield".split()


@functools.cache
def _symbols() -> dict[str, int]:
    """Addresses of the functions that object code calls: BLAS and the C library."""
    library = ctypes.CDLL(None if THREADS else "ucrtbase")
    found = blas.symbols() | {n: blas.address(getattr(library, n)) for n in maths.F32}
    return found if THREADS else found | dict.fromkeys(PTHREADS, blas.address(library.abort))


def digest(*parts: object) -> str:
    made_by = (FORMAT, _versions(), _llvm().get_host_cpu_name(), blas.integer_bits())
    text = "\0".join(map(str, (*parts, *made_by, maths.library())))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def load(name: str, key: str, source: Callable[[], str], *entries: str) -> dict[str, int]:
    """Addresses of the entries of the code kept under a key, else compiled from source()."""
    llvm = _llvm()
    with _lock:
        code = _read(name, key)
        if code is None:
            code = _compile(source(), entries)
            _write(name, key, code)
        symbols = _symbols() | (_panel() if b"ml_panel" in code and name != "panel" else {})
        for symbol, address in symbols.items():  # each time: Numba has its own log
            llvm.add_symbol(symbol, address)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _engines.append(engine)
    found = {entry: engine.get_function_address(entry) for entry in entries}
    assert all(found.values()), f"{name}: an entry of {found} is not in its object code"
    return found


def _machine() -> Any:
    """A target machine for this processor; each engine takes ownership of the one it is given."""
    llvm = _llvm()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3,
        reloc="pic", codemodel="small",
    )  # fmt: skip


def _compile(text: str, entries: tuple[str, ...]) -> bytes:
    """Link the maths library, optimise for this processor, emit object code."""
    llvm, machine = _llvm(), _machine()
    module = llvm.parse_assembly(text)
    if "@ml_" in text.replace("@ml_panel", ""):
        module.link_in(_maths(), preserve=True)
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
def _maths() -> Any:
    return _llvm().parse_assembly(maths.library())


@functools.cache
def _panel() -> dict[str, int]:
    """Addresses of the products by panels, compiled once for all kernels that call them."""
    text = panel.library(_llvm().get_host_cpu_features().get("avx512f", False))
    return compile_ir("panel", text, *panel.ENTRIES)


# ---- object code on disk: written atomically, done without where nothing can be written ----------


@functools.cache
def _versions() -> str:
    """Versions of the compilers that made the code, part of every key."""
    import importlib.metadata  # slow to load, and only compiled code needs it

    return " ".join(importlib.metadata.version(name) for name in ("numba", "llvmlite"))


def _path(name: str, key: str) -> Path:
    return config.cache_dir() / f"{name[:60]}-{key}.o"


def _read(name: str, key: str) -> bytes | None:
    """The object code kept under the key, or None."""
    try:
        return _path(name, key).read_bytes() or None
    except OSError:
        return None


def _write(name: str, key: str, code: bytes) -> None:
    """Keep object code; a folder that cannot be written only means compiling again next time."""
    path = _path(name, key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
            whole = Path(folder, path.name)
            whole.write_bytes(code)
            whole.replace(path)
