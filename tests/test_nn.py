"""Modules: names, shapes and reprs as PyTorch's, state, hooks, attributes, containers, errors."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import minidl as ml
import minidl.nn as nn
from minidl.errors import CheckpointError, ShapeError
from minidl.models.blocks import relu_of

NAMES = json.loads((Path(__file__).parent / "golden" / "nn_names.json").read_text())
HERE = [text for text in NAMES if hasattr(nn, text.partition("(")[0])]


def net() -> nn.Sequential:
    """A small network with parameters and buffers."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


@pytest.mark.parametrize("text", HERE)
def test_repr_and_state_as_pytorch(text):
    """The printed form, and the names and shapes of the state."""
    module = eval(text, dict(vars(nn)))
    want = NAMES[text]
    assert repr(module) == want["repr"]
    lazy = text.startswith("Lazy")
    assert lazy or {k: list(v.shape) for k, v in module.state_dict().items()} == want["state"]
    assert lazy or list(module.state_dict()) == list(want["state"])


@pytest.mark.parametrize("text", HERE)
def test_copies_and_pickles(text):
    """Deep copies and pickles are equal and share nothing."""
    module = eval(text, dict(vars(nn)))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(other) == repr(module)
        for (name, a), (again, b) in zip(module.state_dict().items(), other.state_dict().items()):
            assert name == again
            assert a.array is not b.array
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_copied_model_has_no_gradients_yet():
    """As in PyTorch; a copied tensor keeps its own."""
    layer, x = nn.Linear(2, 2), ml.ones(2, requires_grad=True)
    layer(x).sum().backward()
    assert copy.deepcopy(layer).weight.grad is None and layer.weight.grad is not None
    assert copy.deepcopy(x).grad.tolist() == x.grad.tolist()


def test_parts_are_found_by_their_dotted_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"deep": nn.BatchNorm1d(2)}))
    assert model.get_submodule("1.deep") is model[1]["deep"] and model.get_submodule("") is model
    assert model.get_parameter("0.weight") is model[0].weight
    assert model.get_buffer("1.deep.running_mean") is model[1]["deep"].running_mean
    with pytest.raises(AttributeError, match="'ModuleDict' object has no attribute 'shallow'"):
        model.get_submodule("1.shallow")
    with pytest.raises(ShapeError, match="a name must be a string"):
        nn.ModuleDict({1: nn.ReLU()})


def test_state_round_trip():
    """State goes from one network into another, from Tensors and from arrays."""
    x = ml.randn(2, 3, 5, 5)
    first, second = net(), net()
    first(x)
    first.eval()
    want = first(x).detach().numpy()
    for state in (first.state_dict(), {k: np.asarray(v) for k, v in first.state_dict().items()}):
        other = copy.deepcopy(second)
        assert other.load_state_dict(state) == ([], [])
        np.testing.assert_array_equal(other.eval()(x).detach().numpy(), want)
        assert type(other[3]) is nn.Linear


def test_state_shares_memory():
    """As in PyTorch a state_dict is a view, and loading writes in place."""
    layer = nn.Linear(2, 2)
    weight = layer.weight
    state = layer.state_dict()
    with ml.no_grad():
        layer.weight.fill_(3.0)
    assert (state["weight"].numpy() == 3).all() and not state["weight"].requires_grad
    layer.load_state_dict({"weight": np.ones((2, 2)), "bias": np.zeros(2)})
    assert layer.weight is weight and (state["weight"].numpy() == 1).all()
    assert layer.weight.dtype == np.float32


@pytest.mark.parametrize("make", [lambda: nn.Parameter(ml.ones(2)), lambda: nn.Linear(1, 1)])
def test_what_takes_the_name_of_a_buffer_that_was_not_saved_is(make):
    """A parameter of such a name was missing from the state."""
    module = nn.Module()
    module.register_buffer("hidden", ml.zeros(1), persistent=False)
    module.hidden = make()
    module.register_buffer("other", ml.zeros(1), persistent=False)
    del module.other
    module.register_buffer("other", ml.zeros(1))
    assert {*module.state_dict()} == {*dict(module.named_parameters()), "other"}


def test_load_reports_everything_at_once():
    """One error names all that is missing, unexpected and of another shape; nothing is changed."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    before = {k: np.array(v) for k, v in model.state_dict().items()}
    state = {k: np.asarray(v) + 1 for k, v in before.items()}
    del state["0.bias"], state["2.weight"]
    state |= {"0.weight": np.zeros((4, 2)), "head.weight": np.zeros(5), "extra": np.zeros((1, 2))}
    with pytest.raises(CheckpointError) as error:
        model.load_state_dict(state)
    assert str(error.value) == (
        "load_state_dict: the state does not fit Sequential\n"
        "  missing: 0.bias (3,); 2.weight (1, 3)\n"
        "  unexpected: head.weight (5,); extra (1, 2)\n"
        "  wrong shape: 0.weight (4, 2), the model has (3, 2)"
    )
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_load_not_strict():
    """strict=False says what did not match, but a wrong shape is still an error."""
    model = nn.Linear(2, 1)
    result = model.load_state_dict({"weight": np.ones((1, 2)), "more": np.ones(1)}, strict=False)
    assert result.missing_keys == ["bias"] and result.unexpected_keys == ["more"]
    assert (model.weight.detach().numpy() == 1).all()
    with pytest.raises(CheckpointError, match=r"weight \(3,\), the model has \(1, 2\)"):
        model.load_state_dict({"weight": np.ones(3)}, strict=False)


def test_checkpoint_without_num_batches_tracked_loads():
    """Older checkpoints of batch norm lack the count."""
    norm = nn.BatchNorm2d(3)
    state = {k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"}
    assert norm.load_state_dict(state) == ([], [])


def test_shared_parameters():
    """A shared parameter is listed once and saved under both names."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert [name for name, _ in model.named_parameters()] == ["0.weight"]
    assert list(model.state_dict()) == ["0.weight", "1.weight"]


def test_walking():
    """Names come parents first, as in PyTorch."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()))
    assert [n for n, _ in model.named_modules()] == ["", "0", "1", "1.0", "1.1"]
    assert [n for n, _ in model.named_children()] == ["0", "1"]
    assert [n for n, _ in model.named_parameters(prefix="m")][0] == "m.0.weight"
    assert [n for n, _ in model.named_buffers()] == [
        "1.0.running_mean", "1.0.running_var", "1.0.num_batches_tracked"]  # fmt: skip
    assert len(list(model.modules())) == 5 and len(list(model.children())) == 2


def test_attributes():
    """Assigning registers, replaces and refuses; deleting forgets."""
    module = nn.Module()
    module.w = 1
    module.w = nn.Parameter(ml.ones(2))
    assert list(dict(module.named_parameters())) == ["w"] and "w" not in module.__dict__
    with pytest.raises(TypeError, match="cannot assign Tensor to 'w' \\(Parameter or None"):
        module.w = ml.ones(2)
    module.w = None
    assert module.w is None and not list(module.parameters())
    module.w = nn.Linear(1, 1)
    assert isinstance(module.w, nn.Linear) and list(module.state_dict()) == ["w.weight", "w.bias"]
    del module.w
    with pytest.raises(AttributeError, match="'Module' object has no attribute 'w'"):
        module.w  # noqa: B018
    module.register_buffer("b", ml.zeros(1))
    module.register_buffer("hidden", ml.zeros(1), persistent=False)
    module.b = ml.ones(3)
    assert list(module.state_dict()) == ["b"] and len(list(module.buffers())) == 2
    with pytest.raises(ShapeError, match="the attribute exists"):
        module.register_buffer("forward", ml.zeros(1))
    with pytest.raises(ShapeError, match="not empty and has no dot"):
        module.register_parameter("a.b", nn.Parameter(ml.zeros(1)))
    with pytest.raises(AttributeError, match="super"):
        type("Bad", (nn.Module,), {"__init__": lambda self: setattr(self, "x", nn.ReLU())})()


def test_hooks():
    """Pre-hooks change arguments, hooks change outputs, in order, until removed."""
    layer, seen = nn.Flatten(0), []
    double = layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    plus = layer.register_forward_hook(lambda m, args, y: y + 1)
    layer.register_forward_hook(lambda m, args, y: seen.append((args, y)))
    last = layer.register_forward_hook(lambda m, args, y: y * 10)
    x = ml.ones(1, 2)
    assert layer(x).tolist() == [30, 30]
    assert seen[0][0][0].tolist() == [[2, 2]] and seen[0][1].tolist() == [3, 3]
    last.remove()
    last.remove()
    assert layer(x).tolist() == [3, 3]
    with double:
        pass
    plus.remove()
    assert layer(x).tolist() == [1, 1]


def test_modes_and_conversion():
    """train, eval, requires_grad_, zero_grad, dtype conversions keep the parameters' identity."""
    model = net()
    model(ml.randn(2, 3, 4, 4))
    params = list(model.parameters())
    assert not any(m.training for m in model.eval().modules())
    assert all(m.training for m in model.train().modules())
    model(ml.randn(2, 3, 4, 4)).sum().backward()
    model.double()
    assert all(a is b for a, b in zip(model.parameters(), params))
    assert {p.dtype.name for p in params} == {"float64"} == {p.grad.dtype.name for p in params}
    assert model[1].num_batches_tracked.dtype == np.int64
    assert model[1].running_mean.dtype == np.float64
    assert model(ml.randn(2, 3, 4, 4).double()).dtype == np.float64
    model.zero_grad(set_to_none=False)
    assert all((p.grad.numpy() == 0).all() for p in params)
    model.zero_grad()
    assert all(p.grad is None for p in params)
    assert not any(p.requires_grad for p in model.requires_grad_(False).parameters())
    assert model.to(ml.float32).to("cpu")[0].weight.dtype == np.float32
    assert nn.Linear(2, 2, dtype=ml.float64).weight.dtype == np.float64
    with pytest.raises(ShapeError, match="the dtype must be a floating one; got dtype"):
        model.to(ml.int64)


def test_apply_visits_children_first():
    """apply calls on every module, this one last."""
    names = []
    net().apply(lambda m: names.append(type(m).__name__))
    assert names == ["Conv2d", "BatchNorm2d", "Flatten", "LazyLinear", "Sequential"]


def test_sequential():
    """Indexing, slicing and changing a Sequential; names given by a dict stay."""
    a, b, c = nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)
    model = nn.Sequential(a, b)
    assert model.append(c) is model and len(model) == 3 and model[-1] is c
    assert list(model[1:]) == [b, c] and list(model[1:].state_dict()) == ["2.weight", "2.bias"]
    model.insert(0, b)
    assert list(model) == [b, a, b, c]
    del model[0]
    model[1] = nn.Tanh()
    assert model.pop(1).__class__ is nn.Tanh and list(model) == [a, c]
    named = nn.Sequential({"first": a, "last": c})
    assert named.first is a and list(named.state_dict())[0] == "first.weight"
    assert list(named[:1].state_dict()) == ["first.weight", "first.bias"]
    with pytest.raises(IndexError):
        named[2]


def test_containers():
    """ModuleList and ModuleDict register what they hold."""
    layers = nn.ModuleList([nn.Linear(1, 1)])
    layers += [nn.Linear(1, 2)]
    layers.extend([nn.ReLU()])
    assert len(layers) == 3 and len(list(layers.parameters())) == 4
    assert isinstance(layers[1:], nn.ModuleList) and len(layers[1:]) == 2
    table = nn.ModuleDict({"a": nn.Linear(1, 1)})
    table["b"] = nn.ReLU()
    assert (
        list(table) == ["a", "b"] == list(table.keys()) and "a" in table and table.a is table["a"]
    )
    assert table.pop("b").__class__ is nn.ReLU and len(table) == 1
    assert table.get("c") is None and table.pop("c", None) is None and "c" not in table
    with pytest.raises(KeyError, match="c"):
        table["c"]


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d: groups must divide"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "kernel_size must be one or two ints"),
        (lambda: nn.Conv2d(3, 4, 0), "kernel_size must be one or two ints >= 1"),
        (lambda: nn.ConvTranspose1d(3, 4, 3, stride=0), "stride must be an int >= 1"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), "padding must be one or two ints"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), "padding_mode must be one"),
        (lambda: nn.Dropout(1.5), "Dropout: p must be between 0 and 1; got p 1.5"),
        (lambda: nn.GroupNorm(3, 4), "num_groups must divide num_channels"),
        (lambda: nn.MultiheadAttention(5, 2), "num_heads must divide embed_dim"),
        (lambda: nn.LSTM(2, 3, proj_size=3), "proj_size must be below hidden_size"),
        (lambda: nn.RNN(2, 3, nonlinearity="sin"), "nonlinearity must be tanh or relu"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), "padding_idx must be a row of 3"),
        (lambda: nn.BatchNorm2d(3)(ml.zeros(2, 3)), "BatchNorm2d: x must have 4 axes; got x"),
        (lambda: nn.LSTM(2, 3)(ml.zeros(4, 1, 5)), "the last of 2; got x \\(4, 1, 5\\)"),
        (lambda: nn.GRU(2, 3)(ml.zeros(4, 1, 2), ml.zeros(1, 2, 3)), r"h must be \(1, 1, 3\)"),
        (lambda: nn.LSTM(2, 3)(ml.zeros(4, 1, 2), ml.zeros(1, 1, 3)), "the state must be h and c"),
        (lambda: nn.ConvTranspose2d(1, 1, 3, 2)(ml.zeros(1, 1, 2, 2), (9, 9)), "output_size must"),
        (lambda: nn.init.orthogonal_(ml.zeros(3)), "at least 2 axes"),
        (lambda: nn.init.kaiming_normal_(ml.zeros(3, 3), mode="fan"), "mode must be one of"),
        (lambda: nn.init.calculate_gain("swish"), "nonlinearity must be"),
        (lambda: nn.ReflectionPad2d((1, 2, 3)), "padding must be a number or 4 of them"),
    ],
)
def test_mistakes(make, text):
    """Wrong arguments and inputs are named."""
    with pytest.raises(ShapeError, match=text):
        make()


def test_wrong_arguments_are_type_errors():
    """Unknown and missing arguments are Python's own errors."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'padd'"):
        nn.Conv2d(1, 1, 3, padd=1)
    with pytest.raises(TypeError, match="out_features"):
        nn.Linear(3)


def test_subclassing_a_layer():
    """A user's subclass may have its own constructor, annotations and forward."""

    class Scaled(nn.Linear):
        scale: float

        def __init__(self, n: int, scale: float) -> None:
            super().__init__(n, n, bias=False)
            self.scale = scale

        def forward(self, x):
            return super().forward(x) * self.scale

    layer = Scaled(3, 2.0)
    x = ml.randn(2, 3)
    want = 2 * (x.numpy() @ layer.weight.detach().numpy().T)
    np.testing.assert_allclose(layer(x).detach().numpy(), want, rtol=1e-5, atol=1e-6)
    assert repr(layer) == "Scaled(in_features=3, out_features=3, bias=False)"


def test_loss_weights_are_buffers():
    """Weights of losses move and are saved with the module, as in PyTorch."""
    loss = nn.CrossEntropyLoss(weight=ml.tensor([1.0, 2.0]))
    assert list(loss.state_dict()) == ["weight"]
    assert loss.double().weight.dtype == np.float64
    value = loss(ml.zeros(2, 2).double(), ml.tensor([0, 1]))
    assert value.item() == pytest.approx(np.log(2))


def test_batch_norm_statistics():
    """Unbiased running variance, momentum None is the plain mean, eval leaves them alone."""
    x = ml.tensor(np.random.default_rng(0).normal(2, 3, (4, 2, 3, 3)).astype(np.float32))
    norm, mean = nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None)
    norm(x), mean(x), mean(x * 3)
    flat = x.numpy().transpose(1, 0, 2, 3).reshape(2, -1)
    want = 0.9 + 0.1 * flat.var(1, ddof=1)
    np.testing.assert_allclose(norm.running_var.numpy(), want, rtol=1e-5)
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.1 * flat.mean(1), rtol=1e-5)
    np.testing.assert_allclose(mean.running_mean.numpy(), 2 * flat.mean(1), rtol=1e-5)
    assert mean.num_batches_tracked.item() == 2
    before = norm.running_mean.numpy().copy()
    norm.eval()(x)
    np.testing.assert_array_equal(norm.running_mean.numpy(), before)


def test_dropout_follows_mode():
    """Dropping happens in training only, and keeps the mean."""
    x, drop = ml.ones(200, 50), nn.Dropout(0.25)
    y = drop(x).numpy()
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)} and abs(y.mean() - 1) < 0.03
    drop.eval()
    np.testing.assert_array_equal(drop(x).numpy(), 1)


class _Sevens(nn.BatchNorm2d):
    """A subclass whose forward is its own."""

    def forward(self, x):
        return x * 0 + 7


def patched(layer, value):
    """The layer with a forward assigned to the object."""
    layer.forward = lambda x: x * 0 + value
    return layer


@pytest.mark.parametrize(
    "norm, act, expected",
    [
        (_Sevens(3), nn.ReLU(), 7),
        (patched(nn.BatchNorm2d(3), 6), nn.ReLU(), 6),
        (nn.BatchNorm2d(3), patched(nn.ReLU(), 5), 5),
    ],
)
def test_a_forward_of_ones_own_is_called_before_a_relu(norm, act, expected):
    """The joined pass of batch norm and ReLU once went by it."""
    assert nn.Sequential(norm, act)(ml.randn(2, 3, 4, 4)).mean().item() == expected
    if isinstance(norm, _Sevens):
        assert relu_of(norm, ml.randn(2, 3, 4, 4)).mean().item() == expected


def test_a_table_of_given_rows():
    rows = ml.randn(5, 3)
    layer = nn.Embedding.from_pretrained(rows, padding_idx=-1)
    assert layer.weight.data_ptr() == rows.data_ptr() and not layer.weight.requires_grad
    bag = nn.EmbeddingBag.from_pretrained(rows, freeze=False, mode="sum")
    assert bag.weight.requires_grad and layer.padding_idx == 4
    np.testing.assert_array_equal(bag(ml.tensor([[1, 4]])).detach()[0], rows[1] + rows[4])
    with pytest.raises(ShapeError, match="Embedding: embeddings must have 2 axes"):
        nn.Embedding.from_pretrained(rows[0])
