"""Device time of each kernel of workloads and steps on a GPU, as CUPTI measures it.

    python -m benchmarks.gpu_profile [--only NAME,NAME] [--dtype bfloat16] [--peer]
                                     [--edit FILE OLD NEW]... [--json FILE]

Names are those of gpu_check's kernels and steps. --peer: PyTorch's kernels too. --edit replaces
OLD, a regular expression, by NEW in a file of the CUDA sources, to time a variant of a kernel
before it is written; the sources stay as they are. Needs CuPy and PyTorch, whose profiler sees the
kernels of both.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu_worker
from benchmarks.gpu_check import chosen
from benchmarks.gpu_library import open_gpu_library
from minidl.backend.cuda import runtime
from minidl.errors import DeviceError

CALLS = 5  # of each phase that are profiled
Kernels = dict[str, tuple[float, float]]  # by name: microseconds of a launch, launches of a call


def edited(edits: Iterable[Sequence[str]], into: Path) -> Path:
    """A copy of the CUDA sources with each (file, old, new) carried out.

    Raises ValueError where a file has nothing that matches, OSError where there is no such file.
    """
    sources = Path(shutil.copytree(runtime.SOURCES, into / "src"))
    for file, old, new in edits:
        text = (sources / file).read_text()
        changed, count = re.subn(old, new, text)
        if not count:
            raise ValueError(f"{file} has nothing that matches {old!r}")
        (sources / file).write_text(changed)
    return sources


def summed(events: Iterable[tuple[str, float]], calls: int) -> Kernels:
    """Kernels by name, the dearest first: median time of a launch, and launches of a call."""
    times: dict[str, list[float]] = {}
    for name, us in events:
        times.setdefault(name, []).append(us)
    found = {k: (statistics.median(v), len(v) / calls) for k, v in times.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1][0] * item[1][1]))


def profiled(run: Callable[[], Any]) -> Kernels:
    """The kernels of a call, which has run before."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(CALLS):
            run()
        torch.cuda.synchronize()
    there = [e for e in seen.events() if str(e.device_type).endswith("CUDA")]
    return summed(((e.name, e.time_range.elapsed_us()) for e in there), CALLS)


def measured(name: str, dtype: str, peer: bool) -> Iterable[tuple[str, Kernels]]:
    """(library and phase, kernels) of a workload, or of a captured step."""
    for which in ("minidl", "torch")[: 1 + peer]:
        if name in gpu_worker.STEPS:
            lib = open_gpu_library(which, "float32")
            step = gpu_worker.training(lib, name)[0]
            yield which, profiled(step if which == "torch" else lib.captured(step))
            continue
        lib = open_gpu_library(which, dtype)
        for phase, run in gpu_worker.KERNELS[name]().build(lib).run.items():
            yield f"{which} {phase}", profiled(lib.captured(run))


def main(argv: list[str] | None = None) -> int:
    """Print what was measured; 2 where there is no GPU or an edit does not fit."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_profile", description=__doc__, formatter_class=form
    )
    parser.add_argument("--only", default="", metavar="NAMES", help="workloads that hold one")
    parser.add_argument("--dtype", default="bfloat16", help="of workloads")
    parser.add_argument("--peer", action="store_true", help="PyTorch too")
    parser.add_argument("--edit", nargs=3, action="append", default=[],
                        metavar=("FILE", "OLD", "NEW"), help="time a variant")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times here")
    args = parser.parse_args(argv)
    out = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            sources = edited(args.edit, Path(folder))
            runtime.cupy()
        except (DeviceError, ValueError, OSError) as error:
            print(f"gpu_profile: {error}", file=sys.stderr)
            return 2
        runtime.SOURCES = sources
        for name in chosen([*gpu_worker.KERNELS, *gpu_worker.STEPS], args.only):
            for what, kernels in measured(name, args.dtype, args.peer):
                whole = sum(us * launches for us, launches in kernels.values())
                print(f"{name} {what}: {whole:.1f} us", flush=True)
                for kernel, (us, launches) in kernels.items():
                    print(f"  {us * launches:9.1f} us {launches:7.1f} x  {kernel[:90]}")
                out.append({"case": name, "what": what, "us": whole, "kernels": kernels})
                if args.json:
                    args.json.write_text(json.dumps(out, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
