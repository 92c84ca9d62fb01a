"""Launches of kernels by rows: how rows are shared out among threads (src/rows.cuh)."""

from collections.abc import Sequence
from typing import Any

from minidl.backend.cuda.plans import PACK, code_of
from minidl.backend.cuda.printer import TYPES
from minidl.backend.cuda.runtime import THREADS, Array, kernel, launch

CUTS = ((32, 8), (32, 16), (32, 32), (256, 16))  # threads of a row, numbers that each holds


def cut_of(
    n: int, arrays: Sequence[Array], cuts: Sequence[tuple[int, int]] = CUTS
) -> tuple[str, int]:
    """The cut for rows of n elements, struct Cut's arguments, and how many rows a block takes.

    16 bytes are taken at once where rows start at multiples of them in all the arrays. A double
    counts as two numbers.
    """
    wide = PACK // arrays[0].itemsize
    if n % wide or any(a.data.ptr % PACK for a in arrays):
        wide = 1
    cuts = [(team, each // (1 + (arrays[0].itemsize == 8))) for team, each in cuts]
    team, each = next((c for c in cuts if n <= c[0] * c[1]), cuts[-1])
    held = str(n <= team * each).lower()
    return f"Cut<{wide}, {each}, {team}, {held}>", THREADS // team


def launch_rows(file: str, name: str, rows: int, n: int, arrays: Sequence[Array],
                *more: Any) -> None:  # fmt: skip
    """Launch a kernel that takes arrays of one dtype by rows of n, the number of rows, n, more."""
    cut, apiece = cut_of(n, arrays)
    run = kernel(file, f"{name}<{TYPES[code_of(arrays[0].dtype)]}, {cut}>")
    launch(run, -(-rows // apiece), *arrays, rows, n, *more)
