"""x[key] and the ops that take indices: PyTorch's order of axes, and indices that change later."""

import numpy as np
import pytest

import minidl as ml
import minidl.functional as F
from minidl.errors import GraphError

RNG = np.random.default_rng(3)
ALL = slice(None)


def leaf(*shape):
    """A float64 leaf with values in (0.5, 2)."""
    return ml.tensor(RNG.uniform(0.5, 2.0, shape), requires_grad=True)


@pytest.mark.parametrize(("key", "first", "rest"), [
    ((1, ALL, [0, 2, 1]), (1,), (ALL, [0, 2, 1])),
    ((ml.tensor(1), ALL, [0, 2]), (1,), (ALL, [0, 2])),
    ((ALL, 1, ALL, ml.tensor([3, 0])), (ALL, 1), (ALL, ALL, [3, 0])),
    ((None, 0, None, [1, 2], None), (0,), (None, None, [1, 2], None)),
    ((-1, ..., [4, 1]), (-1,), (..., [4, 1])),
    (([2, 0], ALL, 1), (ALL, ALL, 1), ([2, 0],)),
    (([2, 0], 0, ALL, [0, 1]), (ALL, 0), ([2, 0], ALL, [0, 1])),
    ((1, ALL, np.eye(5, dtype=bool)), (1,), (ALL, np.eye(5, dtype=bool))),
])  # fmt: skip
def test_ints_apart_from_arrays_of_indices_go_first(key, first, rest):
    """Regression: they were counted among the arrays, and the axes came in NumPy's order."""
    x = leaf(3, 4, 5, 5)
    want = x.detach().numpy()[first][rest]
    np.testing.assert_array_equal(x[key].detach().numpy(), want)
    g, z, twin = RNG.standard_normal(want.shape), ml.zeros(3, 4, 5, 5), np.zeros((3, 4, 5, 5), "f4")
    z[key], twin[first][rest] = ml.tensor(g), g
    np.testing.assert_array_equal(z.numpy(), twin)
    (gx,) = ml.grad(x[key], x, ml.tensor(g))
    np.testing.assert_allclose(gx.numpy(), twin, rtol=1e-6)


@pytest.mark.parametrize("use", [
    lambda x, k: x[k], lambda x, k: x.gather(0, k.unsqueeze(1)), lambda x, k: F.embedding(k, x),
    lambda x, k: x.index_select(0, k), lambda x, k: F.cross_entropy(x, k),
    lambda x, k: F.cross_entropy(x.view(1, 2, 2).transpose(1, 2), k.view(1, 2)),
    lambda x, k: x.index_put((k,), x.exp()), lambda x, k: x.index_put((k,), x.exp(), True),
    lambda x, k: x.scatter(0, k.view(1, 2), x.exp()),
    lambda x, k: x.scatter_add(0, k.view(1, 2), x.exp()),
    lambda x, k: (y := x * 1, y.__setitem__(k, x.exp()))[0],
])  # fmt: skip
def test_an_index_that_was_changed_is_noticed(use):
    """Regression: gradients went to the changed places, or out of bounds."""
    x, k = leaf(2, 2), ml.tensor([1, 0])
    y = use(x, k)
    k.fill_(10**6)
    with pytest.raises(GraphError, match="changed in place"):
        y.sum().backward()


def test_a_mask_that_was_changed_is_noticed():
    x, mask = leaf(3), ml.tensor([True, False, True])
    y = x[mask]
    mask.fill_(True)
    with pytest.raises(GraphError, match="changed in place"):
        y.sum().backward()


@pytest.mark.parametrize("pick", [lambda x: x.topk(2, 1), lambda x: x.max(1), lambda x: x.sort(0)])
def test_changed_indices_of_an_order_are_noticed(pick):
    """Regression: `v, i = x.topk(2); i += 1` moved the gradient."""
    values, indices = pick(leaf(3, 4))
    indices += 1
    with pytest.raises(GraphError, match="changed in place"):
        values.sum().backward()


def test_a_number_that_was_an_index_may_change():
    """As with PyTorch's, which reads it: a position that is counted up in a loop."""
    x, k = leaf(3), ml.tensor(0)
    y = x[k]
    k += 1
    (y + x[k]).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1.0, 1.0, 0.0])


def test_assigning_a_value_with_leading_axes_of_size_1():
    """Regression: its gradient had no place to go."""
    v, y = leaf(1, 1, 3), ml.zeros(2, 3, dtype=ml.float64)
    y[0] = v
    y.sum().backward()
    assert v.grad.tolist() == [[[1.0] * 3]]


def test_int8_indices_of_a_long_axis():
    """Regression: negative ones overflowed in backward."""
    x = leaf(300)
    x[ml.tensor([0, -100], dtype=ml.int8)].sum().backward()
    assert np.flatnonzero(x.grad.numpy()).tolist() == [0, 200]


@pytest.mark.parametrize("key", [([],), (ALL, []), (1, []), ([], 0)])
def test_no_indices_name_nothing(key):
    """An empty list has no dtype of its own: it counts as integers."""
    x = leaf(3, 4, 2)
    want = x.detach().numpy()[tuple(np.zeros(0, int) if k == [] else k for k in key)]
    assert x[key].shape == want.shape
    y = x * 1
    y[key] = 7.0
    (y.sum() + x[key].sum()).backward()
    assert (x.grad.numpy() == 1).all() and y.tolist() == x.tolist()


@pytest.mark.parametrize("use", [
    lambda x: x[0.5:2], lambda x: x["0":2], lambda x: x.narrow(0, 0, 1.5), lambda x: x.topk(1.5),
])  # fmt: skip
def test_slices_have_whole_ends(use):
    """Regression: they were rounded, or read."""
    with pytest.raises(TypeError):
        use(leaf(3))


def test_an_ellipsis_of_no_axes_sets_no_arrays_apart():
    """Regression: the axis of x[:, k, ..., k] was the first, as NumPy's is."""
    x, k = leaf(3, 4, 5), ml.tensor([0, 2])
    assert x[:, k, ..., k].shape == (3, 2)
    assert x[k, ..., k].shape == (2, 4)
    np.testing.assert_array_equal(x[:, k, ..., k].detach(), x[:, k, k].detach())
    assert x[None, 1, None, True, k].shape == (1, 1, 2, 5) == x[None, 1, None][..., k, :].shape
