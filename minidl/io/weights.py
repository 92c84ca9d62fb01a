"""`load_weights`: the weights in a file of any framework, as they are or brought into a model."""

import os
from collections.abc import Callable
from typing import Any, overload

import numpy as np

from minidl.dtypes import is_real
from minidl.errors import CheckpointError, DTypeError, MinidlError, require, reworded
from minidl.io import caffe, flax, keras, onnx_files, tflite
from minidl.io.foreign import head_of, mapped
from minidl.io.naming import state_for
from minidl.io.safetensors import check, load_safetensors
from minidl.io.torch_files import is_torch, read_torch
from minidl.nn import Module
from minidl.nn.module import IncompatibleKeys

Path = str | os.PathLike[str]


# Whether a file is of a kind, by its content, and its reader; those that could be mistaken last.
READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Any]]] = {
    "PyTorch": (is_torch, read_torch),
    "NumPy": (flax.matches_npz, flax.read_npz),
    "Keras": (keras.matches, keras.read_keras),
    "TensorFlow Lite": (tflite.matches, tflite.read_tflite),
    "safetensors": (lambda path: head_of(path)[4:9] == b"\0\0\0\0{", load_safetensors),
    "ONNX": (onnx_files.matches, onnx_files.read_onnx),
    "Caffe": (caffe.matches, caffe.read_caffe),
    "Flax": (flax.matches, flax.read_flax),
}


def kind_of(path: Path) -> str:
    """Which of READERS a file is for, by its content. Raises CheckpointError: none, unreadable."""
    kind = next((kind for kind, (matches, _) in READERS.items() if matches(path)), "")
    rule = f"{path} is of no kind that is read ({', '.join(READERS)})"
    check(bool(kind), "load_weights", rule, begins=head_of(path, 16))
    return kind


@overload
def load_weights(path: Path, model: Module, *, strict: bool = ..., dtype: Any = ...
                 ) -> IncompatibleKeys: ...  # fmt: skip
@overload
def load_weights(path: Path, model: None = ..., *, strict: bool = ..., dtype: Any = ...
                 ) -> Any: ...  # fmt: skip
def load_weights(path: Path, model: Module | None = None, *, strict: bool = True,
                 dtype: Any = None) -> Any:  # fmt: skip
    """Read weights of PyTorch, safetensors, Keras, TensorFlow Lite, ONNX, Caffe, Flax or NumPy.

    The kind is found by the file's content. Without a model: the file's own nesting with ndarrays,
    nothing renamed; floats in `dtype` if one is given. With one: names and layouts are turned into
    PyTorch's (`minidl.io.naming` says how, and which order of layers is assumed), and the values
    are copied into the model, in the dtype that it has (float32 unless it was changed), or in
    `dtype`, which the model is then brought to; the result is load_state_dict's. Positions of a
    Vision Transformer for another image size are scaled to the model's (`minidl.io.positions`).

    Nothing in a file is run. Raises one CheckpointError naming the file: unreadable, damaged, of no
    known kind, with layers whose order is unknown; or listing every missing, unexpected and
    wrong-shaped tensor with both shapes (strict=False: wrong shapes only); DTypeError: `dtype` is
    not a floating-point one. Then the model is as it was.
    """
    with reworded(DTypeError, "load_weights: no dtype", TypeError):
        wanted = None if dtype is None else np.dtype(dtype)
    rule = "dtype must be a floating-point one"
    require(wanted is None or is_real(wanted), "load_weights", rule, error=DTypeError, dtype=wanted)
    kind = kind_of(path)
    tree = READERS[kind][1](path)
    if model is None:
        with reworded(CheckpointError, f"load_weights: {path}", RecursionError):
            return tree if wanted is None else mapped(
                tree, lambda a: a.astype(wanted) if is_real(a.dtype) else a)  # fmt: skip
    graph = tflite.read_tflite_graph(path) if kind == "TensorFlow Lite" else ()
    errors = (MinidlError, LookupError, ValueError)  # the latter two of layers unlike any known
    with reworded(CheckpointError, f"load_weights: {path}", *errors):
        state = state_for(kind, tree, model, graph)
        found = model.load_state_dict(state, strict)
    if wanted is not None:
        model.to(dtype=wanted)
        model.load_state_dict(state, strict)  # again: float64 values whole
    return found
