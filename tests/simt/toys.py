"""Small kernels that the emulator is tested with, healthy or with a fault put in."""

import functools
from pathlib import Path

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
) -> Module:
    """The module of an edited kernel file."""
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
