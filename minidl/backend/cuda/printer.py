"""Prints pointwise programs as CUDA C++: a thread takes one pack of elements, or one element.

Where all arrays lie alike in memory (or hold one element) an element's number is its place; else a
thread finds the place in each array from the merged sizes and strides. A pack has `width` elements
where these lie side by side in every array, or are a single one. Each element is read and written
once. float16 and bfloat16 are computed in float.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidl.backend.expression import BOOLEAN, Program

TYPES = {
    "b1": "bool", "i1": "signed char", "u1": "unsigned char", "i2": "short", "u2": "unsigned short",
    "i4": "int", "u4": "unsigned", "i8": "long long", "u8": "unsigned long long",
    "f2": "__half", "bf": "__nv_bfloat16", "f4": "float", "f8": "double",
}  # fmt: skip


def code_of(dtype: np.dtype) -> str:
    """A dtype's key among TYPES."""
    return "bf" if dtype.name == "bfloat16" else dtype.str[1:]


_HEADERS = {"f2": "cuda_fp16.h", "bf": "cuda_bf16.h"}
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">",
          "ge": ">=", "eq": "==", "ne": "!=", "and": "&&", "or": "||"}  # fmt: skip
_PREFIX = {"neg": "-", "not": "!"}
_WHOLE = {  # in arithmetic of integers, where division by zero gives 0
    "abs": "({0} < 0 ? -{0} : {0})",
    "real": "{0}",
    "where": "{0} ? {1} : {2}",
    "div": "{1} ? {0} / {1} : 0",
    "fmod": "{1} ? {0} % {1} : 0",
    "pow": "whole_pow({0}, {1})",
    "bit_and": "{0} & {1}",
    "bit_or": "{0} | {1}",
    "bit_xor": "{0} ^ {1}",
    **dict.fromkeys(("floor", "ceil", "rint", "trunc"), "{0}"),
}
_POWER = """__device__ long long whole_pow(long long x, long long n) {
    long long y = n < 0 && x != 1 && x != -1 ? 0 : 1;
    for (n = n < 0 ? -n : n; n > 0; n /= 2, x *= x) y *= n % 2 ? x : 1;
    return y;
}"""
_SPECIAL = {
    "abs": "fabs({0})",
    "real": "{0}",
    "where": "{0} ? {1} : {2}",
    "sigmoid": "({0} >= 0 ? 1 : exp({0})) / (1 + exp(-fabs({0})))",
    "softplus": "fmax({0}, {real}(0)) + log1p(exp(-fabs({0})))",
}


class Shape(NamedTuple):
    """What a printed kernel depends on besides the program."""

    real: str  # the type of the arithmetic
    leaves: tuple[str | None, ...]  # type codes; None for numbers, which are arguments
    outputs: tuple[str, ...]  # type codes
    rank: int  # merged axes; 0: all arrays lie alike
    single: tuple[bool, ...]  # which arrays, outputs last, have one element for a pack
    width: int = 1  # elements of a pack
    integer: str = TYPES["i8"]  # the type that the packs' number fits


def whole(value: float) -> int:
    """A number in arithmetic of integers."""
    most = (1 << 63) - 1
    return int(max(-most, min(most, value)))


def literal(value: float, real: str) -> str:
    """A constant as C++ has it."""
    if real == TYPES["i8"]:
        return f"({whole(value)}LL)"
    if math.isfinite(value):
        return f"({value!r}{'f' if real == 'float' else ''})"
    if real == "float":
        bits = "7fc00000" if math.isnan(value) else "ff800000" if value < 0 else "7f800000"
        return f"__int_as_float(0x{bits})"
    high = "7ff8" if math.isnan(value) else "fff0" if value < 0 else "7ff0"
    return f"__longlong_as_double(0x{high}000000000000LL)"


def _steps(program: Program, real: str) -> list[str]:
    """Statements that fill the registers r0, r1, … behind the leaves'."""
    lines = []
    for k, (op, args, value) in enumerate(program.steps, program.leaves):
        given = [f"r{a}" for a in args]
        whole = real == TYPES["i8"]
        if op == "const":
            text = literal(value, real)
        elif whole and op in _WHOLE:
            text = _WHOLE[op].format(*given)
        elif op in _INFIX:
            text = f"{given[0]} {_INFIX[op]} {given[1]}"
        elif op in _PREFIX:
            text = _PREFIX[op] + given[0]
        elif op in _SPECIAL:
            text = _SPECIAL[op].format(*given, real=real)
        else:
            text = f"{op}({', '.join(given)})"
        lines.append(f"const {'bool' if op in BOOLEAN else real} r{k} = {text};")
    return lines


def _loaded(code: str, place: str, real: str) -> str:
    """An element as a number of the arithmetic's type."""
    wide = f"static_cast<float>({place})" if code in _HEADERS else place
    return f"static_cast<{real}>({wide})"


def _stored(code: str, value: str) -> str:
    return f"static_cast<{TYPES[code]}>({value})"


def print_kernel(program: Program, shape: Shape, name: str = "k") -> str:
    """CUDA C++ of a kernel that computes a program at every element.

    Arguments: each leaf that is used (a pointer or a number), the outputs' pointers, the number of
    elements; for rank > 0 the merged sizes and each array's strides in bytes, the last axis in
    packs.
    """
    codes = [*shape.leaves, *shape.outputs]
    used = [*program.used, *(True for _ in shape.outputs)]
    arrays = [k for k, code in enumerate(codes) if code is not None and used[k]]
    numbers = [k for k, code in enumerate(codes) if code is None and used[k]]
    kinds = {k: TYPES[code] for k, code in enumerate(codes) if code}
    given = []
    for k in range(len(codes)):
        if k in numbers:
            given.append(f"{shape.real if shape.real == TYPES['i8'] else 'double'} s{k}")
        elif k in arrays:
            const = "const " if k < program.leaves else ""
            given.append(f"{const}{kinds[k]}* __restrict__ a{k}")
    given.append("long long n")
    given += [f"long long n{d}" for d in range(shape.rank)]
    given += [f"long long t{k}_{d}" for k in arrays for d in range(shape.rank)]
    headers = sorted({f"#include <{_HEADERS[c]}>" for c in codes if c in _HEADERS})
    body = [f"const {shape.real} r{k} = static_cast<{shape.real}>(s{k});" for k in numbers]
    walk = _packs(program, shape, arrays, codes, f"Pack_{name}")
    lines = "\n    ".join([*body, *walk])
    if "whole_pow(" in lines:
        headers.append(_POWER)
    return "\n".join([
        *headers,
        f"template <typename T> struct alignas({shape.width} * sizeof(T)) Pack_{name} {{",
        f"    T v[{shape.width}];",
        "};",
        f'extern "C" __global__ void __launch_bounds__(256) {name}({", ".join(given)}) {{',
        "    const long long i0 = blockIdx.x * 256LL + threadIdx.x;",
        f"    {lines}",
        "}",
        "",
    ])  # fmt: skip


def _packs(
    program: Program, shape: Shape, arrays: list[int], codes: list, struct: str
) -> list[str]:
    """A thread's pack: where it lies, reading, computing, writing."""
    one = dict(zip([k for k, code in enumerate(codes) if code], shape.single, strict=True))
    read = [k for k in arrays if k < program.leaves]
    results = range(program.leaves, len(codes))
    packs = {k: f"{struct}<{TYPES[codes[k]]}>" for k in arrays}
    lines = [f"const long long i = i0 * {shape.width};", "if (i >= n) return;"]
    lines += _places(shape, arrays, codes, program.leaves, one)
    for k in read:
        if one[k]:
            lines.append(f"const {shape.real} r{k} = {_loaded(codes[k], f'*q{k}', shape.real)};")
        else:
            lines.append(f"const {packs[k]} p{k} = *reinterpret_cast<const {packs[k]}*>(q{k});")
    lines += [f"{packs[k]} p{k};" for k in results]
    lines += ["#pragma unroll", f"for (int e = 0; e < {shape.width}; e++) {{"]
    lines += [
        f"const {shape.real} r{k} = {_loaded(codes[k], f'p{k}.v[e]', shape.real)};"
        for k in read
        if not one[k]
    ]
    lines += _steps(program, shape.real)
    for k, register in zip(results, program.outputs, strict=True):
        lines.append(f"p{k}.v[e] = {_stored(codes[k], f'r{register}')};")
    return [*lines, "}", *(f"*reinterpret_cast<{packs[k]}*>(q{k}) = p{k};" for k in results)]


def _places(shape: Shape, arrays: list[int], codes: list, leaves: int, one: dict) -> list[str]:
    """Pointers q to a thread's pack in each array."""
    lines = [f"{shape.integer} rest = i0;"] if shape.rank else []
    for d in range(shape.rank - 1, -1, -1):
        size = f"static_cast<{shape.integer}>(n{d})"
        lines += [f"const {shape.integer} d{d} = {f'rest % {size}' if d else 'rest'};"]
        lines += [f"rest /= {size};"] if d else []
    for k in arrays:
        const = "const " if k < leaves else ""
        place = " + ".join(f"d{d} * t{k}_{d}" for d in range(shape.rank))
        at = f"reinterpret_cast<{const}char*>(a{k}) + {place}"
        at = f"reinterpret_cast<{const}{TYPES[codes[k]]}*>({at})"
        at = at if shape.rank else f"a{k}" if one[k] else f"a{k} + i"
        lines.append(f"{const}{TYPES[codes[k]]}* const q{k} = {at};")
    return lines


ROWS = 48  # of a multi-tensor update's launch: their table is an argument, which has 4 KiB at most
BLOCK = 1 << 12  # elements of a row that a block takes


def print_update(program: Program, real: str, arrays: int, inplace: Sequence[int],
                 scalars: Sequence[str | None]) -> str:  # fmt: skip
    """CUDA C++ of a kernel `k` that updates rows of arrays; output j overwrites array inplace[j].

    Arguments: a table of ROWS rows (per row its arrays' addresses; the rows' sizes; their first
    blocks), the number of rows, the scalars: doubles, or where a type code is given the address of
    one. A block finds its row by its number.
    """
    numbered = list(enumerate(scalars, arrays))
    given = ["const Rows rows", "long long count"]
    given += [f"const {TYPES[code]}* s{k}" if code else f"double s{k}" for k, code in numbered]
    read = [k for k in range(arrays) if program.used[k]]
    lines = [f"const {real} r{k} = static_cast<{real}>({'*' if code else ''}s{k});"
             for k, code in numbered if program.used[k]]  # fmt: skip
    lines += ["int row = 0;", "while (row + 1 < count && blockIdx.x >= rows.first[row + 1]) row++;"]
    lines.append(f"const long long start = (blockIdx.x - rows.first[row]) * {BLOCK}LL;")
    lines.append(f"const long long end = start + {BLOCK}LL;")
    lines.append("const long long stop = rows.n[row] < end ? rows.n[row] : end;")
    lines.append("for (long long i = start + threadIdx.x; i < stop; i += 256) {")
    lines += [f"const {real} r{k} = rows.p[row][{k}][i];" for k in read]
    lines += _steps(program, real)
    pairs = zip(inplace, program.outputs, strict=True)
    lines += [f"rows.p[row][{k}][i] = r{register};" for k, register in pairs]
    body = "\n    ".join([*lines, "}"])
    return "\n".join([
        "struct Rows {",
        f"    {real}* p[{ROWS}][{arrays}];",
        f"    long long n[{ROWS}];",
        f"    long long first[{ROWS}];",
        "};",
        f'extern "C" __global__ void __launch_bounds__(256) k({", ".join(given)}) {{',
        f"    {body}",
        "}",
        "",
    ])  # fmt: skip
