"""Every backend has the contract's functions, with its arguments and its words."""

import inspect
import re
from pathlib import Path

import pytest

from minidl import backend
from minidl.backend import contract, cpu

STUBS = {
    name: f
    for name, f in vars(contract).items()
    if inspect.isfunction(f) and f.__module__ == contract.__name__
}
OPS = Path(backend.__file__).parents[1] / "ops"


def arguments(function):
    """Names, kinds and defaults of a function's arguments."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found]


def test_names():
    assert sorted(STUBS) == sorted(n for n, f in vars(cpu).items() if callable(f))


@pytest.mark.parametrize("name", STUBS)
def test_arguments_and_words(name):
    stub, function = STUBS[name], getattr(cpu, name)
    assert arguments(function) == arguments(stub)
    assert stub.__doc__ and inspect.getdoc(function).splitlines()[0] == stub.__doc__


def test_ops_use_nothing_else():
    """What the ops ask of a backend is in the contract."""
    used = {
        name: path.name
        for path in OPS.rglob("*.py")
        for name in re.findall(r"\bbe\.(\w+)|backend\.of\([^()]*\)\.(\w+)", path.read_text())
        for name in filter(None, name)
    }
    assert used and not {n: used[n] for n in used.keys() - STUBS.keys()}
