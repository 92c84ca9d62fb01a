"""One family on a GPU in a process of its own: `python -m benchmarks.gpu_worker STAGE NAME DTYPES`.

kernels: a workload against PyTorch by device events, its share of the measured limits, its distance
from PyTorch's result. steps: whole training steps. Prints a line of JSON for each as it comes.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import attention, conv, dense, norm, pointwise, recurrent, rows
from benchmarks.case import Case, random
from benchmarks.gpu_library import (
    REPLAYED,
    GpuMinidl,
    GpuTorch,
    milliseconds,
    open_gpu_library,
)
from minidl.backend.cuda import choice

LOCK = "MINIDL_GPU_LOCK"  # names the file whose lock a worker waits for
PATIENCE = 100  # seconds that a worker has once it is its turn: five times what one takes
# How far results may be apart, relative: tf32 is PyTorch's for convolutions of float32.
FAR = {"float32": 5e-3}
# Sizes that keep an H200 busy, each a few times what its caches hold where memory is the limit.
KERNELS: dict[str, Callable[[], Case]] = {
    "conv3x3_64c_56": lambda: conv.conv("", (128, 64, 56, 56), 64),
    "conv3x3_256c_28": lambda: conv.conv("", (128, 256, 28, 28), 256),
    "conv3x3s2_256to512_28": lambda: conv.conv("", (128, 256, 28, 28), 512, stride=2),
    "conv1x1_1024to256_14": lambda: conv.conv("", (128, 1024, 14, 14), 256, 1),
    "dwconv7x7_96c_56": lambda: conv.conv("", (64, 96, 56, 56), 96, 7, depthwise=True),
    "linear_gelu_16384_1024_4096": lambda: dense.linear_gelu(16384, 1024, 4096),
    "matmul_4096": lambda: dense.matmul(4096),
    "attention_16x16x1024x64": lambda: attention.attention(16, 16, 1024, 64),
    "attention_2x16x8192x128": lambda: attention.attention(2, 16, 8192, 128),
    "lstm_512x64x512": lambda: recurrent.lstm("", 512, 64, 512, 1),
    "batch_norm_relu_256c_56": lambda: norm.batch_norm_relu(128, 256, 56),
    "layer_norm_65536x1024": lambda: norm.layer_norm(65536, 1024),
    "max_pool_256c_56": lambda: norm.max_pool(128, 256, 56),
    "softmax_65536x1024": lambda: rows.softmax(65536, 1024),
    "cross_entropy_8192x50304": lambda: rows.cross_entropy("", 8192, 50304),
    "embedding_65536_of_50304x1024": lambda: rows.embedding(65536, 50304, 1024),
    "chain_64M": lambda: pointwise.chain(1 << 26),
    "adamw_50M": lambda: pointwise.adamw(48, 1024),
}
# What is moved over the least that must be: batch norm reads x twice, since it does not fit into a
# cache, and back g too; an operation of the chain reads and writes its arrays whole.
MOVED: dict[str, dict[str, float]] = {
    "batch_norm_relu_256c_56": {"fwd": 3 / 2, "fb": 8 / 6},
    "chain_64M": {"fwd": 9 / 3, "fb": 16 / 9},
}
# name: (model, optimizer, batch, what is fed: pictures' side or (steps, vocabulary), autocast)
STEPS: dict[str, tuple[str, str, int, Any, bool]] = {
    "vgg3_b512": ("vgg3", "sgd", 512, 32, True),
    "resnet18_b512": ("resnet18", "sgd", 512, 32, True),
    "charlstm_b256": ("CharRNN", "adam", 256, (100, 80), False),
    "nanogpt_b64": ("GPT", "adamw", 64, (256, 65), True),
}


@functools.cache
def ceilings() -> dict[str, float]:
    """Measured limits: bytes a second of a copy, FLOPs a second of a bfloat16 product."""
    import torch

    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    m = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    copy, product = milliseconds([lambda: b.copy_(a), lambda: m @ m])
    return {"copy_bytes_s": 2e3 * (1 << 30) / copy["least"],
            "bfloat16_flops_s": 2e3 * 8192**3 / product["least"]}  # fmt: skip


def kernels(name: str, dtype: str) -> Iterator[dict[str, Any]]:
    """A workload's phases in both libraries, and how far their results are apart."""
    case, limits = KERNELS[name](), ceilings()
    libs = [open_gpu_library(which, dtype) for which in ("minidl", "torch")]
    works = [case.build(lib) for lib in libs]
    tuned = tune(libs[0], next(reversed(works[0].run.values())))
    for phase, costs in case.costs.items():
        runs = [work.run[phase] for work in works]
        comparable = phase != "step" and case.family != "recurrent"  # equal weights
        error = distance(*(run() for run in runs)) if comparable else math.nan
        graphs = [lib.captured(run, REPLAYED) for lib, run in zip(libs, runs)]
        ours, theirs = (
            {key: ms / REPLAYED for key, ms in times.items()} for times in milliseconds(graphs, 5)
        )
        seconds, narrow = ours["median"] / 1e3, 1.0 if dtype == "float32" else 0.5
        copied = narrow * sum(c.bytes for c in costs) / seconds / limits["copy_bytes_s"]
        yield {
            "case": name, "dtype": dtype, "phase": phase, "ms": ours, "torch_ms": theirs,
            "ratio": theirs["median"] / ours["median"], "relative_difference": error,
            "share_of_copy": copied,
            "share_of_copy_moved": copied * MOVED.get(name, {}).get(phase, 1.0),
            "share_of_tensor_cores": sum(c.flops for c in costs) / seconds
            / limits["bfloat16_flops_s"], **limits, "tuned": tuned,
            "ok": not error > FAR.get(dtype, 3e-2),
        }  # fmt: skip


class Seen(dict):
    """The table of tiles; `keys_seen` are those that were asked for."""

    def __init__(self, table: dict[str, list[int]]) -> None:
        super().__init__(table)
        self.keys_seen: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The entry of a key."""
        self.keys_seen.add(key)
        return super().get(key, default)


def tune(lib: GpuMinidl, run: Callable[[], Any]) -> dict[str, list[int]]:
    """The fastest tiles of every product that a workload makes; they are in force afterwards.

    By graphs: Python's time between two launches would hide that of the tiles.
    """
    table = choice.TUNED = Seen(choice.TUNED)
    run()
    for key in sorted(table.keys_seen):
        ways = [[*tile] for tile in choice.tiles_of(key.split()[1])]
        ways += [[]] if key.startswith("linear ") else []  # cuBLAS
        times = []
        for way in ways:
            table[key] = way
            times.append(milliseconds([lib.captured(run)], 5)[0]["median"])
        table[key] = ways[times.index(min(times))]
    return {key: table[key] for key in table.keys_seen if key in table}


def distance(ours: Any, theirs: Any) -> float:
    """The relative L2 distance of two results."""
    if ours is None or not hasattr(ours, "detach"):
        return math.nan
    a = np.asarray(ours.detach().float().cpu().numpy(), np.float64)
    b = np.asarray(theirs.detach().float().cpu().numpy(), np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def steps(name: str, dtype: str) -> Iterator[dict[str, Any]]:
    """A training step: minidl captured and not, PyTorch eager; then against PyTorch compiled."""
    ours, theirs = GpuMinidl("float32"), GpuTorch("float32")
    variants = {"minidl": training(ours, name), "torch_eager": training(theirs, name)}
    line: dict[str, Any] = {"case": name}
    step, check = variants["minidl"]
    line["losses"] = [check() for _ in range(8)]
    assert all(map(math.isfinite, line["losses"])) and line["losses"][-1] < line["losses"][0], line
    runs = {"minidl_captured": ours.captured(step), "minidl": step,
            "torch_eager": variants["torch_eager"][0]}  # fmt: skip
    for key, ms in zip(runs, milliseconds([*runs.values()], 10), strict=True):
        line[f"{key}_ms"] = ms
    line["ratio"] = line["torch_eager_ms"]["median"] / line["minidl_captured_ms"]["median"]
    line["minidl_bytes"] = ours.root.backend.cuda.memory_stats()
    line["torch_bytes"] = theirs.root.cuda.max_memory_allocated()
    yield line
    line = {"case": name, "phase": "compiled"}
    try:
        compiled, _ = training(theirs, name, compiles=True)
        compiled()
    except Exception as error:  # noqa: BLE001 - the compiler may lack what it needs there
        yield {**line, "summary": [repr(error)[:300]]}
        return
    mine, its = milliseconds([runs["minidl_captured"], compiled], 10)
    ratio = its["median"] / mine["median"]
    yield {**line, "minidl_captured_ms": mine, "torch_compiled_ms": its, "ratio": ratio}


def training(lib: Any, name: str, compiles: bool = False) -> tuple[Callable, Callable]:
    """A step that leaves its loss on the device, and one that reads it."""
    model_name, optimizer_name, batch, fed, lower = STEPS[name]
    options = {"vgg3": (), "resnet18": (), "CharRNN": (80,), "GPT": (65,)}[model_name]
    known = {"stem": "cifar", "num_classes": 10} if model_name == "resnet18" else {}
    model = lib.place(getattr(lib.models, model_name)(*options, **known))
    draws = np.random.default_rng(1)
    if isinstance(fed, int):
        x = lib.images(random(batch, 3, fed, fed))
        y = lib.tensor(draws.integers(0, 10, batch))
    else:
        text = draws.integers(0, fed[1], (batch, fed[0] + 1))
        x, y = lib.tensor(text[:, :-1]), lib.tensor(text[:, 1:].reshape(-1))
    rate = {"sgd": 0.01, "adam": 1e-3, "adamw": 3e-4}[optimizer_name]
    if optimizer_name == "sgd":
        more = {"fused": True} if lib.name == "torch" else {}
        optimizer = lib.optim.SGD(model.parameters(), lr=rate, momentum=0.9, **more)
    else:
        optimizer = getattr(lib, optimizer_name)(model.parameters(), lr=rate)
    network = lib.root.compile(model) if compiles else model

    def step() -> Any:
        optimizer.zero_grad()
        with lib.root.autocast("cuda", dtype=lib.root.bfloat16, enabled=lower):
            out = network(x)
            out = out[0] if isinstance(out, tuple) else out
            loss = lib.F.cross_entropy(out.reshape(-1, out.shape[-1]), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, lambda: float(step().item())


@contextlib.contextmanager
def turn(lock: str | None) -> Iterator[None]:
    """Within it no other worker has the GPU that waits for the same file's lock."""
    with open(lock or os.devnull, "a") as file:
        if lock:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(stage: str, name: str, dtype: str) -> int:
    """Print what was measured; a worker that hangs, be it in the driver, is ended by SIGALRM."""
    for slow in ("cupy", "torch"):  # while another worker measures
        importlib.import_module(slow)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with turn(os.environ.get(LOCK)):
        signal.alarm(PATIENCE)
        for line in (kernels if stage == "kernels" else steps)(name, dtype):
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
