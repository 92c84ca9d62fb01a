"""Times whole training steps, minidl against PyTorch, in interleaved rounds of fresh processes.

    python -m benchmarks [--only REGEX] [--peer torch] [--rounds N] [--json FILE]

PyTorch runs in three settings: default, channels_last, and channels_last with a tuned malloc; the
ratio is against the fastest of them. Needs Linux for the peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.workloads import STEPS

TUNED = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "67108864",
}
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "torch": ("torch", {}),
    "torch-channels-last": ("torch-channels-last", {}),
    "torch-tuned": ("torch-channels-last", TUNED),
}


def measure(library: str, name: str, seconds: float, python: str) -> dict[str, Any]:
    """Run one worker process and read its line."""
    kind, extra = SETTINGS.get(library, (library, {}))
    command = [python, "-m", "benchmarks.worker", kind, name, str(seconds)]
    done = subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def commit() -> str | None:
    """The commit of the source tree, None outside a repository."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return git.stdout.strip() if git.returncode == 0 else None


def compare(name: str, libraries: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Interleaved rounds of one step; the median of each library's rounds' medians."""
    rounds: dict[str, list[dict]] = {library: [] for library in libraries}
    for _ in range(args.rounds):
        for library in libraries:
            python = sys.executable if library == "minidl" else args.peer_python
            rounds[library].append(measure(library, name, args.seconds, python))
    out: dict[str, Any] = {}
    for library, runs in rounds.items():
        out[library] = {
            "ms": [round(median(r["ms"]), 2) for r in runs],
            "first_s": round(runs[-1]["first_s"], 2),
            "peak_mb": round(max(r["peak_mb"] for r in runs)),
        }
    return out


def show(name: str, found: dict[str, Any]) -> None:
    """Print one step's lines."""
    mine = median(found["minidl"]["ms"])
    for library, r in found.items():
        ratio = "" if library == "minidl" else f"{median(r['ms']) / mine:6.2f}x"
        print(f"{name:10} {library:20} {median(r['ms']):9.1f} ms {r['peak_mb']:6} MB {ratio}")


def main() -> None:
    """Read the arguments, run the rounds, print, save."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=form
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="steps to run")
    parser.add_argument("--peer", choices=["torch"], help="compare with this library")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="per process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args()
    libraries = ["minidl", *(SETTINGS if args.peer else [])]
    results = {}
    for name in STEPS:
        if re.search(args.only, name):
            results[name] = compare(name, libraries, args)
            show(name, results[name])
    if args.json:
        head = {
            "command": f"python -m benchmarks --only '{args.only}' --peer {args.peer} "
            f"--rounds {args.rounds} --seconds {args.seconds}",
            "date": date.today().isoformat(),
            "commit": commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
        }
        args.json.write_text(json.dumps({**head, "steps": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
