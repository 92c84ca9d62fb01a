"""Checkpoints and safetensors files: what goes in comes out, with the same bytes, never half."""

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.autograd import Tensor, wrap
from minidl.errors import CheckpointError, DeviceError
from minidl.io import load, load_safetensors, save, save_safetensors, write_bytes

DTYPES = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", ">f4"]


@st.composite
def arrays(draw):
    """Small arrays of any dtype, rank, size (0 too) and axis order in memory."""
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    seed = draw(st.integers(0, 1000))
    values = np.random.default_rng(seed).normal(0, 9, shape).astype(draw(st.sampled_from(DTYPES)))
    order = draw(st.permutations(range(len(shape))))
    return values.transpose(order)[..., ::-1] if shape else values


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), arrays()
)
keys = st.one_of(st.text(max_size=4), st.integers(), st.booleans(), st.none())
states = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=12,
)


def same(a, b):
    """Whether two nests are equal in structure, types and values (NaN equals NaN)."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        assert a.dtype.newbyteorder("=") == b.dtype and a.shape == b.shape
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return a == b or (a != a and b != b)


@given(state=states)
def test_any_nest_comes_back_the_same_with_the_same_bytes(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("io") / "state.safetensors"
    save(state, path)
    first = path.read_bytes()
    back = load(path)
    assert same(state, back)
    save(back, path)
    assert path.read_bytes() == first
    assert os.listdir(path.parent) == [path.name]


def test_tensors_scalars_and_loaded_arrays(tmp_path):
    path = tmp_path / "x"
    weight = wrap(np.ones((2, 3), np.float32), True)
    save({"w": weight, "s": np.float32(0.1), "v": wrap(np.arange(3))}, path)
    back = load(path)
    assert isinstance(back["w"], Tensor) and back["w"].requires_grad
    assert not back["v"].requires_grad and back["v"].tolist() == [0, 1, 2]
    assert type(back["s"]) is np.float32 and back["s"] == np.float32(0.1)
    back["w"].array += 1  # writable


def test_pytorchs_options_of_load_are_taken(tmp_path):
    save({"w": wrap(np.ones(2))}, tmp_path / "x")
    for options in ({"map_location": "cpu", "weights_only": True}, {"weights_only": False}):
        assert load(tmp_path / "x", **options)["w"].tolist() == [1, 1]
    with pytest.raises(DeviceError, match="device: must be 'cpu' or 'cuda'"):
        load(tmp_path / "x", "gpu")


def test_channels_last_is_stored_in_logical_order_and_readable_by_the_library(tmp_path):
    from safetensors.numpy import load_file, save_file

    x = np.arange(120, dtype=np.float32).reshape(2, 4, 5, 3).transpose(0, 3, 1, 2)
    save_safetensors({"b": x, "a": wrap(x)}, tmp_path / "x", {"k": "v", "a": "é"})
    for name, read in load_file(tmp_path / "x").items():
        assert np.array_equal(read, x) and name in "ab"
    save_file({"y": np.ascontiguousarray(x)}, tmp_path / "y", {"format": "pt"})
    assert np.array_equal(load_safetensors(tmp_path / "y")["y"], x)
    with pytest.raises(CheckpointError, match=r"y was not written by save; see load_safetensors"):
        load(tmp_path / "y")


def test_bfloat16_widens_exactly_without_ml_dtypes(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    bits = np.array([[0x3F80, 0xC049], [0x7F80, 0x0001]], "<u2")  # 1, -3.140625, inf, 2^-133
    header = {"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + bits.tobytes())
    read = load_safetensors(tmp_path / "x")["x"]
    expected = np.array([[1, -3.140625], [np.inf, 2.0**-133]], np.float32)
    assert read.dtype == np.float32 and np.array_equal(read, expected)


def test_every_damaged_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "state.safetensors"
    save({"a": np.arange(10), "b": "text"}, path)
    whole = path.read_bytes()
    for size in [0, 4, 20, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=rf"state.safetensors \({size} bytes\)"):
            load(path)
    path.write_bytes(b"PK\3\4" + b"zip" * 50)
    with pytest.raises(CheckpointError, match="state.safetensors"):
        load(path)
    path.write_bytes(whole.replace(b'\\"format\\":1', b'\\"format\\":9'))
    with pytest.raises(CheckpointError, match=r"another format than 1.*got format 9"):
        load(path)
    path.write_bytes(whole.replace(b'\\"root\\":', b'\\"toor\\":'))
    with pytest.raises(CheckpointError, match="structure stored in .*state.safetensors is damaged"):
        load(path)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match=f"cannot read {missing}: "):
            load_safetensors(missing)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, r"a\.1 is of a type"),
        ({(1, 2): 3}, "a key in the object"),
        ({"x": {"y": np.array(["s"])}}, r"'x\.y' has no safetensors dtype"),
        (json, "the object is of a type"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named(tmp_path, value, message):
    with pytest.raises(CheckpointError, match=message):
        save(value, tmp_path / "x")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (
            {"a": np.ones(2)},
            {"n": 1},
            r"metadata must map strings to strings; got metadata .'n': 1",
        ),
        ({"__metadata__": np.ones(2)}, None, r"tensor '__metadata__' must be an array .*its name"),
        ({3: np.ones(2)}, None, r"save_safetensors: tensor 3 must be an array .*its name a string"),
        ({"a": "text"}, None, r"save_safetensors: tensor 'a' must be an array .*got value 'text'"),
        ({"a\udc80": np.ones(2)}, None, r"names and metadata must be valid Unicode: .*\\udc80"),
        ({"a": np.ones(2)}, {"n": "\udc80"}, "names and metadata must be valid Unicode"),
    ],
)
def test_what_safetensors_cannot_hold_is_named(tmp_path, tensors, metadata, message):
    """Some of it was written, as a file that nothing could read."""
    with pytest.raises(CheckpointError, match=message):
        save_safetensors(tensors, tmp_path / "x", metadata)
    assert not os.listdir(tmp_path)


def test_scalars_of_numpy_are_arrays_without_axes(tmp_path):
    """What arithmetic makes of such an array was refused: no backend for float64."""
    save_safetensors({"count": 2 * np.array(3.5)}, tmp_path / "x")
    count = load_safetensors(tmp_path / "x")["count"]
    assert isinstance(count, np.ndarray) and count.shape == () and count == 7


def stored(path, root):
    """A file whose structure is the JSON text `root`."""
    save_safetensors({}, path, {"minidl": '{"format":1,"root":' + root + "}"})


@pytest.mark.parametrize("root", ["{}", '{"dict":[[{},1]]}', '{"list":[' * 9999 + "]}" * 9999])
def test_a_crafted_structure_is_damage(tmp_path, root):
    """An empty object ended as StopIteration, a deep nest as RecursionError."""
    stored(tmp_path / "x", root)
    with pytest.raises(CheckpointError, match="the structure stored in .*x is damaged"):
        load(tmp_path / "x")


def test_an_entry_of_an_unknown_kind_is_damage(tmp_path):
    """The error did not name the file."""
    root = '{"format":1,"root":{"table":"a"}}'
    save_safetensors({"a": np.zeros(2)}, tmp_path / "x", {"minidl": root})
    with pytest.raises(CheckpointError, match="stored in .*x is damaged: .* kind 'table'"):
        load(tmp_path / "x")


def test_a_tensor_of_too_many_axes_is_damage(tmp_path):
    head = b'{"a":{"dtype":"F32","shape":[' + b"1," * 69 + b'1],"data_offsets":[0,4]}}'
    (tmp_path / "x").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(CheckpointError, match=r"x \(\d+ bytes\) is not a whole safetensors file"):
        load_safetensors(tmp_path / "x")


def test_a_list_that_holds_itself_is_refused(tmp_path):
    endless: list = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="save: the object is nested too deeply"):
        save(endless, tmp_path / "x")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_only_files_are_replaced(tmp_path):
    """As root, writing to a device put a file in its place."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(CheckpointError, match="save: .* is not a file"):
            save({}, tmp_path / name)
    assert (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_a_name_that_cannot_be_looked_up_is_worded(tmp_path):
    """Asking whether it is a file raised a bare OSError."""
    with pytest.raises(CheckpointError, match="cannot write .*: File name too long"):
        save({}, tmp_path / ("a" * 300))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's list of open files")
def test_no_file_stays_open(tmp_path):
    save({"a": np.ones(3)}, tmp_path / "x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        save({"a": np.ones(3)}, tmp_path / "x")
        load(tmp_path / "x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_is_followed(tmp_path):
    """It was replaced by the file, and what it named stayed old."""
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "x", tmp_path / "link"
    save(1, target)
    link.symlink_to(target)
    save(2, link)
    assert link.is_symlink() and load(target) == 2
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


def test_a_full_disk_leaves_the_previous_file_whole(tmp_path):
    path = tmp_path / "state"
    save({"x": np.zeros(100)}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CheckpointError, match=f"cannot write {path}: File too large"):
            save({"x": np.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["state"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="nowhere/x: No such file"):
        save({}, tmp_path / "nowhere" / "x")
    save({"a": 1}, tmp_path / "x")
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:  # root may write anywhere: let the system refuse in its name

        def refuse(source, target):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(CheckpointError, match="x: Permission denied"):
        save({"a": 2}, tmp_path / "x")
    tmp_path.chmod(0o700)
    assert load(tmp_path / "x") == {"a": 1} and os.listdir(tmp_path) == ["x"]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    def pieces():
        yield b"half"
        raise KeyboardInterrupt

    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "x", pieces())
    assert (tmp_path / "x").read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_writers_of_longer_names_are_left_alone(tmp_path):
    """A save to `x` deleted what was being written to `x.best`, which then failed."""

    def pieces():
        write_bytes(tmp_path / "x", [b"one"])
        yield b"two"

    write_bytes(tmp_path / "x.best", pieces())
    assert (tmp_path / "x.best").read_bytes() == b"two" and len(os.listdir(tmp_path)) == 2


def test_killed_at_any_moment_the_file_is_whole(tmp_path):
    path = tmp_path / "state"
    script = (
        "import sys, numpy as np\nfrom minidl.io import save\n"
        "for i in range(10**6): save({'i': i, 'x': np.full(200_000, i)}, sys.argv[1])\n"
    )
    save({"i": -1, "x": np.full(2, -1)}, path)
    for wait in (0.05, 0.013, 0.031):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)])
        deadline = time.monotonic() + 20
        inode = path.stat().st_ino
        while path.stat().st_ino == inode and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = load(path)
        assert state["i"] >= 0 and (state["x"] == state["i"]).all()
    save({"i": 0}, path)
    assert os.listdir(tmp_path) == ["state"]  # what the killed ones left is gone
