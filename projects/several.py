"""Several runs, each in a folder of its own: one after the other, or some at a time.

An interrupted set goes on where it was: finished runs are read, those in hand are resumed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import minidl as ml
from minidl.errors import MinidlError
from minidl.train import RunDir, StopSignal
from projects.command import Main, Parser, train_alone
from projects.settings import ROOT, UsageError, new_run, settings_of


class Presets(Protocol):
    """What every table has: the names of the presets that it compares."""

    @property
    def presets(self) -> Sequence[str]: ...


T = TypeVar("T", bound=Presets)


def parser(project: str, verb: str, tables: Mapping[str, Presets] | None = None) -> Parser:
    """The arguments that every verb with several runs has; of tables also which, and what of it."""
    found = Parser(f"{project} {verb}")
    if tables:
        found.add_argument("name", metavar="NAME", help=f"one of {', '.join(tables)}")
        found.add_argument(
            "--only", default="", metavar="TEXT", help="presets whose name holds this"
        )
    found.add_argument("--data", default="")
    found.add_argument("--out", required=True, metavar="DIR", help="of the runs and the page")
    found.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE")
    return found


def chosen(tables: Mapping[str, T], name: str, only: str) -> tuple[T, list[str]]:
    """The table called `name`, and its presets whose names hold `only`."""
    if name not in tables:
        raise UsageError(f"unknown table {name!r}; there are {', '.join(tables)}")
    table = tables[name]
    return table, holding(table.presets, only)


def holding(presets: Sequence[str], text: str) -> list[str]:
    """The presets whose names hold a text; UsageError where there is none."""
    names = [name for name in presets if text in name]
    if not names:
        rule = f"--only {text!r} is in no preset's name; there are {', '.join(presets)}"
        raise UsageError(rule)
    return names


def at_a_time(found: Parser) -> None:
    """Add the argument that says how many runs are trained at a time."""
    found.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")


def begun(settings: Any, folder: Path) -> bool:
    """Whether the folder holds this run; UsageError if it holds another one."""
    if not (folder / "config.json").exists():
        return False
    if settings_of(type(settings), RunDir(folder)) != settings:
        raise UsageError(f"{folder} holds another run; choose another --out")
    return True


def finished(folder: Path) -> bool:
    """Whether the run in the folder has its result."""
    return (folder / "result.json").exists()


def run_once(main: Main, settings: Any, folder: Path, command: str, stop: StopSignal) -> dict:
    """The result of a run: read, gone on with, or trained."""
    run = RunDir(folder)
    if not begun(settings, folder):
        train_alone(main, settings, lambda: new_run(settings, str(folder), command), stop)
    elif not finished(folder):
        train_alone(main, settings, lambda: run, stop)
    return run.read_json("result.json")


def train_all(
    project: str, main: Main, runs: Sequence[tuple[Any, Path, str]], jobs: int, stop: StopSignal
) -> list[dict[str, Any]]:
    """The results of runs (settings, folder, command), trained `jobs` at a time."""
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1; got {jobs}")
    if jobs > 1:
        side_by_side(project, runs, jobs)
    return [run_once(main, *run, stop) for run in runs]


def side_by_side(project: str, runs: Sequence[tuple[Any, Path, str]], jobs: int) -> None:
    """Train the runs (settings, folder, command) in `jobs` processes at a time.

    Each has its share of the threads; what it prints follows its folder's name. When one fails the
    others go on, and MinidlError says which did; a signal stops all of them, with their state
    saved. Runs that it began and that saved nothing leave nothing behind.
    """
    fresh = [run for run in runs if not begun(*run[:2])]  # raises before anything is written
    folders = [folder for _, folder, _ in runs if not finished(folder)]
    threads = max(ml.get_num_threads() // jobs, 1)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"MINIDL_NUM_THREADS": str(threads), "PYTHONPATH": path}
    children: list[subprocess.Popen] = []
    leaving = threading.Event()

    def trained(folder: Path) -> bool:
        """Whether the process of a run ended well."""
        process = [sys.executable, "-u", "-m", f"projects.{project}", "--resume", str(folder)]
        both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(process, env=env, text=True, start_new_session=True, **both) as child:
            children.append(child)
            if leaving.is_set():
                child.terminate()
            for line in child.stdout or ():
                print(f"{folder.name}: {line}", end="", flush=True)
        return child.returncode == 0

    try:
        for settings, folder, command in fresh:
            new_run(settings, str(folder), command)
        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(trained, folder) for folder in folders]
            try:
                well = [future.result() for future in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                leaving.set()
                for child in children:
                    child.terminate()  # it saves its state
                raise
    finally:
        for _, folder, _ in fresh:  # others may be another process's
            if not RunDir(folder).checkpoint.exists():
                (folder / "config.json").unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it holds something else
                    folder.rmdir()
    failed = [folder.name for folder, good in zip(folders, well, strict=True) if not good]
    if failed:
        rule = f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}"
        raise MinidlError(f"{rule}; what each said stands above")
