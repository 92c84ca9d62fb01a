"""The tape behaves as PyTorch's: what is recorded, kept, freed, shared, refused."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minidl as ml

RNG = np.random.default_rng(0)


def leaf(*shape, grad=True):
    """A float64 leaf with values in (0.5, 2)."""
    return ml.tensor(RNG.uniform(0.5, 2.0, shape), requires_grad=grad)


def values(tensor):
    """A tensor's values as an array of its own."""
    return np.array(tensor.detach().numpy())


def same(tensor, expected):
    """Assert that a tensor's values are the expected ones, to rounding."""
    np.testing.assert_allclose(values(tensor), values(expected), rtol=1e-12, atol=1e-14)


# ---- what backward does --------------------------------------------------------------------------


def test_grad_accumulates_and_can_be_assigned():
    x = leaf(3)
    (x * 2).sum().backward()
    (x * 3).sum().backward()
    same(x.grad, ml.full((3,), 5.0))
    x.grad = ml.ones(3, dtype=ml.float64)
    (x * 3).sum().backward()
    same(x.grad, ml.full((3,), 4.0))
    x.grad = None
    (x * 3).sum().backward()
    same(x.grad, ml.full((3,), 3.0))
    assert x.grad.dtype == x.dtype and not x.grad.requires_grad and x.grad.is_leaf


def test_grad_refuses_another_shape():
    x = leaf(3)
    with pytest.raises((RuntimeError, ValueError)):
        x.grad = ml.ones(2, dtype=ml.float64)


def test_a_gradient_is_not_shared_between_leaves():
    x, y = leaf(3), leaf(3)
    (x + y).sum().backward()
    x.grad.mul_(10.0)
    same(y.grad, ml.ones(3))
    g = ml.ones(3, dtype=ml.float64)
    z = leaf(3)
    (z + 0.0).backward(g)
    z.grad.mul_(10.0)
    same(g, ml.ones(3))


def test_used_twice_adds():
    x = leaf(4)
    (x * x + x.exp() * x).sum().backward()
    same(x.grad, 2 * x + x.exp() * (1 + x))


def test_backward_needs_a_scalar_or_a_gradient():
    x = leaf(3)
    with pytest.raises(RuntimeError):
        (x * 2).backward()
    with pytest.raises(RuntimeError):
        (x * 2).backward(ml.ones(2, dtype=ml.float64))
    (x * 2).backward(ml.tensor([1.0, 0.0, -1.0], dtype=ml.float64))
    same(x.grad, ml.tensor([2.0, 0.0, -2.0]))


def test_backward_of_what_needs_no_gradient_is_refused():
    with pytest.raises(RuntimeError):
        leaf(grad=False).backward()


def test_a_graph_is_freed_by_backward_unless_kept():
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    same(x.grad, 4 * x)
    with pytest.raises(RuntimeError):
        y.backward()


def test_two_losses_over_one_trunk():
    x = leaf(3)
    trunk = x.exp()
    (trunk * 2).sum().backward(retain_graph=True)
    (trunk * 3).sum().backward()
    same(x.grad, 5 * x.exp())


def test_a_leaf_as_its_own_output():
    x = leaf()
    x.backward()
    assert x.grad.item() == 1.0


def test_grad_of_outputs_and_inputs():
    x, y = leaf(3), leaf(3)
    z = x * y
    gx, gz = ml.grad((z * z).sum(), [x, z])
    same(gz, 2 * z)
    same(gx, 2 * z * y)
    assert x.grad is None and y.grad is None
    with pytest.raises(RuntimeError):
        ml.grad(x.sum(), [x, y])
    found = ml.grad(x.sum(), [x, y], allow_unused=True)
    assert found[1] is None
    a, b = ml.autograd.grad([x * 2, x * y], [x, y], [ml.ones_like(x), ml.ones_like(x)])
    same(a, 2 + y)
    same(b, x)


def test_retain_grad_keeps_the_gradient_of_an_intermediate():
    x = leaf(3)
    y = x * 2
    y.retain_grad()
    (y * y).sum().backward()
    same(y.grad, 2 * y)
    x.retain_grad()


# ---- higher orders -------------------------------------------------------------------------------


def test_second_and_third_derivatives():
    x = leaf(3)
    (g,) = ml.grad((x**4).sum(), x, create_graph=True)
    (h,) = ml.grad(g.sum(), x, create_graph=True)
    (t,) = ml.grad(h.sum(), x)
    same(g, 4 * x**3)
    same(h, 12 * x**2)
    same(t, 24 * x)
    assert g.requires_grad and h.requires_grad and not t.requires_grad


def test_backward_through_a_gradient():
    x, w = leaf(4, 3), leaf(3)
    y = (x @ w).tanh().sum()
    (g,) = ml.grad(y, x, create_graph=True)
    penalty = (g * g).sum()
    penalty.backward()
    s = 1 - (x @ w).tanh() ** 2  # g = outer(s, w), penalty = sum(s^2) |w|^2
    slope = 2 * s * (-2 * (x @ w).tanh() * s) * (w * w).sum()
    same(x.grad, slope.reshape(4, 1) * w)
    same(w.grad, 2 * (s * s).sum() * w + slope @ x)


def test_create_graph_in_backward_gives_a_differentiable_grad():
    x = leaf(3)
    (x**3).sum().backward(create_graph=True)
    g = x.grad
    x.grad = None
    g.sum().backward()
    same(x.grad, 6 * x)


def test_jvp_and_vjp():
    x, v = leaf(3), leaf(3, grad=False)
    y, g = ml.vjp(lambda x: x**2, x, v)
    same(y, x**2)
    same(g, 2 * x * v)
    y, t = ml.jvp(lambda x: x**3, x, v)
    same(t, 3 * x**2 * v)


# ---- modes ---------------------------------------------------------------------------------------


def test_no_grad_and_enable_grad():
    x = leaf(3)
    with ml.no_grad():
        assert not (x * 2).requires_grad
        with ml.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
    with ml.inference_mode():
        assert not (x * 2).requires_grad

    @ml.no_grad()
    def f(x):
        return x * 2

    assert not f(x).requires_grad and (x * 2).requires_grad


@pytest.mark.parametrize("mode", [ml.no_grad(), ml.autocast("cpu", enabled=False)])
def test_a_decorated_function_runs_in_several_threads_at_once(mode):
    """A thread once took the other's token, of another context, for its own."""
    inside, first_is_out = threading.Barrier(2, timeout=30), threading.Event()

    @mode
    def f(first):
        inside.wait()
        assert first or first_is_out.wait(30)

    def work(first):
        f(first)
        first_is_out.set()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, [True, False])) == [None, None]


def test_no_grad_ends_with_an_exception():
    with pytest.raises(KeyError), ml.no_grad():
        raise KeyError
    assert (leaf(2) * 2).requires_grad


def test_detach_cuts_and_shares_memory():
    x = leaf(3)
    d = x.detach()
    assert not d.requires_grad
    (x * d).sum().backward()
    same(x.grad, d)
    with ml.no_grad():
        x.mul_(2.0)
    same(d, x)


def test_only_floats_can_require_grad():
    with pytest.raises(RuntimeError):
        ml.tensor([1, 2], requires_grad=True)
    assert not (leaf(3) > 1).requires_grad
    assert not leaf(3).argmax().requires_grad
    values, indices = leaf(3, 2).max(1)
    assert values.requires_grad and not indices.requires_grad


def test_requires_grad_is_fixed_once_computed():
    x = leaf(3)
    y = x * 2
    with pytest.raises(RuntimeError):
        y.requires_grad_(False)
    assert x.requires_grad_(False).requires_grad is False
    assert y.requires_grad and not (x * 2).requires_grad


def test_is_leaf():
    x = leaf(3)
    assert x.is_leaf and not (x * 2).is_leaf and (x * 2).detach().is_leaf
    assert (leaf(3, grad=False) * 2).is_leaf


# ---- hooks ---------------------------------------------------------------------------------------


def test_hooks_see_and_change_gradients():
    x = leaf(3)
    seen = []
    handle = x.register_hook(lambda g: seen.append(values(g)))
    y = x * 2
    y.register_hook(lambda g: g * 10)
    y.sum().backward()
    same(x.grad, ml.full((3,), 20.0))
    np.testing.assert_allclose(seen[0], 20.0)
    handle.remove()
    (x * 1).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("of", [lambda x: x, lambda x: x * 1], ids=["leaf", "node"])
def test_removing_a_hook_twice_leaves_later_ones(of):
    """A handle's key is never given to another hook; `with` removes at its end."""
    x = leaf(3)
    y, seen = of(x), []
    first = y.register_hook(lambda g: seen.append("first"))
    first.remove()
    y.register_hook(lambda g: seen.append("second"))
    first.remove()
    with y.register_hook(lambda g: seen.append("third")):
        pass
    (y * 2).sum().backward()
    assert seen == ["second"]


def test_a_hook_sees_the_sum_of_all_that_arrives():
    x = leaf(3)
    y = x * 1
    seen = []
    y.register_hook(lambda g: seen.append(values(g)))
    (y * 2 + y * 3).sum().backward()
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], 5.0)


def test_post_accumulate_hook():
    x = leaf(3)
    seen = []
    x.register_post_accumulate_grad_hook(lambda t: seen.append(values(t.grad)))
    (x * 2).sum().backward()
    (x * 3).sum().backward()
    np.testing.assert_allclose(seen, [[2.0] * 3, [5.0] * 3])


# ---- checkpoint and anomalies --------------------------------------------------------------------


def test_checkpoint_gives_the_same_gradients_and_keeps_less():
    x, w = leaf(4, 3), leaf(3, 3)
    calls = []

    def block(h):
        calls.append(1)
        return (h @ w).tanh()

    def loss(wrap):
        h = x
        for _ in range(3):
            h = wrap(h)
        return (h * h).sum()

    plain = ml.grad(loss(block), [x, w])
    calls.clear()
    recomputed = ml.grad(loss(lambda h: ml.checkpoint(block, h)), [x, w])
    assert len(calls) == 6
    for a, b in zip(plain, recomputed, strict=True):
        same(a, b)


def test_checkpoint_repeats_its_random_draws():
    x = leaf(100)
    ml.manual_seed(3)
    y = ml.checkpoint(lambda h: ml.nn.functional.dropout(h, 0.5), x)
    after = ml.rand(2)
    y.sum().backward()
    same(x.grad * x, y)
    assert not np.array_equal(values(ml.rand(2)), values(after))


def test_checkpoint_leaves_running_statistics_alone_the_second_time():
    norms = ml.nn.BatchNorm2d(3), ml.nn.InstanceNorm2d(3, track_running_stats=True)
    for norm in norms:
        y = ml.checkpoint(norm.double(), leaf(4, 3, 2, 2))
        before = {name: values(b).copy() for name, b in norm.named_buffers()}
        assert before["running_mean"].any()
        y.sum().backward()
        for name, b in norm.named_buffers():
            np.testing.assert_array_equal(values(b), before[name])


def test_checkpoint_of_several_outputs_and_other_arguments():
    x = leaf(3)
    a, b = ml.checkpoint(lambda h, k, flag: (h * k, h.exp() if flag else h), x, 2.0, True)
    (a.sum() + 3 * b.sum()).backward()
    same(x.grad, 2 + 3 * x.exp())


def test_anomaly_mode_names_the_first_bad_op():
    x = ml.tensor([-1.0, 2.0], requires_grad=True)
    with ml.set_detect_anomaly(True), pytest.raises(RuntimeError, match="sqrt"):
        (x.sqrt() * 2).sum().backward()
    zero = ml.tensor([0.0], requires_grad=True)
    with ml.set_detect_anomaly(True), pytest.raises(RuntimeError, match="sqrt"):
        (zero.sqrt() * 0).sum().backward()
    (zero.sqrt() * 0).sum().backward()
    assert np.isnan(values(zero.grad)).all()


# ---- indexing ------------------------------------------------------------------------------------


def test_repeated_indices_add():
    x = leaf(4)
    x[[0, 2, 2, 2]].sum().backward()
    same(x.grad, ml.tensor([1.0, 0.0, 3.0, 0.0]))


def test_second_order_through_indexing():
    x = leaf(4, 3)
    k = ml.tensor([0, 2, 2])
    (g,) = ml.grad((x[k] ** 3).sum(), x, create_graph=True)
    (h,) = ml.grad(g.sum(), x)
    count = ml.tensor([[1.0], [0.0], [2.0], [0.0]], dtype=ml.float64)
    same(h, 6 * x * count)


@pytest.mark.parametrize("index", [4, -5, [0, 9], [[1, -7]], (0, 3), slice(None, None, -1)])
def test_bad_indices_raise(index):
    with pytest.raises((IndexError, ValueError)):
        leaf(4, 3)[index]


@pytest.mark.parametrize("mode", [ml.no_grad, lambda: ml.set_grad_enabled(False)])
def test_a_mode_holds_for_the_steps_of_a_generator(mode):
    """Regression: it held while the generator was made, which does nothing yet."""

    @mode()
    def steps(n):
        sent = yield n, ml.is_grad_enabled()
        yield sent, ml.is_grad_enabled()
        return ml.is_grad_enabled()

    made = steps(2)
    assert next(made) == (2, False) and ml.is_grad_enabled()
    assert made.send("x") == ("x", False) and ml.is_grad_enabled()
    with pytest.raises(StopIteration) as end:
        next(made)
    assert end.value.value is False and ml.is_grad_enabled()
    assert [grad for _, grad in steps(1)] == [False, False]
