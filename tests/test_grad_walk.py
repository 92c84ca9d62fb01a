"""What a backward pass visits, what hooks and `.grad` see of it, and what a checkpoint repeats."""

import numpy as np

import minidl as ml

RNG = np.random.default_rng(2)


def leaf(*shape):
    """A float64 leaf with values in (0.5, 2)."""
    return ml.tensor(RNG.uniform(0.5, 2.0, shape), requires_grad=True)


def same(tensor, expected):
    """Assert that a tensor's values are the expected ones, to rounding."""
    got, want = tensor.detach().numpy(), expected.detach().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_retain_grad_twice_keeps_the_gradient_once():
    """Regression: `.grad` was doubled."""
    y = leaf(3) * 2
    y.retain_grad()
    y.retain_grad()
    (y * y).sum().backward()
    same(y.grad, 2 * y)
