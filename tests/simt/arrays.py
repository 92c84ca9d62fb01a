"""Array arguments: which memory a launch gets to see, and memory filled with poison."""

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

POISON = 0x7FF5  # repeated, it is NaN in every floating-point format; the runtime looks for it
ALIGNMENT = 512  # of what CuPy's allocator returns


def poison(array: np.ndarray) -> np.ndarray:
    """Fill an array of items of 1, 2, 4 or 8 bytes with poison and return it.

    A checked kernel that reads an element of it before it is written raises Uninitialised; bytes
    and 16-bit integers, where any value may be a real one, only get the poison.
    """
    size = array.dtype.itemsize
    pattern = POISON.to_bytes(2, "little") * 4
    array.view(f"u{size}")[...] = int.from_bytes(pattern[:size], "little")
    return array


_RESIDENT: ContextVar[tuple[np.ndarray, ...]] = ContextVar("resident", default=())


@contextlib.contextmanager
def resident(*arrays: np.ndarray) -> Iterator[None]:
    """Let kernels reach arrays through a table of addresses, as multi-tensor kernels do.

    Within, an address in one of the arrays (from its `ctypes.data`) that stands in an argument
    array of 64-bit integers, or of structs of whole 8 bytes, is the array's address to the kernel.
    """
    token = _RESIDENT.set(_RESIDENT.get() + arrays)
    try:
        yield
    finally:
        _RESIDENT.reset(token)


def resident_arrays() -> tuple[np.ndarray, ...]:
    """The arrays that are resident now."""
    return _RESIDENT.get()


class ArrayStruct(ctypes.Structure):
    """struct Array of runtime.h."""

    _fields_ = [
        ("host", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("phase", ctypes.c_size_t),
        ("element", ctypes.c_uint),
        ("check_poison", ctypes.c_uint),
        ("read_only", ctypes.c_uint),
        ("label", ctypes.c_char_p),
    ]


@dataclass
class Region:
    """Memory of one array, or of all views of it that a launch is given."""

    owner: int  # address of the whole array
    low: int
    high: int
    labels: list[str] = field(default_factory=list)
    dtypes: list[np.dtype] = field(default_factory=list)
    integers: bool = False  # of 16 bits or fewer, in which poison could be a real value
    writeable: bool = False
    table: np.ndarray | None = None  # the memory as words, with device addresses of others in it

    @property
    def is_table(self) -> bool:
        """Whether it may hold addresses."""
        return all(d.itemsize % 8 == 0 and d.kind in "iuV" for d in self.dtypes)

    def words(self) -> np.ndarray:
        """The memory in 64-bit words."""
        memory = (ctypes.c_uint64 * ((self.high - self.low) // 8)).from_address(self.low)
        return np.ctypeslib.as_array(memory)

    def struct(self) -> ArrayStruct:
        """The region as the runtime takes it."""
        return ArrayStruct(
            self.low if self.table is None else self.table.ctypes.data,
            self.high - self.low,
            (self.low - self.owner) % ALIGNMENT,
            min(d.itemsize for d in self.dtypes),
            not self.integers,
            not self.writeable,
            " = ".join(self.labels).encode(),
        )


def relocated(words: np.ndarray, shifts: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """The words, with those from low to high moved by shift for each (low, high, shift)."""
    moved = words.copy()
    for low, high, shift in shifts:
        inside = (words >= low) & (words < high)
        moved[inside] += np.uint64(shift % 2**64)
    return moved


def _owner(array: np.ndarray) -> int:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.ctypes.data


def regions_of(arrays: Sequence[tuple[np.ndarray, str]], floats: Sequence[str]) -> list[Region]:
    """The distinct memory behind labelled arrays: views of one array share a region.

    `floats` are the labels of those that hold floats, whatever NumPy takes them for (bfloat16 in
    uint16).

    Strided views are passed as CuPy passes them, as the address of their first element; what lies
    between their first and last byte may be accessed.
    """
    found: list[Region] = []
    for array, label in arrays:
        low, high = np.lib.array_utils.byte_bounds(array)
        high = low if array.size == 0 else high
        new = Region(_owner(array), low, high)
        for r in [r for r in found if r.owner == new.owner or (r.low < high and low < r.high)]:
            found.remove(r)
            new.low, new.high = min(new.low, r.low), max(new.high, r.high)
            new.owner, new.writeable = min(new.owner, r.owner), new.writeable or r.writeable
            new.labels, new.dtypes = r.labels + new.labels, r.dtypes + new.dtypes
            new.integers = new.integers or r.integers
        new.labels.append(label)
        new.dtypes.append(array.dtype)
        kind, size = array.dtype.kind, array.dtype.itemsize
        whole = label not in floats and kind in "iub"
        new.integers = new.integers or size < 2 or (size == 2 and whole)
        new.writeable = new.writeable or array.flags.writeable
        found.append(new)
    return found
