"""Compiles kernels and the runtime with g++, once for each text, flags and compiler."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from simt.faults import BuildError

HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "include"
COMPILER = os.environ.get("CXX", "g++")
# x86-64-v3 has the FMA into which products and sums are joined, as nvcc does.
COMMON = [
    "-std=c++17", "-march=x86-64-v3", "-fno-math-errno", "-fno-exceptions", "-fno-strict-aliasing",
    "-fno-threadsafe-statics", "-fcf-protection=none", "-fPIC", "-fvisibility=hidden",
]  # fmt: skip
# DWARF 4: addr2line of binutils 2.40 takes the files of DWARF 5 for their neighbours.
DEBUG = ["-g1", "-gdwarf-4", "-fno-var-tracking", "-fno-var-tracking-assignments"]
# Loops stay loops: a call of memcpy and a vector would hide the accesses a kernel makes.
CHECKED = [
    "-O1", "-fsanitize=thread", "-fno-tree-loop-distribute-patterns",
    "-fsanitize=alignment,bounds,integer-divide-by-zero,signed-integer-overflow",
]  # fmt: skip
PLAIN = ["-O2"]
# The warnings that tell of a mistake in a kernel; the rest would be about CUDA's own idioms.
WARNINGS = ["-w", "-Werror=return-type"]


@functools.cache
def available() -> str | None:
    """Why kernels cannot be emulated here, or None if they can."""
    if shutil.which(COMPILER) is None:
        return f"the SIMT emulator needs {COMPILER}, which is not on the PATH"
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        return "the SIMT emulator switches stacks in x86-64 code for Linux"
    if not {"avx2", "fma", "bmi2"} <= set(Path("/proc/cpuinfo").read_text().split()):
        return "the SIMT emulator needs a processor of level x86-64-v3 (AVX2, FMA)"
    return None


def cache_folder() -> Path:
    """Where compiled kernels are kept; MINIDL_SIMT_CACHE names another place."""
    named = os.environ.get("MINIDL_SIMT_CACHE")
    folder = Path(named or Path(tempfile.gettempdir()) / f"minidl-simt-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([COMPILER, "--version"], capture_output=True, text=True).stdout


@functools.cache
def _headers() -> str:
    folders = (INCLUDE, HERE / "runtime")
    return "".join(p.name + p.read_text() for f in folders for p in sorted(f.glob("*.h")))


def _stored(key: str, suffix: str, make: Callable[[Path, Path], None]) -> Path:
    """The stored file or folder of a key, made by `make(scratch folder, path)` if there is none."""
    key = "\0".join((key, _headers(), _compiler_version()))
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{suffix}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder, "made")
            make(Path(folder), made)
            with contextlib.suppress(OSError):  # another process may have been faster
                os.replace(made, path)
    return path


def _run(*command: str | Path, text: str | None = None) -> str:
    run = subprocess.run(command, input=text, capture_output=True, text=True)
    if run.returncode:
        raise BuildError(run.stderr.strip() or f"{command} failed")
    return run.stdout


def _compile(text: str, suffix: str, flags: Sequence[str], libraries: Sequence[str]) -> Path:
    """The shared object of a C++ text.

    Linked without -fsanitize, or the sanitizers' libraries would come in: the runtime has the
    functions that instrumented code calls.
    """

    def make(folder: Path, path: Path) -> None:
        source, compiled = folder / "kernels.cpp", folder / "kernels.o"
        source.write_text(text)
        _run(COMPILER, *flags, "-c", source, "-o", compiled)
        _run(COMPILER, "-shared", compiled, *libraries, "-o", path)

    return _stored("\0".join((text, *flags, *libraries)), f"{suffix}.so", make)


@functools.cache
def _precompiled(flags: tuple[str, ...]) -> Path:
    """A folder with simt.h, precompiled: it takes two thirds of a small kernel's compilation."""

    def make(folder: Path, path: Path) -> None:
        path.mkdir()
        _run(COMPILER, *flags, "-x", "c++-header", INCLUDE / "simt.h", "-o", path / "simt.h.gch")

    return _stored("\0".join(flags), "-headers", make)


@functools.cache
def preprocess(text: str, name: str, flags: tuple[str, ...]) -> str:
    """The text with its includes and macros expanded, but for the words of CUDA themselves."""
    command = [COMPILER, "-E", "-x", "c++", "-std=c++17", "-DSIMT_EMULATOR", f"-I{INCLUDE}"]
    return _run(*command, *flags, "-", text=f'#line 1 "{name}"\n{text}')


@functools.cache
def runtime() -> ctypes.CDLL:
    """The loaded runtime; its symbols are global, so that kernels find them."""
    parts = sorted((HERE / "runtime").glob("*.cpp"))
    text = "".join(f"// {p.name}\n{p.read_text()}\n" for p in parts)
    text = text.replace('#include "../include/', '#include "')
    flags = [*COMMON, "-O2", f"-I{INCLUDE}", f"-I{HERE / 'runtime'}"]
    lib = ctypes.CDLL(str(_compile(text, "-runtime", flags, [])), mode=ctypes.RTLD_GLOBAL)
    lib.simt_address.restype = ctypes.c_uint64
    lib.simt_address.argtypes = [ctypes.c_uint, ctypes.c_uint64]
    return lib


def build(text: str, checked: bool, contract: bool) -> tuple[ctypes.CDLL, Path]:
    """Compile a preprocessed text, and load it; contract: a * b + c may become an FMA."""
    runtime()
    flags = [*COMMON, *DEBUG, *WARNINGS, *(CHECKED if checked else PLAIN)]
    flags.append(f"-ffp-contract={'fast' if contract else 'off'}")
    flags += [f"-I{_precompiled(tuple(flags))}", f"-I{INCLUDE}"]
    libraries = ["-nostdlib", "-lm", "-lgcc"]  # without those of C++, which no kernel calls
    path = _compile(text, "-checked" if checked else "-plain", flags, libraries)
    return ctypes.CDLL(str(path)), path


def source_lines(library: Path, offsets: Sequence[int]) -> list[str]:
    """The places "file:line" of code in a library; "" where binutils cannot tell."""
    if not offsets or shutil.which("addr2line") is None:
        return [""] * len(offsets)
    command = ["addr2line", "-e", str(library), *(hex(o) for o in offsets)]
    lines = [line.partition(" ")[0].rpartition("/")[2] for line in _run(*command).splitlines()]
    return ["" if line.startswith("??") else line for line in lines]
