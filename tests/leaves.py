"""Leaves with drawn values, and the comparison of results, for tests of the backward pass."""

import numpy as np

import minidl as ml

RNG = np.random.default_rng(1)


def leaf(*shape):
    """A float64 leaf with values in (0.5, 2)."""
    return ml.tensor(RNG.uniform(0.5, 2.0, shape), requires_grad=True)


def same(tensor, expected):
    """Assert that a tensor's values are the expected ones, to rounding."""
    got, want = tensor.detach().numpy(), expected.detach().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-12)
