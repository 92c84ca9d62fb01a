"""Caffe's .caffemodel: the blobs of every layer, read from the protobuf wire format.

Numbers of fields: https://github.com/BVLC/caffe/blob/master/src/caffe/proto/caffe.proto.
"""

import os

import numpy as np

from minidl.io.foreign import shaped, whole
from minidl.io.protobuf import LENGTH, VARINT, by_number, first_fields, varints
from minidl.io.safetensors import check

LAYER, OLD_LAYER = 100, 2  # of NetParameter; each with its fields "name" and "blobs"
NAMES = {LAYER: (1, 7), OLD_LAYER: (4, 6)}
OLDEST = 1  # in an old layer: the layer of a still older format
SIZES, FLOATS, SHAPE, DOUBLES = (1, 2, 3, 4), 5, 7, 8  # of BlobProto
NET = {1, 2, 3, 4, 5, 6, 7, 8, 100}  # fields of NetParameter


def matches(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts as a NetParameter does: layers, no number first, no graph as ONNX."""
    found = first_fields(path)
    layers, others = {(LAYER, LENGTH), (OLD_LAYER, LENGTH)}, {(1, VARINT), (7, LENGTH)}
    return bool(layers & found) and not others & found and {n for n, _ in found} <= NET


def read_caffe(path: str | os.PathLike[str]) -> dict[str, dict[str, np.ndarray]]:
    """The blobs of a Caffe net, {layer: {"0": array, "1": …}}, float32 (float64 where stored so).

    Layers without blobs are left out. Blobs of files older than BlobShape have the four axes (num,
    channels, height, width). Raises CheckpointError naming the file when it is unreadable, cut
    short, malformed, or when two layers with blobs have the same name.
    """
    layers: dict[str, dict[str, np.ndarray]] = {}
    with whole(path, ".caffemodel") as net:
        found = by_number(net)
        check(LAYER in found or OLD_LAYER in found, "load", f"{path}: no Caffe net: no layers")
        for kind, (name_field, blobs_field) in NAMES.items():
            for message in found.get(kind, []):
                layer = by_number(message)
                oldest = kind == OLD_LAYER and OLDEST in layer
                fix = "convert it with Caffe's upgrade_net_proto_binary"
                check(not oldest, "load", f"{path} has layers of Caffe's first format", fix=fix)
                name = str(layer.get(name_field, [b""])[-1], "utf-8")
                if blobs := layer.get(blobs_field):
                    check(name not in layers, "load", f"{path}: two layers are called {name!r}")
                    layers[name] = {str(index): _blob(blob) for index, blob in enumerate(blobs)}
    return layers


def _blob(message: memoryview) -> np.ndarray:
    """The array of a BlobProto."""
    blob = by_number(message)
    if blob.keys() & set(SIZES):
        shape = [int(varints(blob[n][-1])[0]) if n in blob else 0 for n in SIZES]
    else:
        axes = by_number(blob[SHAPE][-1]) if SHAPE in blob else {}
        shape = varints(b"".join(axes.get(1, []))).tolist()
    field, dtype = (DOUBLES, "<f8") if DOUBLES in blob else (FLOATS, "<f4")
    return shaped(np.frombuffer(bytearray(b"".join(blob.get(field, []))), dtype), shape)
