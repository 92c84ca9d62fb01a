"""One measurement in a fresh process: `python -m benchmarks.worker LIBRARY CASE SECONDS`.

SECONDS for each phase; `check` in their place checks the result and times nothing. Prints one line
of JSON: for each phase median, p20, p80 (ms) and count; the build with its first calls (s); VmHWM
(MB); the share of the processors that others took.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import suite
from benchmarks.case import WrongResult
from benchmarks.library import open_library

WRONG = 3  # exit status of a worker whose check failed
MOST = 5000  # repetitions


def peak_memory() -> float:
    """The process's largest resident size so far (VmHWM), in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return math.nan


def busy() -> tuple[int, int]:
    """Ticks that all processors have worked so far, and that they have had (/proc/stat)."""
    ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # without idle and waiting for a disk


class Others:
    """With it around work: `share` of all processors' time that other processes took."""

    share = 0.0

    def __enter__(self) -> Others:
        self.before, self.own, self.wall = busy(), time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        worked, had = (now - before for now, before in zip(busy(), self.before))
        wall = (time.perf_counter() - self.wall) * (os.cpu_count() or 1)
        own = (time.process_time() - self.own) / wall
        self.share = max(0.0, worked / max(had, 1) - own)


def timed(run: Callable[[], Any], seconds: float, repeat: int = 1) -> dict[str, float]:
    """Call again and again for that long, at least three times; milliseconds of one call."""
    run()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < until and len(times) < MOST):
        began = time.perf_counter()
        for _ in range(repeat):
            out = run()
        times.append((time.perf_counter() - began) * 1e3 / repeat)
    assert not isinstance(out, float) or math.isfinite(out), f"the loss is {out}"
    low, middle, high = np.percentile(times, [20, 50, 80])
    return {"median": middle, "p20": low, "p80": high, "count": len(times)}


def measure(library: str, name: str, seconds: float) -> dict[str, Any]:
    """Build a case, call each phase, then time each."""
    start = time.perf_counter()
    case = next(case for case in suite.cases() if case.name == name)
    work = case.build(open_library(library))
    for run in work.run.values():
        run()
    first = time.perf_counter() - start
    with Others() as others:
        phases = {phase: timed(run, seconds, case.repeat) for phase, run in work.run.items()}
    shared = {"first_s": first, "peak_mb": peak_memory(), "others": others.share}
    return {"phases": phases, "shared": shared}


def check(library: str, name: str) -> dict[str, Any]:
    """Build a case and check it; WrongResult."""
    case = next(case for case in suite.cases() if case.name == name)
    case.build(open_library(library)).check()
    return {}


def main(library: str, name: str, seconds: str) -> int:
    """Print what was found as JSON, or what is wrong."""
    try:
        if seconds == "check":
            found = check(library, name)
        else:
            found = measure(library, name, float(seconds))
    except WrongResult as error:
        print(error, file=sys.stderr)
        return WRONG
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
