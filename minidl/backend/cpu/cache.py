"""Object code on disk: read, written atomically, done without where nothing can be written."""

import contextlib
import functools
import os
import tempfile
from pathlib import Path

from minidl import config


@functools.cache
def versions() -> str:
    """Versions of the compilers that made the code, part of every key."""
    import importlib.metadata  # slow to load, and only compiled code needs it

    return " ".join(importlib.metadata.version(name) for name in ("numba", "llvmlite"))


def _path(name: str, key: str) -> Path:
    return config.cache_dir() / f"{name[:60]}-{key}.o"


def read(name: str, key: str) -> bytes | None:
    """The object code kept under the key, or None."""
    try:
        return _path(name, key).read_bytes() or None
    except OSError:
        return None


def write(name: str, key: str, code: bytes) -> None:
    """Keep object code; a folder that cannot be written only means compiling again next time."""
    path = _path(name, key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(code)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
