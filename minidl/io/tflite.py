"""TensorFlow Lite models: constants by name, dequantised, and the operators in their order.

FlatBuffers (https://flatbuffers.dev/internals/), by the numbers of the fields in
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/schema/schema.fbs.
"""

import itertools
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from minidl.io.foreign import SLACK, head_of, shaped, whole
from minidl.io.safetensors import check, numbers

TABLES = 2**16  # in one vector at most, and tensors in all
TEXT = 4096  # bytes of a name at most
ENDS = 1024  # inputs or outputs of an operator at most
DTYPES = {  # enum TensorType
    0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 6: "?", 7: "<i2", 8: "<c8", 9: "i1",
    10: "<f8", 11: "<c16", 12: "<u8", 15: "<u4", 16: "<u2", 18: "bfloat16",
}  # fmt: skip
KINDS = {3: "conv_2d", 4: "depthwise_conv_2d", 6: "dequantize", 9: "fully_connected"}


class Operator(NamedTuple):
    """One operator of a graph: its kind ("operator N" if it is not of KINDS) and its tensors.

    `inputs` and `outputs` are names as read_tflite's, "" for an input left out.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def matches(path: str | os.PathLike[str]) -> bool:
    """Whether a file's first bytes are those of a TensorFlow Lite model."""
    return head_of(path)[4:8] == b"TFL3"


def read_tflite(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The constant tensors of a TensorFlow Lite model by their names, as new arrays.

    Quantised ones come as float32: scale * (q - zero_point), by tensor or along
    quantized_dimension; others as stored. Shapes are the file's (kernels OHWI; depthwise 1HWC). A
    name that came before gets "~" and the tensor's number. Raises CheckpointError naming the file
    when it is unreadable, cut short, malformed, sparse, or of a type that NumPy lacks.
    """
    arrays = {}
    with _model(path) as model:
        buffers, room = model.tables(4), 4 * len(model.data) + SLACK
        for name, tensor in itertools.chain(*_named(model)):
            buffer, what = buffers[tensor.number(2, "I")], f"{path}: tensor {name!r}"
            outside = buffer.number(1, "Q") > 1
            check(not outside, "load", f"{what} lies outside the FlatBuffer: it is not read")
            stored = buffer.array(0, "u1")
            room -= 4 * stored.size
            check(room >= 0, "load", f"{path}: its tensors share bytes, and are too large")
            if stored.size:
                arrays[name] = _constant(what, tensor, stored)
    return arrays


def read_tflite_graph(path: str | os.PathLike[str]) -> list[Operator]:
    """The operators of a TensorFlow Lite model's main graph, in the order of execution.

    Raises CheckpointError as read_tflite does.
    """
    with _model(path) as model:
        names = [name for name, _ in _named(model)[0]]
        codes = [max(code.number(0, "b"), code.number(3, "i")) for code in model.tables(1)]
        return [_operator(op, codes, names) for op in model.tables(2)[0].tables(3)]


class _Table:
    """A FlatBuffers table; fields by number. Raises one of DAMAGE where it leaves the file."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at = data, at
        self.vtable = at - struct.unpack_from("<i", data, at)[0]
        if self.vtable < 0:
            raise ValueError(f"a table's description at {self.vtable}")
        self.size = struct.unpack_from("<H", data, self.vtable)[0]

    def _place(self, field: int) -> int:
        """Where a field lies, 0 when it is absent."""
        entry = 4 + 2 * field
        if entry + 2 > self.size:
            return 0
        offset = struct.unpack_from("<H", self.data, self.vtable + entry)[0]
        return self.at + offset if offset else 0

    def _target(self, place: int) -> int:
        """What the offset at a place leads to."""
        return place + struct.unpack_from("<I", self.data, place)[0]

    def number(self, field: int, kind: str) -> int:
        """An integer field, of a kind as in `struct`; 0 when it is absent."""
        place = self._place(field)
        return struct.unpack_from("<" + kind, self.data, place)[0] if place else 0

    def table(self, field: int) -> "_Table | None":
        """The table that a field holds."""
        place = self._place(field)
        return _Table(self.data, self._target(place)) if place else None

    def array(self, field: int, dtype: str) -> np.ndarray:
        """The vector of numbers that a field holds (a view); empty when absent."""
        place = self._place(field)
        if not place:
            return np.empty(0, dtype)
        start = self._target(place)
        count = struct.unpack_from("<I", self.data, start)[0]
        return np.frombuffer(self.data, dtype, count, start + 4)

    def tables(self, field: int) -> "list[_Table]":
        """The tables that a vector holds."""
        offsets = self.array(field, "<u4")
        if len(offsets) > TABLES:
            raise ValueError(f"{len(offsets)} tables in a vector")
        start = self._target(self._place(field)) + 4 if len(offsets) else 0
        return [_Table(self.data, start + 4 * i + n) for i, n in enumerate(offsets.tolist())]

    def text(self, field: int) -> str:
        """A string."""
        letters = self.array(field, "u1")
        if len(letters) > TEXT:
            raise ValueError(f"a name of {len(letters)} bytes")
        return letters.tobytes().decode()


@contextmanager
def _model(path: str | os.PathLike[str]) -> Iterator[_Table]:
    """The root table of a file, with errors as `whole` words them."""
    with whole(path, "TensorFlow Lite model") as data:
        yield _Table(data, struct.unpack_from("<I", data)[0])


def _named(model: _Table) -> list[list[tuple[str, _Table]]]:
    """The tensors of each subgraph, each with a name of its own."""
    seen: set[str] = set()
    graphs: list[list[tuple[str, _Table]]] = []
    for graph in model.tables(2):
        graphs.append([])
        for tensor in graph.tables(0):
            name = tensor.text(3)
            name = f"{name}~{len(seen)}" if name in seen else name
            if name in seen or len(seen) == TABLES:
                raise ValueError(f"over {TABLES} tensors, or two of the name {name!r}")
            seen.add(name)
            graphs[-1].append((name, tensor))
    return graphs


def _constant(what: str, tensor: _Table, stored: np.ndarray) -> np.ndarray:
    """A tensor's own bytes as an array, dequantised where it has a scale."""
    kind = tensor.number(1, "b")
    check(kind in DTYPES, "load", f"{what} has a type that NumPy lacks", type=kind)
    check(tensor.table(6) is None, "load", f"{what} is sparse: it is not read")
    values = shaped(numbers(bytearray(stored), DTYPES[kind]), tensor.array(0, "<i4").tolist())
    quantization = tensor.table(4)
    if quantization is None or not quantization.array(2, "<f4").size:
        return values
    rule = f"{what} has a quantisation that is not a scale of integers"
    check(not quantization.number(4, "B") and values.dtype.kind in "iu", "load", rule, type=kind)
    return _dequantised(values, quantization)


def _dequantised(values: np.ndarray, quantization: _Table) -> np.ndarray:
    """scale * (q - zero_point), rounded to float32 once."""
    exact = np.float32 if values.itemsize < 4 else np.float64
    axis = quantization.number(6, "i")
    real = values.astype(exact)
    with np.errstate(over="ignore", invalid="ignore"):  # of damaged scales
        for field, dtype, change in ((3, "<i8", np.subtract), (2, "<f4", np.multiply)):
            numbers = quantization.array(field, dtype).astype(exact)
            around = [1] * values.ndim
            if numbers.size > 1:
                around[axis] = values.shape[axis]
            if numbers.size:
                change(real, shaped(numbers, around), out=real)
        return real.astype(np.float32, copy=False)


def _operator(op: _Table, codes: list[int], names: list[str]) -> Operator:
    ends = [op.array(field, "<i4").tolist() for field in (1, 2)]
    if max(map(len, ends)) > ENDS or min(map(min, filter(None, ends)), default=0) < -1:
        raise ValueError("an operator of impossible tensors")
    inputs, outputs = (tuple(names[i] if i >= 0 else "" for i in end) for end in ends)
    code = codes[op.number(0, "I")]
    return Operator(KINDS.get(code, f"operator {code}"), inputs, outputs)
