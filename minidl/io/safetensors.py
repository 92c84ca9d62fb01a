"""Safetensors files of named arrays (https://github.com/huggingface/safetensors), written whole."""

import contextlib
import functools
import importlib.util
import json
import os
import secrets
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidl.autograd import raw, wrap
from minidl.errors import CheckpointError, require, reworded

check = functools.partial(require, error=CheckpointError)
NO_FILE = (OSError, ValueError)  # the latter of a path with a NUL
_SUFFIX = ".partial"
_DTYPES = {"BOOL": "bool", "BF16": "bfloat16"}  # and F32, I64, … C64: the kind and the bits
_DTYPES |= {f"{d.kind.upper()}{8 * d.itemsize}": d.name for d in map(np.dtype, "efdbhiqBHIQF")}


def save_safetensors(tensors: Mapping[str, Any], path: str | os.PathLike[str],
                     metadata: Mapping[str, str] | None = None) -> None:  # fmt: skip
    """Write named arrays or Tensors to `path`, atomically and with the same bytes every time.

    Arrays of any memory order are stored in logical C order. `metadata` maps strings to strings.
    Raises CheckpointError (unwritable path, what the format cannot hold).
    """
    from safetensors.numpy import save

    more = dict(metadata or {})
    strings = all(isinstance(text, str) for text in (*more, *more.values()))
    check(strings, "save_safetensors", "metadata must map strings to strings", metadata=more)
    rule = "save_safetensors: names and metadata must be valid Unicode"
    with reworded(CheckpointError, rule, UnicodeEncodeError):
        header, data = _parts(save({name: _host_array(name, x) for name, x in tensors.items()}))
        header = {"__metadata__": dict(sorted(more.items())), **header}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data stays aligned to 8 bytes
    write_bytes(path, [struct.pack("<Q", len(text)), text, data])


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read every tensor of a safetensors file, sorted by name, as a new writable array.

    bfloat16 comes as ml_dtypes.bfloat16 where ml_dtypes is installed, else widened to float32
    (exact). Raises CheckpointError naming the file when it is missing, cut short or malformed.
    """
    return read_safetensors(path)[0]


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a safetensors file: its tensors by name, and its metadata."""
    from safetensors import SafetensorError, deserialize

    with reworded(CheckpointError, f"load: cannot read {path}", *NO_FILE):
        blob = Path(path).read_bytes()
    rule = f"load: {path} ({len(blob)} bytes) is not a whole safetensors file"
    with reworded(CheckpointError, rule, SafetensorError, ValueError):  # such as 65 axes
        found = dict(deserialize(blob))
        tensors = {name: _array(path, name, found[name]) for name in sorted(found)}
    return tensors, _parts(blob)[0].get("__metadata__", {})


def _host_array(name: str, value: Any) -> np.ndarray:
    """`value` as a C-ordered NumPy array of a dtype that the format has."""
    named = isinstance(name, str) and name != "__metadata__"
    rule = f"tensor {name!r} must be an array or a Tensor, its name a string (not __metadata__)"
    check(named and hasattr(value, "dtype"), "save_safetensors", rule, value=value)
    array = np.asarray(value if isinstance(value, np.ndarray | np.generic) else wrap(raw(value)))
    dtype = array.dtype.newbyteorder("=")
    rule = f"tensor {name!r} has no safetensors dtype"
    check(dtype.name in _DTYPES.values(), "save", rule, tensor=array)
    return np.ascontiguousarray(array, dtype).reshape(array.shape)


def _parts(blob: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header of a file, and its data."""
    stop = 8 + struct.unpack_from("<Q", blob)[0]
    return json.loads(blob[8:stop]), memoryview(blob)[stop:]


def _array(path: str | os.PathLike[str], name: str, entry: Mapping[str, Any]) -> np.ndarray:
    kind, rule = entry["dtype"], f"{path}: tensor {name!r} has a dtype that NumPy lacks"
    check(kind in _DTYPES, "load", rule, dtype=kind)
    return numbers(bytearray(entry["data"]), _DTYPES[kind]).reshape(entry["shape"])


def numbers(data: bytearray | memoryview | np.ndarray, dtype: str) -> np.ndarray:
    """The numbers in bytes, of one of NumPy's dtypes or of bfloat16."""
    half = dtype == "bfloat16"
    return _bfloat16(np.frombuffer(data, "<u2")) if half else np.frombuffer(data, dtype)


def _bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits: the upper halves of float32."""
    if importlib.util.find_spec("ml_dtypes"):
        import ml_dtypes

        return bits.view(ml_dtypes.bfloat16)
    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


# ---- all or nothing ------------------------------------------------------------------------------


def write_bytes(path: str | os.PathLike[str], pieces: Iterable[bytes | memoryview]) -> None:
    """Write `pieces` one after another to `path`, all or nothing.

    The bytes go to a temporary file in the same folder; file and folder are flushed to the disk
    around the rename, so the name `path` holds either the previous content or all of the new one
    whenever the process or the machine stops. What an earlier, killed writer of the same name left
    behind is removed. Raises CheckpointError with the path and the system's reason (disk full,
    folder read-only or missing), and for what is not a file; the previous file is then untouched.
    """
    with reworded(CheckpointError, f"save: cannot write {path!r}", ValueError):  # of a NUL
        target = Path(os.path.realpath(path))  # what a link names, not the link
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        with reworded(CheckpointError, f"save: cannot write {target}", OSError):
            check(target.is_file() or not target.exists(), "save", f"{target} is not a file")
            with open(partial, "xb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
            _flush_folder(target.parent)
    finally:  # also on Ctrl-C; after the rename there is nothing left to remove
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    _remove_leftovers(target)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable (POSIX; Windows cannot open a folder, and needs it not)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Delete the temporary files of writers of `target` that were killed before their rename."""
    for name in os.listdir(target.parent):
        if name.endswith(_SUFFIX) and name[: -8 - len(_SUFFIX)] == f".{target.name}.":
            with contextlib.suppress(OSError):  # another writer's own affair; ours is done
                (target.parent / name).unlink()
