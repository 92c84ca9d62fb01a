"""A launch's arguments as CuPy passes them, checked against the kernel's C++ parameters."""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simt import build
from simt.arrays import Region, regions_of, relocated, resident_arrays
from simt.faults import ArgumentFault


class Parameter(ctypes.Structure):
    """struct Parameter of simt_entry.h."""

    _fields_ = [
        ("kind", ctypes.c_char),
        ("pointee", ctypes.c_char),
        ("size", ctypes.c_ushort),
        ("pointee_size", ctypes.c_ushort),
    ]


@dataclass
class Packed:
    """Pointers to the values of all arguments, and the memory behind the arrays among them."""

    pointers: ctypes.Array[ctypes.c_void_p]
    values: list[np.ndarray]  # what the pointers point to
    regions: list[Region]
    shifts: list[tuple[int, int, int]]  # of resident arrays: host addresses and the way to device

    def put_addresses(self) -> None:
        """Give tables the device addresses of resident arrays, for a launch."""
        for r in self.regions if self.shifts else ():
            if r.is_table:
                r.table = relocated(r.words(), self.shifts)

    def restore_addresses(self) -> None:
        """Take what a launch has left in tables back to host addresses."""
        back = [(low + shift, high + shift, -shift) for low, high, shift in self.shifts]
        for r in self.regions:
            if r.table is not None and r.writeable:
                r.words()[:] = relocated(r.table, back)


_TYPES = {
    b"f": "floating-point numbers",
    b"i": "integers",
    b"b": "bool",
    b"h": "half",
    b"w": "bfloat16",
    b"s": "structs",
    b"v": "void",
    b"p": "pointers",
}


_name = functools.cache(str)  # of a type


@functools.cache
def _fits(kind: bytes, size: int, dtype: np.dtype) -> bool:
    """Whether a NumPy type is the C++ type of this kind and size; the sign of integers is free."""
    if kind == b"v":
        return True
    if kind == b"h":
        return dtype == np.float16
    if kind == b"w":
        return dtype.name == "bfloat16" or dtype == np.uint16
    if kind == b"b":
        return dtype.itemsize == 1 and dtype.kind in "bu"
    if kind == b"p":
        return dtype.kind in "iu" and dtype.itemsize == 8
    kinds = {b"f": "f", b"i": "iu" if size > 1 else "iub"}.get(kind, "")
    return dtype.kind in kinds and dtype.itemsize == size and dtype.name != "bfloat16"


def _scalar(value: object, p: Parameter) -> np.ndarray | None:
    """The value as an array of one item of the parameter's size, or None if it does not fit."""
    item = np.asarray(value)  # int64, float64 and bool for Python's numbers, as in CuPy
    if item.size != 1 or isinstance(value, str | bytes):
        return None
    if p.kind == b"s":
        fits = item.dtype.kind == "V" and item.dtype.itemsize == p.size
    else:
        fits = not isinstance(value, np.ndarray) and _fits(p.kind, p.size, item.dtype)
    return item.reshape(1).copy() if fits else None


def _fault(where: str, needed: str, value: object, hint: str = "") -> ArgumentFault:
    got = f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
    return ArgumentFault(f"{where}: {needed}; got {got}{hint}")


def _value(where: str, p: Parameter, value: object) -> np.ndarray:
    """The value as an array of one item, zero for a pointer; raises unless it may be passed."""
    if p.kind == b"p":
        if value is not None and not isinstance(value, np.ndarray):
            raise _fault(where, "a pointer takes a NumPy array or None", value)
        if value is not None and p.pointee != b"s":
            if not _fits(p.pointee, p.pointee_size, value.dtype):
                kind = f"{_TYPES[p.pointee]} of {p.pointee_size} bytes"
                raise _fault(where, f"a pointer to {kind}", value)
        return np.zeros(1, np.uint64)
    item = _scalar(value, p)
    if item is None:
        hint = ""
        if isinstance(value, int | float) and not isinstance(value, np.generic):
            hint = ", which CuPy passes as 8 bytes: use np.int32(...) or np.float32(...)"
        raise _fault(where, f"one of {_TYPES[p.kind]} of {p.size} bytes", value, hint)
    return item


def pack(
    kernel: str, parameters: Sequence[Parameter], names: Sequence[str], args: Sequence[object]
) -> Packed:
    """Check the arguments and lay them out for the runtime, arrays at their device addresses."""
    if len(args) != len(parameters):
        raise ArgumentFault(f"{kernel}: takes {len(parameters)} arguments; got {len(args)}")
    labelled: dict[int, tuple[np.ndarray, str]] = {}
    values = []
    for i, (p, value) in enumerate(zip(parameters, args)):
        name = names[i] if i < len(names) else "?"
        values.append(_value(f"{kernel}: argument {i} ({name})", p, value))
        if p.kind == b"p" and isinstance(value, np.ndarray):
            labelled[i] = value, f"argument {i} ({name}: {_name(value.dtype)} {value.shape})"
    others = [(a, f"resident array {i}") for i, a in enumerate(resident_arrays())]
    floats = [label for i, (_, label) in labelled.items() if parameters[i].pointee in b"fhw"]
    regions = regions_of([*labelled.values(), *others], floats)
    start = {}  # device address minus host address, by label
    for i, r in enumerate(regions):
        at = build.runtime().simt_address(i, r.struct().phase) - r.low
        start.update(dict.fromkeys(r.labels, at))
    for i, (array, label) in labelled.items():
        values[i][0] = start[label] + array.ctypes.data
    reachable = {label for _, label in others}
    shifts = [(r.low, r.high, start[r.labels[0]]) for r in regions if reachable & {*r.labels}]
    for value in values if shifts else ():
        if value.dtype.kind == "V" and value.nbytes % 8 == 0:  # a struct may hold addresses
            words = value.view(np.uint64)
            words[:] = relocated(words, shifts)
    pointers = (ctypes.c_void_p * max(1, len(values)))(*(v.ctypes.data for v in values))
    return Packed(pointers, values, regions, shifts)
