"""The emulator's test kernels on the machine's own GPU, where MINIDL_TEST_DEVICE=cuda says so."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

REAL = os.environ.get("MINIDL_TEST_DEVICE") == "cuda"


class DeviceModule:
    """Kernels compiled by NVRTC that take NumPy arrays, which they write as the emulator's do."""

    def __init__(self, text: str, options: Sequence[str], include_dirs: Sequence[Path]) -> None:
        import cupy

        paths = [f"-I{folder}" for folder in include_dirs]
        self.module = cupy.RawModule(code=text, options=("-std=c++17", *options, *paths))

    def get_function(self, name: str) -> Any:
        """The kernel of that name, as a function (grid, block, args, shared_mem=)."""
        import cupy

        kernel = self.module.get_function(name)

        def run(grid: Any, block: Any, args: Sequence[Any], *, shared_mem: int = 0) -> None:
            arrays = [isinstance(a, np.ndarray) and a.dtype.kind != "V" for a in args]
            given = [cupy.asarray(a) if there else a for a, there in zip(args, arrays)]
            kernel(grid, block, tuple(given), shared_mem=shared_mem)
            for a, there, array in zip(args, given, arrays):
                if array and a.flags.writeable:
                    a[...] = there.get()

        return run
