"""Numba's front end as a compiler from a kernel's Python to LLVM IR (imported only to compile)."""

import ctypes
import functools
import re
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from minidl.backend.cpu import blas, maths

_IR = {"f4": "float", "f8": "double", "int": "i64"}
_IR |= {f"{k}{n}": f"i{8 * n}" for k in "iu" for n in (1, 4, 8)}

_ITEMS = """br label %loop
loop:
 %i = phi i64 [ %lo, %entry ], [ %next, %loop ]
 {}
 %next = add nsw i64 %i, 1
 %more = icmp slt i64 %next, %hi
 br i1 %more, label %loop, label %done
done:"""


def numba_type(name: str, real: str) -> Any:
    """Numba's type of a kernel's argument."""
    base = getattr(types, name.rstrip("*").replace("R", real).replace("int", "i8"))
    return types.CPointer(base) if name.endswith("*") else base


def without_overlap(text: str, names: set[str]) -> str:
    """Mark the pointers given to functions (regular expressions) as not overlapping."""
    for name in names:
        heads = re.findall(rf"define[^\n]*{name}[^\n]*\n", text)
        assert heads, name
        for head in heads:
            text = text.replace(head, re.sub(r"\bptr (%arg\.)", r"ptr noalias \1", head))
    return text


def with_entry(text: str, name: str, leads: int, kinds: list[str], real: str, entry: str) -> str:
    """Append the C entry that reads the table and calls the function `name`, for each item or all.

    leads: its arguments before those of the table, see `jit.kernel`.
    """
    text = re.sub(r"\bnoinline\b", "nounwind", text)
    body, args = [], []
    for i, kind in enumerate(kinds):
        t = "ptr" if kind.endswith("*") else _IR[kind.replace("R", real)]
        body.append(f" %g{i} = getelementptr i64, ptr %t, i64 {i}")
        if t == "float":
            body += [f" %d{i} = load double, ptr %g{i}", f" %a{i} = fptrunc double %d{i} to float"]
        else:
            body.append(f" %a{i} = load {t}, ptr %g{i}")
        args.append(f"{t} %a{i}")
    words = ["lo", "hi", "slot"] if leads == 3 else ["i", "slot"][:leads]
    given = ", ".join(["ptr %r", "ptr %e", *(f"i64 %{word}" for word in words), *args])
    call, lines = f'%status = call i32 @"{name}"({given})', "\n".join(body)
    return f"""{text}
define void @{entry}(ptr %t, i64 %lo, i64 %hi, i64 %slot) {{
entry:
 %r = alloca ptr
 %e = alloca ptr
{lines}
 {call if leads == 3 else _ITEMS.format(call)}
 ret void
}}
"""


@intrinsic
def _at(typing_context: Any, pointer: Any, offset: Any) -> Any:
    """A pointer moved by an offset counted in elements."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), generate


def _known(symbol: str) -> str:
    """Give Numba's own linker an address for a function that is linked in after it."""
    llvm.add_symbol(symbol, ctypes.cast(ctypes.pythonapi.Py_IncRef, ctypes.c_void_p).value)
    return symbol


@functools.cache
def meaning(name: str, real: str) -> Any:
    """What a placeholder stands for in a kernel of the given real type."""
    if name == "R":
        return np.float32 if real == "f4" else np.float64
    if name == "at":
        return _at
    word: Any = types.int64
    number, pointer = numba_type("R", real), numba_type("R*", real)
    symbol = f"ml_{name}_f{8 * int(real[1])}"
    kind = number(*[number] * (1 + (name in maths.BINARY)))
    if name == "fetch":
        kind = types.void(pointer, word)
    if name in ("move", "stream"):
        kind = types.void(pointer, pointer, word)
    if name == "panel":
        kind = types.void(*[word] * 3, *[pointer, word, word] * 2, pointer, word, types.boolean)
    if name == "cblas_gemm":
        symbol = f"minidl_{'s' if real == 'f4' else 'd'}gemm"
        word = word if blas.integer_bits() == 64 else types.int32
        matrix = (number, pointer, word)
        kind = types.void(*[types.int32] * 3, *[word] * 3, *matrix, pointer, word, *matrix)
    return types.ExternalFunction(_known(symbol), kind)
