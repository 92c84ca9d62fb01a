"""`save` and `load`: nested Python state, its arrays in a safetensors file, the rest as JSON.

The file is an ordinary safetensors file: each array is a tensor named by its place
("model.0.bias"); the metadata entry "minidl" holds one JSON object {"format": 1, "root": ...}, in
which all but None, booleans, integers, finite floats and strings is an object whose first key
says what it is: {"dict": [[key, value], ...]}, {"list": [...]}, {"tuple": [...]}, {"float": "nan"},
{"array": name}, {"scalar": name}, {"tensor": name, "requires_grad": bool}. No pickle; no times.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minidl.autograd import Tensor, wrap
from minidl.errors import CheckpointError, reworded
from minidl.io.foreign import mapped
from minidl.io.safetensors import check, read_safetensors, save_safetensors
from minidl.io.torch_files import is_torch, read_torch
from minidl.ops.creation import backend_of

FORMAT = 1


def save(obj: Any, f: str | os.PathLike[str]) -> None:
    """Write `obj` to the file named `f`, atomically; the same state gives the same bytes.

    `obj` is built of dicts (keys: strings, numbers, booleans, None), lists, tuples, arrays,
    Tensors, Python and NumPy numbers, strings and None. Raises CheckpointError for anything else
    (naming its place), and when the file cannot be written; the previous file is then left whole.
    """
    arrays: dict[str, Any] = {}
    with reworded(CheckpointError, "save: the object is nested too deeply", RecursionError):
        root = _encode(obj, "", arrays)
    text = json.dumps({"format": FORMAT, "root": root}, separators=(",", ":"), allow_nan=False)
    save_safetensors(arrays, f, {"minidl": text})


def load(f: str | os.PathLike[str], map_location: Any = None, *, weights_only: bool = True) -> Any:
    """Read what `save` wrote: the same nesting and types, arrays as NumPy, Tensors on a device.

    What torch.save wrote is read too, as `minidl.io.load_weights` does, with Tensors for tensors.
    map_location: the device, or a dict of one; None is the CPU, and so is a function. weights_only
    is taken for the sake of PyTorch's scripts: nothing in a file is run in any case. Raises
    CheckpointError naming the file: missing, cut short, not written by `save`, newer format.
    """
    named = [*map_location.values()][0] if isinstance(map_location, dict) else map_location
    put = backend_of(None if callable(named) else named).from_host
    if is_torch(f):
        return mapped(read_torch(f), lambda a: wrap(put(a)))
    arrays, metadata = read_safetensors(f)
    check("minidl" in metadata, "load", f"{f} was not written by save", fix="see load_safetensors")
    damage = f"load: the structure stored in {f} is damaged"
    with reworded(CheckpointError, damage, ValueError, KeyError, TypeError, RecursionError):
        header = json.loads(metadata["minidl"])
        rule = f"{f} has another format than {FORMAT}, the one this version reads"
        check(header["format"] == FORMAT, "load", rule, format=header["format"])
        return _decode(header["root"], arrays, put)


def _encode(value: Any, place: str, arrays: dict[str, Any]) -> Any:
    """JSON for `value`; its arrays are put into `arrays` under names made from `place`."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        return {"tensor": _store(value, place, arrays), "requires_grad": bool(value.requires_grad)}
    if isinstance(value, np.generic):
        return {"scalar": _store(np.asarray(value), place, arrays)}
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return {"array": _store(value, place, arrays)}
    if isinstance(value, Mapping):
        return {"dict": [_encode_item(key, item, place, arrays) for key, item in value.items()]}
    kind = type(value)
    rule = f"{place or 'the object'} is of a type that a checkpoint does not hold"
    fix = "use dicts, lists, tuples, arrays, Tensors, numbers, strings and None"
    check(kind in (list, tuple), "save", rule, fix=fix, type=kind)
    items = [_encode(item, _join(place, index), arrays) for index, item in enumerate(value)]
    return {kind.__name__: items}


def _encode_item(key: Any, item: Any, place: str, arrays: dict[str, Any]) -> list[Any]:
    rule = f"a key in {place or 'the object'} must be a string, number, boolean or None"
    check(key is None or type(key) in (bool, int, float, str), "save", rule, key=key)
    return [_encode(key, place, arrays), _encode(item, _join(place, key), arrays)]


def _join(place: str, part: Any) -> str:
    return f"{place}.{part}" if place else str(part)


def _store(value: Any, place: str, arrays: dict[str, Any]) -> str:
    """Name `value` by its place; keys that hold dots may clash, then the name grows."""
    name = place or "value"
    while name in arrays or name == "__metadata__":
        name += "~"
    arrays[name] = value
    return name


def _decode(node: Any, arrays: dict[str, np.ndarray], put: Callable) -> Any:
    if not isinstance(node, dict):
        return node
    (kind, content), *_ = node.items()
    if kind == "dict":
        return {_decode(key, arrays, put): _decode(item, arrays, put) for key, item in content}
    if sequence := {"list": list, "tuple": tuple}.get(kind):
        return sequence([_decode(item, arrays, put) for item in content])
    if kind == "float":
        return float(content)
    array = arrays[content]
    if kind == "tensor":
        return wrap(put(array), node["requires_grad"])
    if kind == "scalar":
        return array[()]
    check(kind == "array", "load", "unknown entry", error=ValueError, kind=kind)
    return array
