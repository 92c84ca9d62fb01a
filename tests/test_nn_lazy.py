"""Lazy layers take their size from the first input or from loaded state."""

import copy

import numpy as np
import pytest

import minidl as ml
from minidl import nn
from minidl.errors import CheckpointError, ShapeError


def test_lazy_linear_keeps_parameters():
    """An optimizer built before the first input holds the real parameters."""
    layer = nn.LazyLinear(2)
    optimizer = ml.optim.SGD(layer.parameters(), lr=1.0)
    layer(ml.ones(3, 4)).sum().backward()
    before = layer.weight.detach().clone()
    optimizer.step()
    assert layer.weight.shape == (2, 4) and repr(layer).startswith("Linear(in_features=4")
    np.testing.assert_allclose(layer.weight.detach().numpy(), before.numpy() - 3, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 4), (3, 4), (2,), (2, 4, 1)])
def test_a_lazy_layer_stays_lazy_where_state_does_not_fit(shape):
    """It took the size of a state that was then refused, and drew values for it."""
    model = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2))
    state = {**model.state_dict(), "0.weight": np.ones(shape), "1.bias": np.ones(3)}
    before = ml.random.get_state()
    with pytest.raises(CheckpointError, match="1.bias .3,., the model has .2,."):
        model.load_state_dict(state)
    assert type(model[0]) is nn.LazyLinear and model[0].weight.shape == (2, 0)
    assert ml.random.get_state() == before
    if shape == (2, 4):
        model.load_state_dict({**state, "1.bias": np.ones(2)})
        assert type(model[0]) is nn.Linear and model[0].weight.tolist() == [[1] * 4] * 2
    else:
        with pytest.raises(CheckpointError, match="0.weight .* the model has .2, "):
            model.load_state_dict({**state, "1.bias": np.ones(2)})


LAZY = [
    (nn.LazyConv1d, nn.Conv1d, (4, 3, 2, 1, 1, 2), (2, 6, 9)),
    (nn.LazyConv2d, nn.Conv2d, (4, 3), (6, 9, 9)),
    (nn.LazyConv3d, nn.Conv3d, (4, (1, 2, 3)), (2, 6, 3, 4, 5)),
    (nn.LazyConvTranspose1d, nn.ConvTranspose1d, (4, 3), (6, 5)),
    (nn.LazyConvTranspose2d, nn.ConvTranspose2d, (4, 3, 2, 0, 0, 2), (2, 6, 4, 4)),
    (nn.LazyBatchNorm1d, nn.BatchNorm1d, (1e-3,), (5, 6)),
    (nn.LazyBatchNorm2d, nn.BatchNorm2d, (1e-3, 0.2, False), (5, 6, 2, 2)),
    (nn.LazyBatchNorm3d, nn.BatchNorm3d, (1e-3, None), (5, 6, 2, 2, 2)),
]


@pytest.mark.parametrize(("lazy", "of", "arguments", "shape"), LAZY)
def test_a_lazy_layer_becomes_the_one_of_its_inputs_size(lazy, of, arguments, shape):
    """By its first input, or by state that is loaded; its parameters stay the same objects."""
    x, whole = ml.randn(shape), of(6, *arguments)
    layer, loaded = lazy(*arguments), lazy(*arguments)
    kept = list(layer.parameters())
    assert repr(layer).startswith(f"{lazy.__name__}(0, ")
    assert copy.deepcopy(layer)(x).shape == layer(x).shape == whole(x).shape
    assert type(layer) is of and repr(layer) == repr(whole)
    assert all(a is b for a, b in zip(kept, layer.parameters(), strict=True))
    if whole.weight is not None:  # which tells the size
        loaded.load_state_dict(whole.state_dict())
        assert type(loaded) is of
        np.testing.assert_array_equal(*(m.eval()(x).detach().numpy() for m in (loaded, whole)))
    fresh = lazy(*arguments)
    fresh.load_state_dict(lazy(*arguments).state_dict())  # says nothing of a size
    with pytest.raises(ShapeError, match=f"{lazy.__name__}: x must have .* axes"):
        fresh(ml.zeros(2))
    assert type(fresh) is lazy
