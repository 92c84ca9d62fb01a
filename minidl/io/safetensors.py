"""Dictionaries of arrays in safetensors files (https://github.com/huggingface/safetensors)."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidl.autograd import Tensor, raw
from minidl.errors import CheckpointError, require
from minidl.io.atomic import write_bytes

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "C64": np.complex64,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_WRITABLE = {np.dtype(dtype).name for dtype in _DTYPES.values()} | {"bfloat16"}


def save_safetensors(
    tensors: Mapping[str, Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named arrays or Tensors to `path`, atomically and with the same bytes every time.

    Arrays of any memory order are stored in logical C order. `metadata` maps strings to strings.
    Raises CheckpointError (unwritable path, a dtype that the format lacks).
    """
    from safetensors.numpy import save

    arrays = {name: _host_array(name, value) for name, value in tensors.items()}
    blob = save(arrays)
    note = dict(sorted((metadata or {}).items()))
    write_bytes(path, _with_metadata(blob, note) if note else [blob])


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read every tensor of a safetensors file, sorted by name, as a new writable array.

    bfloat16 comes as ml_dtypes.bfloat16 where ml_dtypes is installed, else widened to float32
    (exact). Raises CheckpointError naming the file when it is missing, cut short or malformed.
    """
    return read_safetensors(path)[0]


def read_safetensors(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file: its tensors by name, and its metadata."""
    from safetensors import SafetensorError, deserialize

    try:
        blob = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"load: cannot read {path}: {reason}") from error
    try:
        entries = deserialize(blob)
    except SafetensorError as error:
        rule = f"load: {path} ({len(blob)} bytes) is not a whole safetensors file: {error}"
        raise CheckpointError(rule) from error
    tensors = {name: _array(path, name, entry) for name, entry in sorted(entries, key=_name)}
    return tensors, _header(blob).get("__metadata__", {})


def _name(entry: tuple[str, Any]) -> str:
    return entry[0]


def _host_array(name: str, value: Any) -> np.ndarray:
    """`value` as a C-ordered NumPy array of a dtype that the format has."""
    array = value if isinstance(value, np.ndarray) else np.asarray(Tensor(raw(value)))
    fits = array.dtype.name in _WRITABLE
    rule = f"tensor {name!r} has no safetensors dtype"
    require(fits, "save", rule, error=CheckpointError, tensor=array)
    order = array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, dtype=order).reshape(array.shape)


def _with_metadata(blob: bytes, note: dict[str, str]) -> list[bytes]:
    """Put `note` into the header (the library orders several keys at random)."""
    start = 8 + struct.unpack_from("<Q", blob)[0]
    header = {"__metadata__": note, **_header(blob)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data stays aligned to 8 bytes
    return [struct.pack("<Q", len(text)), text, blob[start:]]


def _header(blob: bytes) -> dict[str, Any]:
    size = struct.unpack_from("<Q", blob)[0]
    return json.loads(blob[8 : 8 + size])


def _array(path: str | os.PathLike[str], name: str, entry: Mapping[str, Any]) -> np.ndarray:
    kind, shape, data = entry["dtype"], entry["shape"], bytearray(entry["data"])
    if kind == "BF16":
        return _bfloat16(data, shape)
    known = kind in _DTYPES
    rule = f"{path}: tensor {name!r} has a dtype that NumPy lacks"
    require(known, "load", rule, error=CheckpointError, dtype=kind)
    return np.frombuffer(data, _DTYPES[kind]).reshape(shape)


def _bfloat16(data: bytearray, shape: list[int]) -> np.ndarray:
    """bfloat16 bits: the upper halves of float32."""
    bits = np.frombuffer(data, np.uint16).reshape(shape)
    if importlib.util.find_spec("ml_dtypes"):
        import ml_dtypes

        return bits.view(ml_dtypes.bfloat16)
    wide = np.left_shift(bits, 16, dtype=np.uint32)
    return np.asarray(wide).view(np.float32).reshape(shape)
