"""Writes LLVM IR with Python's operators: a `Value` is a named scalar, a `Body` the lines so far.

Used by the mathematical functions (`maths.py`) and by the pointwise printer (`printer.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

Number = int | float
BITS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "float": 32, "double": 64, "ptr": 64}
REAL = ("float", "double")
SUFFIX = {"float": "f32", "double": "f64", "i32": "i32", "i64": "i64"}


def literal(value: Number, kind: str) -> str:
    """The text of a constant; floats are hexadecimal, so that no digit is lost."""
    if kind == "float":
        value = struct.unpack("<f", struct.pack("<f", value))[0] if abs(value) < 3.4e38 else value
    if kind in REAL:
        return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"
    return str(int(value))


class Body:
    """The instructions of one function, and the names of what it calls."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.calls: dict[str, str] = {}  # functions of `maths.py`, and their declarations
        self.declares: set[str] = set()
        self.count = 0
        self.flags = ""  # fast-math flags of arithmetic, e.g. "contract "

    def emit(self, kind: str, text: str) -> Value:
        """Append `%n = text` and return it as a value of type `kind`."""
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {text}")
        return Value(self, name, kind)

    def const(self, value: Number, kind: str) -> Value:
        return Value(self, literal(value, kind), kind)

    def load(self, kind: str, table: str, index: str) -> Value:
        """The value at an index of a table of `kind`, each as wide as its alignment."""
        place = self.emit("ptr", f"getelementptr {kind}, ptr {table}, i64 {index}")
        return self.emit(kind, f"load {kind}, ptr {place.name}, align {BITS[kind] // 8}")

    def call(self, function: str, kind: str, args: Sequence[Value]) -> Value:
        """Call a function of `maths.py` (named ml_…) or an LLVM intrinsic (named llvm.…)."""
        declared = f"declare {kind} @{function}({', '.join(a.kind for a in args)})"
        if function.startswith("llvm."):
            self.declares.add(declared)
        else:
            self.calls[function] = declared
        inside = ", ".join(f"{a.kind} {a.name}" for a in args)
        return self.emit(kind, f"call {kind} @{function}({inside})")


def _binary(real: str, integer: str, swap: bool = False) -> Callable[[Any, Any], Value]:
    return lambda a, b: a.binary(real, integer, b, swap)


def _compare(real: str, integer: str) -> Callable[[Any, Any], Value]:
    return lambda a, b: a.compare(real, integer, b)


class Value:
    """A scalar of LLVM type `kind`; arithmetic on it writes instructions into its body."""

    __slots__ = ("body", "kind", "name")

    def __init__(self, body: Body, name: str, kind: str) -> None:
        self.body, self.name, self.kind = body, name, kind

    def like(self, other: Value | Number) -> Value:
        """`other` as a value of this type."""
        return other if isinstance(other, Value) else self.body.const(other, self.kind)

    def binary(self, real: str, integer: str, other: Value | Number, swap: bool = False) -> Value:
        a, b = (self.like(other), self) if swap else (self, self.like(other))
        word = f"{real} {self.body.flags}" if self.kind in REAL else integer
        return self.body.emit(self.kind, f"{word} {self.kind} {a.name}, {b.name}")

    def compare(self, real: str, integer: str, other: Value | Number) -> Value:
        word = f"fcmp {real}" if self.kind in REAL else f"icmp {integer}"
        return self.body.emit("i1", f"{word} {self.kind} {self.name}, {self.like(other).name}")

    __add__ = __radd__ = _binary("fadd", "add")
    __sub__ = _binary("fsub", "sub")
    __rsub__ = _binary("fsub", "sub", swap=True)
    __mul__ = __rmul__ = _binary("fmul", "mul")
    __truediv__ = _binary("fdiv", "sdiv")
    __rtruediv__ = _binary("fdiv", "sdiv", swap=True)
    __and__ = _binary("and", "and")
    __or__ = _binary("or", "or")
    __xor__ = _binary("xor", "xor")
    __lshift__ = _binary("shl", "shl")
    __rshift__ = _binary("ashr", "ashr")
    lshr = _binary("lshr", "lshr")
    __lt__ = _compare("olt", "slt")
    __le__ = _compare("ole", "sle")
    __gt__ = _compare("ogt", "sgt")
    __ge__ = _compare("oge", "sge")
    eq = _compare("oeq", "eq")
    ne = _compare("une", "ne")

    def __neg__(self) -> Value:
        if self.kind in REAL:
            return self.body.emit(self.kind, f"fneg {self.kind} {self.name}")
        return self.like(0) - self

    def bits(self, kind: str) -> Value:
        """The same bits read as another type of the same size."""
        return self.body.emit(kind, f"bitcast {self.kind} {self.name} to {kind}")

    def to(self, kind: str, signed: bool = True) -> Value:
        """The same number in another type; float to integer truncates."""
        if kind == self.kind:
            return self
        wider, signed = BITS[kind] > BITS[self.kind], signed and self.kind != "i1"
        if self.kind in REAL:
            word = "fptosi" if kind not in REAL else "fpext" if wider else "fptrunc"
        elif kind in REAL:
            word = "sitofp" if signed else "uitofp"
        else:
            word = "trunc" if not wider else "sext" if signed else "zext"
        return self.body.emit(kind, f"{word} {self.kind} {self.name} to {kind}")


def select(condition: Value, a: Value | Number, b: Value | Number) -> Value:
    """a where the condition holds, else b."""
    typed: Any = a if isinstance(a, Value) else b
    yes, no = typed.like(a), typed.like(b)
    text = f"select i1 {condition.name}, {yes.kind} {yes.name}, {no.kind} {no.name}"
    return condition.body.emit(yes.kind, text)


def intrinsic(name: str, *args: Value) -> Value:
    """An LLVM intrinsic overloaded on the type of its first argument, e.g. fabs, rint, copysign."""
    kind = args[0].kind
    return args[0].body.call(f"llvm.{name}.{SUFFIX[kind]}", kind, args)


def fma(a: Value, b: Value | Number, c: Value | Number) -> Value:
    """a·b + c, rounded once."""
    return intrinsic("fma", a, a.like(b), a.like(c))


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """c0 + c1·x + c2·x² + … by Estrin's rule: pairs of terms, then pairs of pairs.

    Horner's rule would have each step wait for the one before: a loop is bound by that, not by its
    arithmetic.
    """
    terms: list[Any] = list(coefficients)
    while len(terms) > 1:
        pairs = [fma(x, b, a) for a, b in zip(terms[::2], terms[1::2])]
        terms = pairs + terms[len(pairs) * 2 :]
        x = x * x
    return terms[0]
