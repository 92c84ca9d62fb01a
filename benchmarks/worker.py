"""One measurement in a fresh process: `python -m benchmarks.worker LIBRARY STEP SECONDS`.

Prints one line of JSON: the times of all steps (ms), the first step's (s), and VmHWM (MB).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.workloads import minidl_step


def peak_memory() -> float:
    """The process's largest resident size so far (VmHWM), in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return float("nan")


def main(library: str, name: str, seconds: float) -> None:
    """Time one step again and again for a number of seconds."""
    start = time.perf_counter()
    if library == "minidl":
        step = minidl_step(name)
    else:
        from benchmarks.peer_torch import torch_step

        step = torch_step(name, channels_last=library == "torch-channels-last")
    losses = [step()]
    first = time.perf_counter() - start
    for _ in range(2):
        losses.append(step())
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        losses.append(step())
        times.append((time.perf_counter() - began) * 1e3)
    assert losses[-1] < losses[0], f"{library} {name}: the loss does not fall {losses}"
    print(json.dumps({"ms": times, "first_s": first, "peak_mb": peak_memory()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
