"""Writes small weight files of other frameworks, by their formats' descriptions and own packages.

`python tests/golden/make_foreign.py` makes tests/golden/foreign/, the good files of which the
hostile ones are damaged copies; the tests call the writers with drawn arrays. Caffe's protobuf and
Flax's msgpack are written by hand, TensorFlow Lite's FlatBuffers by flatbuffers.Builder, ONNX by
onnx, HDF5 by h5py.
"""

import json
import struct
import zipfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("foreign")

# ---- protobuf, Caffe, ONNX -----------------------------------------------------------------------


def varint(value):
    """A number as protobuf writes it; negative ones as 64 bits."""
    value %= 1 << 64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number, value):
    """One field: an integer as a varint, bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def caffe_blob(array, legacy=False):
    """A BlobProto: float or double data, and BlobShape or the four older sizes."""
    data = field(8 if array.dtype == np.float64 else 5, array.tobytes())
    if legacy:
        sizes = [1] * (4 - array.ndim) + list(array.shape)
        return b"".join(field(i + 1, n) for i, n in enumerate(sizes)) + data
    return field(7, field(1, b"".join(map(varint, array.shape)))) + data


def caffe(layers, old=False, legacy=False):
    """A NetParameter of {name: arrays}; `old`: of V1LayerParameter."""
    net = field(1, b"net")
    name_field, blobs_field, layer_field = (4, 6, 2) if old else (1, 7, 100)
    for name, arrays in layers.items():
        layer = field(name_field, name.encode()) + field(3, b"top")
        layer += b"".join(field(blobs_field, caffe_blob(a, legacy)) for a in arrays)
        net += field(layer_field, layer)
    return net


def onnx_model(tensors):
    """A ModelProto with these TensorProtos as initializers."""
    from onnx import TensorProto, helper

    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "graph", [], [y], initializer=tensors)
    return helper.make_model(graph, producer_name="minidl's tests").SerializeToString()


# ---- msgpack, Flax, .npz -------------------------------------------------------------------------


def msgpack(value):
    """msgpack by its specification, in its longer forms; arrays as Flax writes them."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"\xd9" + bytes([len(value.encode())]) + value.encode()
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, (list, tuple)):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(msgpack, value))
    if isinstance(value, dict):
        items = b"".join(msgpack(k) + msgpack(v) for k, v in value.items())
        return b"\xde" + struct.pack(">H", len(value)) + items
    if isinstance(value, complex):
        return extension(2, msgpack([value.real, value.imag]))
    content = msgpack([list(value.shape), value.dtype.name, value.tobytes()])
    return extension(3 if isinstance(value, np.generic) else 1, content)


def extension(code, content):
    """A msgpack extension."""
    return b"\xc9" + struct.pack(">IB", len(content), code) + content


def chunked(array, size):
    """An array as Flax splits those of over 1 GB, but in chunks of `size` numbers."""
    pieces = [array.reshape(-1)[i : i + size] for i in range(0, array.size, size)]
    numbered = [{str(i): part for i, part in enumerate(parts)} for parts in (array.shape, pieces)]
    return {"__msgpack_chunked_array__": True, "shape": numbered[0], "chunks": numbered[1]}


# ---- TensorFlow Lite -----------------------------------------------------------------------------

TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int8": 9}


def tflite(tensors, operators=(), codes=(3,), **changes):
    """A model of tensors (name, array or shape, {"scale", "zero", "axis"}) and of operators.

    An operator is (index of its code, inputs, outputs, options' type, options' fields as a list of
    (kind, value)). `changes`: {"sparse": True, "outside": True, "details": 1}, and "shared": True,
    one buffer for all.
    """
    import flatbuffers

    b = flatbuffers.Builder()

    def table(*slots):
        b.StartObject(len(slots))
        for slot, (kind, value) in enumerate(slots):
            if value is not None:
                other = int(value == 0 and kind != "UOffsetTRelative")  # so that it is written
                getattr(b, f"Prepend{kind}Slot")(slot, value, other)
        return b.EndObject()

    def offsets(made):
        b.StartVector(4, len(made), 4)
        for one in reversed(made):
            b.PrependUOffsetTRelative(one)
        return ("UOffsetTRelative", b.EndVector())

    def numbers(values, dtype):
        return ("UOffsetTRelative", b.CreateNumpyVector(np.asarray(values, dtype).reshape(-1)))

    none = ("UOffsetTRelative", None)
    outside = ("Uint64", 4096 if changes.get("outside") else None)
    buffers, made = [table()], []
    for name, value, quantization in tensors:
        constant = isinstance(value, np.ndarray)
        if constant and not (changes.get("shared") and len(buffers) > 1):
            buffers.append(table(numbers(np.frombuffer(value.tobytes(), "u1"), "u1"), outside))
        scales = none
        if quantization:
            details = changes.get("details")
            parts = numbers(quantization["scale"], "f4"), numbers(quantization["zero"], "i8")
            empty = ("UOffsetTRelative", table() if details else None)
            axis = ("Int32", quantization["axis"])
            scales = (none[0], table(none, none, *parts, ("Uint8", details), empty, axis))
        shape = numbers(value.shape if constant else value, "i4")
        kind = ("Int8", TYPES[value.dtype.name] if constant else 0)
        sparse = ("UOffsetTRelative", table() if changes.get("sparse") else None)
        number, title = ("Uint32", len(buffers) - 1 if constant else 0), b.CreateString(name)
        slots = shape, kind, number, (none[0], title), scales, ("Bool", False), sparse
        made.append(table(*slots))
    tensors_at = offsets(made)
    made = []
    for code, inputs, outputs, options_type, options in operators:
        ends = numbers(inputs, "i4"), numbers(outputs, "i4")
        chosen = (none[0], table(*options))
        made.append(table(("Uint32", code), *ends, ("Uint8", options_type), chosen))
    operators_at = offsets(made)
    graph = table(tensors_at, none, none, operators_at)
    graphs = offsets([graph])
    kinds = [table(("Int8", min(code, 127)), none, none, ("Int32", code)) for code in codes]
    kinds = offsets(kinds)
    model = table(("Uint32", 3), kinds, graphs, none, offsets(buffers))
    b.Finish(model, file_identifier=b"TFL3")
    return bytes(b.Output())


# ---- Keras ---------------------------------------------------------------------------------------


def keras(path, arrays, config=None):
    """An HDF5 file of arrays by path, with the attributes that Keras 2 gives to a model."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            data = file.create_dataset(name, data=array)
            if array.dtype.name == "bfloat16":
                data.attrs["dtype"] = "bfloat16"
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
            layers = sorted(file["model_weights"]) if "model_weights" in file else []
            file.attrs["layer_names"] = [name.encode() for name in layers]


# ---- the files -----------------------------------------------------------------------------------


def main():
    """Write tests/golden/foreign."""
    rng = np.random.default_rng(6)
    kernel, bias = rng.normal(size=(3, 3, 2, 4)).astype("f4"), rng.normal(size=4).astype("f4")
    FOLDER.mkdir(exist_ok=True)
    nets = {"conv": [kernel, bias], "relu": [], "fc": [bias.astype("f8")]}
    (FOLDER / "new.caffemodel").write_bytes(caffe(nets))
    (FOLDER / "old.caffemodel").write_bytes(caffe(nets, old=True, legacy=True))
    from onnx import TensorProto, helper, numpy_helper

    tensors = [numpy_helper.from_array(kernel, "conv.weight"),
               helper.make_tensor("conv.bias", TensorProto.FLOAT, [4], bias),
               helper.make_tensor("shape", TensorProto.INT64, [3], [1, -1, 300])]  # fmt: skip
    (FOLDER / "model.onnx").write_bytes(onnx_model(tensors))
    tree = {"params": {"conv": {"kernel": kernel, "bias": bias}, "large": chunked(kernel, 25)},
            "step": 7, "scale": np.float32(0.5), "opt": [{"z": 1 + 2j}, None]}  # fmt: skip
    (FOLDER / "model.msgpack").write_bytes(msgpack(tree))
    named = {"conv/kernel": kernel, "conv/bias": bias, "step": np.int64(7)}
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        write = np.savez if method == zipfile.ZIP_STORED else np.savez_compressed
        write(FOLDER / f"{name}.npz", **named)
    by_channel = {"scale": [0.1, 0.2, 0.3, 0.4], "zero": [0, 1, 2, 3], "axis": 3}
    quantised = rng.integers(-128, 128, (3, 3, 2, 4), "i1")
    constants = [("x", (1, 8, 8, 2), None), ("kernel", quantised, by_channel), ("bias", bias, None)]
    options = [("Int8", 0), ("Int32", 2), ("Int32", 2), ("Int8", 3)]
    operators = [(0, [0, 1, 2], [3], 1, options)]
    model = tflite([*constants, ("y", (1, 4, 4, 4), None)], operators)
    (FOLDER / "model.tflite").write_bytes(model)
    config = {"class_name": "Functional", "config": {"layers": [{"class_name": "Conv2D"}]}}
    whole = {"model_weights/conv/conv/kernel:0": kernel, "model_weights/conv/conv/bias:0": bias,
             "optimizer_weights/Adam/iter:0": np.int64(7)}  # fmt: skip
    keras(FOLDER / "whole.h5", whole, config)
    new = {"layers/conv2d/vars/0": kernel, "layers/conv2d/vars/1": bias}
    keras(FOLDER / "new.weights.h5", new)


if __name__ == "__main__":
    main()
