"""The functions of a backend say what they do, and the ops use no others."""

import inspect
import re
from pathlib import Path

import pytest

from minidl import backend
from minidl.backend import cpu

FUNCTIONS = {name: f for name, f in vars(cpu).items() if callable(f)}
OPS = Path(backend.__file__).parents[1] / "ops"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_does(name):
    """A sentence first, and arguments with names: another backend has the same."""
    function = FUNCTIONS[name]
    assert function.__name__ == name and inspect.getdoc(function).split("\n")[0].endswith(".")
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_ops_use_nothing_else():
    """What the ops ask of a backend is among its functions."""
    used = {
        name: path.name
        for path in OPS.rglob("*.py")
        for name in re.findall(r"\bbe\.(\w+)|backend\.of\([^()]*\)\.(\w+)", path.read_text())
        for name in filter(None, name)
    }
    assert used and not {n: used[n] for n in used.keys() - FUNCTIONS.keys()}
