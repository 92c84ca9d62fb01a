"""Proves and measures the CUDA backend on a machine with a GPU.

    python -m benchmarks.gpu_check [--stage tests|kernels|steps] [--only NAME,NAME]
                                   [--dtypes NAME,NAME] [--json FILE]

tests: the instructions that the kernels are written in, bit by bit, then every family of kernels
and what is built on them, as tests/ has them for the emulator. kernels: each against PyTorch on the
same card, by device events. steps: whole training steps against PyTorch, eager and compiled. Each
family has a process of its own, so that an illegal address ends that one only; lines are printed
and written as they come. Needs CuPy, and for the last two PyTorch. A stage takes at most 8 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.gpu_worker import KERNELS, LOCK, STEPS
from minidl.backend.cuda import choice, runtime
from minidl.errors import DeviceError
from minidl.tools import environment
from projects.settings import device_name

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("tests", "kernels", "steps")
LIMIT = 420  # seconds of a family
TOGETHER = 12  # families of tests that run at once: they mostly compile
DTYPES = "bfloat16,float32"


def run(command: list[str], **env: str) -> tuple[int, str, float]:
    """A command's status, its output, and how long it took."""
    start = time.perf_counter()
    full = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **env}
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=full, timeout=LIMIT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        seen = (late.stdout or b"").decode(errors="replace")  # bytes, whatever `text` says
        status, output = 124, f"{seen}\nstopped after {LIMIT} s"
    return status, output, time.perf_counter() - start


def chosen(names: Iterable[str], only: str) -> list[str]:
    """The names that hold one of the texts in `only`, separated by commas."""
    return [name for name in names if any(text in name for text in only.split(","))]


def tests(only: str) -> Iterator[dict[str, Any]]:
    """Every family of tests on the device, the instructions first."""
    files = sorted((ROOT / "tests").glob("test_cuda*.py"))
    files = [file for file in files if file.stem in chosen([file.stem], only)]
    if chosen(["instructions"], only):
        what = ["tests/test_simt_numbers.py", "-k", "mma or ldmatrix or async"]
        yield family("instructions", what)
    with ThreadPoolExecutor(TOGETHER) as pool:
        waiting = [pool.submit(family, file.stem[5:], [f"tests/{file.name}"]) for file in files]
        for done in as_completed(waiting):
            yield done.result()


def family(name: str, what: list[str]) -> dict[str, Any]:
    """Tests run in a process of their own."""
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--maxfail=20", *what]
    status, output, seconds = run(pytest, MINIDL_TEST_DEVICE="cuda")
    lines = output.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E   "))]
    return {"stage": "tests", "family": name, "ok": status == 0, "summary": lines[-1:],
            "failed": failed[:40], "seconds": round(seconds, 1)}  # fmt: skip


def measured(stage: str, only: str, dtypes: str) -> Iterator[dict[str, Any]]:
    """Lines of the workers of a stage, one after the other; the best tiles go into the table."""
    best = dict(choice.TUNED)
    names = chosen(KERNELS if stage == "kernels" else STEPS, only)

    def work(name: str) -> tuple[str, tuple[int, str, float]]:
        alone = "float32" if name == "adamw_50M" else dtypes  # parameters are float32
        dtype = alone if stage == "kernels" else "mixed"
        return dtype, run(["-m", "benchmarks.gpu_worker", stage, name, dtype], **{LOCK: lock.name})

    with tempfile.NamedTemporaryFile() as lock, ThreadPoolExecutor(2) as pool:  # one gets ready
        for name, (dtype, (status, output, seconds)) in zip(names, pool.map(work, names)):
            lines = output.strip().splitlines()
            for line in lines:
                if line.startswith("{"):
                    found = json.loads(line)
                    best |= found.pop("tuned", {})
                    yield {"stage": stage, "ok": True, "seconds": round(seconds, 1), **found}
            if status:
                bad = {"case": name, "dtype": dtype, "ok": False, "failed": lines[-15:]}
                yield {"stage": stage, **bad}
    if best != choice.TUNED:
        choice.TABLE.write_text(json.dumps(best, indent=1, sort_keys=True) + "\n")


def shown(line: dict[str, Any]) -> str:
    """A line for people."""
    mark = "ok    " if line["ok"] else "FAILED"
    name = line.get("family") or " ".join(line[k] for k in ("case", "dtype", "phase") if k in line)
    if "ratio" in line:
        text = f"{line['ratio']:.2f} x PyTorch's speed"
        if "share_of_copy_moved" in line:
            copy, cores = line["share_of_copy_moved"], line["share_of_tensor_cores"]
            text += f", {copy:.0%} of copy bandwidth, {cores:.0%} of the tensor cores"
    else:
        text = " ".join(line.get("summary", line.get("failed", [])))
    return f"{mark} {name:46s} {text}"


def main(argv: list[str] | None = None) -> int:
    """Run the stages asked for; 1 if anything failed, 2 where there is no GPU."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_check", description=__doc__, formatter_class=form
    )
    parser.add_argument("--stage", choices=STAGES, help="one of them (otherwise all)")
    parser.add_argument("--only", default="", metavar="NAMES", help="families that hold one")
    parser.add_argument("--dtypes", default=DTYPES, metavar="NAMES", help=f"of kernels ({DTYPES})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the lines here")
    args = parser.parse_args(argv)
    try:
        runtime.cupy()
    except DeviceError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    command = [
        "python",
        "-m",
        "benchmarks.gpu_check",
        *(["--stage", args.stage] * bool(args.stage)),
        *(["--only", args.only] * bool(args.only)),
        *(["--dtypes", args.dtypes] * (args.dtypes != DTYPES)),
    ]
    facts = {k: v for k, v in environment.info().items() if k != "kernel cache"}
    about = {
        "date": date.today().isoformat(),
        "device": device_name("cuda"),
        "command": " ".join(command),
        **facts,
    }
    lines: list[dict[str, Any]] = []
    for stage in [args.stage] if args.stage else STAGES:
        given = (args.only,) if stage == "tests" else (stage, args.only, args.dtypes)
        for line in tests(*given) if stage == "tests" else measured(*given):
            lines.append(line)
            print(shown(line), flush=True)
            if args.json:
                args.json.write_text(json.dumps({**about, "lines": lines}, indent=1) + "\n")
    return int(not all(line["ok"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
