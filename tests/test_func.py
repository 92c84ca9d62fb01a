"""autograd.functional and func: whole derivatives against formulas, modules on other tensors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
from minidl import nn
from minidl.autograd.functional import hessian, jacobian
from minidl.errors import ShapeError
from minidl.func import functional_call

SIZES = st.integers(1, 4)


def drawn(seed, *shape):
    return ml.tensor(np.random.default_rng(seed).standard_normal(shape))


@given(SIZES, SIZES, st.integers(0, 99))
def test_a_linear_map_is_its_own_jacobian(n, m, seed):
    a = drawn(seed, n, m)
    np.testing.assert_array_equal(jacobian(lambda x: a @ x, drawn(seed + 1, m)), a)


@given(SIZES, SIZES, st.integers(0, 99))
def test_blocks_of_several_inputs_and_results(n, m, seed):
    """x·yᵀ by x and by y; what does not depend on an input has zeros."""
    x, y = drawn(seed, n), drawn(seed + 1, m)
    (by_x, by_y), (none, sines) = jacobian(lambda x, y: (x.outer(y), y.sin()), (x, y))
    np.testing.assert_allclose(by_x, np.einsum("ik,j->ijk", np.eye(n), y), rtol=1e-12)
    np.testing.assert_allclose(by_y, np.einsum("i,jk->ijk", x, np.eye(m)), rtol=1e-12)
    assert none.shape == (m, n) and not none.numpy().any()
    np.testing.assert_allclose(sines, np.diag(np.cos(y)), rtol=1e-12)


@given(SIZES, st.integers(0, 99))
def test_hessian_of_a_quadratic_form(n, seed):
    a, x, y = drawn(seed, n, n), drawn(seed + 1, n), drawn(seed + 2, n)
    np.testing.assert_allclose(hessian(lambda x: x @ a @ x, x), a + a.T, rtol=1e-12)
    (xx, xy), (yx, yy) = hessian(lambda x, y: x @ a @ y, (x, y))
    assert not xx.numpy().any() and not yy.numpy().any()
    np.testing.assert_allclose(xy, a, rtol=1e-12)
    np.testing.assert_allclose(yx, a.T, rtol=1e-12)


def test_derivatives_of_derivatives():
    x = drawn(0, 3).requires_grad_()
    jacobian(lambda x: x**3, x, create_graph=True).sum().backward()
    np.testing.assert_allclose(x.grad, 6 * x.detach(), rtol=1e-12)
    x.grad = None
    assert not hessian(lambda x: (x**3).sum(), x).requires_grad and x.grad is None
    hessian(lambda x: (x**4).sum(), x, create_graph=True).sum().backward()
    np.testing.assert_allclose(x.grad, 24 * x.detach(), rtol=1e-12)
    with pytest.raises(ShapeError, match="hessian: the function must give a tensor of one element"):
        hessian(lambda x: x, x)


def test_results_without_elements_and_functions_that_are_constant():
    assert jacobian(lambda x: x[:0], drawn(0, 3)).shape == (0, 3)
    assert jacobian(lambda x: ml.ones(2), drawn(0, 3)).tolist() == [[0, 0, 0]] * 2


def test_a_module_runs_on_other_parameters():
    """Gradients reach those given, as in learning to learn; the module's own stay."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    own, x = {k: v.clone() for k, v in net.state_dict().items()}, ml.randn(4, 2)
    fast = {k: (p.detach() * 2).requires_grad_() for k, p in net.named_parameters()}
    mean = ml.zeros(3)
    y = functional_call(net, (fast, {"1.running_mean": mean}), (x,))
    y.square().sum().backward()
    assert all(p.grad is not None for p in fast.values()) and mean.numpy().any()
    assert all(p.grad is None for p in net.parameters())
    changed = {k for k, v in net.state_dict().items() if not np.array_equal(v, own[k])}
    assert changed == {"1.running_var", "1.num_batches_tracked"}
    np.testing.assert_array_equal(functional_call(net, fast, x).detach(), y.detach())


def test_a_failure_leaves_the_module_as_it_was():
    layer = nn.Linear(2, 3)
    own = layer.weight
    with pytest.raises(ShapeError, match="no parameter or buffer of that name; got name 'other'"):
        functional_call(layer, {"weight": ml.ones(3, 2), "other": ml.ones(1)}, ml.ones(2))
    assert layer.weight is own
    with pytest.raises(ShapeError):
        functional_call(layer, {"weight": ml.ones(3, 2)}, ml.ones(7))
    assert layer.weight is own
