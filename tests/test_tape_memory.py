"""The tape frees what it held at once and without recursion, and works in threads and forks."""

import gc
import multiprocessing
import threading
import weakref

import numpy as np
import pytest

import minidl as ml
import minidl.functional as F
from minidl import backend, nn


@pytest.fixture
def no_gc():
    """Garbage collection off, so that only reference counts free anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def network():
    """A small network of every usual kind of layer, and an input."""
    ml.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.1), nn.Flatten(), nn.Linear(64, 5), nn.LayerNorm(5),
    )  # fmt: skip
    return model, ml.randn(2, 3, 8, 8), ml.tensor([1, 4])


def step(model, x, k):
    """A training step's loss, backward done."""
    loss = F.cross_entropy(model(x), k)
    loss.backward()
    return loss


def test_dropping_the_loss_frees_the_graph(no_gc):
    x = ml.ones(3, requires_grad=True)
    y = x * 2
    watched = weakref.ref(y)
    loss = (y.exp() * y).sum()
    del y
    assert watched() is None or loss.requires_grad
    node = weakref.ref(loss.grad_fn)
    del loss
    assert watched() is None and node() is None


def test_backward_frees_what_it_has_passed(no_gc):
    """While the loss still lives; with retain_graph only the loss's end does."""
    x = ml.ones(3, requires_grad=True)
    y = x.exp()
    watched, loss = weakref.ref(y.array), (y * y).sum()
    del y
    loss.backward(retain_graph=True)
    assert watched() is not None
    loss.backward()
    assert watched() is None and loss.requires_grad


def test_a_training_step_leaves_no_cycles(no_gc):
    model, x, k = network()
    step(model, x, k)
    gc.collect()
    for _ in range(3):
        step(model, x, k)
        model.zero_grad()
    assert gc.collect() == 0


def test_a_forward_without_backward_leaves_no_cycles(no_gc):
    model, x, k = network()
    F.cross_entropy(model(x), k)
    gc.collect()
    for _ in range(3):
        F.cross_entropy(model(x), k)
    assert gc.collect() == 0


def test_double_backward_leaves_no_cycles(no_gc):
    def penalty():
        x = ml.ones(3, requires_grad=True)
        (g,) = ml.grad((F.softmax(x, -1) * x.tanh()).sum(), x, create_graph=True)
        ml.grad((g * g).sum(), x)

    penalty()
    gc.collect()
    penalty()
    assert gc.collect() == 0


def test_views_and_writes_leave_no_cycles(no_gc):
    def write():
        x = ml.ones(3, 4, requires_grad=True)
        y = x * 2
        y[1].mul_(3.0)
        y[:, 0] = x[:, 1]
        y.sum().backward()

    write()
    gc.collect()
    write()
    assert gc.collect() == 0


def test_memory_does_not_grow_over_steps():
    model, x, k = network()
    for _ in range(3):
        step(model, x, k)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(20):
        step(model, x, k)
    gc.collect()
    assert len(gc.get_objects()) - before < 20


def test_backward_frees_saved_arrays_while_the_loss_lives(no_gc):
    x = ml.ones(1000, requires_grad=True)
    y = x * 2
    array = weakref.ref(y.array)
    loss = y.exp().log().sum()
    del y
    loss.backward()
    assert array() is None
    assert loss.item() == pytest.approx(2000.0)


def test_a_chain_of_100000_nodes():
    x = ml.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert x.grad.item() == 1.0
    z = x
    for _ in range(100_000):
        z = z * 1.0
    del z  # freed without recursion, never walked
    del y


def test_two_models_in_two_threads():
    def train(seed, results):
        rng = np.random.default_rng(seed)
        w = ml.tensor(rng.standard_normal((8, 8)), requires_grad=True)
        x = ml.tensor(rng.standard_normal((16, 8)))
        for _ in range(30):
            w.grad = None
            ((x @ w).tanh() ** 2).mean().backward()
            with ml.no_grad():
                w.sub_(0.1 * w.grad)
            assert (w * 1).requires_grad
        results[seed] = np.array(w.detach().numpy())

    alone, together = {}, {}
    for seed in (1, 2):
        train(seed, alone)
    threads = [threading.Thread(target=train, args=(seed, together)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for seed in (1, 2):
        np.testing.assert_array_equal(alone[seed], together[seed])


def test_no_grad_belongs_to_its_thread():
    recorded = []
    with ml.no_grad():
        thread = threading.Thread(
            target=lambda: recorded.append((ml.ones(2, requires_grad=True) * 2).requires_grad)
        )
        thread.start()
        thread.join()
    assert recorded == [True]


def _child(queue):
    model, x, k = network()
    queue.put(step(model, x, k).item())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_trains_as_its_parent():
    model, x, k = network()
    want = step(model, x, k).item()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    got = queue.get(timeout=120)
    child.join(30)
    assert child.exitcode == 0 and got == want


def sums():
    """Two sums of leaves, the later of which is what backward comes to first."""
    a, b, c, d = leaves = [ml.randn(4, 4, requires_grad=True) for _ in range(4)]
    return leaves, (a + b) * (c + d)


def views():
    """Views of leaves, joined by ops that hand on what they were given."""
    a, b, c, d = leaves = [ml.randn(4, 4, requires_grad=True) for _ in range(4)]
    return leaves, ml.cat([(a.t() + b.t()).reshape(-1), (c + d).flatten(), a.reshape(-1)]).exp()


def stacked_lstm():
    """Layers whose two biases have one gradient."""
    model = nn.LSTM(4, 4, 3)
    return [*model.parameters()], model(ml.randn(3, 2, 4))[0]


@pytest.mark.parametrize("made", [sums, views, stacked_lstm])
def test_no_gradient_shares_its_memory(made):
    """Not with another leaf's, nor with the cotangent: clipping in place would scale both."""
    leaves, y = made()
    given = ml.randn(y.shape)
    y.backward(given)
    arrays = [t.grad.array for t in leaves] + [t.array for t in leaves] + [given.array]
    for i, array in enumerate(arrays):
        assert not any(np.shares_memory(array, other) for other in arrays[:i])


def test_a_gradient_that_only_its_leaf_holds_is_not_copied(monkeypatch):
    """Neither the first nor the last that arrives, whether or not a bias's comes along."""
    copied = []
    monkeypatch.setattr(backend.cpu, "copy", lambda x: copied.append(x.shape) or x.copy())
    a, b = nn.Linear(3, 4), nn.Linear(4, 5)
    b(a(ml.randn(2, 3))).exp().sum().backward()
    assert not copied


@pytest.mark.parametrize("made, shape", [
    (F.linear, (4, 8)), (lambda x, w: F.linear(x.reshape(2, 4, 8), w, ml.ones(4)), (4, 8)),
    (lambda x, w: x @ w, (8, 4)), (lambda x, w: F.conv2d(x.view(1, 1, 8, 8), w), (2, 1, 3, 3)),
    (lambda x, w: F.conv_transpose2d(x.view(1, 1, 8, 8), w), (1, 2, 3, 3)),
    (ml.mul, (8, 8)), (ml.div, (8,)), (lambda x, w: ml.addcmul(w, x, w), (8, 8)),
    (lambda x, w: F.batch_norm(x, ml.zeros(8), ml.ones(8), w), (8,)),
], ids=["linear", "of three axes", "matmul", "conv", "transposed", "mul", "div", "addcmul",
        "batch norm"])  # fmt: skip
def test_what_only_a_frozen_weights_gradient_reads_is_not_kept(made, shape, no_gc):
    """It is freed, and may be changed in place; with the weight's gradient it is kept."""
    leaf, w = ml.randn(8, 8, requires_grad=True), ml.randn(*shape)
    cotangent = ml.randn(made(leaf, w).shape)
    expected, _ = ml.grad(made(leaf, w.requires_grad_()), (leaf, w), cotangent)
    for frozen in (False, True):
        x = leaf * 1
        y = made(x, w.requires_grad_(not frozen))
        x.mul_(3.0)
        if frozen:
            assert ml.equal(ml.grad(y, leaf, cotangent)[0], expected)
        else:
            with pytest.raises(ml.errors.GraphError, match="changed in place"):
                y.backward(cotangent)
        x = leaf * 1
        kept, y = weakref.ref(x.array), made(x, w)
        del x
        assert (kept() is None) == frozen
