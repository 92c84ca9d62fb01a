"""Proves and measures the CUDA backend on a machine with a GPU.

    python -m benchmarks.gpu_check [--stage tests|steps|kernels] [--only NAME,NAME]
                                   [--dtypes NAME,NAME] [--minutes N] [--json FILE]

tests: the instructions that the kernels are written in, bit by bit, then every family of kernels
and what is built on them, as tests/ has them for the emulator. kernels: each against PyTorch on the
same card, by device events. steps: whole training steps against PyTorch, eager and compiled. Each
family has a process of its own, so that an illegal address, or a kernel that hangs, ends that one
only; lines are printed and written as they come. Needs CuPy, and for the last two PyTorch. On an
H200 with 16 cores tests took about 1.5 minutes, steps 1.5, kernels of bfloat16 4; what has not
begun when the minutes are over is named. The best tiles go into minidl's table and into the file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
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
STAGES = ("tests", "steps", "kernels")
LIMIT = 240  # seconds of a family, and to wait for its turn; of what it does then: gpu_worker
MINUTES = 9.0
TOGETHER = 12  # families of tests that run at once: they mostly compile
DTYPES = "bfloat16,float32"
FLOAT32 = "adamw_50M"  # of parameters, which are float32


class Clock:
    """When everything must be over, and the processes that must be by then."""

    until = float("inf")
    running: set[subprocess.Popen] = set()

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


clock = Clock()


def stop(child: subprocess.Popen) -> None:
    """End a process with all that it has begun, which would keep its lock."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def run(command: list[str], **env: str) -> tuple[int, str, float]:
    """A command's status, its output, and how long it took."""
    limit, start = min(LIMIT, clock.left()), time.perf_counter()
    if limit < 5:
        return 125, "not begun: the minutes are over", 0.0
    full = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **env}
    with tempfile.TemporaryFile() as seen:  # of a pipe, what the child began would keep the end
        child = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=full, start_new_session=True,
            stdout=seen, stderr=subprocess.STDOUT,
        )  # fmt: skip
        clock.running.add(child)
        try:
            status, end = child.wait(limit), ""
        except subprocess.TimeoutExpired:
            status, end = 124, f"\nstopped after {limit:.0f} s"
        finally:
            stop(child)
            clock.running.discard(child)
        child.wait()
        seen.seek(0)
        output = seen.read().decode(errors="replace") + end
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
    mixed = [(name, "mixed") for name in STEPS]
    works = [(name, kind) for kind in dtypes.split(",") for name in KERNELS if name != FLOAT32]
    works = mixed if stage == "steps" else [*works, (FLOAT32, "float32")]
    works = [(name, kind) for name, kind in works if chosen([name], only)]

    def work(given: tuple[str, str]) -> tuple[int, str, float]:
        return run(["-m", "benchmarks.gpu_worker", stage, *given], **{LOCK: lock.name})

    with tempfile.NamedTemporaryFile() as lock, ThreadPoolExecutor(2) as pool:  # one gets ready
        for (name, kind), (status, output, seconds) in zip(works, pool.map(work, works)):
            lines = output.strip().splitlines()
            for found in filter(None, map(parsed, lines)):
                if tiles := found.pop("tuned", {}):
                    table = json.loads(choice.TABLE.read_text()) | tiles
                    write(choice.TABLE, json.dumps(table, indent=1, sort_keys=True))
                yield {"stage": stage, "ok": True, "seconds": round(seconds, 1), **found}
            if status:
                bad = {"case": name, "dtype": kind, "ok": False, "status": status}
                yield {"stage": stage, **bad, "failed": lines[-15:]}


def parsed(line: str) -> dict[str, Any]:
    """What a worker printed as JSON; nothing for anything else, as the half of a line."""
    with contextlib.suppress(ValueError):
        if line.startswith("{"):
            return json.loads(line)
    return {}


def write(path: Path, text: str) -> None:
    """A file that is there with all of the text, or with what was there before."""
    half = path.with_name(f"{path.name}.half")
    half.write_text(text + "\n")
    half.replace(path)


def shown(line: dict[str, Any]) -> str:
    """A line for people."""
    mark = "ok    " if line["ok"] else "FAILED"
    name = line.get("family") or " ".join(line[k] for k in ("case", "dtype", "phase") if k in line)
    if "ratio" in line:
        than = ", compiled" if line.get("phase") == "compiled" else ""
        text = f"{line['ratio']:.2f} x PyTorch's speed{than}"
        if "share_of_copy_moved" in line:
            copy, cores = line["share_of_copy_moved"], line["share_of_tensor_cores"]
            text += f", {copy:.0%} of copy bandwidth, {cores:.0%} of the tensor cores"
    else:
        text = " ".join(line.get("failed") or line.get("summary", []))
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
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="N",
                        help=f"when all must be over ({MINUTES:.0f})")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the lines here")
    args = parser.parse_args(argv)
    clock.until = time.monotonic() + 60 * args.minutes
    try:
        runtime.cupy()
    except DeviceError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    about, lines = described(args), []
    try:
        for stage in [args.stage] if args.stage else STAGES:
            given = (args.only,) if stage == "tests" else (stage, args.only, args.dtypes)
            for line in tests(*given) if stage == "tests" else measured(*given):
                lines.append(line)
                print(shown(line), flush=True)
                if args.json:
                    found = {**about, "lines": lines, "tiles": json.loads(choice.TABLE.read_text())}
                    write(args.json, json.dumps(found, indent=1))
    except KeyboardInterrupt:
        return 130
    failed = [shown(line) for line in lines if not line["ok"]]
    print("\n".join([f"{len(lines)} lines, {len(failed)} failed", *failed]))
    return int(bool(failed))


def interrupted(number: int, frame: Any) -> None:
    """End what runs, and begin nothing."""
    clock.until = 0.0
    for child in [*clock.running]:
        stop(child)
    raise KeyboardInterrupt


def described(args: argparse.Namespace) -> dict[str, Any]:
    """Where and by what command it was measured."""
    command = [
        "python",
        "-m",
        "benchmarks.gpu_check",
        *(["--stage", args.stage] * bool(args.stage)),
        *(["--only", args.only] * bool(args.only)),
        *(["--dtypes", args.dtypes] * (args.dtypes != DTYPES)),
    ]
    facts = {k: v for k, v in environment.info().items() if k != "kernel cache"}
    return {
        "date": date.today().isoformat(),
        "device": device_name("cuda"),
        "command": " ".join(command),
        **facts,
    }


if __name__ == "__main__":
    sys.exit(main())
