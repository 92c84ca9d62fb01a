"""The backends have the same functions, which say what they do; the ops use no others."""

import inspect
import re
from pathlib import Path

import pytest

from minidl import backend
from minidl.backend import cpu, cuda

FUNCTIONS = {name: f for name, f in vars(cpu).items() if callable(f)}
OPS = Path(backend.__file__).parents[1] / "ops"
GPU_ONLY = {"adopted", "augment_pictures", "blend_pictures", "require_device"}  # asked for by name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_backends_have_every_function(name):
    """A sentence first, and arguments of the same names and defaults."""
    ours, theirs = FUNCTIONS[name], getattr(cuda, name)
    for function in (ours, theirs):
        assert function.__name__ == name
        assert inspect.getdoc(function).partition("\n\n")[0].endswith(".")
    signatures = [inspect.signature(f).parameters.values() for f in (ours, theirs)]
    kinds = {p.kind for p in signatures[0]}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    shown = [[(p.name, p.default) for p in parameters] for parameters in signatures]
    assert shown[0] == shown[1]


def test_a_gpu_has_little_more():
    more = {name for name, f in vars(cuda).items() if inspect.isfunction(f)} - FUNCTIONS.keys()
    assert more == GPU_ONLY and cpu.FLOATS <= cuda.FLOATS


def test_ops_use_nothing_else():
    """What the ops ask of a backend is among its functions."""
    used = {
        name: path.name
        for path in OPS.rglob("*.py")
        for name in re.findall(r"\bbe\.(\w+)|backend\.of\([^()]*\)\.(\w+)", path.read_text())
        for name in filter(None, name)
    }
    constants = {"FLOATS", "warm_ups"}
    assert used and not {n: used[n] for n in used.keys() - FUNCTIONS.keys() - constants}
