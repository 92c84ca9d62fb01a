"""Module.register_full_backward_hook: what it sees, what it may change, when it is called."""

import numpy as np
import pytest

import minidl as ml
from minidl import nn
from minidl.errors import GraphError, ShapeError


def recorded(module):
    """The list to which a hook on the module adds (grad_input, grad_output), and its handle."""
    seen = []
    return seen, module.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))


def test_gradients_of_input_and_output():
    """Those of the graph itself, inner modules after outer ones' outputs; nothing else changes."""
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), ml.randn(2, 3, requires_grad=True)
    net(x).square().sum().backward()
    expected, x.grad = x.grad, None
    (first, h), (second, k) = map(recorded, net)
    h_in = net[0](x).detach()
    net(x).square().sum().backward()
    ((into,), (out,)), ((then,), (last,)) = first[0], second[0]
    np.testing.assert_array_equal(into, expected)
    np.testing.assert_array_equal(x.grad, expected)
    np.testing.assert_array_equal(out, then)
    y = h_in.tanh()
    np.testing.assert_allclose(last, 2 * y, rtol=1e-6)
    np.testing.assert_allclose(then, 2 * y * (1 - y * y), rtol=1e-5, atol=1e-7)
    h.remove()
    k.remove()
    net(x).sum().backward()
    assert (len(first), len(second)) == (1, 1) and not net[0].has_hooks


def test_inputs_that_need_no_gradient():
    """The hook is called all the same, once the gradient of the output is known."""
    layer = nn.Linear(3, 2)
    seen, _ = recorded(layer)
    layer(ml.ones(4, 3)).sum().backward()
    ((into,), (out,)), *more = seen
    assert into is None and out.tolist() == [[1, 1]] * 4 and not more
    with ml.no_grad():
        layer(ml.ones(4, 3, requires_grad=True))
    assert len(seen) == 1


def test_a_returned_gradient_takes_the_inputs_place():
    layer, x = nn.ReLU(), ml.ones(3, requires_grad=True)
    layer.register_full_backward_hook(lambda m, gi, go: (gi[0] * 5,))
    layer(x).sum().backward()
    assert x.grad.tolist() == [5, 5, 5]


class Pair(nn.Module):
    def forward(self, a, k, b):
        return a * k, a + b


def test_several_inputs_and_outputs():
    """None stands where nothing arrives, and for what is no tensor; calls may be nested in time."""
    pair, a = Pair(), ml.ones(2, requires_grad=True)
    seen, _ = recorded(pair)
    b = ml.ones(2, requires_grad=True)
    (p, _), (_, q) = pair(a, 3.0, b), pair(a, 4.0, b)
    q.sum().backward()
    p.sum().backward()
    shown = [[[g if g is None else g.tolist() for g in part] for part in call] for call in seen]
    second, first = shown
    assert second == [[[1, 1], None, [1, 1]], [None, [1, 1]]]
    assert first == [[[3, 3], None, None], [[1, 1], None]]


def test_a_forward_that_raises_leaves_nothing_behind():
    layer = nn.Linear(3, 2)
    seen, _ = recorded(layer)
    with pytest.raises(ShapeError):
        layer(ml.ones(4, 5, requires_grad=True))
    x = ml.ones(1, 3, requires_grad=True)
    layer(x).sum().backward()
    ((into,), _), *more = seen
    np.testing.assert_array_equal(into, x.grad)
    assert not more


class Leak(nn.Module):
    def forward(self, x):
        self.kept = x
        return x * 2


def test_what_a_hook_cannot_answer_is_refused_in_words():
    leak, x = Leak(), ml.ones(2, requires_grad=True)
    handle = leak.register_full_backward_hook(lambda m, gi, go: None)
    leak(x)
    with pytest.raises(GraphError, match="Leak: a gradient came to its inputs, but not through"):
        leak.kept.sum().backward()
    handle.remove()
    leak.register_full_backward_hook(lambda m, gi, go: (*gi, *gi))
    with pytest.raises(GraphError, match="Leak: a backward hook must return 1 gradients"):
        leak(x).sum().backward()


def test_grad_cam():
    """Gradients of a class by the last feature maps, as every script of that name takes them."""
    features, head = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), nn.Linear(3, 2)
    maps, grads = {}, {}
    features[-1].register_forward_hook(lambda m, args, out: maps.update(a=out))
    features[-1].register_full_backward_hook(lambda m, gi, go: grads.update(a=go[0]))
    scores = head(features(ml.randn(1, 1, 6, 6)).mean((2, 3)))
    scores[0, 1].backward()
    expected = np.broadcast_to(head.weight.detach()[1].reshape(1, 3, 1, 1) / 16, (1, 3, 4, 4))
    np.testing.assert_allclose(grads["a"], expected, rtol=1e-6)
    assert maps["a"].shape == (1, 3, 4, 4)
