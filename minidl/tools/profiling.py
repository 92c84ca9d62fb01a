"""Where the time goes: every op's calls, seconds and bytes, forward and backward."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from minidl.autograd import watch
from minidl.tensor import arrays_in


class Row(NamedTuple):
    """Totals of one op; `seconds` excludes ops that it called itself."""

    name: str
    calls: int
    seconds: float
    bytes: int  # of the arrays read and written, each counted once a call


class Profile:
    """What `profile()` recorded; print it, or read `rows` (slowest first) and `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0  # wall time inside the `with`
        self._totals: dict[str, list[float]] = {}
        self._latest: dict[str, list[Any]] = {}  # of each name, the arrays it gave last

    def _observe(self, name: str, inputs: Any, kwargs: Any, output: Any, seconds: float) -> None:
        found = arrays_in(output)
        latest = self._latest.pop(name, [])
        total = self._totals.setdefault(name, [0, 0.0, 0])
        total[1] += seconds
        # A pointwise op's gradient is an op of its own, called by the backward of the same name.
        if not any(a is b for a in found for b in latest):
            self._latest[name] = found
            total[0] += 1
            total[2] += sum(array.nbytes for array in arrays_in(inputs) + found)

    @property
    def rows(self) -> list[Row]:
        """One row an op, the slowest first."""
        rows = [Row(name, int(n), t, int(size)) for name, (n, t, size) in self._totals.items()]
        return sorted(rows, key=lambda row: -row.seconds)

    def __str__(self) -> str:
        head = ("op", "calls", "ms", "share", "µs/call", "MB", "GB/s")
        lines = ["{:<32}{:>8}{:>11}{:>8}{:>11}{:>11}{:>8}".format(*head)]
        for row in self.rows:
            share = row.seconds / self.seconds if self.seconds else 0.0
            rate = row.bytes / row.seconds / 1e9 if row.seconds else 0.0
            each = row.seconds / row.calls * 1e6
            spent = f"{row.name:<32}{row.calls:>8}{row.seconds * 1e3:>11.3f}{share:>8.1%}"
            lines.append(f"{spent}{each:>11.1f}{row.bytes / 1e6:>11.2f}{rate:>8.1f}")
        inside = sum(row.seconds for row in self.rows)
        lines.append(f"in ops {inside * 1e3:.3f} ms of {self.seconds * 1e3:.3f} ms")
        return "\n".join(lines)


@contextmanager
def profile() -> Iterator[Profile]:
    """Record all ops run inside: `with ml.profile() as p: ...`, then `print(p)`.

    Backward ops are named `NAME_grad`. On a GPU launches return at once, so seconds are the host's.
    """
    result = Profile()
    start = time.perf_counter()
    with watch(result._observe):
        yield result
    result.seconds = time.perf_counter() - start
    result._latest.clear()
