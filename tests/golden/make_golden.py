"""Make the golden values: run every case in PyTorch (CPU, float64) and save what came out.

    python tests/golden/make_golden.py [GROUP ...]      # needs torch; the tests do not

Writes GROUP.json (one case a line) and GROUP.npz (all arrays of a dtype end to end) beside this
file. The committed values were made with PyTorch 2.13 on a CPU.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from golden.runner import Run, array, is_tensor  # noqa: E402
from golden.specs import Case  # noqa: E402

GROUPS = "elementwise shape dtypes functional losses layers optim wide more".split()
LIBRARY = {"ml": torch, "F": torch.nn.functional, "nn": torch.nn, "optim": torch.optim}


class Store:
    """Arrays end to end, one buffer a dtype; a reference is [dtype, offset, shape]."""

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {}
        self.sizes: dict[str, int] = {}

    def put(self, values: np.ndarray) -> list:
        """Append an array and return its reference."""
        name = str(values.dtype)
        offset = self.sizes.get(name, 0)
        self.parts.setdefault(name, []).append(values.ravel())
        self.sizes[name] = offset + values.size
        return [name, offset, list(values.shape)]

    def save(self, path: Path) -> None:
        """Write the buffers, compressed."""
        np.savez_compressed(path, **{k: np.concatenate(v) for k, v in self.parts.items()})


def draw_state(case: Case, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Parameters and buffers for a case's layers: exact in half precision, variances positive."""
    state = {}
    for layer, text in case.layers.items():
        state[layer] = {}
        for name, value in eval(text, dict(LIBRARY)).state_dict().items():
            drawn = (rng.integers(-768, 768, tuple(value.shape)) / 1024).astype(np.float16)
            if name.endswith("running_var"):
                drawn = np.abs(drawn) + np.float16(0.25)
            counter = name.endswith("num_batches_tracked")
            state[layer][name] = np.zeros((), np.int64) if counter else drawn
    return state


def describe(out64: object, out32: object, store: Store) -> dict:
    """How an output is stored: values, dtypes in both precisions, whether it requires grad."""
    if not is_tensor(out64):
        return {"value": out64}
    dtypes = [str(array(out64).dtype), str(array(out32).dtype)]
    return {"ref": store.put(array(out64)), "dtypes": dtypes, "rg": out64.requires_grad}


def record(case: Case, store: Store) -> dict:
    """Run a case in both precisions and describe inputs, outputs and gradients."""
    rng = case.rng()
    drawn = {name: (spec.make(rng), spec.dtype, spec.grad) for name, spec in case.inputs.items()}
    state = draw_state(case, rng)
    run = Run(LIBRARY, case.code, drawn, case.layers, state, "float64")
    single = Run(LIBRARY, case.code, drawn, case.layers, state, "float32")
    cotangents = [
        (rng.integers(-512, 512, tuple(y.shape)) / 256).astype(np.float16)
        if is_tensor(y) and y.requires_grad
        else None
        for y in run.outs
    ]
    outs = [describe(y, z, store) for y, z in zip(run.outs, single.outs, strict=True)]
    put = store.put
    row = {
        "code": case.code,
        "layers": case.layers,
        "inputs": {n: [put(v), dtype, grad] for n, (v, dtype, grad) in drawn.items()},
        "state": {m: {n: put(v) for n, v in arrays.items()} for m, arrays in state.items()},
        "outs": outs,
        "cotangents": [None if c is None else put(c) for c in cotangents],
        "grads": {n: None if g is None else put(g) for n, g in run.gradients(cotangents).items()},
        "buffers": {n: put(v) for n, v in run.buffers().items()},
    }
    return {name: value for name, value in row.items() if value}


def make(group: str) -> None:
    """Write the manifest and the arrays of one group."""
    store, lines, seen = Store(), [], set()
    for case in importlib.import_module(f"golden.cases_{group}").CASES:
        shapes = {n: (s.kind, s.shape, s.dtype, str(s.values)) for n, s in case.inputs.items()}
        key = f"{case.code}{case.layers}{shapes}"
        if key in seen:
            continue
        seen.add(key)
        try:
            lines.append(json.dumps(record(case, store)))
        except Exception:
            print(f"failed: {case.code!r} {case.layers} {shapes}", file=sys.stderr)
            raise
    (HERE / f"{group}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    store.save(HERE / f"{group}.npz")
    size = sum((HERE / f"{group}.{kind}").stat().st_size for kind in ("json", "npz"))
    print(f"{group}: {len(lines)} cases, {size / 1e3:.0f} kB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or GROUPS:
        make(name)
