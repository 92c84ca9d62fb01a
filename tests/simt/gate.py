"""The compile gate: NVRTC compiles a kernel's text for real GPUs, where there is none.

Needs the wheels nvidia-cuda-nvrtc and nvidia-cuda-runtime of CUDA 13.0 (the extra "kernels"), no
driver. `compile_for(text, "sm_90")` gives each kernel's registers, shared memory and spills, and
the PTX, in which `require_instructions` looks for what the kernel was written for.
"""

import ctypes
import functools
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = ("sm_80", "sm_90")
REGISTERS = 65536  # of a multiprocessor, so of a block
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10}  # bytes a block
_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


@dataclass(frozen=True)
class Usage:
    """What a kernel needs, by ptxas: registers a thread, bytes of static shared memory, bytes."""

    registers: int
    shared: int
    stack: int
    spills: int


@dataclass(frozen=True)
class Compiled:
    """The kernels of a text, compiled for one architecture."""

    architecture: str
    usage: dict[str, Usage]
    ptx: str

    def require(self, name: str, threads: int, *, registers: int = 255, shared: int = 0) -> None:
        """Raise unless a block of so many threads can be launched and nothing is spilled.

        `registers` a thread is the kernel's own limit, `shared` its dynamic shared memory in bytes.
        """
        u = self.usage[name]
        where = f"{name} for {self.architecture}"
        assert u.spills == 0, f"{where} spills {u.spills} bytes"
        assert u.registers <= registers, f"{where} uses {u.registers} registers, above {registers}"
        rounded = -(-u.registers // 8) * 8  # they are given out by eights
        assert rounded * threads <= REGISTERS, f"{where}: {u.registers} registers x {threads}"
        most = SHARED[self.architecture]
        assert u.shared + shared <= most, f"{where}: {u.shared} + {shared} bytes of shared memory"

    def require_instructions(self, name: str, *instructions: str) -> None:
        """Raise unless the kernel's PTX has all of them."""
        body = self.ptx[self.ptx.index(f".entry {name}(") :].partition(".entry ")[2]
        body = body.partition(".entry ")[0]
        missing = [i for i in instructions if i not in body]
        assert not missing, f"{name} for {self.architecture} has no {', '.join(missing)}"


@functools.cache
def _folder() -> Path | None:
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(f, "cu13") for f in (spec.submodule_search_locations or ())] if spec else []
    return next((f for f in folders if (f / "include" / "cuda_fp16.h").exists()), None)


@functools.cache
def available() -> str | None:
    """Why nothing can be compiled here, or None if it can."""
    folder = _folder()
    if folder is None or not list((folder / "lib").glob("libnvrtc.so.*")):
        return "the compile gate needs nvidia-cuda-nvrtc and nvidia-cuda-runtime (CUDA 13.0)"
    return None


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    folder = _folder()
    assert folder is not None, available()
    for part in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):  # the second looks for the first
        library = ctypes.CDLL(str(next((folder / "lib").glob(part))))
    return library


def _text(program: ctypes.c_void_p, what: str) -> str:
    """One of a program's outputs: ProgramLog or PTX."""
    size = ctypes.c_size_t()
    getattr(_nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(max(1, size.value))
    getattr(_nvrtc(), f"nvrtcGet{what}")(program, buffer)
    return buffer.value.decode()


def _compile(
    text: str, name: str, options: Sequence[str], instances: Sequence[str]
) -> tuple[str, str]:
    """The log and the PTX of a text."""
    lib, program = _nvrtc(), ctypes.c_void_p()
    lib.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
    for instance in instances:
        lib.nvrtcAddNameExpression(program, instance.encode())
    flags = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = lib.nvrtcCompileProgram(program, len(options), flags)
    log = _text(program, "ProgramLog")
    ptx = "" if failed else _text(program, "PTX")
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(f"NVRTC cannot compile {name}:\n{log}")
    return log, ptx


def _usage(log: str) -> dict[str, Usage]:
    """The report that ptxas writes on each kernel."""
    parts = _ENTRY.split(log)
    found = {}
    for name, report in zip(parts[1::3], parts[3::3]):
        stack, spills, used = 0, 0, _USED.search(report)
        if (s := _SPILLS.search(report)) is not None:
            stack, spills = int(s[1]), int(s[2]) + int(s[3])
        assert used is not None, report
        found[name] = Usage(int(used[1]), int(used[2] or 0), stack, spills)
    return found


def compile_for(
    text: str,
    architecture: str,
    *,
    options: Sequence[str] = (),
    include_dirs: Sequence[Path] = (),
    instances: Sequence[str] = (),
    name: str = "kernel.cu",
) -> Compiled:
    """Compile as CuPy does (C++17, -ftz=true); raises RuntimeError with the compiler's log.

    instances: of templates, the kernels to compile.
    """
    flags = [f"-arch={architecture}", "-std=c++17", "-ftz=true", "--ptxas-options=-v"]
    flags += ["--device-as-default-execution-space", *options]
    flags += [f"-I{d}" for d in (*include_dirs, f"{_folder()}/include")]
    log, ptx = _compile(text, name, flags, instances)
    return Compiled(architecture, _usage(log), ptx)
