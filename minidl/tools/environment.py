"""What minidl runs on here: versions, processor, threads, BLAS, cache folder, GPU."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
from pathlib import Path

from minidl import config
from minidl.backend.cpu import blas

_PACKAGES = ("minidl", "numpy", "numba", "llvmlite", "safetensors", "matplotlib", "Pillow", "tqdm")
_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def info() -> dict[str, str]:
    """Facts by name, each one line, in the order in which `python -m minidl info` prints them."""
    return {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": ", ".join(f"{n} {version(n) or '(not installed)'}" for n in _PACKAGES),
        "processor": f"{processor()}, {config.allowed_cores()} cores allowed",
        "threads": f"{config.threads()} (MINIDL_NUM_THREADS)",
        "BLAS": blas.describe(),
        "kernel cache": f"{config.cache_dir()} (MINIDL_CACHE)",
        "GPU": _gpu(),
    }


def version(package: str) -> str:
    """The installed version of a package, "" without one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def processor() -> str:
    """The processor's model name, as the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str:
    """The devices that the driver sees, and what is missing to use one."""
    devices = _devices()
    found = next((f"{name} {version(name)}" for name in _CUPY if version(name)), "")
    missing = [] if devices else ["an NVIDIA GPU with its driver"]
    missing += [] if found else ["CuPy (pip install 'minidl[gpu]')"]
    text = ", ".join(filter(None, [*devices, found])) or "none"
    return f"{text}; missing: {', '.join(missing)}" if missing else text


def _devices() -> list[str]:
    """Names of the GPUs, asked of the driver's own library."""
    library = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = []
    for number in range(count.value):
        name = ctypes.create_string_buffer(256)
        driver.cuDeviceGetName(name, len(name), number)
        names.append(name.value.decode())
    return names
