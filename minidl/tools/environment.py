"""What minidl runs on here: versions, processor, threads, BLAS, cache folder, GPU."""

import importlib.metadata
import platform
import re
from pathlib import Path

from minidl import config
from minidl.backend.cpu import blas

_PACKAGES = ("minidl", "numpy", "numba", "llvmlite", "safetensors", "matplotlib", "Pillow", "tqdm")
_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def info() -> dict[str, str]:
    """Facts by name, each one line, in the order in which `python -m minidl info` prints them."""
    gpu = [f"{name} {version(name)}" for name in _CUPY if version(name)]
    return {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": ", ".join(f"{n} {version(n) or '(not installed)'}" for n in _PACKAGES),
        "processor": f"{processor()}, {config.allowed_cores()} cores allowed",
        "threads": f"{config.threads()} (MINIDL_NUM_THREADS)",
        "BLAS": blas.describe(),
        "kernel cache": f"{config.cache_dir()} (MINIDL_CACHE)",
        "GPU": ", ".join(gpu) or "none; missing: CuPy (pip install 'minidl[gpu]')",
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
    text = listing.read_text(encoding="utf-8", errors="replace") if listing.exists() else ""
    found = re.search(r"^model name\s*:(.*)", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
