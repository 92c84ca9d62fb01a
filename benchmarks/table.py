"""README's table, drawn from the newest committed report: `python -m benchmarks.table`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import report

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def newest() -> Path:
    """The report that the table shows: the last by name, which begins with its date."""
    return max((ROOT / "benchmarks" / "results").glob("cpu-*.json"))


def draw(found: report.Report, source: str) -> str:
    """The table between the markers, and what it was measured on."""
    out = [
        "| workload | minidl | PyTorch | ratio | share of the limit | peak memory, MB |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, line in found["lines"].items():
        peer = report.fastest_peer(line)
        if not peer or name.endswith(" fwd"):
            continue
        mine, theirs = (report.clock(report.time_of(line, lib)) for lib in ("minidl", peer))
        peaks = (max(line["runs"][lib]["peak_mb"]) for lib in ("minidl", "torch"))
        memory = " / ".join(f"{mb:.0f}" for mb in peaks) if line["group"] == "step" else ""
        share = line["limit_ms"] / report.time_of(line, "minidl")
        limit = f"{share:.0%} {line['bound']}" if share else ""
        label = name.rpartition(" ")[0]
        label += " (!)" if report.disturbed(line) > report.QUIET else ""
        out.append(
            f"| {label} | {mine} | {theirs} | {report.ratio(line):.2f} | {limit} | {memory} |"
        )
    rounds, torch = found["rounds"], found["versions"]["torch"]
    note = (
        f"{found['device']}, {found['threads']} threads, PyTorch {torch} in its fastest setting, "
        f"medians of {rounds} round{'s' * (rounds > 1)}, {found['date']}, "
        f"commit {found['commit'][:7]}; kernels forward+backward. "
        "The limit: arithmetic at a matrix product's peak, or compulsory bytes at the bandwidth, "
        "both measured in the same run; Winograd and a char-LSTM that multiplies its table's rows "
        "do less arithmetic than is counted. "
        f"Drawn by `python -m benchmarks.table` from [{source}](benchmarks/results/{source})."
    )
    return "\n".join([*out, "", " ".join([note, *report.crowded(found)])])


def replace(text: str, table: str) -> str:
    """The text with what is between the markers replaced."""
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"no {START} … {END} in the text")
    return f"{before}{START}\n{table}\n{END}{after}"


def main() -> int:
    """Rewrite README.md."""
    readme, source = ROOT / "README.md", newest()
    table = draw(json.loads(source.read_text()), source.name)
    readme.write_text(replace(readme.read_text(), table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
