"""What PyTorch's pickles may name, and our own constructors for it, which build plain data only.

Nothing is imported by a name in a file: ALLOWED maps (module, name) to a plain value or to a Call
of a function below. Every constructor takes the arguments as it finds them, checks their types and
raises ValueError or TypeError; torch_files.py words these for the user. After torch/_utils.py and
torch/_tensor.py of https://github.com/pytorch/pytorch.
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES = {  # PyTorch's dtypes that NumPy has; bfloat16 as its bits
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2", "complex128": "c16",
    "complex64": "c8", "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1", "uint64": "u8",
    "uint32": "u4", "uint16": "u2", "uint8": "u1", "bool": "b1",
}  # fmt: skip
OTHER_DTYPES = (
    "complex32 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2 qint8 qint32 quint8 quint4x2 quint2x4"
)
KINDS = {  # what stands before "Storage" and "Tensor" in the names of PyTorch's classes
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "ComplexDouble": "complex128", "ComplexFloat": "complex64",
}  # fmt: skip
MAXIMUM_AXES = 64  # NumPy's


def must(ok: bool, rule: str, *found: Any) -> None:
    """Raise ValueError saying the rule, and what was found in a few words, unless `ok`."""
    if not ok:
        raise ValueError(rule + ("; got " if found else "") + ", ".join(map(reprlib.repr, found)))


# ---- what the constructors make ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StorageType:
    """A class of storages: the dtype of its elements."""

    dtype: str


@dataclass(frozen=True, eq=False)
class Storage:
    """`numel` elements of a dtype, from number `start` on, of the bytes that are kept as `key`."""

    key: Any
    dtype: str
    start: int
    numel: int


@dataclass(frozen=True, eq=False)
class View:
    """A tensor to be: its offset, shape and strides, in elements of `dtype`, in a storage."""

    storage: Storage
    dtype: str
    offset: Any
    shape: Any
    stride: Any
    metadata: Any = None


@dataclass(frozen=True, eq=False)
class Call:
    """A name that a pickle may call, and our function for it."""

    name: str
    function: Callable[..., Any]


class Namespace(dict):
    """An argparse.Namespace: a dict of its attributes."""

    def build(self, state: Any) -> None:
        """Take the attributes."""
        must(type(state) is dict, "a Namespace is not made of its attributes", state)
        fill(self, state.items())


class NumpyDtype:
    """A NumPy dtype of numbers: made of its name, then told its byte order."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        ok = type(name) is str and name in DTYPES.values()
        must(ok, "a NumPy dtype is not of numbers or booleans", name)
        self.dtype = np.dtype(name)

    def build(self, state: Any) -> None:
        """Take the state: version, byte order, three fields of structured dtypes, …"""
        ok = type(state) is tuple and len(state) >= 5 and state[2:5] == (None, None, None)
        must(ok and state[1] in tuple("<>|="), "a NumPy dtype is not of numbers", state)
        self.dtype = self.dtype.newbyteorder(state[1])


class NumpyArray:
    """A NumPy array: empty at first, then a view of bytes in the pickle."""

    def __init__(self, kind: Any = None, shape: Any = None, typecode: Any = None) -> None:
        self.array = np.empty(0)

    def build(self, state: Any) -> None:
        """Take the state: version, shape, dtype, whether columns come first, bytes."""
        _, shape, dtype, columns_first, data = state
        self.array = _array(data, dtype, shape, "F" if columns_first else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    data = _encode(data) if type(data) is str else data  # what Python 2 writes
    ok = isinstance(dtype, NumpyDtype) and type(data) in (bytes, bytearray)
    must(ok and type(order) is str and order in "CF", "a NumPy array is not of numbers")
    must(len(data) == math.prod(counts(shape)) * dtype.dtype.itemsize,
         "a NumPy array has more or fewer bytes than its shape and dtype need", shape)  # fmt: skip
    return np.ndarray(shape, dtype.dtype, data, order=order)


def counts(values: Any) -> tuple[int, ...]:
    """`values` if they are a tuple of a few integers from 0 up."""
    ok = type(values) is tuple and len(values) <= MAXIMUM_AXES
    ok = ok and all(type(n) is int and n >= 0 for n in values)
    must(ok, f"sizes are not up to {MAXIMUM_AXES} natural numbers", values)
    return values


def fill(target: dict[Any, Any], pairs: Any) -> dict[Any, Any]:
    """Put (key, value) pairs into a dict."""
    for name, value in pairs:
        target[key(name)] = value
    return target


def key(value: Any) -> Any:
    """`value` if it can be a key: plain, or a short flat tuple, and so quickly hashed each time."""
    parts = value if type(value) is tuple and len(value) <= 8 else (value,)
    ok = all(type(part) in (str, bytes, int, float, bool, type(None)) for part in parts)
    must(ok, "a key or a member of a set is not a plain value", value)
    return value


# ---- the constructors ----------------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any = False,
            hooks: Any = None, metadata: Any = None) -> View:  # fmt: skip
    must(type(storage) is Storage, "a tensor is made of something else than a storage", storage)
    return View(storage, storage.dtype, offset, shape, stride, metadata)


def _tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any, hooks: Any,
               dtype: Any, metadata: Any = None) -> View:  # fmt: skip
    ok = type(storage) is Storage and type(dtype) is str
    must(ok, "a tensor is made of something else than a storage and a dtype", storage, dtype)
    return View(storage, dtype.removeprefix("torch."), offset, shape, stride, metadata)


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> Any:
    return data


def _from_type(rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    ok = type(rebuild) is Call and rebuild.function in (_tensor, _tensor_v3, _parameter)
    must(ok, "a tensor is of an unknown class", rebuild)
    return rebuild.function(*arguments)


def _dict(items: Any = ()) -> dict[Any, Any]:
    return fill({}, items.items() if isinstance(items, dict) else items)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    must(type(text) is str and encoding in ("latin1", "latin-1"), "bytes are not in Latin-1", text)
    return text.encode("latin-1")


def _bytearray(data: Any = b"", encoding: Any = "latin-1") -> bytearray:
    return bytearray(data if type(data) is bytes else _encode(data, encoding))


def _complex(real: Any, imaginary: Any) -> complex:
    must(type(real) is type(imaginary) is float, "a complex number is not made of two floats")
    return complex(real, imaginary)


def _device(kind: Any, index: Any = None) -> str:
    ok = type(kind) is str and type(index) in (int, type(None))
    must(ok, "a device is not a name and a number", kind, index)
    return kind if index is None else f"{kind}:{index}"


def _text(value: Any) -> str:
    must(type(value) is str, "a layout has no name", value)
    return value


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> NumpyArray:
    result = NumpyArray()
    result.array = _array(data, dtype, shape, order)
    return result


CALLS: dict[str, Callable[..., Any]] = {  # "module name": function
    "collections OrderedDict": _dict,
    "collections Counter": _dict,
    "argparse Namespace": lambda: Namespace(),
    "_codecs encode": _encode,
    "torch Size": lambda values=(): counts(tuple(values)),
    "torch device": _device,
    "torch.serialization _get_layout": _text,
    "torch._tensor _rebuild_from_type_v2": _from_type,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_parameter_with_state": _parameter,
    "numpy dtype": NumpyDtype,
}
for _core in ("numpy.core", "numpy._core"):
    CALLS[f"{_core}.multiarray scalar"] = lambda dtype, data: _array(data, dtype, (), "C")[()]
    CALLS[f"{_core}.multiarray _reconstruct"] = NumpyArray
    CALLS[f"{_core}.numeric _frombuffer"] = _from_buffer
for _module in ("builtins", "__builtin__"):
    CALLS[f"{_module} set"] = lambda items=(): set(map(key, items))
    CALLS[f"{_module} frozenset"] = lambda items=(): frozenset(map(key, items))
    CALLS[f"{_module} complex"] = _complex
    CALLS[f"{_module} bytes"] = lambda: b""  # what protocol 2 writes for it
    CALLS[f"{_module} bytearray"] = _bytearray


def _allowed() -> dict[tuple[str, str], Any]:
    """(module, name) -> the Call, StorageType or text that stands for it."""
    values: dict[str, Any] = {name: Call(name, function) for name, function in CALLS.items()}
    names = ["numpy ndarray", "torch Tensor", "torch.nn.parameter Parameter"]
    names += [f"torch {dtype}" for dtype in (*DTYPES, *OTHER_DTYPES.split())]
    names += [f"{module} {kind}Tensor" for module in ("torch", "torch.cuda") for kind in KINDS]
    values |= {name: name.replace(" ", ".") for name in names}
    for kind, dtype in KINDS.items():
        values |= {f"{m} {kind}Storage": StorageType(dtype) for m in ("torch", "torch.cuda")}
    for name in ("torch UntypedStorage", "torch.storage UntypedStorage"):
        values[name] = StorageType("uint8")
    return {(name.split()[0], name.split()[1]): value for name, value in values.items()}


ALLOWED: Mapping[tuple[str, str], Any] = _allowed()
FIX = "only tensors, arrays and plain data are read; in PyTorch, save model.state_dict()"
QUANTIZED = "quantized tensors are not read; in PyTorch, save x.dequantize()"
REASONS = {  # a part of a refused name -> what it stands for
    "sparse": "sparse tensors are not read; in PyTorch, save x.to_dense()",
    "nested": "nested tensors are not read; in PyTorch, save their parts",
    **dict.fromkeys(("_rebuild_q", "QInt", "QUInt"), QUANTIZED),
    "_load_from_bytes": "pickles within pickles are not read; write the file by torch.save",
}
