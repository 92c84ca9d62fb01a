"""Runs pointwise programs on NumPy arrays: plans the loop and the layout, launches the kernel.

y[i] = f(x0[i], x1[i], …) with broadcasting; each element is read and written once. A plan is made
once per signature (dtypes, shapes, strides) and then costs little more than its launch. Up to a few
thousand elements (choices.json), programs of one to three steps are left to NumPy's ufuncs.
"""

import contextvars
import functools
import math
import threading
from collections.abc import Callable, Sequence
from struct import Struct, pack
from typing import Any

import numpy as np

from minidl.backend.cpu import compiler, memory, replay, team
from minidl.backend.cpu.choice import LIMITS
from minidl.backend.cpu.memory import Array, address_of
from minidl.backend.cpu.printer import BLOCK, TYPES, Shape, print_loop, print_update
from minidl.backend.expression import Program
from minidl.backend.looping import Signature, dense, dense_like, plan_loop
from minidl.errors import DTypeError, require

NUMPY_STEPS = 3  # of a program that NumPy's ufuncs may run
CHUNK = 1 << 15  # elements a chunk

UFUNC = {
    "sub": "subtract", "mul": "multiply", "div": "divide", "neg": "negative", "lt": "less",
    "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
    "and": "logical_and", "or": "logical_or", "not": "logical_not",
    "relu": "maximum"}  # of its operand and 0  # fmt: skip
_SAME = ("add abs sqrt exp log log2 log10 log1p expm1 sin cos tan asin acos atan atan2 sinh cosh "
         "tanh asinh acosh atanh floor ceil rint trunc where maximum minimum fmod pow")  # fmt: skip
UFUNC |= {name: name for name in _SAME.split()}
# The same anywhere, but for relu's sign of 0.
EXACT = frozenset("add sub mul div neg abs sqrt maximum minimum where relu".split())
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}  # in half the time of a ufunc's call
Run = Callable[[Sequence[Any]], tuple]


def plan_pointwise(program: Program, operands: Sequence[Any], dtype: np.dtype) -> Run:
    """The function that runs a program on arrays and numbers (one per leaf) like these.

    It gives a tuple of new arrays: real outputs have `dtype` (arithmetic is in it, or in float32
    for half types), bools are bool. Their memory order is the operands': channels-last before C
    order. Shapes must broadcast; dtypes, shapes and strides must be those of the operands here.
    """
    signature = [(a.dtype, a.shape, a.strides) if isinstance(a, Array) else None for a in operands]
    return plan_of(program, tuple(signature), dtype)


@functools.lru_cache(maxsize=4096)
def plan_of(program: Program, operands: Signature, dtype: np.dtype) -> Run:
    """The plan for operands of one signature."""
    given = [s for s in operands if s is not None]
    shape = np.broadcast_shapes(*(s[1] for s in given))
    if dtype.itemsize == 2 or any(_half(s[0]) for s in given):
        return functools.partial(_through_float32, program, dtype)
    require(all(s[0].isnative and s[0].str[1:] in TYPES for s in given), "pointwise",
            "an unsupported dtype", error=DTypeError, dtypes=[s[0].str for s in given])  # fmt: skip
    small = 0 < math.prod(shape) <= LIMITS["pointwise_by_numpy"]
    ready = _numpy_plan(program, operands, dtype, shape) if small else None
    if ready and len(program.high) == 1 and program.high[0][0] in EXACT:
        # NumPy's call, but in a record the kernel, which gives the same and is replayed natively.
        kernel = functools.cache(functools.partial(_kernel_plan, program, operands, dtype, shape))
        return lambda operands: (kernel() if replay.recording() else ready)(operands)
    return ready or _kernel_plan(program, operands, dtype, shape)


def _half(dtype: np.dtype) -> bool:
    return dtype.kind in "fV" and dtype.itemsize == 2


def _through_float32(program: Program, dtype: np.dtype, operands: Sequence[Any]) -> tuple:
    """Half types are storage here: convert, compute in float32, convert back."""
    wide = [a.astype(np.float32) if isinstance(a, Array) and _half(a.dtype) else a
            for a in operands]  # fmt: skip
    inside = dtype if dtype.itemsize > 2 else np.dtype(np.float32)
    outs = plan_pointwise(program, wide, inside)(wide)
    return tuple([y if y.dtype.kind == "b" else y.astype(dtype, copy=False) for y in outs])


# ---- NumPy's ufuncs for the small ----------------------------------------------------------------


def _numpy_plan(program: Program, operands: Signature, dtype: np.dtype, shape: tuple) -> Run | None:
    """The program as calls of ufuncs, if it is short and they keep dtype, shape and order."""
    leaves, steps = program.leaves, program.high
    if not 0 < sum(s[0] != "const" for s in steps) <= NUMPY_STEPS:
        return None
    if not all(s is None or (s[0] == dtype and _c_ordered(s)) for s in operands):
        return None
    shapes = [() if s is None else s[1] for s in operands]  # of each register
    held = [s is not None for s in operands]  # registers that hold arrays
    for op, args, _ in steps:
        # NumPy would make float64 of numbers alone.
        if op != "const" and not (op in UFUNC and any(held[a] for a in args[op == "where" :])):
            return None
        held.append(op != "const")
        shapes.append(np.broadcast_shapes(*(shapes[a] for a in args)))
    if any(o < leaves or shapes[o] != shape for o in program.high_outputs):
        return None
    return _numpy_call(program, () if shape else tuple(held[: program.leaves]))


def _c_ordered(s: tuple) -> bool:
    plain = dense(s[1], range(len(s[1])), s[0].itemsize)
    return all(n == 1 or a == b for n, a, b in zip(s[1], s[2], plain, strict=True))


class _Quiet(threading.local):
    """For every thread a context, entered in a tenth of errstate's time, without warnings."""

    def __init__(self) -> None:
        context = contextvars.Context()
        context.run(np.seterr, all="ignore")
        self.run = context.run


_quiet = _Quiet()


@functools.lru_cache(maxsize=4096)
def _numpy_call(program: Program, scalars: tuple[bool, ...]) -> Run:
    """A Python function of the operands that calls NumPy's ufuncs step by step.

    scalars: which operands are 0-d arrays, if all are: NumPy's scalars take a fifth of their time.
    """
    names = [f"x{i}" for i in range(program.leaves)]
    lines = ["def call(operands):", f"    {', '.join([*names, '= operands'])}"]
    lines += [f"    {x} = {x}[()]" for x, here in zip(names, scalars) if here]
    for op, args, value in program.high:
        if op == "const":
            names.append(repr(value))
            continue
        given = [names[a] for a in args] + ["0.0"] * (op == "relu")
        call = f" {INFIX[op]} ".join(given) if op in INFIX else f"{UFUNC[op]}({', '.join(given)})"
        names.append(f"t{len(names)}")
        lines.append(f"    {names[-1]} = {call}")
    result = "asarray({})," if scalars else "{},"
    lines.append("    return " + "".join(result.format(names[o]) for o in program.high_outputs))
    space: dict[str, Any] = {n: getattr(np, n) for n in (*UFUNC.values(), "inf", "nan", "asarray")}
    exec("\n".join(lines), space)  # the text is made of the fixed names above only
    made = space["call"]
    op, leaves, _ = program.high[0]
    only: Any = getattr(np, UFUNC[op]) if len(program.high) == 1 and op in UFUNC else None

    def run(operands: Sequence[Any]) -> tuple:
        outs = _quiet.run(made, operands)
        noted = replay.notes.get()
        if noted is not None and only:
            given = tuple([operands[k] for k in leaves])
            noted.append((functools.partial(only, out=outs[0]), given))
        elif noted is not None:
            noted.append((_anew, (made, operands, outs)))
        return outs

    return run


def _anew(made: Callable, operands: Sequence[Any], outs: tuple) -> None:
    for y, value in zip(outs, made(operands)):
        y[...] = value


# ---- kernels -------------------------------------------------------------------------------------


def _kernel_plan(program: Program, operands: Signature, dtype: np.dtype, shape: tuple) -> Run:
    """Choose layout and loop, compile; the function that allocates, fills the table, launches."""
    loop = plan_loop(program, operands, dtype, shape)
    results = [(None if s == dense(shape, range(len(shape)), t.itemsize) else s, t)
               for t, s in zip(loop.dtypes, loop.strides, strict=True)]  # fmt: skip
    if math.prod(shape) == 0:
        return lambda operands: tuple([memory.strided(shape, *r) for r in results])
    codes = [None if s is None else s[0].str[1:] for s in operands]
    items = [int(c[1]) for c in codes if c] + [t.itemsize for t in loop.dtypes]
    sizes, steps = loop.sizes, loop.steps
    inner = tuple([1 if s[-1] == item else 2 if s[-1] else 0
                   for s, item in zip(steps, items, strict=True)])  # fmt: skip
    outputs = tuple([t.str[1:] for t in loop.dtypes])
    kernel = Shape(TYPES[dtype.str[1:]], tuple(codes), outputs, len(sizes), inner)
    total, width = (sizes[0], 1) if len(sizes) == 1 else (math.prod(sizes[:-1]), sizes[-1])
    chunk = max(1, CHUNK // width)
    address = _compiled(program, kernel, print_loop)
    head = Struct("".join("d" if c is None else "q" for c in (*codes, *outputs))).pack
    tail = np.array([*sizes, *(v for s in steps for v in s)], np.int64).tobytes()

    def run(operands: Sequence[Any]) -> tuple:
        outs = tuple([memory.strided(shape, s, t) for s, t in results])
        words = [address_of(a) if isinstance(a, Array) else a for a in (*operands, *outs)]
        team.current().run(address, head(*words) + tail, total, chunk, (operands, outs))
        return outs

    return run


_loaded: dict[tuple, int] = {}


def _compiled(program: Program, kernel: Shape, printer: Callable, *more: Any) -> int:
    """Address of the machine code, compiled at its first use in this process."""
    key = (printer.__name__, program.key, kernel, *more)
    if key not in _loaded:
        _loaded[key] = compiler.compile_ir("pointwise", printer(program, kernel, *more), "k")["k"]
    return _loaded[key]


# ---- multi-tensor updates ------------------------------------------------------------------------


def update(program: Program, rows: Sequence[Sequence[Array]], scalars: Sequence[Any],
           inplace: Sequence[int]) -> None:  # fmt: skip
    """Run a program on rows of arrays in one launch; output j overwrites array inplace[j].

    Leaves are the arrays of a row, then the scalars: numbers, or arrays of one, read here. The
    arrays of a row have one shape, all one dtype (float32 or float64); those not laid out as the
    row's first are copied, and copied back.
    """
    dtype, width, code = rows[0][0].dtype, len(rows[0]), rows[0][0].dtype.str[1:]
    require(code in ("f4", "f8"), "update", "rows must be float32 or float64",
            error=DTypeError, row=rows[0][0])  # fmt: skip
    aligned = [_aligned(row, dtype) for row in rows]
    sizes = tuple([row[0].size for row in rows])
    table = np.array([[*map(address_of, row), n] for row, n in zip(aligned, sizes)], np.int64)
    blocks = _blocks(sizes)
    if len(blocks):
        leaves, kept = (*[code] * width, *[None] * len(scalars)), len(inplace)
        kernel = Shape(TYPES[code], leaves, (code,) * kept, 1, (1,) * (width + kept))
        address = _compiled(program, kernel, print_update, tuple(inplace))
        values = [s if type(s) is float else s.item() for s in scalars]
        words = pack(f"2q{len(values)}d", address_of(table), address_of(blocks), *values)
        chunk = len(blocks) * BLOCK // sum(sizes)  # of short rows several
        team.current().run(address, words, len(blocks), chunk, (table, blocks, aligned))
    for given, row in zip(rows, aligned, strict=True):
        for k in inplace if row is not given else ():
            if row[k] is not given[k]:
                replay.note(np.copyto, given[k], row[k])


def _aligned(row: Sequence[Array], dtype: np.dtype) -> Sequence[Array]:
    """The arrays of a row, all dense with the strides of the first; copies where need be."""
    first, shape = row[0], row[0].shape
    if all(a.shape == shape and a.dtype == dtype and a.flags.c_contiguous for a in row):
        return row
    strides, arrays = dense_like(shape, first.strides, dtype.itemsize), []
    for a in row:
        require(a.shape == shape, "update", "arrays of a row must have one shape",
                first=first, other=a)  # fmt: skip
        if a.strides != strides or a.dtype != dtype:
            a, given = memory.strided(a.shape, strides, dtype), a
            replay.note(np.copyto, a, given)
        arrays.append(a)
    return arrays


@functools.lru_cache(maxsize=64)
def _blocks(sizes: tuple[int, ...]) -> Array:
    """(row, first element) of every block of a list of arrays."""
    pairs = [(r, first) for r, n in enumerate(sizes) for first in range(0, n, BLOCK)]
    return np.array(pairs, np.int64).reshape(-1, 2)
