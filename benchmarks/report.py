"""What the figures say: a line's ratio, the summary against its bars, two commits side by side.

A report (the JSON that is saved) is its head and `lines` by "case phase": group, bar, flops, bytes,
bound (the dearer of the two), limit_ms, and by library `runs`: lists over rounds of median, p20 and
p80 (ms), count, first_s, peak_mb and others (the share of the processors that others took).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median
from typing import Any

Line = dict[str, Any]
Report = dict[str, Any]

QUIET = 0.1  # share of the processors that others may take
RATES = {"flops": "GFLOP/s", "bytes": "GB/s"}
# name, groups, least geometric mean, least ratio
BARS = (
    ("kernels, forward+backward", ("kernel", "wide", "depthwise"), 1.5, 0.9),
    ("wide 3x3 convolutions", ("wide",), 1.8, 1.5),
    ("depthwise convolutions", ("depthwise",), 3.0, 3.0),
    ("whole steps", ("step",), 1.5, 1.0),
    ("generation", ("generation",), 3.0, 3.0),
    ("overhead", ("overhead",), 1.0, 1.0),
)


def time_of(line: Line, library: str, figure: str = "median") -> float:
    """The median over rounds, in ms."""
    return median(line["runs"][library][figure])


def peers(line: Line) -> list[str]:
    """The settings of PyTorch that were measured."""
    return [name for name in line["runs"] if name != "minidl"]


def fastest_peer(line: Line) -> str | None:
    """The setting of PyTorch that the line is compared with."""
    names = [n for n in peers(line) if line["bar"] == "fastest" or n == "torch"]
    return min(names, key=lambda name: time_of(line, name), default=None)


def ratio(line: Line, figure: str = "median") -> float | None:
    """How many times as long PyTorch takes."""
    peer = fastest_peer(line)
    return peer and time_of(line, peer, figure) / time_of(line, "minidl", figure)


def clock(ms: float) -> str:
    """A time in three digits and its unit."""
    if ms >= 1000:
        return f"{ms / 1e3:.3g} s" if ms < 1e6 else f"{ms / 1e3:.0f} s"
    return f"{ms:.3g} ms" if ms >= 1 else f"{ms * 1e3:.3g} µs"


def row(name: str, line: Line) -> str:
    """A line of the suite as it is printed."""
    middle, low, high = (time_of(line, "minidl", f) for f in ("median", "p20", "p80"))
    rate, unit = line[line["bound"]] / middle / 1e6, RATES[line["bound"]]
    text = f"{name:31} {clock(middle):>8} ({clock(low)} - {clock(high)})".ljust(65)
    text += f"{rate:7.3g} {unit:7} {line['limit_ms'] / middle:6.1%}" if rate else " " * 22
    peer = fastest_peer(line)
    if line["group"] == "step":
        text += f"  {max(line['runs']['minidl']['peak_mb']):5.0f} MB"
        text += f" (torch {max(line['runs']['torch']['peak_mb']):.0f})" if peer else ""
    if peer:
        text += f"  {ratio(line):5.2f}x {peer} {clock(time_of(line, peer))}"
    return f"{text}  !" if disturbed(line) > QUIET else text


def counted(report: Report, groups: Iterable[str]) -> dict[str, Line]:
    """The lines that a bar is about: those compared, of kernels not the forward alone."""
    return {
        name: line
        for name, line in report["lines"].items()
        if line["group"] in groups and peers(line) and not name.endswith(" fwd")
    }


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean logarithm."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def summary(report: Report) -> list[str]:
    """Each bar: the geometric mean and the least ratio, of medians and of 20th percentiles."""
    out = []
    for title, groups, mean_bar, least_bar in BARS:
        lines = counted(report, groups)
        if lines:
            ratios = {name: ratio(line) or 0.0 for name, line in lines.items()}
            mean, worst = geometric_mean(ratios.values()), min(ratios, key=lambda n: ratios[n])
            quiet = geometric_mean(ratio(line, "p20") or 0.0 for line in lines.values())
            met = mean >= mean_bar and ratios[worst] >= least_bar
            out.append(
                f"{'met   ' if met else 'missed'} {title:26} mean {mean:5.2f}x (bar {mean_bar}; "
                f"p20s {quiet:.2f}x), least {ratios[worst]:.2f}x (bar {least_bar}) {worst}"
            )
    steps = counted(report, ("step",))
    peak = {n: max(x["runs"]["minidl"]["peak_mb"]) / max(x["runs"]["torch"]["peak_mb"])
            for n, x in steps.items()}  # fmt: skip
    if peak:
        worst = max(peak, key=lambda n: peak[n])
        word = "met   " if peak[worst] <= 1 else "missed"
        out.append(f"{word} {'peak memory of steps':26} most {peak[worst]:.2f}x torch's {worst}")
    return out + crowded(report)


def crowded(report: Report) -> list[str]:
    """A sentence where lines shared the processors with other work: their times mean little."""
    lines = report["lines"].values()
    count = sum(disturbed(line) > QUIET for line in lines)
    words = f"{count} of {len(lines)} lines (!) shared the processors with other work."
    return [words] if count else []


def disturbed(line: Line) -> float:
    """The largest share of the processors that others took in any run of a line."""
    return max(share for run in line["runs"].values() for share in run["others"])


def band(line: Line) -> tuple[float, float]:
    """Where minidl's time lies but for noise: rounds' medians, and the middle of p20s and p80s."""
    run = line["runs"]["minidl"]
    return min(*run["median"], median(run["p20"])), max(*run["median"], median(run["p80"]))


def against(new: Report, old: Report) -> list[str]:
    """Which lines moved beyond the noise from an older report: where the two bands are apart."""
    out, moved, both = [], 0, [name for name in new["lines"] if name in old["lines"]]
    for key in ("device", "threads"):
        if new[key] != old[key]:
            out.append(f"not comparable: {key} was {old[key]}, is {new[key]}")
    for name in both:
        now, before = new["lines"][name], old["lines"][name]
        (low, high), (low_before, high_before) = band(now), band(before)
        if high < low_before or low > high_before:
            change = time_of(before, "minidl") / time_of(now, "minidl")
            word = f"{change:.2f}x faster" if change > 1 else f"{1 / change:.2f}x slower"
            spans = f"{clock(low_before)} - {clock(high_before)} -> {clock(low)} - {clock(high)}"
            out.append(f"{name:31} {word:13} {spans}")
            moved += 1
    out.append(f"{moved} of {len(both)} lines moved beyond the noise since {old['commit']}")
    return out
