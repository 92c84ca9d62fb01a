"""Checks and times minidl's workloads, alone or beside PyTorch, in interleaved rounds of processes.

    python -m benchmarks [--only REGEX] [--peer torch] [--json FILE] [--against FILE]

Each line: median (p20 - p80), FLOPs or bytes a second, share of the roofline measured in this run,
peak memory of the steps, and how many times as long PyTorch takes in the fastest of its settings:
default, malloc tuned and, for images, channels_last. Both use MINIDL_NUM_THREADS threads.
Needs Linux (the peak memory is VmHWM).
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
from typing import Any

from llvmlite.binding import get_host_cpu_name

import minidl
from benchmarks import report, suite
from benchmarks.case import Case
from benchmarks.library import SETTINGS, settings, threads
from benchmarks.roofline import flops_bound, limit
from benchmarks.worker import WRONG
from minidl.backend.cpu import blas
from minidl.errors import MinidlError
from minidl.tools import environment


class Wrong(Exception):
    """A workload's result is wrong: it is not timed."""


class Refused(Exception):
    """The command cannot be run as it was given; one line that says why."""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The options."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=form
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", default="", metavar="REGEX", help="cases or families to run")
    parser.add_argument("--peer", choices=["torch"], help="compare with this library")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PY", help="interpreter that has it"
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes per line and library")
    parser.add_argument("--seconds", type=float, default=2.0, help="per phase and process")
    parser.add_argument(
        "--json", "--save", type=Path, metavar="FILE", help="write the figures here"
    )
    parser.add_argument("--against", type=Path, metavar="FILE", help="figures of another commit")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    return parser.parse_args(argv)


def chosen(only: str) -> list[Case]:
    """The cases whose "family/name" the expression is found in."""
    try:
        wanted = re.compile(only)
    except re.error as error:
        raise Refused(f"--only {only!r} is not a regular expression: {error}") from None
    found = [case for case in suite.cases() if wanted.search(f"{case.family}/{case.name}")]
    if not found:
        raise Refused(f"--only {only!r} matches no case; --list names them")
    return found


def python(code: list[str], interpreter: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter with two libraries' pools out of each other's way."""
    full = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MINIDL_NUM_THREADS": str(threads()), **env}
    return subprocess.run([interpreter, *code], env=full, capture_output=True, text=True)


def peer_version(interpreter: str) -> str:
    """PyTorch's version in that interpreter."""
    try:
        done = python(["-c", "import torch; print(torch.__version__)"], interpreter)
    except OSError as error:
        raise Refused(f"--peer-python: {error}") from None
    if done.returncode:
        raise Refused(f"--peer torch: {interpreter} has no PyTorch; --peer-python can name another")
    return done.stdout.strip()


def older(path: Path) -> report.Report:
    """The report to compare with."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"--against {path}: {error}") from None
    if not isinstance(found, dict) or "lines" not in found:
        raise Refused(f"--against {path}: not a report of this suite")
    return found


def worker(library: str, case: str, seconds: str, interpreter: str) -> dict[str, Any]:
    """Run one worker and read its line."""
    kind, env = SETTINGS.get(library, (library, {}))
    done = python(["-m", "benchmarks.worker", kind, case, seconds], interpreter, **env)
    if done.returncode == WRONG:
        raise Wrong(f"{case} is not timed: {done.stderr.strip()}")
    if done.returncode:
        raise Refused(f"{library} {case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_roofline() -> dict[str, Any]:
    """What the machine allows, measured in a fresh process."""
    done = python(["-m", "benchmarks.roofline", str(threads())], sys.executable)
    return json.loads(done.stdout)


def processor() -> str:
    """The processor's name, what a compiler calls it, and BLAS with what it takes it for."""
    text = blas.describe()
    found = re.search(r"(OpenBLAS \S+).* (\w+) MAX_THREADS", text)
    product = f"{found[1]} for {found[2]}" if found else text
    return f"{environment.processor()} ({get_host_cpu_name()}), {product}"


def head(args: argparse.Namespace) -> report.Report:
    """Device, versions, date and commit; the roofline."""
    where = Path(__file__).parent
    git = [subprocess.run(["git", *words], capture_output=True, text=True, cwd=where).stdout.strip()
           for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])]  # fmt: skip
    versions = {"python": platform.python_version(), "minidl": minidl.__version__}
    versions["numpy"] = environment.version("numpy")
    if args.peer:
        versions["torch"] = peer_version(args.peer_python)
    return {
        "command": f"python -m benchmarks --only '{args.only}' --peer {args.peer} "
        f"--rounds {args.rounds} --seconds {args.seconds}",
        "date": date.today().isoformat(),
        "commit": git[0] + ("-changed" if git[1] else ""),
        "device": processor(),
        "threads": threads(),
        "rounds": args.rounds,
        "versions": versions,
        "roofline": measure_roofline(),
        "lines": {},
    }


def run(case: Case, args: argparse.Namespace, roof: dict[str, Any]) -> dict[str, report.Line]:
    """Check a case, then time it in interleaved rounds: a line for each phase."""
    libraries = ["minidl", *(settings(case.images) if args.peer else [])]
    lines = {
        f"{case.name} {phase}": {
            "group": case.group, "bar": case.bar, "flops": sum(c.flops for c in costs),
            "bytes": sum(c.bytes for c in costs), "limit_ms": limit(costs, roof),
            "bound": "flops" if flops_bound(costs, roof) else "bytes",
            "runs": {library: {} for library in libraries},
        } for phase, costs in case.costs.items()
    }  # fmt: skip
    worker("minidl", case.name, "check", sys.executable)
    for _ in range(args.rounds):
        for library in libraries:
            interpreter = sys.executable if library == "minidl" else args.peer_python
            found = worker(library, case.name, str(args.seconds), interpreter)
            for phase, figures in found["phases"].items():
                runs = lines[f"{case.name} {phase}"]["runs"][library]
                for key, value in (figures | found["shared"]).items():
                    runs.setdefault(key, []).append(float(f"{value:.5g}"))
    return lines


def measure(cases: list[Case], args: argparse.Namespace, out: report.Report) -> int:
    """Run the cases, print their lines and put them into the report; 1 if any was wrong."""
    roof = out["roofline"]
    rates = ", ".join(f"{rate:.0f} at {size >> 20} MiB" for size, rate in roof["gbytes"])
    print(f"{out['device']}, {out['threads']} threads, commit {out['commit'][:12]}")
    print(f"roofline: {roof['gflops']:.0f} GFLOP/s; GB/s read and written: {rates}")
    status = 0
    for case in cases:
        try:
            lines = run(case, args, roof)
        except Wrong as error:
            print(error, file=sys.stderr)
            status = 1
            continue
        out["lines"] |= lines
        for name, line in lines.items():
            print(report.row(name, line), flush=True)
    return status


def main(argv: list[str] | None = None) -> int:
    """Returns 0, 1 for a wrong result, 2 for a command that cannot run, 130 if interrupted."""
    args, status = arguments(argv), 0
    out: report.Report = {}
    try:
        cases = chosen(args.only)
        if args.list:
            for case in cases:
                print(f"{case.family}/{case.name}: {', '.join(case.costs)}")
            return 0
        minidl.tensor(0.0, device=args.device)
        if args.rounds < 1 or args.seconds < 0:
            raise Refused("--rounds must be at least 1 and --seconds not negative")
        if args.json and not args.json.absolute().parent.is_dir():
            raise Refused(f"--json {args.json}: no such folder")
        before = older(args.against) if args.against else None
        out = head(args)
        status = measure(cases, args, out)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except (Refused, MinidlError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        status = 2
    if out.get("lines"):
        print(*report.summary(out), sep="\n")
        if args.json:
            args.json.write_text(json.dumps(out, indent=1) + "\n")
        if before:
            print(*report.against(out, before), sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
