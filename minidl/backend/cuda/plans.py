"""Runs pointwise programs on the GPU: plans the loop, prints and launches the kernel.

A plan is made once per signature (dtypes, shapes, strides). Copies, fills and conversions are
programs too, with a result that is already there.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.backend.cuda import printer, runtime
from minidl.backend.cuda.printer import BLOCK, ROWS, TYPES, Shape, code_of
from minidl.backend.cuda.runtime import THREADS, Array
from minidl.backend.expression import Graph, Program
from minidl.backend.looping import Loop, Signature, dense_like, merged, plan_loop, repeated
from minidl.errors import DTypeError, require

PACK = 16  # bytes that a thread reads at once
Run = Callable[[Sequence[Any]], tuple]


def _sum_of(many: int) -> Program:
    graph = Graph()
    leaves = [graph.leaf() for _ in range(many)]
    return Program(leaves, [functools.reduce(operator.add, leaves)])


IDENTITY, SUM = _sum_of(1), _sum_of(2)


@functools.lru_cache(maxsize=4096)
def _divisor(d: int) -> tuple[int, int, int]:
    d = max(d, 1)  # of no channels at all
    shift = (d - 1).bit_length()
    return d, (((1 << shift) - d) << 32) // d + 1, shift


def struct(ints: Sequence[int], divisors: Sequence[int] = ()) -> np.ndarray:
    """A struct of ints and of struct Divisor (src/divisor.cuh), as an argument of a kernel."""
    words = np.array([*ints, *(word for d in divisors for word in _divisor(d))], np.int64)
    return words.astype(np.uint32).view(f"V{4 * words.size}")


def accumulator(dtype: np.dtype) -> np.dtype:
    """The dtype that sums of another are kept in, as in sums.cuh."""
    wide = np.float32 if dtype.kind in "fV" else np.int64
    return dtype if dtype == np.float64 else np.dtype(wide)


def signature_of(operands: Sequence[Any]) -> Signature:
    """What a plan depends on of arrays and numbers."""
    return tuple([(a.dtype, a.shape, a.strides) if hasattr(a, "dtype") else None for a in operands])


def plan_pointwise(program: Program, operands: Sequence[Any], dtype: np.dtype) -> Run:
    """The function that runs a program on arrays and numbers (one per leaf) like these.

    It gives a tuple of new arrays: outputs have `dtype` (arithmetic is in it, or in float32 for
    half types, int64 for integers), bools are bool. Their memory order is the operands':
    channels-last before C order. Shapes must broadcast; dtypes, shapes and strides must be those of
    the operands here.
    """
    return plan_of(program, signature_of(operands), dtype)


@functools.lru_cache(maxsize=4096)
def plan_of(program: Program, operands: Signature, dtype: np.dtype) -> Run:
    """The plan for operands of one signature."""
    shape = np.broadcast_shapes(*(s[1] for s in operands if s is not None))
    loop = plan_loop(program, operands, dtype, shape)
    results = list(zip(loop.dtypes, loop.strides, strict=True))
    write = Writer(program, operands, loop, [dtype])

    def run(operands: Sequence[Any]) -> tuple:
        outs = tuple([runtime.strided(shape, s, t) for t, s in results])
        write(operands, outs)
        return outs

    return run


def write(program: Program, operands: Sequence[Any], out: Array) -> None:
    """Run a program of one result into an array, whose shape the operands broadcast to."""
    _into(program, signature_of(operands), *signature_of([out]))(operands, (out,))


@functools.lru_cache(maxsize=4096)
def _into(program: Program, operands: Signature, out: tuple) -> Callable:
    dtype, shape, strides = out
    order = sorted(range(len(shape)), key=lambda i: (-abs(strides[i]), i))
    walked = [repeated(s, shape) for s in operands if s is not None] + [list(strides)]
    sizes, steps = merged(shape, order, walked)
    if not sizes:
        sizes, steps = [1], [[0] for _ in walked]
    dtypes = [dtype, *(s[0] for s in operands if s is not None)]
    return Writer(program, operands, Loop([dtype], [strides], sizes, steps), dtypes)


def arithmetic(dtypes: Sequence[np.dtype]) -> str:
    """The type that maths on elements of these dtypes is done in; integers stay exact."""
    if all(t.kind in "iub" for t in dtypes):
        return TYPES["i8"]
    return "float" if all(t.itemsize < 8 for t in dtypes) else "double"


class Writer:
    """Launches a program's kernel for operands and results of one signature.

    Arithmetic is that of `dtypes`; where it is of integers, numbers wrap round to the first one.
    `shapes` are what may be printed for it: packs, where its arrays allow them, single elements;
    `numbers` are the merged sizes and strides by the width of a pack.
    """

    def __init__(self, program: Program, operands: Signature, loop: Loop, dtypes: list) -> None:
        self.program, self.count, real = program, math.prod(loop.sizes), arithmetic(dtypes)
        whole = real == TYPES["i8"]
        self.fit = (lambda a: int(np.asarray(a).astype(dtypes[0]))) if whole else float
        leaves = tuple([None if s is None else code_of(s[0]) for s in operands])
        outputs = tuple([code_of(t) for t in loop.dtypes])
        for code in (*leaves, *outputs):
            require(code is None or code in TYPES, "pointwise", "an unsupported dtype",
                    error=DTypeError, code=code)  # fmt: skip
        items = [s[0].itemsize for s in operands if s is not None]
        items += [t.itemsize for t in loop.dtypes]
        self.used = [k for k in range(program.leaves) if program.used[k]]
        self.read = [k for k in self.used if leaves[k] is not None]
        sizes, steps, wide = loop.sizes, loop.steps, PACK // max(items)
        beside = all(s[-1] in (0, item) for s, item in zip(steps, items))
        rank = 0 if beside and len(sizes) == 1 else len(sizes)
        packed = [(s, wide * item) for s, item in zip(steps, items) if s[-1]]
        starts = all(n % pack == 0 for s, pack in packed for n in s[:-1])
        if not beside or (rank and (sizes[-1] % wide or not starts)):
            wide = 1
        index = "unsigned" if self.count < 1 << 32 else TYPES["i8"]
        arrays = [k for k, code in enumerate(leaves) if code is not None]
        kept = [steps[j] for j, k in enumerate(arrays) if k in self.read] + steps[len(arrays) :]
        self.width, self.shapes, self.numbers = wide, [], {}
        for w in (wide, 1) if wide > 1 else (1,):
            single = tuple([s[-1] == 0 and (w > 1 or not rank) for s in steps])
            self.shapes.append(Shape(real, leaves, outputs, rank, single, w, index))
            walked = [[*sizes[:-1], sizes[-1] // w], *([*s[:-1], s[-1] * w] for s in kept)]
            self.numbers[w] = [n for numbers in walked for n in numbers] if rank else []

    def __call__(self, operands: Sequence[Any], outs: tuple) -> None:
        args = [a if hasattr(a, "dtype") else self.fit(a) for a in (operands[k] for k in self.used)]
        width = self.width
        if width > 1:
            arrays = (*(operands[k] for k in self.read), *outs)
            aligned = all(a.data.ptr % PACK == 0 for a in arrays)
            width = width if aligned and self.count % width == 0 else 1
        run = compiled(self.program, self.shapes[0 if width == self.width else 1])
        blocks = -(-self.count // (THREADS * width))
        runtime.launch(run, blocks, *args, *outs, self.count, *self.numbers[width])


@functools.lru_cache(maxsize=4096)
def compiled(program: Program, shape: Shape) -> Any:
    """The kernel, compiled when first asked for."""
    return runtime.compiled(printer.print_kernel(program, shape), "k")


# ---- multi-tensor updates ------------------------------------------------------------------------


def update(program: Program, rows: Sequence[Sequence[Array]], scalars: Sequence[Any],
           inplace: Sequence[int]) -> None:  # fmt: skip
    """Run a program on every row of arrays, ROWS a launch; output j overwrites array inplace[j].

    Leaves are the arrays of a row, then the scalars: numbers, or arrays of one. The arrays of a row
    have one shape, all one dtype, which is float32 or float64; others, and those not laid out as
    the row's first, are copied, and copied back.
    """
    require(rows[0][0].dtype.kind in "fV", "update", "rows must be real", error=DTypeError,
            row=rows[0][0])  # fmt: skip
    dtype = accumulator(rows[0][0].dtype)
    aligned = [_aligned(row, dtype) for row in rows]
    codes = tuple([code_of(s.dtype) if hasattr(s, "dtype") else None for s in scalars])
    given = [s if code else float(s) for s, code in zip(scalars, codes, strict=True)]
    run = _update(program, TYPES[code_of(dtype)], len(rows[0]), tuple(inplace), codes)
    for first in range(0, len(rows), ROWS):
        some = aligned[first : first + ROWS]
        table, blocks = table_of(some)
        runtime.launch(run, blocks, table, len(some), *given)
    for own, row in zip(rows, aligned, strict=True):
        for k in inplace:
            if row[k] is not own[k]:
                write(IDENTITY, [row[k]], own[k])


def table_of(rows: Sequence[Sequence[Array]]) -> tuple[np.ndarray, int]:
    """struct Rows of a launch over at most ROWS rows of arrays, as an argument; its blocks."""
    blocks, width = [-(-row[0].size // BLOCK) for row in rows], len(rows[0])
    table = np.zeros(ROWS * (width + 2), np.int64)
    table[: len(rows) * width] = [a.data.ptr for row in rows for a in row]
    sizes, firsts = table[-2 * ROWS : -ROWS], table[-ROWS:]
    sizes[: len(rows)] = [row[0].size for row in rows]
    firsts[: len(rows)] = np.cumsum([0, *blocks[:-1]])
    return table.view(f"V{table.nbytes}"), int(np.sum(blocks))


@functools.lru_cache(maxsize=256)
def _update(program: Program, real: str, arrays: int, inplace: tuple[int, ...],
            scalars: tuple[str | None, ...]) -> Any:  # fmt: skip
    return runtime.compiled(printer.print_update(program, real, arrays, inplace, scalars), "k")


def _aligned(row: Sequence[Array], dtype: np.dtype) -> list[Array]:
    """The arrays of a row, all dense with the strides of the first; copies where need be."""
    first = row[0]
    strides, arrays = dense_like(first.shape, first.strides, dtype.itemsize), []
    for a in row:
        require(a.shape == first.shape, "update", "arrays of a row must have one shape",
                first=first, other=a)  # fmt: skip
        if a.strides != strides or a.dtype != dtype:
            a, given = runtime.strided(a.shape, strides, dtype), a
            write(IDENTITY, [given], a)
        arrays.append(a)
    return arrays
