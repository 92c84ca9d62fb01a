"""nn.init and nn.utils: distributions, clipping, reparametrised weights, pruning."""

import copy
import math
import pickle

import numpy as np
import pytest

import minidl as ml
import minidl.nn as nn
from minidl import random
from minidl.errors import DTypeError, GraphError, ShapeError
from minidl.nn import init
from minidl.nn.utils import prune

# Moments of 20,000 draws lie within 4 standard errors of a deviation (1/√(2·20,000)) below 3 %.
UNIFORM = math.sqrt(3)
CASES = {  # what fills a (200, 100) weight, its standard deviation, its bound in deviations
    "xavier_uniform": (lambda w: init.xavier_uniform_(w, 2.0), 2 * math.sqrt(2 / 300), UNIFORM),
    "xavier_normal": (init.xavier_normal_, math.sqrt(2 / 300), None),
    "kaiming_uniform": (lambda w: init.kaiming_uniform_(w, math.sqrt(5)), 0.1 / UNIFORM, UNIFORM),
    "kaiming_normal": (lambda w: init.kaiming_normal_(w, 0, "fan_out", "relu"), 0.1, None),
    "normal": (lambda w: init.normal_(w, 0.0, 0.3), 0.3, None),
    "uniform": (lambda w: init.uniform_(w, -2, 2), 2 / UNIFORM, UNIFORM),
    "trunc_normal": (init.trunc_normal_, 0.8796, 2 / 0.8796),
    "Tensor.normal_": (lambda w: w.normal_(0.0, 0.3), 0.3, None),
    "Tensor.uniform_": (lambda w: w.uniform_(-2, 2), 2 / UNIFORM, UNIFORM),
}


@pytest.mark.parametrize("name", CASES)
def test_distributions(name):
    """Mean 0, the stated deviation, and bounds where there are any."""
    fill, std, bound = CASES[name]
    w = ml.zeros(200, 100)
    assert fill(w) is w
    values = w.numpy().astype(np.float64)
    assert abs(values.mean()) < 4 * std / math.sqrt(values.size)
    assert values.std() == pytest.approx(std, rel=0.03)
    if bound is not None:
        assert np.abs(values).max() <= bound * std * 1.001


def test_truncation_far_from_the_mean():
    """Bounds far in a tail are reached by proposals inside them."""
    values = init.trunc_normal_(ml.zeros(5000), 0.0, 1.0, 3.0, 5.0).numpy()
    assert values.min() >= 3 and values.max() <= 5
    assert values.mean() == pytest.approx(3.2830, abs=0.015)  # φ(3)/Q(3), cut at 5


def test_fixed_values():
    """constant, dirac, orthogonal."""
    assert (init.constant_(ml.zeros(3), 2.5).numpy() == 2.5).all()
    conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    init.dirac_(conv.weight)
    x = ml.randn(1, 3, 5, 5)
    np.testing.assert_allclose(conv(x).detach().numpy(), x.numpy(), atol=1e-6)
    for shape in ((4, 9), (9, 4), (4, 3, 3)):
        q = init.orthogonal_(ml.zeros(*shape), 2.0).numpy().reshape(shape[0], -1)
        small = q @ q.T if q.shape[0] < q.shape[1] else q.T @ q
        np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


@pytest.mark.parametrize("fill", [
    init.orthogonal_, init.kaiming_uniform_, init.kaiming_normal_, init.xavier_uniform_,
    init.xavier_normal_, init.trunc_normal_,
])  # fmt: skip
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3)])
def test_weights_without_elements_stay_so(fill, shape):
    """There is nothing to divide by or to factor."""
    assert fill(ml.zeros(*shape)).shape == shape


@pytest.mark.parametrize("options", [{"std": 0.0}, {"a": 2.0, "b": 1.0}])
def test_a_truncated_normal_needs_a_width_and_bounds_in_order(options):
    with pytest.raises(ShapeError, match="trunc_normal_: must have std > 0, a <= b; got std"):
        init.trunc_normal_(ml.zeros(3), **options)


def test_seeded():
    """The same seed gives the same network."""
    made = []
    for _ in range(2):
        ml.manual_seed(3)
        made.append(nn.Linear(3, 4).weight.detach().numpy())
    np.testing.assert_array_equal(*made)
    assert not np.array_equal(made[0], nn.Linear(3, 4).weight.detach().numpy())


@pytest.mark.parametrize("fill", [ml.Tensor.normal_, ml.Tensor.uniform_])
def test_seeded_by_a_generator(fill):
    """Draws of a generator of one's own leave the global stream alone."""
    ml.manual_seed(5)
    made = [fill(ml.zeros(9), generator=random.Generator(k)).tolist() for k in (3, 3, 4)]
    assert made[0] == made[1] != made[2]
    first = fill(ml.zeros(9)).tolist()
    ml.manual_seed(5)
    assert fill(ml.zeros(9)).tolist() == first != made[0]


@pytest.mark.parametrize("layer", [nn.Linear(100, 50), nn.Conv2d(25, 50, 2), nn.Conv1d(50, 50, 2)])
def test_default_initialisation(layer):
    """Weight and bias are uniform in ±1/√fan-in."""
    for param in layer.parameters():
        values = param.detach().numpy()
        assert 0.09 < np.abs(values).max() <= 0.1
        assert values.std() == pytest.approx(0.1 / UNIFORM, rel=0.25)


def parameters(*grads: list) -> list[nn.Parameter]:
    """Parameters with these gradients."""
    made = [nn.Parameter(np.zeros(len(g), np.float32)) for g in grads]
    for p, g in zip(made, grads):
        p.grad = ml.tensor(g)
    return made


@pytest.mark.parametrize("order, norm", [(2.0, 13.0), (1.0, 19.0), (math.inf, 12.0)])
def test_clip_grad_norm(order, norm):
    """The norm of all gradients together bounds them; below the bound they stay as they are."""
    a, b = parameters([3.0, -4.0], [12.0])
    assert nn.utils.clip_grad_norm_([a, b], 100.0, order).item() == pytest.approx(norm)
    assert a.grad.tolist() == [3, -4]
    nn.utils.clip_grad_norm_([a, b], 1.0, order)
    np.testing.assert_allclose(a.grad.numpy(), np.float32([3, -4]) / norm, rtol=1e-5)
    nn.utils.clip_grad_value_(b, 0.25)
    assert b.grad.tolist() == [0.25]
    assert nn.utils.clip_grad_norm_([nn.Parameter(ml.ones(1))], 1.0).item() == 0
    (tiny,) = parameters([3e-7, -4e-7])
    nn.utils.clip_grad_norm_(tiny, 1e-6)  # as in PyTorch, 1e-6 is added to the norm
    np.testing.assert_allclose(tiny.grad.numpy(), [2e-7, -8e-7 / 3], rtol=1e-5)


def test_clip_grad_norm_refuses_nan():
    """error_if_nonfinite names the norm and leaves the gradients."""
    (a,) = parameters([3.0, math.nan])
    with pytest.raises(GraphError, match="not finite, so they cannot be clipped; got norm nan"):
        nn.utils.clip_grad_norm_([a], 1.0, error_if_nonfinite=True)
    assert a.grad.numpy()[0] == 3


def test_vectors():
    """All parameters as one vector and back."""
    model = nn.Linear(2, 3)
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (9,) and vector.requires_grad
    nn.utils.vector_to_parameters(ml.arange(9.0), model.parameters())
    assert model.weight.tolist() == [[0, 1], [2, 3], [4, 5]] and model.bias.tolist() == [6, 7, 8]
    with pytest.raises(ShapeError, match="vec must have 9 elements"):
        nn.utils.vector_to_parameters(ml.ones(8), model.parameters())


def test_weight_norm():
    """The output is unchanged, the gradients are those of g v / ‖v‖, and removal restores."""
    layer = nn.Conv2d(2, 3, 2).double()
    x, before = ml.randn(1, 2, 4, 4).double(), layer.weight.detach().clone()
    want = layer(x).detach().numpy()
    assert nn.utils.weight_norm(layer) is layer
    assert list(layer.state_dict()) == ["bias", "weight_g", "weight_v"]
    assert layer.weight_g.shape == (3, 1, 1, 1)
    np.testing.assert_allclose(layer(x).detach().numpy(), want, rtol=1e-12)
    layer(x).sin().sum().backward()
    v, gv = layer.weight_v.detach().numpy(), layer.weight_v.grad.numpy()
    along = (v * gv).sum((1, 2, 3))  # changes nothing along v
    np.testing.assert_allclose(along, 0, atol=1e-12)
    nn.utils.remove_weight_norm(layer)
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    np.testing.assert_allclose(layer.weight.detach().numpy(), before.numpy(), rtol=1e-12)
    with pytest.raises(ShapeError, match="is not computed so"):
        nn.utils.remove_weight_norm(layer)


def test_spectral_norm():
    """The largest singular value becomes 1; state as PyTorch's; evaluation changes nothing."""
    layer = nn.utils.spectral_norm(nn.Linear(5, 4), n_power_iterations=20)
    assert list(layer.state_dict()) == ["bias", "weight_orig", "weight_u", "weight_v"]
    x = ml.randn(2, 5)
    for _ in range(3):
        layer(x)
    assert np.linalg.norm(layer.weight.detach().numpy(), 2) == pytest.approx(1, rel=1e-3)
    layer(x).sum().backward()
    assert layer.weight_orig.grad is not None
    u = layer.weight_u.numpy().copy()
    layer.eval()(x)
    np.testing.assert_array_equal(layer.weight_u.numpy(), u)
    nn.utils.remove_spectral_norm(layer)
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_spectral_norm_along_a_later_axis_reads_pytorchs_state():
    """The axes behind dim keep their order in weight_v; they were others' for dim > 1."""
    layer = nn.utils.spectral_norm(nn.Conv2d(3, 4, (2, 5)), dim=2)
    weight = layer.weight_orig.detach().numpy()
    u, scales, v = np.linalg.svd(np.moveaxis(weight, 2, 0).reshape(2, -1))
    layer.load_state_dict({**layer.state_dict(), "weight_u": u[:, 0], "weight_v": v[0]})
    layer.eval()(ml.ones(1, 3, 4, 5))
    np.testing.assert_allclose(layer.weight.detach().numpy(), weight / scales[0], rtol=1e-5)


def test_pruning():
    """The least elements go, stay away in training, and further pruning takes from what is left."""
    layer = nn.Linear(4, 2)
    layer.load_state_dict({"weight": np.arange(1.0, 9).reshape(2, 4), "bias": np.zeros(2)})
    prune.l1_unstructured(layer, "weight", 0.25)
    assert list(layer.state_dict()) == ["bias", "weight_orig", "weight_mask"]
    assert layer.weight.tolist() == [[0, 0, 3, 4], [5, 6, 7, 8]]
    layer(ml.ones(1, 4)).sum().backward()
    assert layer.weight_orig.grad.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    prune.l1_unstructured(layer, "weight", 2)
    assert layer.weight.tolist() == [[0, 0, 0, 0], [5, 6, 7, 8]]
    prune.remove(layer, "weight")
    assert list(layer.state_dict()) == ["bias", "weight"]
    with pytest.raises(ShapeError, match="amount must be a fraction or at most 8"):
        prune.l1_unstructured(layer, "weight", 9)


def test_pruning_globally():
    """Several layers are compared with each other; another measure of importance may be given."""
    a, b = nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)
    a.load_state_dict({"weight": np.array([[5.0, 5], [1, 1], [9, 9]])})
    b.load_state_dict({"weight": np.array([[2.0, 3, 7]])})
    prune.global_unstructured([(a, "weight"), (b, "weight")], amount=5)
    assert a.weight.tolist() == [[0, 5], [0, 0], [9, 9]] and b.weight.tolist() == [[0, 0, 7]]
    prune.global_unstructured([(b, "weight")], lambda w: -w, amount=1)
    assert not b.weight.detach().numpy().any()


def test_of_equal_weights_the_first_are_pruned():
    """On every processor: NumPy's sorts keep no order of their own."""
    layer = nn.Linear(40, 5, bias=False)
    layer.load_state_dict({"weight": np.repeat([2.0, 1.0], [50, 150]).reshape(5, 40)})
    prune.l1_unstructured(layer, "weight", 60)
    assert np.flatnonzero(layer.weight_mask.numpy() == 0).tolist() == [*range(50, 110)]


REPARAMETRISED = {  # made, undone, and the name of a parameter behind the weight
    "weight_norm": (nn.utils.weight_norm, nn.utils.remove_weight_norm, "weight_v"),
    "spectral_norm": (nn.utils.spectral_norm, nn.utils.remove_spectral_norm, "weight_orig"),
    "prune": (
        lambda m: prune.l1_unstructured(m, "weight", 2), lambda m: prune.remove(m, "weight"),
        "weight_orig",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REPARAMETRISED)
@pytest.mark.parametrize("change", ["load_state_dict", "step"])
def test_removal_keeps_the_present_parameters(kind, change):
    """It once froze the weight of the last forward, and lost whatever came after it."""
    make, undo, name = REPARAMETRISED[kind]
    layer, x = make(nn.Linear(4, 3)), ml.randn(2, 4)
    layer(x)
    if change == "step":
        p = getattr(layer, name)
        p.grad = ml.randn(*p.shape)
        ml.optim.SGD([p], 0.5).step()
    else:
        layer.load_state_dict(make(nn.Linear(4, 3)).state_dict())
    expected = layer.eval()(x).detach().numpy()
    with ml.no_grad():
        layer.weight = ml.zeros(3, 4)  # what the last forward left plays no part
    undo(layer.train())
    assert layer.training and layer.weight.requires_grad
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", REPARAMETRISED)
def test_reparametrised_modules_are_pickled(kind):
    """Their hooks once were closures, and a computed weight was refused."""
    make, undo, _ = REPARAMETRISED[kind]
    layer, x = make(nn.Linear(4, 3)).eval(), ml.randn(2, 4)
    for again in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        np.testing.assert_array_equal(again(x).detach(), layer(x).detach())
        undo(again)
        np.testing.assert_allclose(again(x).detach(), layer(x).detach(), rtol=1e-6)


def test_parameters_by_name():
    table = nn.ParameterDict({"left": ml.ones(2), "right": nn.Parameter(ml.zeros(3))})
    table["keys"] = ml.ones(1)
    assert list(table) == ["left", "right", "keys"] and len(list(table.parameters())) == 3
    assert list(table.state_dict()) == list(table) and "left" in table
    assert all(isinstance(p, nn.Parameter) for p in table.values())
    del table["left"]
    assert len(table) == 2 and "(right): Parameter containing: [float32 of size 3]" in repr(table)


def test_sequences_are_joined():
    first, second = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.ReLU(), nn.Linear(2, 1))
    both = first + second
    assert [*both] == [*first, *second] and [*dict(both.named_children())] == ["0", "1", "2"]


def test_names_that_are_taken_are_refused():
    layer = nn.Linear(2, 2)
    with pytest.raises(ShapeError, match="Linear: the attribute exists; got name 'forward'"):
        layer.register_parameter("forward", nn.Parameter(ml.zeros(2)))
    for name, kind in (("weight", nn.ReLU()), ("training", nn.ReLU())):
        with pytest.raises(ShapeError, match="the attribute exists"):
            layer.add_module(name, kind)
    layer.register_parameter("bias", None)  # one of its own kind takes its place
    assert layer.bias is None
    assert [*nn.ModuleDict({"keys": layer}).keys()] == ["keys"]  # an item is no attribute
    for state in (None, [1], 3):
        with pytest.raises(DTypeError, match="load_state_dict: needs a dict of values by name"):
            layer.load_state_dict(state)
