"""Weights of Caffe, ONNX, Flax and NumPy: what was written comes back, nothing else."""

import importlib.util
import io
import struct
import zipfile

import hostile
import ml_dtypes
import numpy as np
import pytest
from foreign_cases import arrays, names, refused, same, written
from hypothesis import given
from hypothesis import strategies as st

from golden import make_foreign as make
from minidl.errors import CheckpointError
from minidl.io import caffe, flax, keras, onnx_files, protobuf, tflite
from minidl.io.foreign import nest

READERS = {
    ".caffemodel": caffe.read_caffe, ".onnx": onnx_files.read_onnx, ".tflite": tflite.read_tflite,
    ".msgpack": flax.read_flax, ".npz": flax.read_npz, ".h5": keras.read_keras,
}  # fmt: skip
GOOD = sorted(make.FOLDER.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for files that every drawn example writes anew."""
    return tmp_path_factory.mktemp("foreign")


# ---- what was written comes back -----------------------------------------------------------------


@given(
    layers=st.dictionaries(names, st.lists(arrays(["f4", "f8"]), max_size=3), max_size=3),
    old=st.booleans(),
    legacy=st.booleans(),
)
def test_caffe(folder, layers, old, legacy):
    layers["last"] = [np.float32([1.5, -2])]
    path = written(folder, make.caffe(layers, old, legacy))
    expected = {
        name: {str(i): a.reshape((1,) * (4 - a.ndim) + a.shape) if legacy else a
               for i, a in enumerate(blobs)}
        for name, blobs in layers.items() if blobs
    }  # fmt: skip
    assert same(expected, caffe.read_caffe(path))
    assert caffe.matches(path) and not onnx_files.matches(path)


ONNX_TYPES = {
    "f4": 1, "u1": 2, "i1": 3, "u2": 4, "i2": 5, "i4": 6, "i8": 7, "?": 9, "f2": 10, "f8": 11,
    "u4": 12, "u8": 13, "c8": 14, "c16": 15,
}  # fmt: skip


@given(drawn=st.dictionaries(names, st.tuples(arrays(), st.booleans()), max_size=4))
def test_onnx_raw_and_typed(folder, drawn):
    onnx = pytest.importorskip("onnx")
    tensors = []
    for name, (array, raw) in drawn.items():
        kind = ONNX_TYPES[array.dtype.str[1:] if array.dtype != bool else "?"]
        content = array.tobytes() if raw else array.reshape(-1)
        tensors.append(onnx.helper.make_tensor(name, kind, array.shape, content, raw=raw))
    path = written(folder, make.onnx_model(tensors))
    expected = {name: array for name, (array, _) in drawn.items()}
    assert same(expected, onnx_files.read_onnx(path))
    assert onnx_files.matches(path) and not caffe.matches(path)


@pytest.mark.parametrize("raw", [True, False])
def test_onnx_bfloat16(tmp_path, raw):
    onnx = pytest.importorskip("onnx")
    array = np.array([[1.5, -2.25, 1e30]], ml_dtypes.bfloat16)
    tensor = onnx.TensorProto(name="x", data_type=16, dims=[1, 3])
    if raw:
        tensor.raw_data = array.tobytes()
    else:
        tensor.int32_data.extend(array.view("u2").reshape(-1).tolist())
    back = onnx_files.read_onnx(written(tmp_path, make.onnx_model([tensor])))
    assert same({"x": array}, back)


flax_dicts = st.recursive(
    st.dictionaries(names, arrays(), min_size=1, max_size=3),
    lambda inner: st.dictionaries(names, inner, min_size=1, max_size=2),
    max_leaves=4,
)


@given(tree=flax_dicts, large=arrays().filter(lambda a: a.size), size=st.integers(1, 5))
def test_flax(folder, tree, large, size):
    pytest.importorskip("msgpack")
    halves = np.array([[0.5], [3.0]], ml_dtypes.bfloat16)
    whole = {"tree": tree, "half": halves, "step": 3, "z": 1 + 2j, "scalar": np.float32(2)}
    stored = whole | {"large": make.chunked(large, size), "none": None, "list": [1.5, {}, "text"]}
    path = written(folder, make.msgpack(stored))
    expected = whole | {"large": large, "list": {"0": np.float64(1.5), "1": {}, "2": None}}
    del expected["list"]["2"]  # as the None: no array
    back = flax.read_flax(path)
    assert same(expected, {key: back[key] for key in expected}) and "none" not in back
    assert flax.matches(path)


def test_flax_reads_what_the_package_writes(tmp_path):
    """Short forms too: fixmap, fixstr, fixext."""
    msgpack = pytest.importorskip("msgpack")
    packed = msgpack.packb(([2], "float32", np.float32([1, 2]).tobytes()))
    stored = msgpack.packb({"params": {"w": msgpack.ExtType(1, packed)}, "step": 1})
    path = written(tmp_path, stored)
    expected = {"params": {"w": np.float32([1, 2])}, "step": np.int64(1)}
    assert same(expected, flax.read_flax(path)) and flax.matches(path)


@given(
    drawn=st.dictionaries(names, arrays(), max_size=4),
    deflated=st.booleans(),
    fortran=st.booleans(),
    big_endian=st.booleans(),
)
def test_npz(folder, drawn, deflated, fortran, big_endian):
    stored = {f"group/{k}": np.asarray(a, order="F" if fortran else "C") for k, a in drawn.items()}
    if big_endian:
        stored = {k: a.astype(a.dtype.newbyteorder(">")) for k, a in stored.items()}
    halves = np.array([1.5, -3], ml_dtypes.bfloat16)
    path = folder / "file.npz"
    (np.savez_compressed if deflated else np.savez)(path, **stored, halves=halves)
    expected = ({"group": drawn} if drawn else {}) | {"halves": halves}
    assert same(expected, flax.read_npz(path))
    assert flax.matches_npz(path)


# ---- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.name)
def test_kinds_are_told_apart_and_short_files_named(path, tmp_path):
    pytest.importorskip({".h5": "h5py", ".msgpack": "msgpack"}.get(path.suffix, "numpy"))
    found = {".caffemodel": caffe.matches(path), ".onnx": onnx_files.matches(path),
             ".tflite": tflite.matches(path), ".msgpack": flax.matches(path),
             ".npz": flax.matches_npz(path), ".h5": keras.matches(path)}  # fmt: skip
    assert [kind for kind, yes in found.items() if yes] == [path.suffix]
    cuts = (0, 600) if path.suffix == ".h5" else range(0, 300, 7)
    for cut in cuts:
        short = written(tmp_path, path.read_bytes()[:cut], f"cut_{cut}{path.suffix}")
        with pytest.raises(CheckpointError, match=short.name):
            READERS[path.suffix](short)
    with pytest.raises(CheckpointError, match=r"nowhere.*No such file"):
        READERS[path.suffix](tmp_path / "nowhere")
    for content in (b"", b"\x80\x02}q\x00X\x03"):  # the latter a pickle
        other = written(tmp_path, content)
        assert not flax.matches(other) and not tflite.matches(other)


def test_what_onnx_refuses(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    external = onnx.TensorProto(name="far", data_type=1, dims=[2], data_location=1)
    external.external_data.add(key="location", value="../../secret")
    cases = {
        "'far' is in another file": [external],
        "type that NumPy lacks; got data_type 8": [onnx.helper.make_tensor("s", 8, [1], [b"x"])],
        "have not the shape": [onnx.TensorProto(name="x", data_type=1, dims=[2], float_data=[1])],
        r"shape \(-1,\)": [onnx.TensorProto(name="x", data_type=1, dims=[-1], float_data=[1])],
        r"shape \(1099511627776,\)": [onnx.TensorProto(name="x", data_type=1, dims=[2**40])],
        "two initializers": [onnx.TensorProto(name="x", data_type=1, dims=[0])] * 2,
    }
    for words, tensors in cases.items():
        refused(tmp_path, onnx_files.read_onnx, make.onnx_model(tensors), words)
    model = onnx.ModelProto()
    model.graph.sparse_initializer.add()
    refused(tmp_path, onnx_files.read_onnx, model.SerializeToString(), "sparse")
    monkeypatch.setattr(protobuf, "VARINTS", 1000)
    many = make.field(7, make.field(5, make.field(7, b"\1" * 1001) + make.field(2, 7)))
    refused(tmp_path, onnx_files.read_onnx, many, "packed integers")


def test_what_caffe_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(protobuf, "FIELDS", 100)
    blob, name = make.caffe_blob(np.float32([1])), make.field(1, b"conv")
    layer = make.field(100, name + make.field(7, blob))
    cases = {
        "two layers are called 'conv'": layer + layer,
        "no layers": make.field(1, b"net"),
        "first format": make.field(2, make.field(1, b"layer")),
        "have not the shape": make.field(100, name + make.field(7, make.field(1, 3) + blob)),
        "wire type 3": layer + b"\x0b",
        "without end": layer + b"\xff" * 20,
        "5 bytes behind": layer + b"\x0a\x05",
        "over 100 fields": make.field(100, b"\x08\x01" * 101),
    }
    for words, content in cases.items():
        refused(tmp_path, caffe.read_caffe, content, words)


def test_what_flax_refuses(tmp_path):
    msgpack = pytest.importorskip("msgpack")

    def ext(*parts):
        return make.msgpack({"x": 0})[:-9] + make.extension(1, make.msgpack(list(parts)))

    deep = {"x": 1}
    for _ in range(70):
        deep = {"a": deep}
    cases = {
        "must hold a dict": make.msgpack([1]),
        "extension 9": msgpack.packb({"x": msgpack.ExtType(9, make.msgpack([[1], "a", b""]))}),
        "not a whole": ext([1], "object", b"12345678"),
        "have not the shape": ext([-1], "float32", b"12345678"),
        r"shape \(1099511627776,\)": ext([2**40], "float32", b"1234"),
        "bytes-like": ext([2**40], "uint8", 2**40),
        "chunks": make.msgpack({"x": make.chunked(np.zeros(3), 2) | {"chunks": {"0": 1}}}),
        "64 deep": make.msgpack(deep),
        "Timestamp": msgpack.packb({"x": msgpack.Timestamp(1)}),
        "max_array_len": b"\x81\xa1x" + b"\xdd\x7f\xff\xff\xff",
        "dicts and lists": b"\x81\xa1x\xdc\0\x10" + (b"\xdc\x60\0" + b"\x80" * 0x6000) * 16,
    }
    for words, content in cases.items():
        refused(tmp_path, flax.read_flax, content, words)


def npz(content, name="x.npy", method=zipfile.ZIP_STORED):
    """A zip archive of one member."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def npy(header, content=b""):
    """A .npy file with this header."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + content


def test_what_npz_refuses(tmp_path):
    pickled = io.BytesIO()
    np.savez(pickled, x=np.array([print], object))
    head = "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }"
    good = npz(npy(head % ("<f4", "1,"), b"1234"))
    encrypted = bytearray(good)
    for place in (6, good.index(b"PK\1\2") + 8):
        encrypted[place] |= 1
    cases = {
        "no array of numbers": pickled.getvalue(),
        r"shape \(1099511627776,\)": npz(npy(head % ("<f4", "1099511627776,"))),
        "not the shape": npz(npy(head % ("<f4", "3,"), b"1234")),
        "array of numbers": npz(npy(head % ("<U4", "1,"), b"1234")),
        "got ": npz(npy(head % ("|V4", "1,"), b"1234")),
        "member 'x' is no array": npz(npy("{'descr': __import__('os').system('false'), }")),
        "encrypted": bytes(encrypted),
        "packed as NumPy": npz(b"", method=zipfile.ZIP_LZMA),
        "is an array too": two_members("a.npy", "a/b.npy"),
        "not a zip": b"PK\3\4",
    }
    for words, content in cases.items():
        refused(tmp_path, flax.read_npz, content, words)


def two_members(*names):
    """A zip archive with the same array under several names."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            head = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"
            archive.writestr(name, npy(head, b"1234"))
    return packed.getvalue()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(flax, "SLACK", 2**20)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    content = npz(bytes(2**21), method=zipfile.ZIP_DEFLATED)
    refused(tmp_path, flax.read_npz, content, "far larger")


def test_nest_names_clashes():
    with pytest.raises(CheckpointError, match="'a' in 'a/b' is an array too"):
        nest("file", {"a": np.ones(1), "a/b": np.ones(1)})
    with pytest.raises(CheckpointError, match="two arrays have the place 'a'"):
        nest("file", {"a/b": np.ones(1), "a": np.ones(1)})


@pytest.mark.parametrize("package, suffix", [("msgpack", ".msgpack"), ("h5py", ".h5")])
def test_a_missing_package_is_named(package, suffix, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (path, *_) = [p for p in GOOD if p.suffix == suffix]
    with pytest.raises(CheckpointError, match=rf"{package}; pip install 'minidl\[convert\]'"):
        READERS[suffix](path)


@pytest.mark.parametrize("name", ["caffe", "onnx", "flax", "npz"])
def test_hostile_files(name):
    print(hostile.survive(name))
