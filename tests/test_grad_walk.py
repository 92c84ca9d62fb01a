"""What a backward pass visits, what hooks and `.grad` see of it, and what a checkpoint repeats."""

import numpy as np
import pytest

import minidl as ml
from minidl.errors import GraphError

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


def test_grad_walks_only_where_an_input_lies_behind():
    """Regression: grad went on to the leaves, freed all it passed and called every hook."""
    x, w, seen = leaf(3), leaf(3), []
    x.register_hook(lambda g: seen.append("x"))
    y = x * x
    y.register_hook(lambda g: seen.append("y"))
    other = y.exp()
    other.retain_grad()
    loss = (other * w).sum()
    ml.grad(loss, w)
    assert not seen and other.grad is None
    (g,) = ml.grad((y * y).sum(), y)
    assert seen == ["y"]
    y.backward(g)
    same(x.grad, 4 * x**3)


def test_grad_of_an_input_and_one_behind_it():
    x = leaf(3)
    y = x * x
    a, b = ml.grad((y * y).sum(), [y, x])
    same(a, 2 * y)
    same(b, 4 * x**3)


def test_grad_up_to_what_an_earlier_backward_freed():
    y = leaf(3) * 2
    y.sum().backward()
    (g,) = ml.grad((y * y).sum(), y)
    same(g, 2 * y)
    with pytest.raises(GraphError, match="freed"):
        ml.grad((y * y).sum(), leaf(3), allow_unused=True)


def test_a_checkpoint_refuses_a_function_that_changes_its_arguments():
    """Regression: the gradient left out what the change did."""
    with pytest.raises(GraphError, match="must not change its arguments in place"):
        ml.checkpoint(lambda a: a.mul_(2) * 3, leaf(3) * 1)


def test_a_checkpoint_notices_that_its_input_was_changed():
    """Regression: it ran again on the new values."""
    x = leaf(3)
    w = x * 1
    y = ml.checkpoint(lambda a: a * a, w)
    with ml.no_grad():
        w.fill_(0.0)
    with pytest.raises(GraphError, match="changed in place"):
        y.sum().backward()
