"""Modules and kernels with the launch signature of cupy.RawModule and cupy.RawKernel."""

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simt import build, source
from simt.arguments import Parameter, pack
from simt.arrays import ArrayStruct
from simt.faults import BY_NUMBER, BuildError, LaunchFault

MAX_THREADS = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_SHARED = 227 << 10  # bytes a block; 48 KiB unless a kernel asks for more
SECONDS = 60  # of processor time, after which a launch is taken for an endless loop
_LOCK = threading.Lock()  # the runtime runs one launch at a time


class _Entry(ctypes.Structure):
    """struct Entry of simt_entry.h."""

    _fields_ = [
        ("invoke", ctypes.c_void_p),
        ("count", ctypes.c_int),
        ("parameters", ctypes.POINTER(Parameter)),
        ("launch_bound", ctypes.c_uint),
        ("image_begin", ctypes.c_void_p),
        ("image_end", ctypes.c_void_p),
    ]


class _Launch(ctypes.Structure):
    """struct Launch of runtime.h."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("invoke", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("image_begin", ctypes.c_void_p),
        ("image_end", ctypes.c_void_p),
        ("arrays", ctypes.POINTER(ArrayStruct)),
        ("array_count", ctypes.c_uint),
        ("checked", ctypes.c_uint),
        ("flush_denormals", ctypes.c_uint),
        ("seconds", ctypes.c_uint),
    ]


class _Report(ctypes.Structure):
    """struct Report of runtime.h."""

    _fields_ = [
        ("fault", ctypes.c_int),
        ("has_thread", ctypes.c_uint),
        ("block", ctypes.c_uint * 3),
        ("thread", ctypes.c_uint * 3),
        ("code", ctypes.c_uint64),
        ("other_code", ctypes.c_uint64),
        ("place", ctypes.c_char * 256),
        ("message", ctypes.c_char * 1024),
    ]


@dataclass(frozen=True)
class _Options:
    """What NVRTC's options mean to the emulator."""

    macros: list[str]
    contract: bool = True
    flush_denormals: bool = True


def _read_options(options: Sequence[str]) -> _Options:
    ignored = "-std= --std= -arch= --gpu-arch -lineinfo --use_fast_math --ptxas-options=".split()
    macros: list[str] = []
    off: set[str] = set()
    for option in options:
        if option.startswith(("-D", "-U")):
            macros.append(option)
        elif option.lstrip("-") in ("fmad=false", "ftz=false"):
            off.add(option.lstrip("-"))
        elif not option.startswith(tuple(ignored)):
            raise BuildError(f"option {option!r} is unknown to the emulator")
    return _Options(macros, "fmad=false" not in off, "ftz=false" not in off)


class Module:
    """Kernels compiled from a text, like cupy.RawModule(code=text).

    `options` are NVRTC's (-D; -fmad=false and -ftz=false are followed, options about the GPU are
    ignored); files in `include_dirs` may be included; instances of template kernels are named in
    `name_expressions`. `check` and `seed` are explained at the head of the package.
    """

    def __init__(
        self,
        text: str,
        *,
        options: Sequence[str] = (),
        include_dirs: Sequence[Path] = (),
        name_expressions: Sequence[str] = (),
        check: bool = True,
        seed: int = 0,
        name: str = "kernel.cu",
    ):
        self.check, self.seed = check, seed
        self.options = _read_options(options)
        flags = (*self.options.macros, *(f"-I{d}" for d in include_dirs))
        text = source.name_lines(build.preprocess(text, name, flags))
        found = source.find_kernels(text)
        names = [k.name for k in found.values() if not k.template] + list(name_expressions)
        if not names:
            raise BuildError(f"{name} has no kernel")
        self._texts = {n: found[n.partition("<")[0].strip()] for n in names}
        bounds = {k.name: f"{k.template} constexpr unsigned simt_bound_{k.name} = {k.launch_bound};"
                  for k in self._texts.values()}  # fmt: skip
        entries = "\n".join(bounds.values()) + "".join(
            f"\nSIMT_ENTRY({i}, (simt_bound_{n}), {n})" for i, n in enumerate(self._texts)
        )
        text = f'#include "simt.h"\n{source.rewrite_shared(text)}\n{entries}'
        self._library, self.path = build.build(text, check, self.options.contract)

    @property
    def names(self) -> list[str]:
        """The kernels, in the order of the text, and the instances of templates."""
        return list(self._texts)

    def get_function(self, name: str) -> "Kernel":
        """The kernel, or the instance of a template, of this name."""
        if name not in self._texts:
            raise KeyError(f"no kernel {name!r}; there are {', '.join(self.names)}")
        number = self.names.index(name)
        entry = _Entry.in_dll(self._library, f"simt_entry_{number}")
        return Kernel(self, name, self._texts[name].parameters, entry)


class Kernel:
    """A kernel that is launched like a cupy.RawKernel, on NumPy arrays."""

    def __init__(self, module: Module, name: str, names: tuple[str, ...], entry: _Entry):
        self.module, self.name = module, name
        self.max_dynamic_shared_size_bytes = 48 << 10
        self._entry, self._names = entry, names
        self._parameters = [entry.parameters[i] for i in range(entry.count)]

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[object],
        *,
        shared_mem: int = 0,
        stream: object = None,
    ) -> None:
        """Run the grid to its end; a stream has no meaning here. Raises a Fault."""
        sizes = self._check_launch(grid, block, shared_mem)
        with _LOCK:
            report = self._run(*sizes, args, shared_mem)
        if report.fault:
            raise BY_NUMBER[report.fault](self._message(report))

    def _check_launch(
        self, grid: tuple[int, ...], block: tuple[int, ...], shared_mem: int
    ) -> tuple[list[int], list[int]]:
        """Grid and block with three sizes each, within CUDA's limits."""

        def require(condition: bool, what: str) -> None:
            if not condition:
                raise LaunchFault(f"{self.name}: {what}")

        sizes = []
        for what, given, most in (("grid", grid, MAX_GRID), ("block", block, MAX_BLOCK)):
            require(isinstance(given, tuple) and 1 <= len(given) <= 3, f"{what} {given!r}")
            size = [int(s) for s in given] + [1] * (3 - len(given))
            inside = all(1 <= s <= m for s, m in zip(size, most))
            require(inside, f"{what} {given} must be within (1, 1, 1) and {most}")
            sizes.append(size)
        threads, bound = int(np.prod(sizes[1])), self._entry.launch_bound or MAX_THREADS
        require(threads <= min(bound, MAX_THREADS), f"a block of {threads} threads, above {bound}")
        limit = min(self.max_dynamic_shared_size_bytes, MAX_SHARED)
        what = f"{shared_mem} bytes of dynamic shared memory, above {limit}; "
        require(0 <= shared_mem <= limit, what + "see max_dynamic_shared_size_bytes")
        return sizes[0], sizes[1]

    def _run(
        self, grid: list[int], block: list[int], args: Sequence[object], shared_mem: int
    ) -> _Report:
        packed = pack(self.name, self._parameters, self._names, args)
        packed.put_addresses()
        structs = (ArrayStruct * max(1, len(packed.regions)))(*(r.struct() for r in packed.regions))
        e, m, report = self._entry, self.module, _Report()
        launch = _Launch(
            (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), shared_mem, m.seed, e.invoke,
            ctypes.addressof(packed.pointers), e.image_begin, e.image_end, structs,
            len(packed.regions), m.check, m.options.flush_denormals, SECONDS,
        )  # fmt: skip
        build.runtime().simt_launch(ctypes.byref(launch), ctypes.byref(report))
        packed.restore_addresses()
        return report

    def _message(self, report: _Report) -> str:
        """Kernel, block and thread, what happened, and where in the text."""
        text = report.message.decode()
        base, end = self._entry.image_begin, self._entry.image_end
        codes = [c - base for c in (report.code, report.other_code) if base <= c < end]
        places = [report.place.decode().rpartition("/")[2]] if report.place else []
        places += build.source_lines(self.module.path, codes)
        where = ""
        if report.has_thread:
            where = f"block {tuple(report.block)} thread {tuple(report.thread)}: "
        at = " and ".join(dict.fromkeys(p for p in places if p))
        return f"{self.name}: {where}{text}" + (f" [{at}]" if at else "")
