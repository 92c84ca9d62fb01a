"""Keras' HDF5 files, old and new: arrays by group and name, parsed in a limited process."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from minidl.errors import CheckpointError, reworded
from minidl.io.foreign import DAMAGE, SLACK, head_of, need, nest
from minidl.io.safetensors import _bfloat16, check

CHILD = Path(__file__).with_name("hdf5_child.py")
SECONDS, SPEED = 5, 10**7  # for the child to compute, and bytes of a file that get it one more
WAIT = 12  # seconds by the clock for each of these


def matches(path: str | os.PathLike[str]) -> bool:
    """Whether a file's first bytes are those of HDF5."""
    return head_of(path).startswith(b"\x89HDF\r\n\x1a\n")


def read_keras(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of a Keras .h5 file, nested as its groups are; groups without arrays left out.

    That is {layer: {…: {"kernel:0": array}}}, within "model_weights" (beside "optimizer_weights")
    for a whole model, and {"layers": {layer: {"vars": {"0": array}}}} in Keras 3's .weights.h5.
    "model_config", where the file has one, is its parsed JSON: it is never interpreted, and a file
    whose Lambda layers bring code is refused. "layer_names", where it has them, is the list of its
    layers in the order of its model. bfloat16 as load_safetensors gives it.

    HDF5, a large C library, runs in a process of its own, within 2 GiB and a few seconds, without
    plug-ins (POSIX systems only). Raises CheckpointError naming the file: unreadable, damaged (the
    child's error, crash or time-out), larger by 512 MiB when unpacked than packed, or leading to
    other files.
    """
    need("h5py", path)
    with (
        reworded(CheckpointError, f"load: cannot read {path} as HDF5", *DAMAGE),
        tempfile.TemporaryFile() as output,
    ):
        _run_child(path, output)
        output.seek(0)
        head = json.loads(output.readline())
        flat = {}
        for name, bfloat16 in head["arrays"]:
            array = np.lib.format.read_array(output, allow_pickle=False)
            flat[name] = _bfloat16(array) if bfloat16 else array
        nested = nest(path, flat)
        config, order = _parsed(path, head["model_config"] or "null"), head["layer_names"]
        for name, value in {"model_config": config, "layer_names": order}.items():
            check(not value or name not in nested, "load", f"{path}: {name} is a group too")
            nested |= {name: value} if value else {}
    return nested


def _run_child(path: str | os.PathLike[str], output: IO[bytes]) -> None:
    """Let a limited process write the arrays in a file to `output`."""
    size = os.path.getsize(path)
    seconds = SECONDS + size // SPEED
    # -P: the folder of the script, with its module safetensors, is not where imports look first.
    command = [sys.executable, "-P", str(CHILD), os.path.abspath(path)]
    settings = {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}  # "::": no plug-ins
    try:
        child = subprocess.run(
            [*command, str(size + SLACK), str(seconds)], stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.PIPE, env={**os.environ, **settings}, timeout=WAIT * seconds,
        )  # fmt: skip
        ok, said = child.returncode == 0, child.stderr.decode(errors="replace")
        reason = said.strip().rpartition("\n")[2]
        if child.returncode < 0:
            reason = f"its reader ended: {signal.strsignal(-child.returncode)}"
    except subprocess.TimeoutExpired:
        ok, reason = False, f"not done after {WAIT * seconds} s"
    check(ok, "load", f"cannot read {path} as HDF5: {reason}")


def _parsed(path: str | os.PathLike[str], text: str) -> Any:
    """A model's configuration; CheckpointError when a layer in it brings Python code."""

    def checked(node: dict[str, Any]) -> dict[str, Any]:
        rule = f"{path} has a Lambda layer, which is Python code: it is refused"
        check(node.get("class_name") not in ("Lambda", "__lambda__"), "load", rule)
        return node

    with reworded(CheckpointError, f"load: {path}: model_config is no JSON", RecursionError):
        return json.loads(text, object_hook=checked)
