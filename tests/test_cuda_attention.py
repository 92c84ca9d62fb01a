"""Attention for a GPU, emulated, against the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_stand_in import EPS, FLOATS, NEEDED, agree, gpu, there
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.backend import cpu, cuda
from minidl.backend.cuda import attention
from minidl.errors import ShapeError

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]
NAN = float("nan")


def drawn_mask(rng, kind, shape):
    """No mask, booleans that hide some rows wholly, or numbers, some of them -infinity."""
    if kind == "bool":
        return (rng.random(shape) > 0.4) & (rng.random((*shape[:-1], 1)) > 0.1)
    if kind == "float":
        return np.where(rng.random(shape) > 0.2, rng.standard_normal(shape), -np.inf)
    return None


def both_ways(dtype, q, k, v, mask, causal, rng):
    """Forward and backward agree with the CPU's."""
    scale = q.shape[-1] ** -0.5
    y, lse = agree("attend", dtype, q, k, v, mask, causal, scale)
    g = rng.standard_normal(y.shape)
    y = y.astype(np.float64)
    return agree("attend_grad", dtype, g, q, k, v, mask, y, lse, causal, scale)


@FLOATS
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float"])
@pytest.mark.parametrize("sizes", [  # T, S, D, E, heads, of keys
    (70, 90, 8, 8, 2, 1), (3, 5, 3, 7, 1, 1), (133, 70, 16, 24, 1, 1), (1, 65, 64, 64, 3, 3),
], ids=str)  # fmt: skip
def test_attention(dtype, kind, sizes):
    tq, tk, d, e, heads, groups = sizes
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((2, heads, tq, d)), rng.standard_normal((2, groups, tk, d))
    v = rng.standard_normal((2, groups, tk, e))
    both_ways(dtype, q, k, v, drawn_mask(rng, kind, (heads, tq, tk)), kind == "causal", rng)
