"""TensorFlow Lite models: constants come back dequantised, operators in order, nothing else."""

import hostile
import numpy as np
import pytest
from foreign_cases import arrays, refused, same, written
from hypothesis import given
from hypothesis import strategies as st

from golden import make_foreign as make
from minidl.io import tflite

pytest.importorskip("flatbuffers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for files that every drawn example writes anew."""
    return tmp_path_factory.mktemp("foreign")


@st.composite
def quantised(draw):
    """An integer array, and its scales and zero points: one, or one a slice of some axis."""
    array = draw(arrays(["i1", "u1", "i4"]).filter(lambda a: a.size))
    axis = draw(st.integers(0, array.ndim - 1)) if array.ndim and draw(st.booleans()) else 0
    count = array.shape[axis] if array.ndim and draw(st.booleans()) else 1
    scale = draw(st.lists(st.floats(2**-20, 10, width=32), min_size=count, max_size=count))
    zero = draw(st.lists(st.integers(-128, 255), min_size=count, max_size=count))
    return array, {"scale": scale, "zero": zero, "axis": axis}


@given(one=quantised(), plain=arrays(["f4", "f2", "i4", "i8", "?", "i1"]))
def test_tflite_dequantises(folder, one, plain):
    array, how = one
    tensors = [("q", array, how), ("p", plain, None), ("q", plain, None), ("y", (2, 3), None)]
    path = written(folder, make.tflite(tensors))
    back = tflite.read_tflite(path)
    along = np.moveaxis(array.astype("f8"), how["axis"], -1) if array.ndim else array.astype("f8")
    real = np.float64(np.float32(how["scale"])) * (along - np.float64(how["zero"]))
    expected = np.moveaxis(real, -1, how["axis"]) if array.ndim else real.reshape(())
    assert back["q"].dtype == np.float32
    np.testing.assert_array_equal(back["q"], expected.astype("f4"))
    assert set(back) == ({"q", "p", "q~2"} if plain.size else {"q"})
    assert not plain.size or same({"a": plain, "b": plain}, {"a": back["p"], "b": back["q~2"]})
    assert tflite.matches(path)


def test_tflite_graph(tmp_path):
    tensors = [(name, (1,), None) for name in "xwyz"] + [("y", (1,), None)]
    conv = [("Int8", 1), ("Int32", 3), ("Int32", 2), ("Int8", 1)]
    depthwise = [("Int8", 0), ("Int32", 1), ("Int32", 2), ("Int32", 1), ("Int8", 3)]
    operators = [(0, [0, 1, -1], [2], 1, conv), (1, [2, 1], [3], 2, depthwise),
                 (2, [3, 2], [4], 11, [("Int8", 1)]), (3, [4], [0], 200, [])]  # fmt: skip
    path = written(tmp_path, make.tflite(tensors, operators, codes=(3, 4, 0, 150)))
    assert tflite.read_tflite_graph(path) == [
        ("conv_2d", ("x", "w", ""), ("y",)),
        ("depthwise_conv_2d", ("y", "w"), ("z",)),
        ("operator 0", ("z", "y"), ("y~4",)),
        ("operator 150", ("y~4",), ("x",)),
    ]


def test_what_tflite_refuses(tmp_path):
    how = {"scale": [1.0, 2.0], "zero": [0, 0], "axis": 0}
    array = np.int8([1, 2])
    cases = {
        "sparse": make.tflite([("x", array, how)], sparse=True),
        "outside": make.tflite([("x", array, how)], outside=True),
        "quantisation": make.tflite([("x", array, how)], details=1),
        "scale of integers": make.tflite([("x", np.float32([1, 2]), how)]),
        "have not the shape": make.tflite([("x", np.int8([1, 2, 3]), how)]),
        "not a whole": make.tflite([("x", array, how | {"axis": 5})]),
        "bytes": make.tflite([("n" * 5000, array, how)]),
    }
    for words, content in cases.items():
        refused(tmp_path, tflite.read_tflite, content, words)
    operator = (0, [0, 9], [0], 1, [])
    graph = make.tflite([("x", array, None)], [operator])
    refused(tmp_path, tflite.read_tflite_graph, graph, "index out of range")
    operator = (0, [0, -2], [0], 1, [])
    graph = make.tflite([("x", array, None)], [operator])
    refused(tmp_path, tflite.read_tflite_graph, graph, "impossible tensors")


def test_tflite_tensors_that_share_bytes_do_not_fill_memory(tmp_path, monkeypatch):
    """A table of many tensors over one large buffer, in a small file."""
    monkeypatch.setattr(tflite, "SLACK", 0)
    content = make.tflite([(f"x{i}", np.zeros(1000, "f4"), None) for i in range(40)], shared=True)
    refused(tmp_path, tflite.read_tflite, content, "share bytes")


@pytest.mark.parametrize("name", ["tflite", "tflite_graph"])
def test_hostile_files(name):
    print(hostile.survive(name))


def test_the_real_tflite_file(real_data):
    path = real_data / "weights" / "mobilenet_v2_1.0_224_int8.tflite"
    found, graph = tflite.read_tflite(path), tflite.read_tflite_graph(path)
    assert len(found) == 108
    convolutions = [op for op in graph if op.kind in ("conv_2d", "depthwise_conv_2d")]
    assert len(convolutions) == 53 and sum(op.kind == "operator 0" for op in graph) == 10
    for op in convolutions:
        kernel, bias = (found[name] for name in op.inputs[1:])
        depthwise = op.kind == "depthwise_conv_2d"
        rows = np.moveaxis(kernel, 3 if depthwise else 0, 0).reshape(len(bias), -1)
        steps = np.abs(rows).max(1, keepdims=True) / 127  # an output channel's scale; 0: unused
        whole = rows / np.where(steps, steps, 1)
        assert np.abs(whole - np.rint(whole)).max() < 1e-4
        assert kernel.dtype == bias.dtype == np.float32
