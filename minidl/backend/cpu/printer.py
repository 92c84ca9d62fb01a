"""Prints pointwise programs as LLVM IR: a loop, rows of an inner loop, or blocks of rows."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minidl.backend.cpu.ir import Body, Value, intrinsic, select
from minidl.backend.cpu.maths import apply, fabs
from minidl.backend.expression import Program

BLOCK = 1 << 14  # elements a block of a multi-tensor update
TYPES = {"f4": "float", "f8": "double", "b1": "i8", "i1": "i8", "u1": "i8", "i2": "i16",
         "u2": "i16", "i4": "i32", "u4": "i32", "i8": "i64", "u8": "i64"}  # fmt: skip
EMIT: dict[str, Callable[..., Value]] = {
    **{n: getattr(Value, f"__{n}__") for n in "add sub mul neg lt le gt ge and or".split()},
    **{n: getattr(Value, n) for n in ("eq", "ne")},
    **{n: functools.partial(intrinsic, n) for n in ("sqrt", "floor", "ceil", "trunc")},
    "div": Value.__truediv__,
    "not": lambda a: a ^ 1,
    "where": select,
    "abs": fabs,
    "rint": lambda a: intrinsic("roundeven", a),
    "fmod": lambda a, b: a.binary("frem", "srem", b),
}
TAIL = """  ret void
}}
!1 = distinct !{{}}
!2 = distinct !{{!2, !3{}}}
!3 = !{{!"llvm.loop.parallel_accesses", !1}}
!4 = !{{!"llvm.loop.vectorize.enable", i1 true}}
!5 = !{{!"llvm.loop.interleave.count", i32 2}}
"""


class Shape(NamedTuple):
    """What a printed loop depends on besides the program."""

    real: str  # "float" or "double", the type of the arithmetic
    leaves: tuple[str | None, ...]  # type codes; None for numbers, which travel in the table
    outputs: tuple[str, ...]  # type codes
    rank: int  # merged axes
    inner: tuple[int, ...]  # per array, outputs last: stride 1 element, 0, or 2 for any other


class Printer:
    """One kernel in the making. `arrays` are the operands in memory, outputs last."""

    def __init__(self, program: Program, shape: Shape) -> None:
        self.program, self.shape, self.body = program, shape, Body()
        codes = [*shape.leaves, *shape.outputs]
        self.codes = {k: code for k, code in enumerate(codes) if code is not None}
        self.count = len(codes)
        self.bases: dict[int, Value] = {}
        self.strides: dict[int, Value] = {}  # of the innermost axis, in bytes
        self.numbers: dict[int, Value] = {}

    def line(self, text: str) -> None:
        """Add lines; labels keep the left margin."""
        for line in map(str.strip, text.strip().splitlines()):
            self.body.lines.append(line if line.endswith(":") else "  " + line)

    def word(self, index: int | Value, table: str = "%tab", kind: str = "i64") -> Value:
        """The int64 (or "double", or "ptr") at an index of a table."""
        return self.body.load(kind, table, index.name if isinstance(index, Value) else str(index))

    def offset(self, base: Value, count: Value, kind: str = "i8") -> Value:
        return self.body.emit("ptr", f"getelementptr {kind}, ptr {base.name}, i64 {count.name}")

    def load(self, k: int, place: Value, mark: str = "") -> Value:
        code = self.codes[k]
        text = f"load {TYPES[code]}, ptr {place.name}, align {code[1]}{mark}"
        return self.body.emit(TYPES[code], text).to(self.shape.real, signed=code[0] == "i")

    def start(self, label: str, low: str, high: str) -> Value:
        """Begin `for i in range(low, high)`; the counter."""
        self.line(f"""br label %{label}before
            {label}before:
            %{label}any = icmp slt i64 {low}, {high}
            br i1 %{label}any, label %{label}, label %{label}out
            {label}:
            %{label}i = phi i64 [ {low}, %{label}before ], [ %{label}next, %{label}end ]""")
        return Value(self.body, f"%{label}i", "i64")

    def close(self, label: str, high: str, mark: str = "") -> None:
        self.line(f"""br label %{label}end
            {label}end:
            %{label}next = add nsw i64 %{label}i, 1
            %{label}more = icmp slt i64 %{label}next, {high}
            br i1 %{label}more, label %{label}, label %{label}out{mark}
            {label}out:""")

    def inner_loop(self, low: str, high: str) -> None:
        """The loop over one row; an operand of stride 0 is loaded before it."""
        program, shape, mark = self.program, self.shape, ", !llvm.access.group !1"
        kinds = dict(zip(self.codes, shape.inner, strict=True))
        leaves: dict[int, Value] = dict(self.numbers)
        read = [k for k in self.codes if k < program.leaves and program.used[k]]
        for k in read:
            if kinds[k] == 0:
                leaves[k] = self.load(k, self.bases[k])
        i = self.start("loop", low, high)

        def place(k: int) -> Value:
            if kinds[k] == 1:
                return self.offset(self.bases[k], i, TYPES[self.codes[k]])
            return self.offset(self.bases[k], i * self.strides[k])

        for k in read:
            if kinds[k]:
                leaves[k] = self.load(k, place(k), mark)
        registers = self.steps([leaves.get(k) for k in range(program.leaves)])
        for k, register in enumerate(program.outputs, program.leaves):
            v = registers[register].to(TYPES[self.codes[k]])
            at = f"ptr {place(k).name}, align {self.codes[k][1]}{mark}"
            self.line(f"store {v.kind} {v.name}, {at}")
        self.close("loop", high, ", !llvm.loop !2")

    def steps(self, leaves: list[Value | None]) -> list[Any]:
        """Write the program's steps; all its registers."""
        registers: list[Any] = list(leaves)
        self.body.flags = "contract "
        for op, args, value in self.program.steps:
            given = [registers[a] for a in args]
            if op == "const":
                registers.append(self.body.const(value, self.shape.real))
            elif op == "real":
                registers.append(given[0].to(self.shape.real))
            else:
                registers.append(EMIT[op](*given) if op in EMIT else apply(op, *given))
        self.body.flags = ""
        return registers

    def text(self) -> str:
        declares = sorted(self.body.declares.union(self.body.calls.values()))
        head = "define void @k(ptr noalias %tab, i64 %lo, i64 %hi, i64 %slot) {"
        library = any(c.endswith("_f64") and c != "ml_sqrt_f64" for c in self.body.calls)
        library |= any(op == "fmod" for op, _, _ in self.program.steps)
        # Calls of the C library do not vectorise; long chains of our own are worked on two by two.
        tail = TAIL.format("" if library else ", !4, !5" if self.body.calls else ", !4")
        return "\n".join([*declares, head, *self.body.lines, tail])


def print_loop(program: Program, shape: Shape) -> str:
    """LLVM IR of a program's loop over elements (rank 1) or rows lo … hi.

    Table: the address, or a double's bits, of each leaf; the outputs' addresses; the merged sizes,
    outermost first; for each array its strides in bytes.
    """
    p, rank = Printer(program, shape), shape.rank
    for k in range(p.count):
        if k in p.codes:
            p.bases[k] = p.word(k, kind="ptr")
        elif program.used[k]:
            p.numbers[k] = p.word(k, kind="double").to(shape.real)
    sizes = [p.word(p.count + d) for d in range(rank)]
    words = iter(range(p.count + rank, p.count + rank + len(p.codes) * rank))
    steps = {k: [p.word(next(words)) for _ in range(rank)] for k in p.codes}
    p.strides = {k: own[-1] for k, own in steps.items()}
    if rank == 1:
        p.inner_loop("%lo", "%hi")
        return p.text()
    rest = p.start("row", "%lo", "%hi")
    for d in range(rank - 2, -1, -1):
        at = rest
        if d:
            at, rest = (rest.binary("frem", word, sizes[d]) for word in ("urem", "udiv"))
        for k in p.codes:
            p.bases[k] = p.offset(p.bases[k], at * steps[k][d])
    p.inner_loop("0", sizes[-1].name)
    p.close("row", "%hi")
    return p.text()


def print_update(program: Program, shape: Shape, inplace: Sequence[int]) -> str:
    """LLVM IR of a multi-tensor update of the leaves `inplace`, over blocks lo … hi.

    Table: addresses of the rows (per row its arrays' addresses, then its size) and of the blocks
    (per block its row and its first element), then the scalars.
    """
    p = Printer(program, shape)
    arrays = [k for k in p.codes if k < program.leaves]
    scalars = [k for k in range(program.leaves) if k not in p.codes]
    rows, blocks = p.word(0, kind="ptr"), p.word(1, kind="ptr")
    p.numbers = {k: p.word(2 + n, kind="double").to(shape.real) for n, k in enumerate(scalars)}
    b = p.start("block", "%lo", "%hi")
    row = p.word(b * 2, blocks.name) * (len(arrays) + 1)
    first = p.word(b * 2 + 1, blocks.name)
    for n, k in enumerate(arrays):
        p.bases[k] = p.word(row + n, rows.name, "ptr")
    for j, k in enumerate(inplace):
        p.bases[program.leaves + j] = p.bases[k]
    size = p.word(row + len(arrays), rows.name)
    last = first + BLOCK
    p.inner_loop(first.name, select(last < size, last, size).name)
    p.close("block", "%hi")
    return p.text()
