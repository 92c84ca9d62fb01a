"""What a backward pass visits, what hooks and `.grad` see of it, and what a checkpoint repeats."""

import pytest
from leaves import leaf, same

import minidl as ml
import minidl.functional as F
from minidl.errors import GraphError


@pytest.mark.parametrize("again", [False, True])
def test_retain_grad_keeps_the_gradient_of_the_values_written_since(again):
    """Regression: it was that of the values before, and both together if asked for twice."""
    x = ml.ones(3, requires_grad=True)
    y, base = x * 2, x * 2
    for t in (y, base):
        t.retain_grad()
    earlier = y + 1
    y.mul_(3.0)
    base[:1].mul_(3.0)
    if again:
        y.retain_grad()
    earlier.sum().backward(retain_graph=True)
    assert y.grad is None
    (y * y + base * base).sum().backward()
    assert y.grad.tolist() == [12.0] * 3 and base.grad.tolist() == [12.0, 4.0, 4.0]


def test_retain_grad_twice_keeps_the_gradient_once():
    """Regression: `.grad` was doubled."""
    y = leaf(3) * 2
    y.retain_grad()
    y.retain_grad()
    (y * y).sum().backward()
    same(y.grad, 2 * y)


def test_retain_grad_keeps_what_the_hooks_made_of_a_gradient():
    """Regression: a hook registered after it changed the gradient, but not what was kept."""
    x = leaf(3)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    (y * y).sum().backward()
    same(y.grad, 20 * y)
    same(x.grad, 40 * y)


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


def test_set_grad_enabled_is_a_function_too():
    """Regression: without `with` it did nothing."""
    mode = ml.is_grad_enabled
    off = ml.set_grad_enabled(False)
    assert not mode()
    ml.set_grad_enabled(True)
    assert mode()
    with ml.set_grad_enabled(False):
        assert not mode()
    assert mode()
    assert not ml.set_grad_enabled(False)(mode)() and mode()
    for _ in range(2):
        with off:
            assert not mode()
        ml.set_grad_enabled(True)


@pytest.mark.parametrize("returned", [ml.ones(2), 3.0])
def test_a_hook_that_returns_another_shape_is_refused(returned):
    y = leaf(3) * 2
    y.register_hook(lambda g: returned)
    with pytest.raises(GraphError, match="hook: a hook must return a gradient of the same shape"):
        y.sum().backward()


def test_jvp_of_several_outputs_and_vjp_of_constants():
    """Regression: both raised."""
    x, v = leaf(2), leaf(2).detach()
    ys, dys = ml.jvp(lambda x: (x**2, x * 3, ml.ones(2)), x, v)
    same(dys[0], 2 * x * v)
    same(dys[1], 3 * v)
    assert len(ys) == 3 and dys[2].tolist() == [0.0, 0.0]
    assert ml.jvp(lambda x: ml.ones(2), x, v)[1].tolist() == [0.0, 0.0]
    assert ml.vjp(lambda x: ml.ones(2), x, v)[1].tolist() == [0.0, 0.0]


def test_a_checkpointed_function_gives_more_than_tensors():
    """Regression: None, numbers and lists ended in an AttributeError."""
    x = leaf(3)
    y, nothing, (a, b) = ml.checkpoint(lambda t: [t * t, None, (1, 2)], x)
    assert nothing is None and (a, b) == (1, 2)
    y.sum().backward()
    same(x.grad, 2 * x)
    for nested in (lambda t: {"y": t * t}, lambda t: (t, (t, t))):
        with pytest.raises(GraphError, match="alone or in one tuple or list"):
            ml.checkpoint(nested, x)


@pytest.mark.parametrize("create_graph", [False, True])
def test_vjp_and_jvp_of_several_inputs_can_be_differentiated_if_asked_for(create_graph):
    x, w, u, v = leaf(3), leaf(3), leaf(3).detach(), leaf(3).detach()
    y, (gx, gw) = ml.vjp(lambda x, w: x**2 * w, (x, w), v, create_graph)
    same(gx, 2 * x * w * v)
    same(gw, x**2 * v)
    _, pushed = ml.jvp(lambda x, w: x**2 * w, (x, w), (u, v), create_graph)
    same(pushed, 2 * x * w * u + x**2 * v)
    assert [t.requires_grad for t in (y, gx, gw, pushed)] == [create_graph] * 4
    if create_graph:
        same(ml.grad(gx, x, v)[0], 2 * w * v**2)
        same(ml.grad(pushed, w, v)[0], 2 * x * u * v)


@pytest.mark.parametrize("given", [1, 3])
def test_grad_needs_a_cotangent_for_each_output(given):
    """Regression: the error was that of a zip."""
    x = leaf(3)
    with pytest.raises(GraphError, match="grad: needs a cotangent for each output"):
        ml.grad([x * 2, x * 3], x, [ml.ones_like(x)] * given)


def test_backward_of_several_tensors_adds_to_the_leaves_or_to_chosen_ones():
    x, w = leaf(3), leaf(3)
    inner, seen = x * w, []
    x.register_post_accumulate_grad_hook(seen.append)
    outputs, weights = [inner * x, (inner * 2).sum()], [w.detach(), None]
    ml.autograd.backward(outputs, weights, retain_graph=True)
    gx, gw = 2 * x * w * w.detach() + 2 * w, x**2 * w.detach() + 2 * x
    same(x.grad, gx)
    same(w.grad, gw)
    ml.autograd.backward(outputs, weights, retain_graph=True, inputs=(t for t in [w, inner]))
    same(x.grad, gx)  # not one of them
    same(w.grad, 2 * gw)
    same(inner.grad, x * w.detach() + 2)
    assert len(seen) == 1
    outputs[1].backward(None, True, inputs=x)
    same(x.grad, gx + 2 * w)
    assert len(seen) == 2
    x.grad = None
    outputs[1].backward(create_graph=True, inputs=[x])
    same(ml.grad(x.grad.sum(), w)[0], ml.full_like(w, 2.0))


def test_backward_refuses_inputs_that_require_no_gradient():
    x = leaf(3)
    with pytest.raises(GraphError, match="backward: the tensor does not require grad"):
        (x * 2).sum().backward(inputs=[x.detach()])
    with pytest.raises(GraphError, match="backward: needs a cotangent for each output"):
        ml.autograd.backward([x * 2, x * 3], ml.ones(3))
    with pytest.raises(GraphError, match="backward: inputs must not be empty"):
        (x * 2).sum().backward(inputs=[])
    assert x.grad is None


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("f", [
    lambda x, y: x * y, lambda x, y: x / y, lambda x, y: x**y, ml.atan2, lambda x, y: x @ y,
    lambda x, y: ml.lerp(x, y, x * y), F.linear, lambda x, y: F.layer_norm(x, (3,), y[0], y[1]),
    F.huber_loss, F.cosine_similarity, lambda x, y: F.scaled_dot_product_attention(x, y, y),
])  # fmt: skip
def test_second_derivatives_beside_the_same_values_outside_the_graph(f, trained):
    """Regression: what is saved of x.detach(), whose array is x's, was taken for x itself."""
    found = []
    for copied in (False, True):
        x = ml.linspace(0.5, 2.1, 9, dtype=ml.float64).reshape(3, 3).requires_grad_()
        y = (x.detach().clone() if copied else x.detach()).requires_grad_(trained)
        (g,) = ml.grad((f(x, y) ** 3).sum(), x, create_graph=True)
        found.append(ml.grad((g * g).sum(), [x, y] if trained else x))
    for shared, apart in zip(*found, strict=True):
        same(shared, apart)
