"""Trains on a GPU what the projects' reports show, all runs side by side.

    python -m benchmarks.gpu_train --data DIR --out DIR [--minutes 9] [--only NAME,NAME]

The same command goes on with what time or a signal cut off. FINISHED.tar.gz in --out holds the
configuration, metrics and result of every run. Kernels share the GPU, so the times of these runs
are no measure of it: see gpu_check. Processes take turns at a GPU, unless NVIDIA's multi-process
service is there (`nvidia-cuda-mps-control -d`, before): with it all but nanoGPT took 8 minutes
on an H200.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from benchmarks.gpu_check import ROOT, chosen

KEPT = ("config.json", "metrics.jsonl", "result.json")
# name: the project's package and its arguments; a table has its runs within
RUNS: dict[str, tuple[str, list[str]]] = {
    "e": ("convnet", ["table", "e", "--jobs", "5", "--set", "precision=tf32"]),
    "e-compared": ("convnet", ["table", "e-compared", "--jobs", "10", "--set", "precision=tf32"]),
    "vgg-bn": ("convnet", ["--preset", "vgg-bn", "--set", "precision=tf32"]),
    "resnet18": ("convnet", ["--preset", "a-resnet18", "--epochs", "30", "--set",
                             "precision=bfloat16"]),
    "charlstm": ("textgen", ["--preset", "e-lstm2-512"]),
    "nanogpt": ("textgen", ["--preset", "a-nanogpt", "--set", "precision=bfloat16"]),
}  # fmt: skip


def command(name: str, data: str, out: Path, device: str) -> list[str] | None:
    """What begins a run or goes on with it; None for one that has its result."""
    project, args = RUNS[name]
    folder, more = out / name, ["--device", device, "--data", data]
    if (folder / "result.json").exists():
        return None
    if args[0] != "table" and (folder / "config.json").exists():
        args = ["--resume", str(folder)]
    else:
        args = [*args[:2], *more, "--out", str(folder), *args[2:]]
    return [sys.executable, "-u", "-m", f"projects.{project}", *args]


def packed(out: Path) -> int:
    """Write FINISHED.tar.gz; how many runs it has."""
    done = sorted(path.parent for path in out.rglob("result.json"))
    with tarfile.open(out / "FINISHED.tar.gz", "w:gz") as archive:
        for folder in done:
            for name in KEPT:
                archive.add(folder / name, f"{folder.relative_to(out)}/{name}")
    return len(done)


def main(argv: list[str] | None = None) -> int:
    """Train for so many minutes; 1 where something failed or is not finished."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_train", description=__doc__, formatter_class=form
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e6, help="then stop, with all saved")
    parser.add_argument("--only", default="", metavar="NAMES", help="runs that hold one of them")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    until, children = time.monotonic() + 60 * args.minutes, {}
    for name in chosen(RUNS, args.only):
        what = command(name, os.path.abspath(args.data), args.out.absolute(), args.device)
        if what:
            with (args.out / f"{name}.log").open("ab") as log:
                children[name] = subprocess.Popen(
                    what, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
    try:
        for child in children.values():
            child.wait(max(until - time.monotonic(), 0))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for child in children.values():
            child.send_signal(signal.SIGTERM)
    codes = {name: child.wait() for name, child in children.items()}
    for name, code in codes.items():
        last = (args.out / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:]
        print(f"{name}: {'finished' if code == 0 else f'status {code}'}; {''.join(last)}")
    print(f"{packed(args.out)} runs in {args.out / 'FINISHED.tar.gz'}")
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
