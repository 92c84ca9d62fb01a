"""The benchmarks on a GPU, as far as they go without one: workers, limits, what is written."""

import contextlib
import fcntl
import json
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks import gpu_check, gpu_profile, gpu_train, gpu_worker
from minidl.errors import DeviceError


def test_trainings_side_by_side_go_on(tmp_path, monkeypatch, capsys):
    """Cut off by time, gone on with, packed; what is finished is left alone."""
    tiny = ["dataset=embedded", "train_images=256", "heldout=64", "width=4", "dense=8", "batch=32"]
    long = ["--set", "steps=1000", "every=5", "hidden=8", "layers=1", "batch=2", "context=8",
            "judged=32", "written=0"]  # fmt: skip
    runs = {
        "table": ("convnet", ["table", "e", "--only", "e-a", "--jobs", "2", "--epochs", "1",
                              "--set", *tiny]),
        "text": ("textgen", ["--preset", "smoke", *long]),
    }  # fmt: skip
    monkeypatch.setattr(gpu_train, "RUNS", runs)
    args = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    config = tmp_path / "out" / "text" / "config.json"

    class CutOff(subprocess.Popen):
        """A process whose time is over after a few rows."""

        def wait(self, timeout=None):
            metrics = config.with_name("metrics.jsonl")
            while timeout is not None and self.poll() is None:
                if metrics.exists() and metrics.read_text().count("\n") > 2:
                    raise subprocess.TimeoutExpired("text", timeout)
                time.sleep(0.02)
            return super().wait(timeout)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", CutOff)
        assert gpu_train.main([*args, "--only", "text"]) == 1
    assert "text: status 143; stopped by SIGTERM" in capsys.readouterr().out
    rows = (config.parent / "metrics.jsonl").read_text().count("\n")
    assert 0 < rows < 200
    assert gpu_train.main(args) == 0
    assert "3 runs in" in capsys.readouterr().out
    assert (config.parent / "metrics.jsonl").read_text().count("\n") == 200
    with tarfile.open(tmp_path / "out" / "FINISHED.tar.gz") as archive:
        assert {n.rpartition("/")[0] for n in archive.getnames()} == {
            "table/e-all", "table/e-augment", "text"}  # fmt: skip
    assert gpu_train.main(args) == 0  # again


def test_workers_take_turns(tmp_path):
    """One at a time has a file's lock, which its end gives back; without a file none waits."""
    path = tmp_path / "lock"

    def free() -> bool:
        with open(path, "a") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    with gpu_worker.turn(str(path)), gpu_worker.turn(None):
        assert not free()
    assert free()


def test_what_a_family_printed_before_its_limit_is_kept(monkeypatch):
    """It came as the representation of bytes, on one line, in which no result was found."""
    monkeypatch.setattr(gpu_check, "LIMIT", 5)
    code = """print('{"a": 1}', flush=True); import time; time.sleep(60)"""
    status, output, _ = gpu_check.run(["-c", code])
    assert status == 124 and output.splitlines() == ['{"a": 1}', "", "stopped after 5 s"]


def test_a_family_begins_nothing_after_the_minutes_and_leaves_nothing_behind(monkeypatch, tmp_path):
    """A process that a family began, and that outlived it, kept the GPU's lock."""
    monkeypatch.setattr(gpu_check.clock, "until", time.monotonic() + 4)
    assert gpu_check.run(["-c", "1"])[:2] == (125, "not begun: the minutes are over")
    monkeypatch.setattr(gpu_check.clock, "until", time.monotonic() + 60)
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    status, output, seconds = gpu_check.run(["-c", f"import subprocess, sys; print({child}.pid)"])
    assert status == 0 and seconds < 30
    for _ in range(100):
        stat = Path(f"/proc/{output.strip()}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("it goes on")


def test_what_workers_print_is_written_as_it_comes(monkeypatch, tmp_path, capsys):
    """Lines of JSON; not what else is printed, nor the half of a line that a worker's end left.
    Tiles go into the table one family at a time, and into the file."""
    table, file = tmp_path / "tuned.json", tmp_path / "a.json"
    table.write_text('{"old": [1, 2, 3], "kept": []}')
    printed = {
        "matmul_4096": '{"case": "matmul_4096", "ratio": 1.5, "tuned": {"old": [4, 5, 6]}}',
        "max_pool_256c_56": 'a warning\n{"case": "max_pool_256c_56", "phase": "fwd", "ok": false}\n'
        '{"case": "max_po',
    }
    asked = []

    def run(command, **env):
        asked.append(tuple(command[-2:]))
        return (0 if "matmul" in command[-2] else -14), printed[command[-2]], 1.0

    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check.choice, "TABLE", table)
    monkeypatch.setattr(gpu_check.runtime, "cupy", lambda: None)
    monkeypatch.setattr(gpu_check, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(gpu_check.signal, "signal", lambda *a: None)
    names = "matmul_4096,max_pool_256c"
    assert gpu_check.main(["--stage", "kernels", "--only", names, "--json", str(file)]) == 1
    order = ("matmul_4096", "max_pool_256c_56")
    assert sorted(asked) == sorted((n, t) for n in order for t in ("bfloat16", "float32"))
    assert json.loads(table.read_text()) == {"old": [4, 5, 6], "kept": []}
    found = json.loads(file.read_text())
    assert found["tiles"] == {"old": [4, 5, 6], "kept": []} and found["device"] == "a GPU"
    cases = [(line["case"], line["ok"], line.get("status")) for line in found["lines"]]
    pool = [("max_pool_256c_56", False, None), ("max_pool_256c_56", False, -14)]
    assert cases == [("matmul_4096", True, None), *pool] * 2
    assert "6 lines, 4 failed" in capsys.readouterr().out
    assert not [*tmp_path.glob("*.half")]


def test_a_worker_that_hangs_is_ended(monkeypatch, tmp_path):
    """From when it is its turn, also where no Python runs; what it printed is kept."""
    code = """
from benchmarks import gpu_worker
def steps(name, dtype):
    yield {"case": name}
    import time
    time.sleep(60)
gpu_worker.steps, gpu_worker.PATIENCE = steps, 1
gpu_worker.importlib.import_module = print
gpu_worker.main("steps", "a", "mixed")
"""
    status, output, seconds = gpu_check.run(["-c", code])
    assert status == -signal.SIGALRM and '{"case": "a"}' in output and seconds < 40


def test_variants_of_kernels_are_copies(tmp_path):
    """An edit changes a copy of the sources; one that fits nowhere, or in no file, is refused."""
    there = gpu_profile.runtime.SOURCES
    before = (there / "pool.cu").read_text()
    copied = gpu_profile.edited([("pool.cu", r"max_(pool)\b", r"most_\1")], tmp_path / "a")
    assert "most_pool" in (copied / "pool.cu").read_text() and copied != there
    assert (there / "pool.cu").read_text() == before
    with pytest.raises(ValueError, match="pool.cu has nothing that matches 'nowhere'"):
        gpu_profile.edited([("pool.cu", "nowhere", "")], tmp_path / "b")
    with pytest.raises(OSError, match=r"none\.cu"):
        gpu_profile.edited([("none.cu", "a", "b")], tmp_path / "c")


def test_kernels_are_summed_by_name():
    """Median time of a launch, launches of a call, the dearest first."""
    events = [("a", 1.0), ("b", 5.0), ("a", 2.0), ("a", 9.0), ("b", 7.0), ("a", 2.0)]
    assert gpu_profile.summed(events, 2) == {"b": (6.0, 1.0), "a": (2.0, 2.0)}
    assert [*gpu_profile.summed(events, 2)] == ["b", "a"]


def test_profile_without_a_gpu(capsys, monkeypatch):
    def refuse():
        raise DeviceError("no GPU here")

    monkeypatch.setattr(gpu_profile.runtime, "cupy", refuse)
    assert gpu_profile.main(["--only", "pool"]) == 2
    assert capsys.readouterr().err == "gpu_profile: no GPU here\n"
    assert gpu_profile.main(["--edit", "pool.cu", "nowhere", ""]) == 2
    assert "pool.cu has nothing that matches" in capsys.readouterr().err
