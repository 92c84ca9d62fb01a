"""Each mistake gives one clear line on standard error, no traceback, and the right exit status."""

import gzip
import json
import os
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from minidl.errors import CheckpointError
from minidl.io import load, save
from projects.convnet.__main__ import cli
from projects.convnet.results import write_results
from projects.textgen.__main__ import cli as textgen
from projects.transfer.__main__ import cli as transfer

TINY = ["--epochs", "1", "--set", "width=4", "dense=8", "heldout=8", "batch=16"]


def said(capsys, args, code, cli=cli):
    """The one line that the command line leaves behind."""
    assert cli([str(a) for a in args]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err[7:-1]


def write_cifar(root, rows=24, **changed):
    """A small CIFAR-10 in the official layout; `changed` replaces parts of data_batch_2."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = {b"data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8),
                 b"labels": rng.integers(0, 10, rows).tolist()}  # fmt: skip
        if name == "data_batch_2":
            batch |= {key.encode(): value for key, value in changed.items()}
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]}, 2)
    )
    return folder


def write_folder(root, size=(40, 40)):
    """Three classes of four pictures each."""
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cow"):
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(
                root / name / f"{i}.png"
            )
    return root


@pytest.mark.parametrize("args, message", [
    (["--preset", "quik"], "unknown preset 'quik'"),
    (["--preset", ""], "unknown preset ''"),
    (["--resume", ""], "--resume must name a folder; got ''"),
    (["--preset", "smoke", "--out", ""], "--out must name a folder; got ''"),
    (["--dataset", "cifar11"], "invalid choice: 'cifar11'"),
    (["--epochs", "many"], "invalid int value: 'many'"),
    (["--epochs", "0"], "epochs must be in [1, 100000]; got 0"),
    (["--set", "widht=3"], "unknown field 'widht'; one of: preset, "),
    (["--set", "width=wide"], "width must be a whole number; got 'wide'"),
    (["--set", "norm=bach"], "norm must be one of none, batch, layer, instance, group; got 'bach'"),
    (["--set", "model=convnext", "kernel=4"], "kernel must be odd: pictures keep their size"),
    (["--set", "preset=e-all"], "a preset is chosen by --preset, not by --set; got 'preset=e-all'"),
    (["--set", "flip"], "--set takes field=value; got 'flip'"),
    (["--set", "lr=-1"], "lr must be in [0, 1e+06]; got -1.0"),
    (["--resume", "there", "--seed", "1"], "takes its configuration from there; leave out --seed"),
    (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
    (["predict", "a.png"], "the following arguments are required: --run"),
    (["compare"], "the following arguments are required: DIR"),
])  # fmt: skip
def test_mistakes_in_the_command(capsys, args, message):
    assert message in said(capsys, args, 2)


def test_no_such_data_folder(capsys, tmp_path):
    line = said(
        capsys, ["--dataset", "cifar10", "--data", "/nowhere", "--out", tmp_path / "run"], 1
    )
    assert "/nowhere" in line


@pytest.mark.parametrize("args, code", [
    (["--dataset", "cifar10", "--data", "/nowhere"], 1),
    (["--dataset", "folder", "--data", "empty"], 1),
    (["--preset", "smoke", "--device", "cuda"], 1),
    (["--preset", "smoke", "--set", "model=resnet", "patch=4"], 2),
    (["--preset", "smoke", "--set", "loss=supcon", "pretrain=1"], 2),
])  # fmt: skip
def test_a_run_that_cannot_start_leaves_no_folder(capsys, tmp_path, monkeypatch, args, code):
    monkeypatch.chdir(tmp_path)
    said(capsys, args, code)
    said(capsys, [*args, "--out", "there/run"], code)
    assert list(tmp_path.iterdir()) == []


def test_damaged_metrics(capsys, run, tmp_path):
    folder = copied(run, tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"epoch"')
    assert "metrics.jsonl is damaged" in said(capsys, ["compare", folder], 1)


@pytest.mark.parametrize("row", ["{}", '{"epoch": 1, "seconds": "x"}'])
@pytest.mark.parametrize("command", ["compare", "--resume"])
def test_metrics_that_lack_a_number(capsys, run, tmp_path, row, command):
    """A bare KeyError, which came after all of the training where a run was gone on with."""
    folder = copied(run, tmp_path / "run")
    (folder / "metrics.jsonl").write_text(row + "\n")
    assert "metrics.jsonl is damaged: each row must hold a number" in said(
        capsys, [command, folder], 1
    )


def test_result_that_lacks_a_number(run, tmp_path):
    folder = copied(run, tmp_path / "run")
    (folder / "result.json").write_text("{}")
    with pytest.raises(CheckpointError, match="run has a damaged result.json: 'preset'"):
        write_results([str(folder)], tmp_path)


@pytest.mark.parametrize("state", [{}, [1], {"about": {}, "model": {}}])
def test_checkpoint_of_something_else(capsys, run, tmp_path, state):
    """A bare KeyError or TypeError."""
    folder = copied(run, tmp_path / "run")
    save(state, folder / "checkpoint.safetensors")
    line = said(capsys, ["predict", "--run", folder, "a.png"], 1)
    assert line.endswith("checkpoint.safetensors is not the checkpoint of such a run")


@pytest.mark.parametrize("changed", [{"identity": None}, {"machine": 1}, {"model": None}])
def test_checkpoint_with_parts_of_other_types(capsys, run, tmp_path, changed):
    folder = copied(run, tmp_path / "run")
    file = folder / "checkpoint.safetensors"
    save(load(file) | changed, file)
    assert "run is damaged, or lacks: " in said(capsys, ["--resume", folder], 1)


def test_empty_data_folder_names_what_is_missing(capsys, tmp_path):
    line = said(capsys, ["--dataset", "cifar10", "--data", tmp_path, "--out", tmp_path / "run"], 1)
    assert "cifar-10-batches-py" in line


def test_failed_download_names_the_embedded_data(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    line = said(capsys, ["--dataset", "cifar10", "--out", tmp_path / "run"], 1)
    assert "--dataset embedded" in line


@pytest.mark.parametrize("changed, message", [
    ({"labels": [10] + [0] * 23}, "label"),
    ({"labels": [0.5] * 24}, "label"),
    ({"labels": [0] * 23}, "24"),
    ({"data": np.zeros((24, 3071), np.uint8)}, "3072"),
])  # fmt: skip
def test_damaged_values_in_a_batch(capsys, tmp_path, changed, message):
    write_cifar(tmp_path, **changed)
    line = said(
        capsys, ["--dataset", "cifar10", "--data", tmp_path, "--out", tmp_path / "run", *TINY], 1
    )
    assert message in line and "data_batch_2" in line


def test_corrupt_batch_file(capsys, tmp_path):
    folder = write_cifar(tmp_path)
    file = folder / "data_batch_2"
    file.write_bytes(file.read_bytes()[:1000])
    line = said(
        capsys, ["--dataset", "cifar10", "--data", tmp_path, "--out", tmp_path / "run", *TINY], 1
    )
    assert "data_batch_2" in line


def test_batch_file_that_would_execute_something(capsys, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    folder = write_cifar(tmp_path)
    (folder / "data_batch_2").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}, 2))
    line = said(
        capsys, ["--dataset", "cifar10", "--data", tmp_path, "--out", tmp_path / "run", *TINY], 1
    )
    assert "data_batch_2" in line and not (tmp_path / "harm").exists()


def test_truncated_mnist(capsys, tmp_path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        head = struct.pack(">IIII", 2051, 20, 28, 28)
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(head + bytes(28 * 28 * 19))
        )
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">II", 2049, 20) + bytes(20))
        )
    line = said(
        capsys, ["--dataset", "mnist", "--data", tmp_path, "--out", tmp_path / "run", *TINY], 1
    )
    assert "train-images-idx3-ubyte" in line


def test_folder_without_classes(capsys, tmp_path):
    (tmp_path / "pictures").mkdir()
    line = said(
        capsys,
        ["--dataset", "folder", "--data", tmp_path / "pictures", "--out", tmp_path / "run", *TINY],
        1,
    )
    assert "pictures" in line


def test_one_class_is_nothing_to_tell_apart(capsys, tmp_path):
    write_folder(tmp_path / "all")
    (tmp_path / "one").mkdir()
    (tmp_path / "all/ant").rename(tmp_path / "one/ant")
    args = ["--dataset", "folder", "--data", tmp_path / "one", "--out", tmp_path / "run"]
    for command in (cli, transfer):
        line = said(capsys, args, 1, command)
        assert "there must be 2 classes or more; got ant alone" in line


def test_folders_names_may_be_formulas_or_no_text(tmp_path):
    """Classes and runs that Matplotlib cannot draw ended training without a report."""
    data, compared = write_folder(tmp_path / "pictures"), str(tmp_path / "compared.html")
    for name, other in (("ant", rb"$\bad$"), ("bee", b"caf\xe9"), ("cow", b"_x")):
        (data / name).rename(data / os.fsdecode(other))
    own = ["--model=resnet8", "--set", "size=16", "epochs=1", "width=0", "batch=16"]
    for command, more in ((cli, TINY), (transfer, own)):
        run = tmp_path / os.fsdecode(rb"$\bad-%d$\xe9" % len(more))
        args = ["--preset=smoke", "--dataset=folder", "--data", str(data), "--out", str(run)]
        assert command([*args, *more]) == 0
        page = (run / "report.html").read_text("utf-8")
        assert page.count("<svg") >= 3 and "caf\ufffd" in page
        assert command(["compare", str(run), str(run), "--out", compared]) == 0


def test_test_classes_differ_from_training_classes(capsys, tmp_path):
    write_folder(tmp_path / "pictures/train")
    write_folder(tmp_path / "pictures/test")
    (tmp_path / "pictures/test/cow").rename(tmp_path / "pictures/test/dog")
    line = said(
        capsys,
        ["--dataset", "folder", "--data", tmp_path / "pictures", "--out", tmp_path / "run", *TINY],
        1,
    )
    assert "dog" in line and "cow" in line


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_empty_or_damaged_picture(capsys, tmp_path, content):
    write_folder(tmp_path / "pictures")
    (tmp_path / "pictures/bee/3.png").write_bytes(content)
    line = said(
        capsys,
        ["--dataset", "folder", "--data", tmp_path / "pictures", "--out", tmp_path / "run", *TINY],
        1,
    )
    assert "3.png" in line


def test_folder_without_a_root(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    line = said(capsys, ["--dataset", "folder", "--out", tmp_path / "run"], 2)
    assert "--data" in line


def test_more_held_out_than_there_is(capsys, tmp_path):
    write_cifar(tmp_path)
    line = said(
        capsys,
        [
            "--dataset",
            "cifar10",
            "--data",
            tmp_path,
            "--out",
            tmp_path / "run",
            "--set",
            "heldout=120",
        ],
        2,
    )
    assert "heldout" in line and "120" in line


def test_missing_gpu(capsys, tmp_path):
    line = said(capsys, ["--preset", "smoke", "--device", "cuda", "--out", tmp_path / "run"], 1)
    assert "cuda" in line and "pip install 'minidl[gpu]'" in line


def test_nan_loss(capsys, tmp_path):
    args = ["--preset", "smoke", "--out", tmp_path / "run", "--set", "lr=1e6", "norm=none"]
    line = said(capsys, args, 1)
    assert (
        "the loss became" in line
        and "epoch 1, batch" in line
        and "at learning rate 9.62e+05" in line
    )


def test_resume_of_no_run(capsys, tmp_path):
    assert "is not a run directory" in said(capsys, ["--resume", tmp_path], 1)
    assert "is not a run directory" in said(capsys, ["--resume", tmp_path / "gone"], 1)


def test_out_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    line = said(capsys, ["--preset", "smoke", "--out", tmp_path / "file/run"], 1)
    assert "file/run" in line and "Not a directory" in line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a moment."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    tiny = ["--set", "width=4", "dense=8", "train_images=64", "heldout=16"]
    assert cli(["--preset", "smoke", "--epochs", "1", "--out", str(folder), *tiny]) == 0
    return folder


def copied(run, path):
    """A copy of a run that may be damaged."""
    path.mkdir()
    for file in run.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def test_out_that_holds_a_run(capsys, run):
    assert "holds a run already" in said(capsys, ["--preset", "smoke", "--out", run], 2)


def test_checkpoint_of_another_configuration(capsys, run, tmp_path):
    folder = copied(run, tmp_path / "run")
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"lr": 0.123}))
    assert "the configuration is not the one this run was started with" in said(
        capsys, ["--resume", folder], 1
    )


def test_truncated_checkpoint(capsys, run, tmp_path):
    folder = copied(run, tmp_path / "run")
    file = folder / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "checkpoint.safetensors" in said(capsys, ["--resume", folder], 1)


def test_config_that_is_no_json(capsys, run, tmp_path):
    folder = copied(run, tmp_path / "run")
    (folder / "config.json").write_text("{")
    assert "is damaged" in said(capsys, ["--resume", folder], 1)


@pytest.mark.parametrize("changed, message", [
    ({"lr": "x"}, "lr must be a number; got 'x'"),
    ({"lr": None}, "lr must be a number; got None"),
    ({"epochs": 2.5}, "epochs must be a whole number; got 2.5"),
    ({"flip": 1}, "flip must be true or false; got 1"),
    ({"data": 3}, "data must be a text; got 3"),
    ({"optimizer": "foo"}, "optimizer must be one of sgd, adam, adamw; got 'foo'"),
    ({"optimizer": ["sgd"]}, "optimizer must be one of sgd, adam, adamw; got ['sgd']"),
    ({"command": None}, "command must be a text; got None"),
])  # fmt: skip
def test_config_with_values_of_other_types(capsys, run, tmp_path, changed, message):
    folder = copied(run, tmp_path / "run")
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | changed))
    for args in (["--resume", folder], ["compare", folder, "--out", tmp_path / "page.html"]):
        assert f"config.json: {message}" in said(capsys, args, 2)


@pytest.mark.parametrize("command, args", [
    (textgen, ["--resume", "RUN"]), (textgen, ["sample", "--run", "RUN", "--prompt", "a"]),
    (textgen, ["sweep", "--run", "RUN"]), (textgen, ["compare", "RUN"]),
    (textgen, ["translate", "--run", "RUN", "--text", "a"]),
    (transfer, ["--resume", "RUN"]), (transfer, ["compare", "RUN"]),
    (transfer, ["predict", "--run", "RUN", "a.png"]), (transfer, ["export", "--run", "RUN", "out"]),
    (transfer, ["forget", "--run", "RUN", "--preset", "quick"]),
])  # fmt: skip
def test_a_run_of_another_project_is_called_that(capsys, run, command, args):
    args = [str(run) if arg == "RUN" else arg for arg in args]
    line = said(capsys, args, 2, command)
    name = command.__self__.name
    assert line == f"{run} holds a run of projects.convnet, not of projects.{name}"


def test_predict_without_a_picture(capsys, run, tmp_path):
    assert "gone.png" in said(capsys, ["predict", "--run", run, tmp_path / "gone.png"], 1)
    (tmp_path / "text.png").write_text("hello")
    assert "text.png" in said(capsys, ["predict", "--run", run, tmp_path / "text.png"], 1)
