"""ONNX models: their initializers, read from the protobuf wire format without the onnx package.

Numbers of fields and types: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import os

import numpy as np

from minidl.io.foreign import shaped, whole
from minidl.io.protobuf import LENGTH, by_number, first_fields, varints
from minidl.io.safetensors import check, numbers

GRAPH, INITIALIZER, SPARSE = 7, 5, 15  # of ModelProto, GraphProto, GraphProto
DIMS, TYPE, NAME, RAW, LOCATION = 1, 2, 8, 9, 14  # of TensorProto, and so on
FLOATS, INT32S, INT64S, DOUBLES, UINT64S = 4, 5, 7, 10, 11
TYPES = {  # TensorProto.DataType: the dtype, and the field that holds it where raw data do not
    1: ("<f4", FLOATS), 2: ("u1", INT32S), 3: ("i1", INT32S), 4: ("<u2", INT32S),
    5: ("<i2", INT32S), 6: ("<i4", INT32S), 7: ("<i8", INT64S), 9: ("?", INT32S),
    10: ("<f2", INT32S), 11: ("<f8", DOUBLES), 12: ("<u4", UINT64S), 13: ("<u8", UINT64S),
    14: ("<c8", FLOATS), 15: ("<c16", DOUBLES), 16: ("bfloat16", INT32S),
}  # fmt: skip
MODEL = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}  # fields of ModelProto


def matches(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts as a ModelProto does: a graph, a version that is a number."""
    found = first_fields(path)
    return (GRAPH, LENGTH) in found and (1, LENGTH) not in found and {n for n, _ in found} <= MODEL


def read_onnx(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The initializers of an ONNX model by their names (TensorProto.name), as new arrays.

    bfloat16 as load_safetensors gives it. Raises CheckpointError naming the file when it is
    unreadable, cut short or malformed, and the tensor that has a type without a NumPy dtype, is
    sparse, or whose data are in another file: those are never opened.
    """
    arrays: dict[str, np.ndarray] = {}
    with whole(path, "ONNX model") as model:
        graphs = [by_number(graph) for graph in by_number(model)[GRAPH]]
        for graph in graphs:
            check(SPARSE not in graph, "load", f"{path} has sparse initializers: they are not read")
            for message in graph.get(INITIALIZER, []):
                tensor = by_number(message)
                name = str(tensor.get(NAME, [b""])[-1], "utf-8")
                check(name not in arrays, "load", f"{path}: two initializers are called {name!r}")
                arrays[name] = _array(f"{path}: tensor {name!r}", tensor)
    return arrays


def _array(what: str, tensor: dict[int, list[memoryview]]) -> np.ndarray:
    """The array of a TensorProto."""
    kind = int(varints(tensor[TYPE][-1])[0])
    check(kind in TYPES, "load", f"{what} has a type that NumPy lacks", data_type=kind)
    external = LOCATION in tensor and varints(tensor[LOCATION][-1])[0] != 0
    check(not external, "load", f"{what} is in another file: external data are not read",
          fix="save the model with its data inside")  # fmt: skip
    shape = varints(b"".join(tensor.get(DIMS, []))).tolist()
    dtype, place = TYPES[kind]
    data: bytearray | np.ndarray
    if RAW in tensor:
        data = bytearray(tensor[RAW][-1])
    elif place in (FLOATS, DOUBLES):
        data = bytearray().join(tensor.get(place, []))
    else:  # varints: the numbers, or the bits of halves
        stored = "<u2" if dtype in ("<f2", "bfloat16") else dtype
        data = varints(b"".join(tensor.get(place, []))).astype(stored)
    return shaped(numbers(data, dtype), shape)
