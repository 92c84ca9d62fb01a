"""One thread team for all kernels, about 1 us a launch: Python threads parked in GIL-free code.

A job is a kernel, its table and a number of chunks. One 64-bit ticket holds how many chunks there
are and which is next; who takes a ticket below the count owns that chunk, and the job's fields
cannot change until all its chunks are done. Idle workers spin for some 40 us, then sleep on a
condition variable. The chunks are fixed by shape and never depend on the number of threads. All of
this is written in LLVM IR, in team.ll.
"""

import atexit
import ctypes
import functools
import os
import platform
import threading
from pathlib import Path
from typing import Any

import numpy as np

from minidl import config
from minidl.backend.cpu import compiler
from minidl.backend.cpu.memory import address_of
from minidl.backend.cpu.replay import notes

_STOP, _WORDS = 80, 128  # of the shared state, see team.ll
_X86, _ARM = "llvm.x86.sse2.pause()", "llvm.aarch64.hint(i32 1)"
_PAUSE = {"x86_64": _X86, "amd64": _X86, "arm64": _ARM, "aarch64": _ARM}


class Team:
    """Worker threads and the state they share."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lock = threading.Lock()  # held during a job
        self.state = np.zeros(_WORDS, np.int64)
        self.at = self.state.ctypes.data
        self.code = _code()
        if threads > 1:
            self.code["prepare"](self.at)
        self.workers = [
            threading.Thread(target=self.code["worker"], args=(self.at, slot), daemon=True)
            for slot in range(1, threads)
        ]
        for worker in self.workers:
            worker.start()

    def run(
        self, address: int, table: int | bytes, total: int, chunk: int, kept: Any = None
    ) -> None:
        """Run a kernel over range(total) in chunks; without the team where it is busy or of one.

        kept: the arrays that the table points to, for when the run is recorded.
        """
        noted = notes.get()
        count = -(-total // chunk)
        if noted is not None:
            jobs = noted[-1][0] if noted else None
            if not isinstance(jobs, Jobs) or jobs.team is not self:
                jobs = Jobs(self)
                noted.append((jobs, ()))
            jobs.add((address, table, total, chunk, count), kept)
        if count > 1 and self.threads > 1 and self.lock.acquire(blocking=False):
            try:
                self.code["launch"](self.at, address, table, total, chunk, count)
            finally:
                self.lock.release()
        else:
            self.code["alone"](address, table, total, chunk)

    def stop(self) -> None:
        """Let the workers leave, after the job in hand; later jobs are done by who asks."""
        with self.lock:
            self.state[_STOP] = 1
            self.code["wake"](self.at)
        for worker in self.workers:
            worker.join()


class Jobs:
    """Jobs that follow each other in a record: a call does them all again, without Python."""

    def __init__(self, team: Team) -> None:
        self.team, self.several = team, False
        self.kept: list[Any] = []
        self.added: list[tuple] = []
        self.rows = np.empty((0, 5), np.int64)  # of `added`, since the last call

    def add(self, job: tuple, kept: Any) -> None:
        """Append a job (kernel, table, total, chunk, chunks) and the arrays that it refers to."""
        address, table, *sizes = job
        if isinstance(table, bytes):
            words = np.frombuffer(table, np.uint8)
            table, kept = address_of(words), (words, kept)
        self.added.append((address, table, *sizes))
        self.kept.append(kept)
        self.several |= sizes[-1] > 1

    def __call__(self) -> None:
        team = self.team
        if len(self.rows) != len(self.added):
            self.rows = np.array(self.added, np.int64)
            self.at = address_of(self.rows)
        mine = self.several and team.threads > 1 and team.lock.acquire(blocking=False)
        try:
            team.code["play"](team.at, mine, self.at, len(self.rows))
        finally:
            if mine:
                team.lock.release()


@functools.cache
def _code() -> dict[str, Any]:
    """The functions of team.ll, which free the GIL."""
    text = Path(__file__).with_name("team.ll").read_text()
    pause = _PAUSE.get(platform.machine().lower(), "llvm.donothing()")
    # A declaration names the type of an argument, a call its value as well.
    text = text.replace("declare void @PAUSE", f"declare void @{pause.replace(' 1', '')}")
    i64, pointer = ctypes.c_int64, ctypes.c_void_p
    kinds = {"prepare": (pointer,), "worker": (pointer, i64), "wake": (pointer,)}
    job = (i64, pointer, i64, i64)  # the kernel, its table (an address or bytes), total and chunk
    kinds |= {"launch": (pointer, *job, i64), "alone": job, "play": (pointer, i64, pointer, i64)}
    found = compiler.compile_ir("team", text.replace("PAUSE", pause), *kinds)
    return {name: ctypes.CFUNCTYPE(None, *of)(found[name]) for name, of in kinds.items()}


_team: Team | None = None
_building = threading.Lock()


def current() -> Team:
    """The team of `config.threads()` threads; the one before it is stopped."""
    global _team
    team, wanted = _team, config.threads() if compiler.THREADS else 1
    if team is None or team.threads != wanted:
        with _building:
            team = _team
            if team is None or team.threads != wanted:
                if team is not None:
                    team.stop()
                team = _team = Team(wanted)
    return team


def _at_exit() -> None:
    """No worker may be in machine code when the interpreter frees it."""
    if _team is not None:
        _team.stop()


def _after_fork() -> None:
    """A forked child has none of the threads: the next launch makes a team of its own."""
    global _team, _building
    _team, _building = None, threading.Lock()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
