"""Several runs of a table: one after the other, side by side, stopped and gone on with."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pytest

from minidl.train import RunDir
from projects.command import alone, at_the_shell
from projects.convnet.__main__ import cli
from projects.convnet.presets import PRESETS
from projects.convnet.tables import TABLES
from projects.textgen.__main__ import cli as textgen

TINY = ["dataset=embedded", "train_images=128", "heldout=64", "width=4", "dense=8", "batch=32"]
ROWS = ["e-baseline", "e-dropout"]


def table(out, *args, epochs=2):
    """The arguments of a small table of two rows."""
    what = ["table", "e", "--only", "e-", "--epochs", str(epochs), "--out", str(out), *args]
    return [*what, "--set", *TINY]


@pytest.fixture
def two_rows(monkeypatch):
    """The table of the E level cut to two rows."""
    monkeypatch.setitem(TABLES, "e", type(TABLES["e"])(ROWS))


def test_characters_that_the_output_lacks_are_escaped(monkeypatch):
    """A plus-minus sign in a C locale ended a table with a traceback."""
    out = io.TextIOWrapper(io.BytesIO(), "ascii", newline="\n")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back at the end
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit, match="7"):
        at_the_shell(lambda argv: print("94.0 \xb1 2.2") or 7)
    out.flush()
    assert out.buffer.getvalue() == rb"94.0 \xb1 2.2" + b"\n"


def test_tables_name_presets():
    assert all(name in PRESETS for t in TABLES.values() for name in t.presets)
    assert all(len(set(t.presets)) == len(t.presets) > 1 for t in TABLES.values())


def test_side_by_side_trains_what_one_after_the_other_does(two_rows, tmp_path, capsys):
    assert cli(table(tmp_path / "a")) == 0
    assert cli(table(tmp_path / "b", "--jobs", "2")) == 0
    assert "e-dropout: epoch 2/2" in capsys.readouterr().out
    for name in ROWS:
        both = [tmp_path / side / name for side in "ab"]
        assert len({(run / "checkpoint.safetensors").read_bytes() for run in both}) == 1
        command = json.loads((both[1] / "config.json").read_text())["command"]
        assert command.startswith(f"python -m projects.convnet --preset {name} --device=cpu")
    before = (tmp_path / "b" / "e-dropout" / "result.json").stat().st_mtime_ns
    (tmp_path / "b" / "table.html").unlink()
    assert cli(table(tmp_path / "b", "--jobs", "2")) == 0  # finished runs are read
    assert (tmp_path / "b" / "e-dropout" / "result.json").stat().st_mtime_ns == before
    assert "<svg" in (tmp_path / "b" / "table.html").read_text()


def test_a_folder_with_another_run_is_left_alone(two_rows, tmp_path, capsys):
    assert cli(table(tmp_path, "--jobs", "2")) == 0
    capsys.readouterr()
    shutil.rmtree(tmp_path / "e-baseline")
    assert cli(table(tmp_path, "--jobs", "2", epochs=3)) == 2
    assert "e-dropout holds another run" in capsys.readouterr().err
    assert not (tmp_path / "e-baseline").exists()  # nothing was begun


def test_a_run_is_trained_by_one_process_at_a_time(two_rows, tmp_path, capsys):
    """Two that resumed the same run both wrote its metrics: its result told of twice the epochs."""
    args = table(tmp_path, "--jobs", "2")
    assert cli(args) == 0
    run = RunDir(tmp_path / "e-dropout")
    (run.path / "result.json").unlink()
    run.checkpoint.unlink()
    files = sorted(run.path.iterdir())
    capsys.readouterr()
    with alone(run):
        assert cli(["--resume", str(run.path)]) == 2
        assert "e-dropout is being trained by another process" in capsys.readouterr().err
        assert cli(args) == 1
        assert "1 of 2 runs failed: e-dropout" in capsys.readouterr().err
        assert sorted(run.path.iterdir()) == files  # it still has its config.json
    assert cli(args) == 0


def test_runs_that_cannot_begin_leave_nothing(two_rows, tmp_path, capsys):
    args = table(tmp_path, "--jobs", "2", "--data", "/nowhere")
    args[args.index("dataset=embedded")] = "dataset=cifar10"
    assert cli(args) == 1
    captured = capsys.readouterr()
    assert "2 of 2 runs failed: e-baseline, e-dropout" in captured.err
    assert captured.out.count("/nowhere") >= 2
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("args, message", [
    (["table", "f"], "unknown table 'f'; there are e, e-compared"),
    (["table", "e", "--jobs", "0"], "--jobs must be at least 1; got 0"),
    (["table", "e", "--only", "zzz"], "--only 'zzz' is in no preset's name"),
    (["table", "e", "--epochs", "0"], "epochs must be in [1, 100000]; got 0"),
])  # fmt: skip
def test_mistakes(args, message, tmp_path, capsys):
    assert cli([*args, "--out", str(tmp_path / "t")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_stops_all_and_loses_nothing(tmp_path):
    command = [sys.executable, "-u", "-m", "projects.convnet", *table(tmp_path / "cut", epochs=60)]
    command[command.index("e-")] = "e-a"  # e-augment and e-all
    command += ["--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "e-augment: epoch  6/60" in line:
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 143
    saved = tmp_path / "cut" / "e-augment"
    assert (saved / "checkpoint.safetensors").exists() and not (saved / "result.json").exists()
    at = (saved / "metrics.jsonl").stat().st_mtime_ns
    time.sleep(0.5)
    assert (saved / "metrics.jsonl").stat().st_mtime_ns == at  # nobody goes on in the dark
    command[command.index(str(tmp_path / "cut"))] = str(tmp_path / "whole")
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    command[command.index(str(tmp_path / "whole"))] = str(tmp_path / "cut")
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    both = [tmp_path / side / "e-augment" / "checkpoint.safetensors" for side in ("cut", "whole")]
    assert len({path.read_bytes() for path in both}) == 1


def test_a_search_side_by_side_finds_the_same(tmp_path, capsys):
    args = ["search", "--preset", "smoke", "--hidden", "8,16", "--batch", "4", "--lr", "1e-3"]
    fields = ["--set", "steps=4", "every=2", "context=16", "written=0"]
    for jobs in ("1", "2"):
        assert textgen([*args, "--jobs", jobs, "--out", str(tmp_path / jobs), *fields]) == 0
    for name in ("point-01", "point-02"):
        both = [tmp_path / jobs / name / "checkpoint.safetensors" for jobs in ("1", "2")]
        assert len({path.read_bytes() for path in both}) == 1
    assert capsys.readouterr().out.count("hidden  batch  lr") == 2
