"""Functions of F against values of PyTorch (see golden/make_golden.py)."""

import pytest

from golden.replay import parameters, replay

GROUPS = "functional losses wide more".split()


@pytest.mark.parametrize("group, number, real", [p for g in GROUPS for p in parameters(g)])
def test_golden(group, number, real):
    """Values, dtypes, shapes and gradients are those of PyTorch."""
    replay(group, number, real)
