"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding/), read without schemas.

Every function raises ValueError where the bytes are no message. What a message takes when read is
bounded by FIELDS and VARINTS.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator

import numpy as np

from minidl.errors import CheckpointError, reworded

FIELDS = 2**18  # of one message at most
VARINTS = 2**24  # bytes of packed integers at most
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # wire types


def fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Each field of a message: its number, its wire type and its bytes (a varint's: as encoded)."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire, start = key >> 3, key & 7, at
        if wire == LENGTH:
            size, start = _varint(message, at)
            at = start + size
        elif wire == VARINT:
            at = _varint(message, at)[1]
        elif wire in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if wire == EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire} of field {number}")
        if at > len(message):
            raise ValueError(f"field {number} ends {at - len(message)} bytes behind its message")
        yield number, wire, message[start:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned number at a position, and the position behind it."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("a number without end")


def varints(data: bytes | memoryview) -> np.ndarray:
    """All varints of packed data as int64."""
    octets = np.frombuffer(data, np.uint8)
    last = octets < 0x80
    if octets.size > VARINTS or not last[-1:].all():
        raise ValueError(f"{octets.size} bytes of packed integers, cut short or over {VARINTS}")
    ends = np.flatnonzero(last) + 1
    sizes = np.diff(ends, prepend=0)
    if sizes.max(initial=0) > 10:
        raise ValueError("a number of over 10 bytes")
    starts = ends - sizes
    shifts = 7 * (np.arange(octets.size) - np.repeat(starts, sizes))
    parts = (octets & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    return np.add.reduceat(parts, starts).view(np.int64) if starts.size else parts.view(np.int64)


def by_number(message: memoryview) -> dict[int, list[memoryview]]:
    """The values of each field of a message, in their order."""
    found: dict[int, list[memoryview]] = {}
    for count, (number, _, value) in enumerate(fields(message)):
        if count == FIELDS:
            raise ValueError(f"a message of over {FIELDS} fields")
        found.setdefault(number, []).append(value)
    return found


def first_fields(path: str | os.PathLike[str]) -> set[tuple[int, int]]:
    """Number and wire type of a file's first fields, up to where it stops being a message."""
    found = set()
    with (
        reworded(CheckpointError, f"load: cannot read {path}", OSError),
        contextlib.suppress(ValueError),  # empty, or cut short: the fields before tell the kind
    ):
        message = np.memmap(path, np.uint8, "r").data
        for number, wire, _ in itertools.islice(fields(message), 1000):
            found.add((number, wire))
    return found
