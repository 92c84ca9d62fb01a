"""What the machine allows: its float32 matrix product and its memory, measured by NumPy.

`python -m benchmarks.roofline THREADS` prints them as JSON; `limit` is the least time that passes
of given FLOPs and bytes can take. exp, tanh and erf count as free; Winograd's product may go below,
as an LSTM may that multiplies a table's rows instead of a text's.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.case import Cost

SIZES = [2**i for i in range(20, 30)]  # working sets in bytes, 1 to 512 MiB


def fastest(work: Callable[[int], Any], threads: int, seconds: float) -> float:
    """The shortest time in which all threads have done work(thread), in many attempts."""
    best = math.inf
    with ThreadPoolExecutor(threads) as pool:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or best == math.inf:
            began = time.perf_counter()
            list(pool.map(work, range(threads)))
            best = min(best, time.perf_counter() - began)
    return best


def product(threads: int, n: int = 1024, seconds: float = 1.0) -> float:
    """FLOP/s of n x n float32 products, one in each thread (a BLAS of one thread is assumed)."""
    a = np.random.default_rng(0).standard_normal((n, n), np.float32)
    out = [np.empty_like(a) for _ in range(threads)]
    np.matmul(a, a, out[0])
    return 2 * n**3 * threads / fastest(lambda i: np.matmul(a, a, out[i]), threads, seconds)


def memory(threads: int, size: int, seconds: float = 0.4) -> float:
    """Bytes read and written each second by y = 2 x, half of a working set being x, half y."""
    count = size // 8 // threads
    x = [np.ones(count, np.float32) for _ in range(threads)]
    y = [np.empty_like(part) for part in x]
    calls = max(1, 2**24 // size)

    def work(i: int) -> None:
        for _ in range(calls):
            np.multiply(x[i], np.float32(2), out=y[i])

    work(0)
    return 8 * count * threads * calls / fastest(work, threads, seconds)


def measure(threads: int) -> dict[str, Any]:
    """GFLOP/s, and GB/s by working set in bytes."""
    rates = [[size, round(memory(threads, size) / 1e9, 2)] for size in SIZES]
    return {"gflops": round(product(threads) / 1e9, 2), "gbytes": rates}


def bandwidth(roof: dict[str, Any], size: float) -> float:
    """Bytes per second at a working set, between measured sizes by its logarithm."""
    sizes, rates = zip(*roof["gbytes"])
    return float(np.interp(math.log2(max(size, 1)), np.log2(sizes), rates)) * 1e9


def limit(costs: Iterable[Cost], roof: dict[str, Any]) -> float:
    """The least milliseconds of passes one after another: max(FLOPs / peak, bytes / bandwidth)."""
    return 1e3 * sum(max(bounds(cost, roof)) for cost in costs)


def flops_bound(costs: Iterable[Cost], roof: dict[str, Any]) -> bool:
    """Whether the FLOPs of the passes take longer than their bytes."""
    flops, moved = (sum(part) for part in zip(*(bounds(cost, roof) for cost in costs)))
    return flops > moved


def bounds(cost: Cost, roof: dict[str, Any]) -> tuple[float, float]:
    """The seconds that a pass's FLOPs take, and its bytes."""
    return cost.flops / roof["gflops"] / 1e9, cost.bytes / bandwidth(roof, cost.bytes)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
