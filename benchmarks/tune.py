"""Measures where one algorithm overtakes another, for the committed table of limits.

    python -m benchmarks.tune [--seconds S] [--write]

Each limit of minidl/backend/cpu/choices.json parts two algorithms by a size. Both run on the same
inputs of growing size, in turns; a limit costs the product of the times that it leads to. The
committed one stays unless another is better by more than the noise. --write writes the table.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import minidl
from benchmarks.case import random
from benchmarks.library import threads
from minidl import fusion
from minidl.backend import cpu
from minidl.backend.cpu import choice, plans
from minidl.tools import environment

Call = Callable[[], Any]
TABLE = Path(choice.__file__).with_name("choices.json")
NOISE = 0.03  # of the time: what a new limit must gain
TURNS = 7  # of each algorithm at each size
NEVER = 1 << 62


class Contest(NamedTuple):
    """A limit, the sizes to try, what to run at one, and the algorithms below and above it."""

    limit: str
    below: str
    above: str
    inclusive: bool  # whether the limit itself is below
    sizes: Sequence[int]
    build: Callable[[int], Call]


def product(m: int, k: int, n: int) -> Call:
    """x (m, k) @ y (k, n)."""
    x, y = random(m, k), random(k, n)
    return lambda: cpu.matmul(x, y)


def elementwise(size: int) -> Call:
    """exp(x y) + x, by an op made anew so that it has no plan yet."""
    plans.plan_of.cache_clear()
    op, x = minidl.pointwise(lambda x, y: fusion.exp(x * y) + x), random(size)
    return lambda: op(x, x)


def column_sums(size: int) -> Call:
    """The sums of 64 columns."""
    x = random(size // 64, 64)
    return lambda: cpu.sum(x, (0,))


def convolution(channels: int) -> Call:
    """3x3 over 16 pictures of 16 x 16, as many channels in as out."""
    x, w = random(16, 16, 16, channels).transpose(0, 3, 1, 2), random(channels, channels, 3, 3)
    return lambda: cpu.conv2d(x, w, None, (1, 1), (1, 1), (1, 1), 1)


def powers(first: int, last: int) -> list[int]:
    """2 to the powers first .. last."""
    return [1 << i for i in range(first, last + 1)]


CONTESTS = [
    Contest("pointwise_by_numpy", "NumPy", "a kernel", True, powers(8, 16), elementwise),
    # Larger sums are a kernel's for its precision: it adds partial sums up in double.
    Contest("sum_by_numpy", "NumPy", "a kernel", True, powers(10, 15), column_sums),
    Contest("product_by_numpy", "NumPy", "the team", False, [n**3 for n in range(32, 257, 32)],
            lambda size: product(*[round(size ** (1 / 3))] * 3)),
    Contest("winograd_channels", "directly", "Winograd", False, powers(1, 6), convolution),
]  # fmt: skip


def seconds_each(call: Call, repeat: int) -> float:
    """Seconds a call, over `repeat` of them."""
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def compete(contest: Contest, size: int, seconds: float) -> tuple[float, float]:
    """Median seconds of the algorithms below and above the limit, in turns."""
    committed, calls = choice.LIMITS[contest.limit], []
    found: tuple[list[float], list[float]] = ([], [])
    try:
        for forced in (NEVER, 0):
            choice.LIMITS[contest.limit] = forced
            calls.append(contest.build(size))
            calls[-1]()
        repeat = 1 + int(seconds / TURNS / 2 / max(seconds_each(calls[-1], 1), 1e-6))
        for _ in range(TURNS):
            for forced, call, times in zip((NEVER, 0), calls, found, strict=True):
                choice.LIMITS[contest.limit] = forced
                times.append(seconds_each(call, repeat))
    finally:
        choice.LIMITS[contest.limit] = committed
    return median(found[0]), median(found[1])


def cost(limit: int, contest: Contest, times: Sequence[tuple[float, float]]) -> float:
    """Mean log time over the sizes with this limit."""
    total = 0.0
    for size, (below, above) in zip(contest.sizes, times, strict=True):
        under = size < limit or (size == limit and contest.inclusive)
        total += math.log(below if under else above)
    return total / len(contest.sizes)


def best(contest: Contest, times: Sequence[tuple[float, float]]) -> int:
    """The limit that costs least: the committed one where no other is better beyond the noise."""
    committed = choice.LIMITS[contest.limit]
    outside = contest.sizes[0] // 2 if contest.inclusive else 2 * contest.sizes[-1]
    found = min((*contest.sizes, outside), key=lambda limit: cost(limit, contest, times))
    gain = cost(committed, contest, times) - cost(found, contest, times)
    return found if gain > NOISE else committed


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 130 if interrupted: then nothing is written."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.tune", description=__doc__, formatter_class=form
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="for each size")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    args = parser.parse_args(argv)
    print(f"{environment.processor()}, {threads()} threads")
    limits: dict[str, int] = {}
    try:
        for contest in CONTESTS:
            times = [compete(contest, size, args.seconds) for size in contest.sizes]
            limits[contest.limit] = best(contest, times)
            print(f"{contest.limit}: {limits[contest.limit]:,}"
                  f" (committed {choice.LIMITS[contest.limit]:,})")  # fmt: skip
            for size, (below, above) in zip(contest.sizes, times, strict=True):
                print(f"  {size:>10,}: {contest.below} {below * 1e6:,.0f} us, "
                      f"{contest.above} {above * 1e6:,.0f} us")  # fmt: skip
    except KeyboardInterrupt:
        print("interrupted: nothing is written", file=sys.stderr)
        return 130
    if args.write:
        where = {"device": environment.processor(), "threads": threads()}
        head = {"command": "python -m benchmarks.tune --write", "date": date.today().isoformat()}
        TABLE.write_text(json.dumps(head | where | {"limits": limits}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
