"""load_weights and the commands inspect and convert: kinds, wrappings, dtypes, what is refused."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy_layers import RNG, load_tree, normal

import minidl as ml
from golden.zoo import SIDES
from minidl import models, nn
from minidl.__main__ import main
from minidl.errors import CheckpointError, DTypeError
from minidl.io import load_safetensors, load_weights, save_safetensors
from minidl.io.weights import READERS, kind_of
from minidl.tools.converting import named

GOLDEN = Path(__file__).with_name("golden")
KINDS = {".caffemodel": "Caffe", ".onnx": "ONNX", ".tflite": "TensorFlow Lite", ".h5": "Keras",
         ".msgpack": "Flax", ".npz": "NumPy", ".pt": "PyTorch"}  # fmt: skip
FILES = [p for folder in ("foreign", "torch") for p in (GOLDEN / folder).iterdir()
         if p.suffix in KINDS and p.name != "expected.npz"]  # fmt: skip
NEEDED = {".h5": "h5py", ".msgpack": "msgpack"}


def small():
    """A model with every sort of state: parameters, statistics, a counter."""
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))


def state_of(model):
    """Copies of a model's arrays by name."""
    return {name: np.array(value) for name, value in model.state_dict().items()}


def drawn_state(model):
    """Other values for a model."""
    return {name: np.asarray(RNG.normal(size=a.shape).astype(a.dtype))
            for name, a in state_of(model).items()}  # fmt: skip


def same(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a
    )


def refused(path, words, model=None, **options):
    """Assert that a file is refused with these words, and named -> the message."""
    with pytest.raises(CheckpointError, match=words) as caught:
        load_weights(path, model, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---- kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_weights, load_safetensors, ml.load, kind_of])
def test_a_path_with_a_nul(load):
    """A bare ValueError."""
    with pytest.raises(CheckpointError, match=r"save: cannot write 'a\\x00b': embedded null byte"):
        ml.save({}, "a\0b")
    with pytest.raises(CheckpointError, match="load: cannot read a\0b: embedded null byte"):
        load("a\0b")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_content_tells_the_kind(path, tmp_path):
    lying = tmp_path / ("x.npz" if path.suffix == ".h5" else "x.h5")
    lying.write_bytes(path.read_bytes())
    assert kind_of(lying) == KINDS[path.suffix]
    matching = [kind for kind, (matches, _) in READERS.items() if matches(lying)]
    assert matching == [KINDS[path.suffix]]


def test_safetensors_are_told_by_their_header(tmp_path):
    save_safetensors({"x": normal(3)}, tmp_path / "x.pt")
    assert kind_of(tmp_path / "x.pt") == "safetensors"


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"text, and no weights", b"\x89PNG\r\n\x1a\n" + bytes(90), b"{" * 99,
                b"\x80\x02}q\0.", bytes(64), b"PK\3\4" + bytes(60)],
)  # fmt: skip
def test_files_of_no_kind(content, tmp_path):
    (tmp_path / "some.pt").write_bytes(content)
    words = refused(tmp_path / "some.pt", "of no kind that is read", small())
    assert "\n" not in words and repr(content[:16]) in words


def test_what_is_no_file(tmp_path):
    assert "cannot read" in refused(tmp_path / "none", "No such file")
    assert "cannot read" in refused(tmp_path, "directory")


# ---- without a model -----------------------------------------------------------------------------


def test_a_nest_comes_as_it_is_and_only_floats_are_cast(tmp_path):
    tree = {"params": {"a": normal(2), "half": np.float16([1])}, "n": np.int64([7]), "b": {"c": 1}}
    np.savez(tmp_path / "x", **{"params/a": normal(2), "n": np.int64([7]), "ok": np.bool_([1])})
    found = load_weights(tmp_path / "x.npz")
    assert list(found) == ["params", "n", "ok"] and found["params"]["a"].dtype == np.float32
    found = load_weights(tmp_path / "x.npz", dtype="float64")
    assert found["params"]["a"].dtype == np.float64
    assert found["n"].dtype == np.int64 and found["ok"].dtype == np.bool_
    nested = [tree, (normal(1), "text", None), {3: {"deep": [np.int8([1])]}}]
    with mock.patch.dict(READERS, {"PyTorch": (lambda p: True, lambda p: nested)}, clear=True):
        same_nest = load_weights(__file__)
        found = load_weights(__file__, dtype=np.float16)
    assert same_nest is nested and type(found) is list and type(found[1]) is tuple
    assert found[0]["params"]["a"].dtype == np.float16 and found[1][1:] == ("text", None)
    assert found[2][3]["deep"][0].dtype == np.int8 and found[0]["b"] == {"c": 1}


@pytest.mark.parametrize("dtype", ["int32", "complex64", "nothing", object])
def test_dtypes_that_are_no_floats(dtype, tmp_path):
    save_safetensors({"x": normal(3)}, tmp_path / "x")
    for model in (None, small()):
        with pytest.raises(DTypeError, match="load_weights: .*dtype"):
            load_weights(tmp_path / "x", model, dtype=dtype)


# ---- into a model --------------------------------------------------------------------------------

WRAPS = {
    "as it is": lambda s: s,
    "of training": lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {0: normal(2)}}},
    "model": lambda s: {"model": s, "model_ema": s, "args": "text", "step": np.int64(7)},
    "twice": lambda s: {"net": {"model_state_dict": s}, "best": 0.5},
    "DataParallel": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "compiled": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "flat": lambda s: {f"model.{k}": v for k, v in s.items()} | {"optimizer.state.0": normal(2)},
    "averaged": lambda s: {f"{part}{k}": v for k, v in s.items() for part in ("ema.x.", "model.")},
    "Lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("child", ["", "model", "net", "module", "state_dict"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_wrappings(wrap, child):
    """All are taken off, but never a name of the model's own."""
    model = nn.Sequential({child: small()}) if child else small()
    state = drawn_state(model)
    assert load_tree(WRAPS[wrap](state), model, "PyTorch") == ([], [])
    assert same(state_of(model), state)


def test_what_lies_beside_a_prefix_is_listed(tmp_path):
    """What a trainer keeps is left out, a tensor that the model lacks never is."""
    state = {f"model.{k}": v for k, v in drawn_state(small()).items()} | {"head.bias": normal(2)}
    save_safetensors(state, tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"unexpected: (.*; )?head\.bias \(2,\)"):
        load_weights(tmp_path / "x", small())


def test_a_part_of_a_model_keeps_its_prefix():
    model = nn.ModuleDict({"net": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    state = drawn_state(model)
    part = {name: array for name, array in state.items() if name.startswith("net.")}
    found = load_tree(part, model, "safetensors", strict=False)
    assert found == (["head.weight", "head.bias"], [])
    assert same({k: v for k, v in state_of(model).items() if k in part}, part)


def test_nested_dicts_and_counters_that_are_lacking():
    model, state = small(), drawn_state(small())
    nest = {}
    for name, array in state.items():
        layer, _, last = name.partition(".")
        if last != "num_batches_tracked":
            nest.setdefault(layer, {})[last] = array
    for kind in ("PyTorch", "NumPy", "Flax"):
        load_tree(nest, model, kind)
        state["1.num_batches_tracked"] = np.int64(0)
        assert same(state_of(model), state)


@pytest.mark.parametrize("dtype", [None, "float16", "float32", "float64", ml.bfloat16])
def test_dtypes_of_a_model(dtype):
    """float64 values come whole; a model keeps its own dtype unless told; integers stay."""
    model = small() if dtype else small().double()
    state = {name: RNG.normal(size=a.shape) if a.dtype.kind == "f" else a
             for name, a in drawn_state(model).items()}  # fmt: skip
    load_tree(state, model, "PyTorch", dtype=dtype)
    wanted = np.dtype(dtype or "f8")
    for name, array in state_of(model).items():
        counts = name.endswith("tracked")
        assert array.dtype == (np.int64 if counts else wanted)
        assert np.array_equal(array, state[name] if counts else state[name].astype(wanted))


@given(
    lost=st.sets(st.integers(0, 7), max_size=3),
    turned=st.sets(st.integers(0, 7), max_size=3),
    more=st.sets(st.sampled_from(["head.weight", "3.scale", "4"]), max_size=2),
    strict=st.booleans(),
)
def test_all_that_does_not_fit_is_listed_at_once(lost, turned, more, strict, tmp_path_factory):
    """Missing, unexpected, wrong-shaped tensors with both shapes; the model stays, bit for bit."""
    path = tmp_path_factory.getbasetemp() / "unfit.safetensors"
    model = small()
    before, state = state_of(model), drawn_state(model)
    names = [name for name in state if name != "1.num_batches_tracked"]
    wrong = [names[i] for i in turned - lost]
    missing = [names[i] for i in lost]
    state |= {name: normal(*state[name].shape, 2) for name in wrong} | {n: normal(4) for n in more}
    save_safetensors({name: a for name, a in state.items() if name not in missing}, path)
    if (strict and (missing or more)) or wrong:
        text = refused(path, "the state does not fit Sequential", model, strict=strict)
        for name in wrong:
            assert f"{name} {(*before[name].shape, 2)}, the model has {before[name].shape}" in text
        for name in missing:
            assert (f"{name} {before[name].shape}" in text) == strict
        for name in more:
            assert (f"{name} (4,)" in text) == strict
        assert same(state_of(model), before)
        return
    found = load_weights(path, model, strict=strict)
    assert set(found.missing_keys) == set(missing) and set(found.unexpected_keys) == more
    state |= {name: before[name] for name in missing}
    assert same(state_of(model), {name: state[name] for name in before})


WORDS = ["params", "batch_stats", "layers", "vars", "conv", "conv2d_1", "fire2", "squeeze1x1",
         "kernel", "kernel:0", "recurrent_kernel", "depthwise_kernel", "bias", "gamma", "scale",
         "mean", "embeddings", "hf", "hz", "ii", "0", "1", "2", "10", "backward_lstm", "model",
         "Transformer", "encoderblock_0", "LayerNorm_0", "query", "99" * 3000]  # fmt: skip
trees = st.recursive(
    st.lists(st.integers(0, 3), max_size=4).map(lambda shape: np.ones(shape, "f4")),
    lambda inner: st.dictionaries(st.sampled_from(WORDS), inner, min_size=1, max_size=4),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))


@given(tree=trees, kind=st.sampled_from(["PyTorch", "NumPy", "Flax", "Keras", "Caffe"]),
       strict=st.booleans())  # fmt: skip
def test_whatever_a_file_holds_ends_in_an_error_or_a_load(tree, kind, strict):
    parts = [small(), nn.LSTM(2, 2), nn.GRU(2, 2), nn.Embedding(2, 2), nn.LayerNorm(2)]
    model = nn.ModuleList(parts)
    before = state_of(model)
    if kind == "Caffe":
        tree = {name: {"0": a} if isinstance(a, np.ndarray) else
                {k: b for k, b in a.items() if isinstance(b, np.ndarray)} or {"0": np.ones(2, "f4")}
                for name, a in tree.items()}  # fmt: skip
    try:
        load_tree(tree, model, kind, strict=strict)
    except CheckpointError as error:
        assert "numpy_layers.py" in str(error)
        assert same(state_of(model), before)


def test_files_whose_numbers_are_no_weights(tmp_path):
    np.savez(tmp_path / "x.npz", **{"0.weight": np.ones((3, 2, 1, 1), "c8")})
    refused(tmp_path / "x.npz", "real numbers", small(), strict=False)
    np.savez(tmp_path / "y.npz", **{"a.b": normal(1), "a/b": normal(1)})
    assert "flatten" in refused(tmp_path / "y.npz", "two arrays have the path 'a.b'", small())


# ---- the commands --------------------------------------------------------------------------------


def run(capsys, *arguments):
    """The exit status, output and errors of a command."""
    status = main([*map(str, arguments)])
    return status, *capsys.readouterr()


def failed(capsys, words, *arguments):
    """Assert that a command ends with status 1 and one line of words."""
    status, out, errors = run(capsys, *arguments)
    assert status == 1 and not out and errors.count("\n") == 1 and errors.startswith("error: ")
    assert re.search(words, errors), errors


def test_convert_with_a_model_and_back(tmp_path, capsys):
    model = models.resnet8(3)
    state = drawn_state(model)
    path, out = tmp_path / "in.npz", tmp_path / "out.safetensors"
    np.savez(path, **{f"module.{name}": array for name, array in state.items()})
    status, text, _ = run(capsys, "convert", path, out, "--model", "resnet8", "--classes", 3)
    assert status == 0 and text == f"{out}: {len(state)} arrays\n"
    assert same(load_safetensors(out), dict(sorted(state.items())))
    load_weights(out, model := models.resnet8(3))
    assert same(state_of(model), state)
    text = run(capsys, "inspect", out)[1]
    assert re.search(r"^fc.weight +float32   \(3, 64\)$", text, re.MULTILINE)
    assert re.search(r"^safetensors: \d+ arrays, [\d,]+ numbers, 0.3 MB$", text, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_convert_without_a_model_keeps_every_array(path, tmp_path, capsys):
    if path.suffix in NEEDED:
        pytest.importorskip(NEEDED[path.suffix])
    out = tmp_path / "out"
    status, _, errors = run(capsys, "convert", path, out)
    if status:  # of what safetensors cannot hold
        assert "no safetensors dtype; got tensor" in errors and "complex128" in errors
        assert not out.exists()
        return
    text = run(capsys, "inspect", path)[1]
    listed = [re.split(r"  +", line)[0] for line in text.splitlines()[:-1]]
    assert sorted(listed) == list(load_safetensors(out)) and listed


def test_odd_names_do_not_reach_the_terminal(tmp_path, capsys):
    save_safetensors({"\x1b[2J": normal(1), "é": normal(1)}, tmp_path / "x")
    text = run(capsys, "inspect", tmp_path / "x")[1]
    assert "\x1b" not in text and r"'\x1b[2J'" in text and "\né" in text or text.startswith("é")


def test_what_convert_refuses(tmp_path, capsys):
    path, out = tmp_path / "in", tmp_path / "out"
    save_safetensors({"x": normal(1)}, path)
    out.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(path)
    for target in (path, link, tmp_path / ".." / tmp_path.name / "in"):
        failed(capsys, "OUT must be another file", "convert", path, target)
    near = "no such image model .* alike are .*resnet"
    failed(capsys, near, "convert", path, out, "--model", "cifar-resnet20")
    for name in ("GPT", "Section", "np", "__name__", "ResNet", "cifar_resnet21"):
        failed(capsys, "no such image model", "convert", path, out, "--model", name)
    for classes in (0, -1):
        options = "--model", "resnet8", "--classes", classes
        failed(capsys, "classes .* must be positive", "convert", path, out, *options)
    failed(capsys, "classes needs a model", "convert", path, out, "--classes", 3)
    failed(capsys, r"none: No such file", "convert", tmp_path / "none", out)
    failed(capsys, r"none: No such file", "inspect", tmp_path / "none")
    failed(capsys, r"nowhere/x: No such file", "convert", path, tmp_path / "nowhere" / "x")
    failed(capsys, "save: .* is not a file", "convert", path, tmp_path)
    status, _, errors = run(capsys, "convert", path, out, "--model", "resnet8")
    assert status == 1 and "  missing: conv1.weight" in errors and "  unexpected: x (1,)" in errors
    assert out.read_bytes() == b"old" and load_weights(path)["x"].shape == (1,)


def test_an_interrupted_convert_leaves_the_old_file(tmp_path, monkeypatch):
    save_safetensors({"x": normal(1)}, tmp_path / "in")
    (tmp_path / "out").write_bytes(b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(["convert", str(tmp_path / "in"), str(tmp_path / "out")])
    assert (tmp_path / "out").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


@pytest.mark.parametrize("name", ["whole.h5", "model.msgpack"])
def test_without_the_extra_it_is_named(name, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    failed(capsys, r"pip install 'minidl\[convert\]'", "inspect", GOLDEN / "foreign" / name)


def test_the_command_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "minidl", "inspect", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"error: load: cannot read {tmp_path}")


@pytest.mark.parametrize("name", SIDES)
def test_every_image_model_is_offered(name):
    assert named(name) is getattr(models, name)
