"""Replaying golden cases in minidl and comparing with what PyTorch gave."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from golden.runner import Run, array, is_tensor

HERE = Path(__file__).resolve().parent
# Rounding of a few dozen float64 or float32 operations, relative to the largest value of an array.
TOLERANCE = {"float64": 1e-10, "float32": 3e-5}


@cache
def load(group: str) -> tuple[list[dict], dict[str, np.ndarray]]:
    """A group's manifest and its buffers."""
    cases = json.loads((HERE / f"{group}.json").read_text())
    with np.load(HERE / f"{group}.npz") as buffers:
        return cases, dict(buffers)


def parameters(group: str) -> list:
    """Every case of a group, in float64 and, where floats go in, in float32."""
    found = []
    for number, case in enumerate(load(group)[0]):
        floats = [dtype == "float" for _, dtype, _ in case.get("inputs", {}).values()]
        reals = ["float64", "float32"] if any(floats) or "layers" in case else ["float64"]
        layers = ",".join(case.get("layers", {}).values())
        name = f"{number}:{layers}:{case['code']}".replace("\n", ";").strip(":")[:90]
        found += [pytest.param(group, number, real, id=f"{real}-{name}") for real in reals]
    return found


def close(got: np.ndarray, want: np.ndarray, real: str, what: str) -> None:
    """Equal shape; floats within the tolerance of the largest finite value; the rest exactly."""
    assert got.shape == want.shape, f"{what}: shape {got.shape}, want {want.shape}"
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want, what)
        return
    size = np.abs(want[np.isfinite(want)]).max(initial=0.0)
    if size < 1e-12:
        size = 1.0  # a sum that cancels: what is left of it is rounding
    rtol = TOLERANCE["float32" if got.dtype == np.float32 else real]
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * size, equal_nan=True, err_msg=what)


def replay(group: str, number: int, real: str) -> None:
    """Run one case in minidl and compare outputs, dtypes, gradients and buffers."""
    import minidl as ml
    import minidl.functional as F
    import minidl.nn as nn
    import minidl.optim as optim

    cases, buffers = load(group)
    case = cases[number]

    def get(ref: list) -> np.ndarray:
        dtype, offset, shape = ref
        flat = buffers[dtype][offset : offset + int(np.prod(shape))]
        return flat.reshape(shape).copy()

    inputs = {n: (get(ref), d, grad) for n, (ref, d, grad) in case.get("inputs", {}).items()}
    state = {m: {n: get(ref) for n, ref in s.items()} for m, s in case.get("state", {}).items()}
    library = {"ml": ml, "F": F, "nn": nn, "optim": optim}
    run = Run(library, case["code"], inputs, case.get("layers", {}), state, real)
    assert len(run.outs) == len(case["outs"]), f"{len(run.outs)} outputs"
    for k, (out, want) in enumerate(zip(run.outs, case["outs"], strict=True)):
        if "value" in want:
            assert type(out) is type(want["value"]), f"output {k} is a {type(out)}"
            assert out == pytest.approx(want["value"], rel=TOLERANCE[real])
            continue
        assert is_tensor(out), f"output {k} is a {type(out)}"
        close(array(out), get(want["ref"]), real, f"output {k}")
        assert str(array(out).dtype) == want["dtypes"][real == "float32"], f"output {k}"
        assert out.requires_grad == want["rg"], f"output {k} requires_grad"
    found = run.gradients([c and get(c) for c in case.get("cotangents", [])])
    for name, ref in case.get("grads", {}).items():
        value = found[name]
        want = np.zeros(run.wants_grad()[name].shape) if ref is None else get(ref)
        if value is not None:
            assert str(value.dtype) == real
            close(value, want, real, f"gradient of {name}")
        else:
            assert not want.any(), f"no gradient of {name}"
    for name, values in run.buffers().items():
        close(values, get(case["buffers"][name]), real, f"buffer {name}")
