"""One thread team for all kernels, about 1 us a launch: Python threads parked in GIL-free code.

A job is a kernel, its table and a number of chunks. One 64-bit ticket holds how many chunks there
are and which is next; who takes a ticket below the count owns that chunk, and the job's fields
cannot change until all its chunks are done. Idle workers spin for some 40 us, then sleep on a
condition variable. The chunks are fixed by shape and never depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import threading
from typing import Any

import numpy as np

from minidl import config

# Words of the shared state, one cache line apart where both sides write them.
_FUNCTION, _TABLE, _TOTAL, _CHUNK = 0, 1, 2, 3
_TICKET, _DONE, _WAKE, _SLEEPERS, _STOP = 16, 32, 48, 64, 80
_MUTEX, _CONDITION, _WORDS = 96, 112, 128
_COUNT_BITS = 20
_SPINS = 4000


def _field(name: str, word: int) -> str:
    return f" %{name} = getelementptr i64, ptr %s, i64 {word}\n"


def _ir() -> str:
    """The worker's and the launcher's code."""
    mask = (1 << _COUNT_BITS) - 1
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    pause = "call void @llvm.x86.sse2.pause()" if x86 else "%w = load volatile i64, ptr %s"
    return f"""
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()
define internal void @relax(ptr %s, i64 %i) {{
 %full = and i64 %i, 511
 %give = icmp eq i64 %full, 511
 br i1 %give, label %yield, label %out
yield:
 %x = call i32 @sched_yield()
 br label %out
out:
 {pause}
 ret void
}}
define internal void @work(ptr %s, i64 %slot) {{
entry:
{_field("pt", _TICKET)}{_field("pd", _DONE)}{_field("pf", _FUNCTION)}{_field("pa", _TABLE)}
{_field("pn", _TOTAL)}{_field("pc", _CHUNK)} br label %take
take:
 %k = atomicrmw add ptr %pt, i64 1 acq_rel
 %next = and i64 %k, {mask}
 %count = lshr i64 %k, {_COUNT_BITS}
 %mine = icmp ult i64 %next, %count
 br i1 %mine, label %run, label %out
run:
 %f = load ptr, ptr %pf
 %t = load ptr, ptr %pa
 %n = load i64, ptr %pn
 %c = load i64, ptr %pc
 %lo = mul i64 %next, %c
 %end = add i64 %lo, %c
 %last = icmp slt i64 %end, %n
 %hi = select i1 %last, i64 %end, i64 %n
 call void %f(ptr %t, i64 %lo, i64 %hi, i64 %slot)
 %d = atomicrmw add ptr %pd, i64 1 acq_rel
 br label %take
out:
 ret void
}}
define void @worker(ptr %s, i64 %slot) {{
entry:
{_field("pw", _WAKE)}{_field("pz", _SLEEPERS)}{_field("ps", _STOP)}
{_field("pm", _MUTEX)}{_field("pq", _CONDITION)} br label %watch
watch:
 %seen = phi i64 [ 0, %entry ], [ %seen, %again ], [ %now, %go ]
 %i = phi i64 [ 0, %entry ], [ %i1, %again ], [ 0, %go ]
 %now = load atomic i64, ptr %pw acquire, align 8
 %same = icmp eq i64 %now, %seen
 br i1 %same, label %idle, label %check
idle:
 call void @relax(ptr %s, i64 %i)
 %i1 = add i64 %i, 1
 %long = icmp sgt i64 %i1, {_SPINS}
 br i1 %long, label %park, label %again
park:
 %l = call i32 @pthread_mutex_lock(ptr %pm)
 %z = atomicrmw add ptr %pz, i64 1 seq_cst
 br label %recheck
recheck:
 %w = load atomic i64, ptr %pw seq_cst, align 8
 %still = icmp eq i64 %w, %seen
 br i1 %still, label %sleep, label %awake
sleep:
 %q = call i32 @pthread_cond_wait(ptr %pq, ptr %pm)
 br label %recheck
awake:
 %z2 = atomicrmw sub ptr %pz, i64 1 seq_cst
 %u = call i32 @pthread_mutex_unlock(ptr %pm)
 br label %again
again:
 br label %watch
check:
 %stop = load atomic i64, ptr %ps acquire, align 8
 %end = icmp ne i64 %stop, 0
 br i1 %end, label %out, label %go
go:
 call void @work(ptr %s, i64 %slot)
 br label %watch
out:
 ret void
}}
define void @wake(ptr %s) {{
{_field("pw", _WAKE)}{_field("pz", _SLEEPERS)}{_field("pm", _MUTEX)}{_field("pq", _CONDITION)}
 %o = atomicrmw add ptr %pw, i64 1 seq_cst
 %z = load atomic i64, ptr %pz seq_cst, align 8
 %any = icmp sgt i64 %z, 0
 br i1 %any, label %call, label %out
call:
 %l = call i32 @pthread_mutex_lock(ptr %pm)
 %b = call i32 @pthread_cond_broadcast(ptr %pq)
 %u = call i32 @pthread_mutex_unlock(ptr %pm)
 br label %out
out:
 ret void
}}
define void @launch(ptr %s, i64 %f, i64 %t, i64 %n, i64 %c, i64 %count) {{
entry:
{_field("pt", _TICKET)}{_field("pd", _DONE)}{_field("pf", _FUNCTION)}{_field("pa", _TABLE)}
{_field("pn", _TOTAL)}{_field("pc", _CHUNK)} store i64 %f, ptr %pf
 store i64 %t, ptr %pa
 store i64 %n, ptr %pn
 store i64 %c, ptr %pc
 store atomic i64 0, ptr %pd release, align 8
 %tick = shl i64 %count, {_COUNT_BITS}
 store atomic i64 %tick, ptr %pt release, align 8
 call void @wake(ptr %s)
 call void @work(ptr %s, i64 0)
 br label %wait
wait:
 %i = phi i64 [ 0, %entry ], [ %i1, %more ]
 %d = load atomic i64, ptr %pd acquire, align 8
 %ok = icmp sge i64 %d, %count
 br i1 %ok, label %out, label %more
more:
 call void @relax(ptr %s, i64 %i)
 %i1 = add i64 %i, 1
 br label %wait
out:
 ret void
}}
define void @alone(i64 %f, i64 %t, i64 %n, i64 %c) {{
entry:
 %fp = inttoptr i64 %f to ptr
 %tp = inttoptr i64 %t to ptr
 br label %loop
loop:
 %lo = phi i64 [ 0, %entry ], [ %end, %loop ]
 %end = add i64 %lo, %c
 %last = icmp slt i64 %end, %n
 %hi = select i1 %last, i64 %end, i64 %n
 call void %fp(ptr %tp, i64 %lo, i64 %hi, i64 0)
 br i1 %last, label %loop, label %out
out:
 ret void
}}
"""


class _Team:
    """Worker threads and the state they share; one exists at a time in a process."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lock = threading.Lock()
        self.state = np.zeros(_WORDS, np.int64)
        self.at = self.state.ctypes.data
        code = _code()
        self.launch, self.alone = code["launch"], code["alone"]
        for slot in range(1, threads):
            worker = threading.Thread(target=code["worker"], args=(self.at, slot), daemon=True)
            worker.name = f"minidl-{slot}"
            worker.start()

    def stop(self) -> None:
        """Let the workers leave; called between jobs."""
        self.state[_STOP] = 1
        _code()["wake"](self.at)


@functools.cache
def _code() -> dict[str, Any]:
    from minidl.backend.cpu import jit

    i64, pointer = ctypes.c_int64, ctypes.c_void_p
    kinds = {
        "worker": (pointer, i64),
        "wake": (pointer,),
        "launch": (pointer, *[i64] * 5),
        "alone": (i64,) * 4,
    }
    return jit.functions_of(_ir(), "team", kinds)


_team: _Team | None = None
_retired: list[_Team] = []  # their state must outlive workers that are still leaving
_building = threading.Lock()


def run(address: int, table: int, total: int, chunk: int) -> None:
    """Run a kernel over range(total) in chunks: on the team, or alone if it is busy or of one."""
    count = -(-total // chunk)
    assert count < 1 << _COUNT_BITS, f"{count} chunks"
    team = _team
    if team is None or team.threads != config.threads():
        team = _build()
    if count > 1 and team.threads > 1 and team.lock.acquire(blocking=False):
        try:
            team.launch(team.at, address, table, total, chunk, count)
        finally:
            team.lock.release()
    else:
        team.alone(address, table, total, chunk)


def _build() -> _Team:
    global _team
    with _building:
        wanted = config.threads()
        if _team is None or _team.threads != wanted:
            if _team is not None:
                with _team.lock:
                    _team.stop()
                    _retired.append(_team)
            _team = _Team(wanted)
        return _team


def _after_fork() -> None:
    """A forked child has none of the threads: the next launch makes a team of its own."""
    global _team, _building
    _team = None
    _building = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
