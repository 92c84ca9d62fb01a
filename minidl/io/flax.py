"""Flax's weights: msgpack of nested dicts as flax.serialization writes it, and NumPy's .npz."""

import os
import re
import zipfile
from typing import Any

import numpy as np

from minidl.errors import CheckpointError, reworded
from minidl.io.foreign import DAMAGE, SLACK, head_of, need, nest, shaped, whole
from minidl.io.safetensors import _bfloat16, check, numbers

NDARRAY, COMPLEX, SCALAR = 1, 2, 3  # msgpack extensions of flax/serialization.py
CHUNKED = "__msgpack_chunked_array__"
ITEMS, LENGTH, DEPTH = 2**18, 2**16, 64  # of all dicts and lists, of one, of dicts in dicts
DTYPES = {np.dtype(kind).name: kind for kind in "?bhiqBHIQefdFD"} | {"bfloat16": "bfloat16"}

# ---- msgpack -------------------------------------------------------------------------------------


def matches(path: str | os.PathLike[str]) -> bool:
    """Whether a file's first bytes are a msgpack dict of at least one item with a string as key."""
    head = head_of(path)
    size = 1 if 0x80 < head[:1].ljust(1)[0] < 0x90 else {b"\xde": 3, b"\xdf": 5}.get(head[:1], 64)
    key = head[size : size + 1]
    return b"\xa0" <= key < b"\xc0" or key in (b"\xd9", b"\xda")


def read_flax(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The nested dicts of a Flax msgpack file, with new arrays; lists as {"0": …, "1": …}.

    Numbers come as arrays of no axes; None and strings are left out; arrays in chunks are joined;
    bfloat16 as load_safetensors gives it. Raises CheckpointError naming the file when it is
    unreadable, cut short, malformed, or holds what Flax does not write.
    """
    need("msgpack", path)
    import msgpack

    items = 0

    def group(value: Any) -> Any:
        nonlocal items
        items += len(value)
        if items > ITEMS:
            raise ValueError(f"over {ITEMS} items in dicts and lists")
        return _joined(value) if isinstance(value, dict) and CHUNKED in value else value

    with whole(path, "Flax msgpack file") as data:
        root = msgpack.unpackb(
            data, ext_hook=_extension, object_hook=group, list_hook=group,
            max_array_len=LENGTH, max_map_len=LENGTH,
        )  # fmt: skip
        check(isinstance(root, dict), "load", f"{path} must hold a dict", type=type(root))
        return _tree(root, DEPTH)


def _extension(code: int, data: bytes) -> Any:
    """An array or number as Flax packs it: (shape, dtype's name, bytes in C order)."""
    import msgpack

    parts = msgpack.unpackb(data, max_array_len=64)
    if code == COMPLEX:
        return np.array(complex(*parts))
    if code not in (NDARRAY, SCALAR):
        raise ValueError(f"msgpack extension {code}")
    shape, name, content = parts
    return shaped(numbers(bytearray(memoryview(content)), DTYPES[name]), shape)


def _joined(pieces: dict[str, Any]) -> np.ndarray:
    """An array that was too large for one msgpack object."""
    shape, chunks = ([part[str(i)] for i in range(len(part))]
                     for part in (pieces["shape"], pieces["chunks"]))  # fmt: skip
    if not all(isinstance(chunk, np.ndarray) for chunk in chunks):
        raise ValueError("chunks that are no arrays")
    return shaped(np.concatenate(chunks), shape)


def _tree(node: Any, depth: int) -> Any:
    """Dicts of arrays from what msgpack found."""
    if isinstance(node, list):
        node = {str(index): item for index, item in enumerate(node)}
    if isinstance(node, dict):
        if not depth or not all(isinstance(key, str) for key in node):
            raise ValueError(f"dicts {DEPTH} deep or with keys that are no strings")
        kept = {key: item for key, item in node.items() if not isinstance(item, str | None)}
        return {key: _tree(item, depth - 1) for key, item in kept.items()}
    if not isinstance(node, np.ndarray | bool | int | float):
        raise ValueError(f"an item of type {type(node)}")
    return np.asarray(node)


# ---- .npz ----------------------------------------------------------------------------------------

# The header of .npy as NumPy writes it: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
HEADER = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|\x02\x00....)\{'descr': '([<>|][biufcV]\d{1,2})', "
    rb"'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n",
    re.DOTALL,
)


def matches_npz(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a zip archive whose first member is an array."""
    head = head_of(path, 30 + 2**16)
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return head.startswith(b"PK\3\4") and name.endswith(b".npy")


def read_npz(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of an .npz file, names with "/" as nested dicts, in native byte order.

    The dtype V2, which NumPy makes of bfloat16, is taken for it. Raises CheckpointError naming the
    file: unreadable, damaged, larger by 512 MiB when unpacked than packed (a zip bomb), or with
    arrays of anything but numbers (pickles are never read).
    """
    with reworded(CheckpointError, f"load: cannot read {path} as .npz", *DAMAGE):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            most = os.path.getsize(path) + SLACK
            check(size <= most, "load", f"{path}: its arrays are far larger than it", bytes=size)
            flat = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                check(name not in flat, "load", f"{path}: two members are called {name!r}")
                flat[name] = _member(f"{path}: member {name!r}", archive, member)
    return nest(path, flat)


def _member(what: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """The array in a member of an archive."""
    packing = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    plain = member.compress_type in packing and not member.flag_bits & 1
    check(plain, "load", f"{what} is encrypted, or packed as NumPy does not pack")
    content = bytearray(archive.read(member))
    header = HEADER.match(content)
    rule = f"{what} is no array of numbers as NumPy writes it"
    if header is None or header[1][1:2] == b"V" and header[1][1:] != b"V2":
        raise CheckpointError(f"load: {rule}; got {bytes(content[:80])!r}")
    shape = [int(n) for n in header[3].replace(b",", b" ").split()]
    bfloat16, order = header[1][1:] == b"V2", "F" if header[2] == b"True" else "C"
    dtype = np.dtype("<u2" if bfloat16 else header[1].decode())
    array = np.frombuffer(content, dtype, offset=header.end())
    array = shaped(array, shape[::-1]).T if order == "F" else shaped(array, shape)
    return _bfloat16(array) if bfloat16 else array.astype(dtype.newbyteorder("="), copy=False)
