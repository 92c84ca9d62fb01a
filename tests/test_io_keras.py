"""Keras' HDF5 files: what was written comes back; code and other files stay out; crashes too."""

import json
import os

import hostile
import ml_dtypes
import numpy as np
import pytest

from golden import make_foreign as make
from minidl.errors import CheckpointError
from minidl.io import keras
from minidl.io.keras import read_keras

h5py = pytest.importorskip("h5py")
ONES = np.ones((2, 3), "f4")


def flat(nested, place=""):
    """{"a/b": array} of a nest."""
    found = {}
    for name, item in nested.items():
        if name not in ("model_config", "layer_names"):
            inner = f"{place}{name}"
            found |= flat(item, f"{inner}/") if isinstance(item, dict) else {inner: item}
    return found


def refused(path, words):
    """Assert that a file is refused with these words, and named."""
    with pytest.raises(CheckpointError, match=words) as caught:
        read_keras(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("seed", range(3))
def test_arrays_come_back(seed, tmp_path):
    rng = np.random.default_rng(seed)
    arrays = {}
    for index, dtype in enumerate("f4 f8 f2 i1 i4 i8 u1 u8 ? c8 >f4".split()):
        shape = rng.integers(0, 4, rng.integers(0, 5))
        place = "/".join(rng.choice(list("abc"), rng.integers(1, 4)))
        arrays[f"{place}/x{index}:0"] = rng.normal(0, 50, shape).astype(dtype)
    arrays["half/0"] = rng.normal(size=3).astype(ml_dtypes.bfloat16)
    config = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense"}]}}
    make.keras(tmp_path / "a.h5", arrays, config)
    back = read_keras(tmp_path / "a.h5")
    assert back["model_config"] == config
    found = flat(back)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_packed_data(tmp_path):
    data = np.arange(1000.0).reshape(10, 100)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        how = {"shuffle": True, "fletcher32": True, "chunks": (3, 30)}
        file.create_dataset("deflate", data=data, compression="gzip", **how)
        file.create_dataset("lzf", data=data, compression="lzf")
        file.create_dataset("zeros", shape=(5, 7), dtype="f4")  # without storage
    found = read_keras(tmp_path / "a.h5")
    assert np.array_equal(found["deflate"], data) and np.array_equal(found["lzf"], data)
    assert not found["zeros"].any()


@pytest.mark.parametrize("kind", ["S9", "O"])
@pytest.mark.parametrize("group", ["", "model_weights"])
def test_the_order_of_layers(kind, group, tmp_path):
    """Text of a fixed length or of any, at the root (weights alone) or with the whole model's."""
    names = ["zebra", "b/c", "été" if kind == "O" else "a"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        place = file.require_group(group) if group else file
        for name in names:
            place[f"{name}/kernel:0"] = ONES
        place.attrs["layer_names"] = np.array(names, h5py.string_dtype() if kind == "O" else kind)
    back = read_keras(tmp_path / "a.h5")
    assert back["layer_names"] == names and len(flat(back)) == 3


@pytest.mark.parametrize("name", ["layer_names", "model_config"])
def test_a_group_called_as_an_attribute(name, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[f"{name}/x"] = ONES
    assert [*read_keras(tmp_path / "a.h5")] == [name]
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs[name] = json.dumps({"a": 1})
    refused(tmp_path / "a.h5", f"{name} is a group too")


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Lambda", "config": {"function": ["4wEAAA==", None, None]}},
        {"class_name": "Dense", "config": {"activation": {"class_name": "__lambda__"}}},
    ],
)
def test_lambda_layers_are_refused(layer, tmp_path):
    make.keras(tmp_path / "a.h5", {"w": ONES}, {"config": {"layers": [layer]}})
    refused(tmp_path / "a.h5", "Lambda layer")


@pytest.mark.parametrize("text, words", [("{", "as HDF5"), ("[" * 9999, "no JSON")])
def test_configurations_that_are_no_json(text, words, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["model_config"] = text
    refused(tmp_path / "a.h5", words)


def elsewhere(file):
    """A link to another file."""
    file["x"] = h5py.ExternalLink("secret.h5", "/w")


def soft(file):
    """A link by name."""
    file["x"] = h5py.SoftLink("/w")


def virtual(file):
    """A data set assembled from another file's."""
    layout = h5py.VirtualLayout(shape=(2, 3), dtype="f4")
    layout[:] = h5py.VirtualSource("secret.h5", "w", shape=(2, 3))
    file.create_virtual_dataset("x", layout)


def raw(file):
    """A data set whose bytes are any other file's."""
    file.create_dataset("x", (4,), "u1", external=[("secret.h5", 0, 4)])


def huge(file):
    """A data set of 1 TB, stored nowhere."""
    file.create_dataset("x", (2**20, 2**18), "f4")


def text(file):
    """A data set of strings."""
    file["x"] = ["a", "b"]


def nothing(file):
    """A data set without a shape."""
    file["x"] = h5py.Empty("f4")


def unknown_filter(file):
    """Data packed by a filter that HDF5 would look for in a plug-in."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((2,))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, plan)


def ring(file):
    """A group within itself, which is no error: each array comes once."""
    file["group/inner"] = file["/"]
    file["x"] = h5py.SoftLink("/group/inner/group")


REASONS = {
    elsewhere: "'x' is a link to elsewhere", soft: "'x' is a link to elsewhere",
    virtual: "'x' are in other files", raw: "'x' are in other files", huge: "far larger",
    text: "no numbers", nothing: "no numbers", unknown_filter: "'x' is packed with filters",
    ring: "'x' is a link",
}  # fmt: skip


@pytest.mark.parametrize(
    "make_bad, words", REASONS.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_what_leads_elsewhere_or_is_no_array(make_bad, words, tmp_path):
    make.keras(tmp_path / "secret.h5", {"w": ONES})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["w"] = ONES
        make_bad(file)
    refused(tmp_path / "a.h5", words)


@pytest.mark.parametrize(
    "body, words",
    [
        ("import os; os.kill(os.getpid(), 11)", "reader ended: Segmentation fault"),
        ("import time; time.sleep(9)", "not done after 1 s"),
        ("while True: pass", "reader ended: CPU time limit exceeded"),
        ("x = bytes(2**31)", "MemoryError"),
        ("print('{}')", "as HDF5"),
    ],
)
def test_what_becomes_of_the_child_is_an_error(body, words, tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    limits = "RLIMIT_AS, (2**31, -1)" if "bytes" in body else "RLIMIT_CPU, (1, -1)"
    child.write_text(f"import resource as r; r.setrlimit(r.{limits})\n{body}\n")
    monkeypatch.setattr(keras, "CHILD", child)
    monkeypatch.setattr(keras, "SECONDS", 1)
    monkeypatch.setattr(keras, "WAIT", 1 if "sleep" in body else 60)
    make.keras(tmp_path / "a.h5", {"w": ONES})
    refused(tmp_path / "a.h5", words)


def test_the_child_is_limited(tmp_path, monkeypatch):
    """Memory, processor time, core dumps and the size of what it writes; no plug-ins."""
    script = keras.CHILD.read_text().replace('if __name__ == "__main__":', "if False:")
    lines = """
import os
import types
fake = types.ModuleType("h5py")
def File(*_, **__):
    kinds = resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE
    limits = [resource.getrlimit(kind)[0] for kind in kinds]
    sys.exit(json.dumps([*limits, os.environ["HDF5_PLUGIN_PRELOAD"]]))
fake.File = File
sys.modules["h5py"] = fake
main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""
    child = tmp_path / "child.py"
    child.write_text(script + lines)
    monkeypatch.setattr(keras, "CHILD", child)
    make.keras(tmp_path / "a.h5", {"w": ONES})
    with pytest.raises(CheckpointError) as caught:
        read_keras(tmp_path / "a.h5")
    *limits, plugins = json.loads(str(caught.value).rpartition("HDF5: ")[2])
    most = 2 * (os.path.getsize(tmp_path / "a.h5") + keras.SLACK)
    assert plugins == "::"
    assert all(a <= b for a, b in zip(limits, (2**31, 5, 0, most)))


def test_a_file_on_which_hdf5_never_ends(tmp_path, monkeypatch):
    """One byte of a good file changed: HDF5 2.0.0 then walks in a circle."""
    monkeypatch.setattr(keras, "SECONDS", 1)
    content = bytearray((make.FOLDER / "whole.h5").read_bytes())
    content[9400] = 56
    (tmp_path / "a.h5").write_bytes(content)
    refused(tmp_path / "a.h5", "as HDF5: ")


def test_hostile_files():
    print(hostile.survive("keras", 8))  # each of them spawns a process


# ---- real files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, count, config, second", [
    ("cifar10_resnet8_keras.h5", 117, True, "conv2d"),
    ("squeezenet1.1_keras_notop.h5", 50, False, "conv1"),
])  # fmt: skip
def test_real_files(name, count, config, second, real_data):
    path = real_data / "weights" / name
    back = read_keras(path)
    found = flat(back)
    assert len(found) == count and ("model_config" in back) == config
    assert back["layer_names"][1] == second
    with h5py.File(path) as file:
        for place, array in found.items():
            assert np.array_equal(file[place][()], array) and file[place].dtype == array.dtype
