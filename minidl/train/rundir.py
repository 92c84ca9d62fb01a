"""The folder of a run: configuration, metrics, checkpoint, result, each written whole or not."""

import hashlib
import json
import os
import platform
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import CheckpointError, reworded
from minidl.io import load, save, write_bytes
from minidl.io.safetensors import check
from minidl.tools.environment import processor, version

FORMAT = 1  # of what the loop keeps in checkpoint.safetensors


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """A short SHA-256 over shapes, dtypes and every byte of the arrays: the data a run has seen."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def machine() -> dict[str, str]:
    """What bit-equal numbers depend on besides the program: versions and the processor."""
    packages = ("minidl", "numpy", "numba", "llvmlite")
    versions = {name: version(name) or "not installed" for name in packages}
    return {"python": platform.python_version(), **versions, "cpu": processor()}


def parsed(path: Path, text: bytes) -> dict[str, Any]:
    """The JSON object in a text from `path`; CheckpointError if it is damaged."""
    with reworded(CheckpointError, f"train: {path} is damaged", ValueError, TypeError):
        return dict(json.loads(text))


class RunDir:
    """config.json, metrics.jsonl, checkpoint.safetensors, result.json and clock.json in one folder.

    Times live in metrics.jsonl and clock.json only, so that a checkpoint depends on the
    configuration, the seed and the step alone. For the same reason the checkpoint counts the rows
    of metrics.jsonl, not its bytes: the digits of times vary.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.metrics = self.path / "metrics.jsonl"

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write NAME (config.json, result.json, clock.json) as readable JSON."""
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write the file NAME whole; CheckpointError when the disk refuses."""
        with reworded(CheckpointError, f"train: cannot make the folder {self.path}", OSError):
            self.path.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path / name, [text.encode()])

    def read_json(self, name: str) -> dict[str, Any]:
        """Read NAME; CheckpointError if it is missing or damaged."""
        path = self.path / name
        check(path.is_file(), "train", f"{self.path} is not a run directory: it has no {name}")
        return parsed(path, path.read_bytes())

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one a finished epoch."""
        return [parsed(self.metrics, line) for line in self._lines()]

    def append_row(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        write_bytes(self.metrics, [*self._lines(), json.dumps(row).encode() + b"\n"])

    def cut_rows(self, count: int) -> None:
        """Drop whatever metrics.jsonl holds beyond its first `count` lines."""
        lines = self._lines()
        have, rule = len(lines), f"{self.metrics} has lost rows"
        check(have >= count, "resume", rule, rows=have, expected=count)
        if have > count:
            write_bytes(self.metrics, lines[:count])

    def _lines(self) -> list[bytes]:
        return self.metrics.read_bytes().splitlines(True) if self.metrics.exists() else []

    def write_csv(self) -> None:
        """Write metrics.csv, the same rows for spreadsheets, cells empty where a row has none."""
        rows = self.rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
        self.write_text("metrics.csv", "".join(",".join(line) + "\n" for line in lines))

    def save(self, state: dict[str, Any], identity: dict[str, str]) -> None:
        """Replace the checkpoint by `state`; a failure leaves the previous one whole."""
        head = {"format": FORMAT, "identity": identity, "machine": machine()}
        save(head | state, self.checkpoint)

    def load(self, identity: dict[str, str]) -> dict[str, Any] | None:
        """The saved state, or None if nothing was saved yet.

        CheckpointError if it is of another format, configuration or data; a warning if it was
        written on another machine or by other versions, where the last bits may differ.
        """
        if not self.checkpoint.exists():
            return None
        state = load(self.checkpoint)
        ours = isinstance(state, dict) and state.get("format") == FORMAT and "loop" in state
        check(ours, "resume", f"{self.checkpoint} is not a training checkpoint of format {FORMAT}")
        for name, value in identity.items():
            saved = state["identity"].get(name)
            rule = f"the {name} is not the one this run was started with"
            check(saved == value, "resume", rule, saved=saved, now=value)
        there, here = state["machine"], machine()
        changed = [f"{k} {there[k]} -> {here[k]}" for k in here if there.get(k, here[k]) != here[k]]
        if changed:
            warnings.warn(f"resume: not bit-identical here: {', '.join(changed)}", stacklevel=2)
        return state
