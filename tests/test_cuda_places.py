"""Where copies and items lie on a pretended GPU: beside what they are of."""

import copy

import numpy as np
import pytest
from cuda_stand_in import NEEDED, gpu  # noqa: F401
from test_cuda_training import convnet

import minidl as ml
from minidl import nn

pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]


def test_a_deep_copy_stays_on_its_device() -> None:
    """A copied network lay on the CPU, and so did the layers that a Transformer copies."""
    model = convnet().to("cuda")
    model[0].weight.grad = ml.ones(8, 3, 3, 3, device="cuda")
    other = copy.deepcopy(model)
    assert other[0].weight.grad is None  # as in PyTorch
    for (name, p), q in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert q.device == p.device and q.dtype == p.dtype and q.array is not p.array, name
        np.testing.assert_array_equal(p.cpu().numpy(), q.cpu().numpy())
    layer = nn.TransformerEncoderLayer(4, 2, 8, device="cuda")
    layers = nn.TransformerEncoder(layer, 2)
    assert {p.device.type for p in layers.parameters()} == {"cuda"}


def test_items_of_tensors_there_are_there() -> None:
    """Asking a TensorDataset of tensors on a GPU for an item was an error."""
    x, y = ml.arange(6, device="cuda").float().reshape(3, 2), ml.arange(3, device="cuda")
    items = [ml.data.TensorDataset(x, y)[-1], ml.data.Subset(ml.data.TensorDataset(x, y), [2])[0]]
    for row, label in items:
        assert row.device == label.device == x.device
        assert row.cpu().tolist() == [4, 5] and label.item() == 2 and label.shape == ()
