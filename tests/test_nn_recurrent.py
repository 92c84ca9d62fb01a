"""Recurrent layers on packed, unbatched and split sequences, and the packing itself."""

from pathlib import Path

import numpy as np
import pytest

import minidl as ml
import minidl.nn as nn
from minidl.errors import ShapeError
from minidl.nn.utils.rnn import (
    pack_padded_sequence,
    pad_packed_sequence,
    pad_sequence,
)

GOLDEN = Path(__file__).parent / "golden" / "nn_packed.npz"
LAYERS = {
    "lstm_stack": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True),
    "lstm_proj": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
    "gru_stack": lambda: nn.GRU(3, 4, num_layers=2, bidirectional=True, bias=False),
    "rnn_relu": lambda: nn.RNN(3, 4, nonlinearity="relu"),
}
LENGTHS = [2, 5, 5, 3]


@pytest.mark.parametrize("name", LAYERS)
def test_packed_as_pytorch(name):
    """Outputs, last states and gradients of sequences of different lengths."""
    with np.load(GOLDEN) as file:
        golden = {k.partition("/")[2]: v for k, v in file.items() if k.startswith(name + "/")}
    layer = LAYERS[name]().double()
    state = {k[2:]: v for k, v in golden.items() if k.startswith("p.")}
    layer.load_state_dict(state)
    x = ml.tensor(golden["x"].astype(np.float64), requires_grad=True)
    y, last = layer(pack_padded_sequence(x, LENGTHS, layer.batch_first, enforce_sorted=False))
    y, lengths = pad_packed_sequence(y, layer.batch_first, -1.0)
    h = last[0] if isinstance(last, tuple) else last
    (y.sin().sum() + h.cos().sum()).backward()
    assert lengths.tolist() == LENGTHS
    found = {"y": y, "h": h, "gx": x.grad}
    found |= {f"g.{k}": p.grad for k, p in layer.named_parameters()}
    for key, value in found.items():  # a few dozen float64 operations
        np.testing.assert_allclose(value.detach().numpy(), golden[key], 1e-10, 1e-12, err_msg=key)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_tokens_are_rows_of_a_table(kind, first):
    """Both directions and a second layer give what they give after an embedding."""
    layer = kind(3, 4, 2, bidirectional=True, batch_first=first)
    table, tokens = ml.randn(5, 3), ml.tensor([[0, 3, 1], [4, 4, 2]])
    y, state = layer(table, tokens=tokens)
    expected, other = layer(ml.functional.embedding(tokens, table))
    np.testing.assert_allclose(y.detach(), expected.detach(), rtol=1e-6, atol=1e-7)
    again, same = (layer(table, h, tokens)[0].detach() for h in (state, other))
    np.testing.assert_allclose(again, same, rtol=1e-6, atol=1e-7)


def test_tokens_beside_a_sequence():
    packed = pack_padded_sequence(ml.randn(3, 1, 3), [3])
    for x in (ml.randn(5, 2, 3), packed):
        with pytest.raises(ShapeError, match="LSTM"):
            nn.LSTM(3, 4)(x, tokens=ml.tensor([[0, 1]]))


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_unbatched_is_a_batch_of_one(kind):
    """(T, I) gives what (T, 1, I) gives, without the batch axis; so do states."""
    layer = kind(3, 4, 2, bidirectional=True)
    x = ml.randn(6, 3)
    y, state = layer(x)
    ys, states = layer(x.unsqueeze(1))
    again, _ = layer(x, state)
    np.testing.assert_array_equal(y.detach().numpy(), ys.squeeze(1).detach().numpy())
    h, hs = (state[0], states[0]) if kind is nn.LSTM else (state, states)
    assert h.shape == (4, 4) and hs.shape == (4, 1, 4) and again.shape == (6, 8)


@pytest.mark.parametrize(
    "kind, cell", [(nn.RNN, nn.RNNCell), (nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell)]
)
def test_cell_is_one_step(kind, cell):
    """A loop over the cell gives the layer's outputs and gradients."""
    layer, step = kind(3, 4).double(), cell(3, 4).double()
    step.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x = ml.randn(5, 2, 3).double()
    state, outs = None, []
    for t in range(5):
        state = step(x[t], state)
        outs.append(state[0] if kind is nn.LSTM else state)
    want, _ = layer(x)
    np.testing.assert_allclose(ml.stack(outs).detach().numpy(), want.detach().numpy(), 1e-12, 1e-14)
    want.sin().sum().backward()
    ml.stack(outs).sin().sum().backward()
    for (name, a), b in zip(layer.named_parameters(), step.parameters()):
        np.testing.assert_allclose(b.grad.numpy(), a.grad.numpy(), 1e-9, 1e-12, err_msg=name)
    first = step(x[0, 0])
    assert (first[0] if kind is nn.LSTM else first).shape == (4,)


def test_state_carries_over():
    """Two halves, the state handed on, are one whole."""
    layer = nn.LSTM(3, 4, 2, batch_first=True).double()
    x = ml.randn(2, 6, 3).double()
    whole, _ = layer(x)
    first, state = layer(x[:, :2])
    second, _ = layer(x[:, 2:], state)
    got = ml.cat([first, second], 1).detach().numpy()
    np.testing.assert_allclose(got, whole.detach().numpy(), 1e-12, 1e-14)


def test_dropout_is_between_layers():
    """It acts in training only, and never after the last layer."""
    layer = nn.GRU(3, 8, 2, dropout=1.0)
    x = ml.randn(4, 2, 3)
    y = layer(x)[0].detach().numpy()
    assert not np.array_equal(y, layer.eval()(x)[0].detach().numpy())
    assert (y != 0).any()


def test_packing():
    """Rows by time, longest first; padding comes back as asked; sorted lengths are enforced."""
    x = ml.arange(12.0).reshape(3, 4, 1)
    packed = pack_padded_sequence(x, [2, 1, 3, 1], enforce_sorted=False)
    assert packed.batch_sizes.tolist() == [4, 2, 1]
    assert packed.sorted_indices.tolist() == [2, 0, 1, 3]
    assert packed.data.squeeze(1).tolist() == [2, 0, 1, 3, 6, 4, 10]
    padded, lengths = pad_packed_sequence(packed, padding_value=-1.0)
    assert padded.shape == (3, 4, 1) and lengths.tolist() == [2, 1, 3, 1]
    assert padded[:, 1, 0].tolist() == [1, -1, -1]
    longer, lengths = pad_packed_sequence(packed, padding_value=-1.0, total_length=5)
    assert longer.shape == (5, 4, 1) and lengths.tolist() == [2, 1, 3, 1]
    assert (longer[:3] == padded).all() and (longer[3:] == -1).all()
    with pytest.raises(ShapeError, match="total_length must be at least 3"):
        pad_packed_sequence(packed, total_length=2)
    with pytest.raises(ShapeError, match="lengths must fall"):
        pack_padded_sequence(x, [2, 1, 3, 1])
    for lengths in ([4, 1, 1, 1], [3, 2, 1, 0], [3, 2, 1], []):
        with pytest.raises(ShapeError, match="between 1 and 3"):
            pack_padded_sequence(x if lengths else x[:, :0], lengths)


def test_sequences_of_unequal_length():
    """pad and pack lists of sequences."""
    parts = [ml.ones(2, 1), ml.ones(3, 1) * 2]
    assert pad_sequence(parts, batch_first=True)[:, :, 0].tolist() == [[1, 1, 0], [2, 2, 2]]
    packed = pack_padded_sequence(pad_sequence(parts), [2, 3], enforce_sorted=False)
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    for row, n, want in zip(padded, lengths.tolist(), parts):
        np.testing.assert_array_equal(row[:n].numpy(), want.numpy())


def test_initial_range():
    """Everything starts uniform in ±1/√hidden_size."""
    layer = nn.LSTM(10, 64, 2, bidirectional=True)
    for name, param in layer.named_parameters():
        values = param.detach().numpy()
        assert np.abs(values).max() <= 0.125, name
        assert values.size < 1000 or abs(values.std() - 0.125 / 3**0.5) < 0.004, name
