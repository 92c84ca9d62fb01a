"""Runs of the command line that are killed, interrupted or out of disk, and what is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A run of seconds with everything that has a state: dropout, batch norm, momentum, EMA,
# augmentation, mixing, a schedule; a checkpoint after every update where SAVE_EVERY is 0.
FIELDS = "dropout=0.1 ema=0.9 cutmix=1.0 mixup=0.2 erasing=0.2 train_images=384 width=4 dense=16"
RUN = ["--preset", "smoke", "--epochs", "3", "--set", *FIELDS.split()]


def start(*args, **environment):
    """A child that runs the command line; checkpoints follow every update where SAVE_EVERY is 0."""
    code = (
        "import sys, os, minidl.train.loop as loop\n"
        "every = float(os.environ.get('SAVE_EVERY', 30))\n"
        "loop.Trainer.__init__.__kwdefaults__['save_every'] = every\n"
        "from projects.convnet.__main__ import cli\n"
        "sys.exit(cli(sys.argv[1:]))"
    )
    env = os.environ | {"MINIDL_NUM_THREADS": "2"} | environment
    return subprocess.Popen([sys.executable, "-c", code, *args], cwd=ROOT, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def finish(child, code=0):
    """Wait for a child and check its exit status; its standard error."""
    _, err = child.communicate(timeout=120)
    assert child.returncode == code, err
    return err


def wait_for(path, child, since=0.0):
    """Until `path` has changed after `since`; the time of its last change."""
    while child.poll() is None:
        if path.exists() and path.stat().st_mtime > since:
            return path.stat().st_mtime
        time.sleep(0.005)
    raise AssertionError(child.communicate()[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoint of a run that nobody disturbed, on one thread."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(*RUN, "--out", str(folder), MINIDL_NUM_THREADS="1"))
    return folder / "checkpoint.safetensors"


def test_killed_three_times_ends_bit_identical(whole, tmp_path):
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoint.safetensors"
    child = start(*RUN, "--out", str(folder), SAVE_EVERY="0")
    changed = 0.0
    for wait in (0.0, 0.05, 0.12):
        changed = wait_for(checkpoint, child, changed)
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        finish(child, -signal.SIGKILL)
        child = start("--resume", str(folder), SAVE_EVERY="0")
    finish(child)
    assert checkpoint.read_bytes() == whole.read_bytes()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    assert json.loads((folder / "result.json").read_text())["epochs"] == 3


def interrupt(child, number, code):
    """Send a signal; the child must leave within 5 s, with `code` and without a traceback."""
    child.send_signal(number)
    asked = time.monotonic()
    err = finish(child, code)
    assert time.monotonic() - asked < 5 and "Traceback" not in err


def test_ctrl_c_saves_and_leaves(whole, tmp_path):
    folder = tmp_path / "run"
    child = start(*RUN, "--out", str(folder), SAVE_EVERY="0")
    wait_for(folder / "checkpoint.safetensors", child)
    interrupt(child, signal.SIGINT, 130)
    finish(start("--resume", str(folder)))
    assert (folder / "checkpoint.safetensors").read_bytes() == whole.read_bytes()


def test_signal_before_training_leaves_at_once_and_resumes_from_the_start(whole, tmp_path):
    folder = tmp_path / "run"
    child = start(*RUN, "--out", str(folder))
    wait_for(folder / "config.json", child)
    interrupt(child, signal.SIGTERM, 143)
    finish(start("--resume", str(folder)))
    assert (folder / "checkpoint.safetensors").read_bytes() == whole.read_bytes()


def test_sigterm_then_a_full_disk_keep_the_checkpoint(whole, tmp_path):
    """A limit on the size of files refuses writes as a full disk does (EFBIG for ENOSPC)."""
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoint.safetensors"
    child = start(*RUN, "--out", str(folder), SAVE_EVERY="0")
    wait_for(checkpoint, child)
    interrupt(child, signal.SIGTERM, 143)
    before = checkpoint.read_bytes()
    code = (
        "import resource, sys\nfrom projects.convnet.__main__ import cli\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) - 1000},) * 2)\n"
        "sys.exit(cli(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--resume", str(folder)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: save: cannot write {checkpoint}: File too large" in done.stderr
    assert checkpoint.read_bytes() == before
    finish(start("--resume", str(folder)))
    assert checkpoint.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_read_only_folder(whole):
    folder = whole.parent
    folder.chmod(0o500)
    try:
        err = finish(start("--resume", str(folder)), 1)
        assert err.count("\n") == 1 and "Permission denied" in err
    finally:
        folder.chmod(0o700)
