"""PyTorch's three kinds of checkpoint read without PyTorch: zip, the older pickles in a row, tar.

All hold a pickle whose tensors are claims on storages kept beside it: members `data/KEY` of the zip
(torch.save since 1.6), bytes behind the last pickle (since 0.2), or the tar's members `storages`
and `tensors` (before). Nothing in a file is imported or run (see torch_pickle.py), and what is made
of a file is bounded by its size, so that a hostile one costs little.
Layouts: torch/serialization.py of https://github.com/pytorch/pytorch.
"""

import contextlib
import functools
import io
import math
import os
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, Literal

import numpy as np

from minidl.errors import CheckpointError, reworded
from minidl.io.foreign import DAMAGE, head_of
from minidl.io.safetensors import _bfloat16
from minidl.io.torch_objects import (
    DTYPES,
    MAXIMUM_AXES,
    NumpyArray,
    Storage,
    StorageType,
    View,
    counts,
    must,
)
from minidl.io.torch_pickle import Budget, Machine

MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa850192e")  # the first pickle but for its protocol
VERSION = 1001  # the second
TAR_MEMBERS = (b"storages", b"tensors", b"pickle", b"sys_info")  # the last is not read
GROWTH, ALLOWANCE = 16, 2**26  # a file of n bytes may become GROWTH n + ALLOWANCE
MAXIMUM_DEPTH = 100  # of dicts in lists in tuples …
MAXIMUM_RATIO = 1000  # of a zip member's size to its packed one, and a tenth of it of all members'
PLAIN = (bool, int, float, complex, str, bytes, bytearray, set, frozenset, type(None))


def read_torch(path: str | os.PathLike[str]) -> Any:
    """Read what torch.save wrote: the file's own nesting and names, ndarrays for tensors.

    Tensors and parameters come as new, writable arrays in C order and the machine's byte order, one
    each even where they share a storage or are views of one; bfloat16 as in load_safetensors.
    OrderedDicts and argparse Namespaces come as dicts, torch.Size as a tuple, dtypes and devices as
    text. Raises CheckpointError naming the file when it is missing, damaged, no checkpoint of
    PyTorch's, names anything but tensors and plain data (whole models, quantized and sparse
    tensors), is nested over 100 deep or contains itself, or grows beyond reason when unpacked.
    """
    with reworded(CheckpointError, f"read_torch: cannot read {path}", *DAMAGE):
        with open(path, "rb") as file:
            read = _reader(file.read(512))
            if read is None:
                raise ValueError("it is no checkpoint of PyTorch's (zip, pickles in a row, tar)")
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return read(file, Budget(GROWTH * size + ALLOWANCE))


def is_torch(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a checkpoint of PyTorch's, by its content, if only by its beginning.

    Raises CheckpointError when it cannot be opened.
    """
    head = head_of(path, 512)
    read = _reader(head)
    if read is not _read_zip or b"/data.pkl" in head:
        return read is not None
    with contextlib.suppress(*DAMAGE), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())
    return False


def _reader(head: bytes) -> Callable[[BinaryIO, Budget], Any] | None:
    """The reader for a file that begins so."""
    if head.startswith(b"PK\3\4"):
        return _read_zip
    if MAGIC in head[:32]:
        return _read_pickles
    return _read_tar if head[:100].rstrip(b"\0") in TAR_MEMBERS else None


# ---- zip -----------------------------------------------------------------------------------------


def _read_zip(file: BinaryIO, budget: Budget) -> Any:
    with zipfile.ZipFile(file) as archive:
        _check_members(archive.infolist(), file.seek(0, os.SEEK_END))
        names = archive.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        must(len(pickles) == 1, "it must have one member FOLDER/data.pkl", names)
        folder = pickles[0].split("/")[0]
        place = f"{folder}/byteorder"
        order = archive.read(place) if place in names else b"little"
        must(order in (b"little", b"big"), "its byte order is neither little nor big", order)
        claim = functools.partial(_claim, {})
        nest = Machine(budget, claim).run(io.BytesIO(archive.read(pickles[0])))
        stored = functools.cache(lambda key: archive.read(f"{folder}/data/{key}"))
        return _Unpacking(stored, "<" if order == b"little" else ">", budget).value(nest)


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """ValueError for members that are not as torch.save's, or that hide much in a few bytes."""
    names = [member.filename for member in members]
    must(len(set(names)) == len(names), "it has two members of one name", sorted(names))
    for member in members:
        must(not member.flag_bits & 1, "a member is encrypted", member.filename)
        ok = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        must(ok, "a member is neither stored nor deflated", member.filename)
        ok = member.file_size <= MAXIMUM_RATIO * max(member.compress_size, 1)
        must(ok, f"a member grows over {MAXIMUM_RATIO} times when unpacked", member.filename)
    total = sum(member.file_size for member in members)
    must(total <= MAXIMUM_RATIO // 10 * size, "its members grow beyond reason when unpacked", total)
    packed = sum(member.compress_size for member in members)
    must(packed <= size, "its members overlap", packed)


def _claim(roots: dict[str, Storage], name: Any) -> Storage:
    """The storage that a persistent id means; the whole one that it is part of is put in `roots`.

    ("storage", type, key, device, numel) and, in the older files, (key, offset, numel) of a part.
    """
    ok = type(name) is tuple and len(name) in (5, 6) and name[0] == "storage"
    ok = ok and type(name[1]) is StorageType and type(name[2]) is str and len(name[2]) < 200
    must(ok, "a persistent id is not a storage's", name)
    _, kind, key, _, numel, *part = name
    counts((numel,))
    root = roots.setdefault(key, Storage(key, kind.dtype, 0, numel))
    if not part or part[0] is None:
        return root
    _, start, numel = part[0]
    return _part(root, start, numel)


def _part(root: Storage, start: Any, numel: Any) -> Storage:
    counts((start, numel))
    must(start + numel <= root.numel, "a part reaches over the end of its storage", start, numel)
    return Storage(root.key, root.dtype, root.start + start, numel)


# ---- pickles in a row ----------------------------------------------------------------------------


class _Bytes(io.BytesIO):
    """A file in memory from which pieces are taken without copying them."""

    def __init__(self, blob: bytes) -> None:
        super().__init__(blob)
        self.view = memoryview(blob)

    def take(self, size: int) -> memoryview:
        """The next `size` bytes, all of them."""
        start = self.tell()
        piece = self.view[start : start + size]
        must(len(piece) == size >= 0, f"it ends within {size} bytes of data")
        self.seek(start + size)
        return piece


def _read_pickles(file: BinaryIO, budget: Budget) -> Any:
    """Magic number, version, system, the object, the keys of its storages; then their bytes.

    These are little-endian whatever the system was, as PyTorch writes and reads them; only their
    numbers of elements were once in the order of the system.
    """
    stream, roots = _Bytes(file.read()), dict[str, Storage]()
    claim = functools.partial(_claim, roots)
    _, version, _, nest, keys = [Machine(budget, claim).run(stream) for _ in range(5)]
    must(type(version) is int and version == VERSION, f"its version is not {VERSION}", version)
    must(type(keys) is list, "its storages have no list of keys", keys)
    data: dict[str, memoryview] = {}
    for key in keys:
        ok = type(key) is str and key in roots and key not in data
        must(ok, "a storage is unknown or comes twice", key)
        numel, count = roots[key].numel, bytes(stream.take(8))
        ok = numel in (int.from_bytes(count, "little"), int.from_bytes(count, "big"))
        must(ok, "a storage has another size than its pickle says", key, numel)
        data[key] = stream.take(numel * np.dtype(DTYPES[roots[key].dtype]).itemsize)
    return _Unpacking(lambda key: data.get(key, b""), "<", budget).value(nest)


# ---- tar -----------------------------------------------------------------------------------------


def _read_tar(file: BinaryIO, budget: Budget) -> Any:
    members = _tar_members(file.read())
    objects: dict[int, Any] = {}

    def find(name: Any) -> Any:
        ok = type(name) in (int, str) and int(name) in objects
        must(ok, "a persistent id is not the number of a tensor or storage", name)
        return objects[int(name)]

    machine = functools.partial(Machine, budget, find)
    data = _tar_storages(_Bytes(members[b"storages"]), machine, objects)
    _tar_tensors(_Bytes(members[b"tensors"]), machine, objects)
    nest = machine().run(io.BytesIO(members[b"pickle"]))
    return _Unpacking(lambda key: data.get(key, b""), "<", budget).value(nest)


def _tar_members(blob: bytes) -> dict[bytes, bytes]:
    """The contents by name. (The library's tarfile can be made to loop for ever: CVE-2025-8194.)

    A member is a block of 512 bytes, in which its name is at 0 and its size in octal at 124, and
    then as many blocks as its content needs; a block that begins with 0 ends the file.
    """
    members: dict[bytes, bytes] = {}
    start = 0
    while any(blob[start : start + 1]):
        head = blob[start : start + 512]
        name, size = head[:100].rstrip(b"\0"), head[124:136].strip(b" \0")
        octal = re.fullmatch(b"[0-7]{1,11}", size) is not None
        must(octal, "a member of the tar has no size", name)
        start += 512
        stop = start + int(size, 8)
        must(stop <= len(blob), "it ends within a member of the tar", name)
        must(name not in members, "two members of the tar have one name", name)
        members[name] = blob[start:stop]
        start = -(-stop // 512) * 512
    missing = sorted(set(TAR_MEMBERS[:3]) - set(members))
    must(not missing, "members of the tar are missing", missing)
    return members


def _tar_storages(stream: _Bytes, machine: Callable[[], Machine], objects: dict[int, Any]
                  ) -> dict[int, memoryview]:  # fmt: skip
    """Put the storages into `objects` -> their bytes. All are little-endian.

    Their number; of each its key, device and type, its length (int64) and bytes; then a list of
    parts: key, key of the whole, first element, length.
    """
    data: dict[int, memoryview] = {}
    for _ in range(*counts((machine().run(stream),))):
        key, _, kind = machine().run(stream)
        must(type(key) is int and type(kind) is StorageType, "a storage has no key or type", key)
        (numel,) = struct.unpack("<q", stream.take(8))
        data[key] = stream.take(numel * np.dtype(DTYPES[kind.dtype]).itemsize)
        objects[key] = Storage(key, kind.dtype, 0, numel)
    for key, whole, start, numel in machine().run(stream):
        ok = type(key) is type(whole) is int and whole in objects
        must(ok, "a part of a storage has no key or whole", key, whole)
        objects[key] = _part(objects[whole], start, numel)
    return data


def _tar_tensors(stream: _Bytes, machine: Callable[[], Machine], objects: dict[int, Any]) -> None:
    """Put the tensors into `objects`.

    Their number; of each its key, its storage's and its type, its number of axes (8 bytes, of which
    4 count), shape, strides and offset (int64).
    """
    for _ in range(*counts((machine().run(stream),))):
        key, storage, _ = machine().run(stream)
        ok = type(key) is type(storage) is int and type(objects.get(storage)) is Storage
        must(ok, "a tensor has no key or storage", key, storage)
        (axes,) = struct.unpack("<i4x", stream.take(8))
        must(0 <= axes <= MAXIMUM_AXES, f"a tensor has not 0 to {MAXIMUM_AXES} axes", axes)
        numbers = struct.unpack(f"<{2 * axes + 1}q", stream.take(16 * axes + 8))
        shape, stride, offset = numbers[:axes], numbers[axes:-1], numbers[-1]
        whole = objects[storage]
        objects[key] = View(whole, whole.dtype, offset, shape, stride)


# ---- from claims to arrays -----------------------------------------------------------------------


class _Unpacking:
    """Makes what a caller gets of what a pickle made, within the budget.

    `stored` gives the bytes of a whole storage by its key; `order` is their byte order, < or >.
    """

    def __init__(self, stored: Callable[[Any], Any], order: Literal["<", ">"],
                 budget: Budget) -> None:  # fmt: skip
        self.stored, self.order, self.budget = stored, order, budget

    def value(self, value: Any, place: tuple[Any, ...] = ()) -> Any:
        """`value`, which stands at `place`, with arrays for the claims in it."""
        deep = len(place) > MAXIMUM_DEPTH
        must(not deep, f"it is nested over {MAXIMUM_DEPTH} deep or contains itself")
        self.budget.spend(64)
        if isinstance(value, dict):
            return {name: self.value(inner, (*place, name)) for name, inner in value.items()}
        if type(value) in (list, tuple):
            inner = [self.value(inner, (*place, i)) for i, inner in enumerate(value)]
            return inner if type(value) is list else tuple(inner)
        if isinstance(value, NumpyArray):
            self.budget.spend(value.array.nbytes)
            return np.array(value.array, value.array.dtype.type, order="C")
        try:
            if isinstance(value, View):
                return self._tensor(value)
            ok = type(value) in PLAIN or isinstance(value, np.generic)
            must(ok, "it is neither a tensor nor plain data", value)
        except ValueError as error:
            where = f"{'.'.join(map(str, place)):.200}: " if place else ""
            raise ValueError(f"{where}{error}") from error
        return value

    def _tensor(self, view: View) -> np.ndarray:
        storage, shape, stride = view.storage, counts(view.shape), counts(view.stride)
        (offset,) = counts((view.offset,))
        must(len(shape) == len(stride), "its shape and strides differ in length", shape, stride)
        must(view.dtype in DTYPES, "it has a dtype that NumPy lacks", view.dtype)
        dtype = np.dtype(DTYPES[view.dtype]).newbyteorder(self.order)
        width = np.dtype(DTYPES[storage.dtype]).itemsize
        data = memoryview(self.stored(storage.key))[width * storage.start :]
        must(len(data) >= width * storage.numel, "its storage is cut short or missing", storage.key)
        held = width * storage.numel // dtype.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
        ok = 0 in shape or last < held
        must(ok, f"it reaches over its storage of {held} elements", offset, shape, stride)
        self.budget.spend(math.prod(shape) * dtype.itemsize)
        steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(shape, stride)]
        start = 0 if 0 in shape else offset * dtype.itemsize
        array = np.ndarray(shape, dtype, b"" if 0 in shape else data, start, steps)
        array = np.array(array, dtype.type, order="C")
        if view.dtype == "bfloat16":
            array = _bfloat16(array.reshape(-1)).reshape(shape)
        metadata = view.metadata if type(view.metadata) is dict else {}
        if metadata.get("neg"):
            np.negative(array, out=array)
        return np.conjugate(array, out=array) if metadata.get("conj") else array
