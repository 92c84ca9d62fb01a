"""Launches of kernels by rows: how rows are shared out among threads (src/rows.cuh)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from minidl.backend.cuda.memory import contiguous
from minidl.backend.cuda.plans import PACK
from minidl.backend.cuda.runtime import THREADS, Array, kernel, launch

CUTS = ((32, 8), (32, 16), (32, 32), (256, 16))  # threads of a row, numbers that each holds


class Cut(NamedTuple):
    """How rows are shared out: the arguments of struct Cut."""

    wide: int  # elements of a pack
    each: int  # elements that a thread has at a time
    team: int  # threads of a row
    held: bool  # whether they have the whole row at once

    def __str__(self) -> str:
        return f"Cut<{self.wide}, {self.each}, {self.team}, {str(self.held).lower()}>"


def width_of(n: int, *arrays: Array) -> int:
    """Elements of a pack in rows of n: those of the first array in 16 bytes, or 1.

    1 where, in any of the arrays, rows are not whole packs that start at multiples of their size.
    """
    wide = PACK // arrays[0].itemsize
    return 1 if n % wide or any(a.data.ptr % (wide * a.itemsize) for a in arrays) else wide


def cut_of(n: int, arrays: Sequence[Array], cuts: Sequence[tuple[int, int]] = CUTS) -> Cut:
    """The first of the cuts that holds rows of n, or the last; a double counts as two numbers.

    A thread has 16 packs at most: registers would not suffice for the places of more.
    """
    wide, doubles = width_of(n, *arrays), 1 + (arrays[0].itemsize == 8)
    cuts = [(team, each // doubles) for team, each in cuts]
    fit = (c for c in cuts if n <= c[0] * c[1] and c[1] <= 16 * wide)
    team, each = next(fit, cuts[-1])
    return Cut(wide, each, team, n <= team * each)


def rows_along(x: Array, axis: int) -> tuple[Array, int, int, list[int]]:
    """x (one axis or more) in C order with one last, the rows, their length, and the way back."""
    axis %= x.ndim
    order, n = [*(i for i in range(x.ndim) if i != axis), axis], x.shape[axis]
    moved, back = contiguous(x.transpose(order)), [order.index(i) for i in range(x.ndim)]
    return moved, x.size // max(n, 1), n, back


def launch_rows(file: str, name: str, rows: int, n: int, arrays: Sequence[Array],
                *more: Any) -> None:  # fmt: skip
    """Launch a kernel that takes arrays of one dtype by rows of n, the number of rows, n, more."""
    cut = cut_of(n, arrays)
    run = kernel(file, name, arrays[0].dtype, cut)
    launch(run, -(-rows * cut.team // THREADS), *arrays, rows, n, *more)
