"""Small kernels that the emulator is tested with, healthy or with a fault put in."""

import functools
from pathlib import Path
from typing import Any

from simt.device import REAL, DeviceModule
from simt.module import Kernel, Module

KERNELS = Path(__file__).parent / "kernels"
SOURCES = Path(__file__).parents[2] / "minidl" / "backend" / "cuda" / "src"


def text_of(file: str, edits: tuple[tuple[str, str], ...] = ()) -> str:
    """The text of a kernel file after replacing, once each, (old, new)."""
    text = (KERNELS / file).read_text()
    for old, new in edits:
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text


@functools.cache
def load(
    file: str, *edits: tuple[str, str], options: tuple[str, ...] = (), check: bool = True
) -> Any:
    """The module of an edited kernel file."""
    if REAL:
        return DeviceModule(text_of(file, edits), options, [SOURCES])
    return Module(
        text_of(file, edits), options=options, include_dirs=[SOURCES], check=check, name=file
    )


def kernel(
    file: str,
    *edits: tuple[str, str],
    name: str = "",
    options: tuple[str, ...] = (),
    check: bool = True,
    seed: int = 0,
) -> Kernel:
    """A kernel, by default the first one, of an edited kernel file."""
    module = load(file, *edits, options=options, check=check)
    module.seed = seed
    return module.get_function(name or module.names[0])
