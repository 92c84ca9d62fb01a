"""Compiles kernels and the runtime with g++, once for each text, flags and compiler."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from simt.faults import BuildError

HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "include"
COMPILER = os.environ.get("CXX", "g++")
# x86-64-v3 has the FMA into which -ffp-contract=fast joins products and sums, as nvcc does.
COMMON = [
    "-std=c++17", "-march=x86-64-v3", "-ffp-contract=fast", "-fno-math-errno", "-fno-exceptions",
    "-fno-strict-aliasing", "-fno-threadsafe-statics", "-fcf-protection=none", "-fPIC", "-shared",
    "-fvisibility=hidden",
]  # fmt: skip
# Loops stay loops: a call of memcpy and a vector would hide the accesses a kernel makes.
CHECKED = [
    "-O1", "-g1", "-fsanitize=thread", "-fno-tree-loop-distribute-patterns",
    "-fsanitize=alignment,bounds,integer-divide-by-zero,signed-integer-overflow",
]  # fmt: skip
PLAIN = ["-O2", "-g1"]
# The warnings that tell of a mistake in a kernel; the rest would be about CUDA's own idioms.
WARNINGS = ["-w", "-Werror=return-type"]


@functools.cache
def available() -> str | None:
    """Why kernels cannot be emulated here, or None if they can."""
    if shutil.which(COMPILER) is None:
        return f"the SIMT emulator needs {COMPILER}, which is not on the PATH"
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        return "the SIMT emulator switches stacks in x86-64 code for Linux"
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


def _compile(text: str, suffix: str, flags: Sequence[str]) -> Path:
    """The shared object of a C++ text: a stored one, or a new one put in place at once."""
    key = "\0".join((text, _headers(), _compiler_version(), *flags))
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{suffix}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source, built = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        source.write_text(text)
        # Instrumented in the first call; the second, without -fsanitize, links no sanitizer.
        # The runtime has the functions that instrumented code calls.
        compile_only = [f for f in flags if f != "-shared"]
        link = [f for f in flags if not f.startswith("-fsanitize")]
        for command in (
            [COMPILER, *compile_only, "-c", str(source), "-o", f"{folder}/kernels.o"],
            [COMPILER, *link, f"{folder}/kernels.o", "-o", str(built)],
        ):
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                raise BuildError(run.stderr.strip() or f"{command} failed")
        os.replace(built, path)
    return path


@functools.cache
def runtime() -> ctypes.CDLL:
    """The loaded runtime; its symbols are global, so that kernels find them."""
    parts = sorted((HERE / "runtime").glob("*.cpp"))
    text = "".join(f"// {p.name}\n{p.read_text()}\n" for p in parts)
    text = text.replace('#include "../include/', '#include "')
    flags = [*COMMON, "-O2", "-g1", f"-I{INCLUDE}", f"-I{HERE / 'runtime'}"]
    flags += ["-Wno-builtin-declaration-mismatch"]
    lib = ctypes.CDLL(str(_compile(text, "-runtime", flags)), mode=ctypes.RTLD_GLOBAL)
    lib.simt_address.restype = ctypes.c_uint64
    lib.simt_address.argtypes = [ctypes.c_uint, ctypes.c_uint64]
    return lib


def build(text: str, checked: bool, options: Sequence[str]) -> tuple[ctypes.CDLL, Path]:
    """Compile kernels whose text is complete, and load them."""
    runtime()
    flags = [*COMMON, *(CHECKED if checked else PLAIN), *WARNINGS, f"-I{INCLUDE}", *options]
    path = _compile(text, "-checked" if checked else "-plain", flags)
    return ctypes.CDLL(str(path)), path


def source_lines(library: Path, offsets: Sequence[int]) -> list[str]:
    """The places "file:line" of code in a library; "" where binutils cannot tell."""
    if not offsets or shutil.which("addr2line") is None:
        return [""] * len(offsets)
    command = ["addr2line", "-e", str(library), *(hex(o) for o in offsets)]
    run = subprocess.run(command, capture_output=True, text=True)
    lines = [line.partition(" ")[0].rpartition("/")[2] for line in run.stdout.splitlines()]
    return ["" if line.startswith("??") else line for line in lines]
