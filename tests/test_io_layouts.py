"""Layouts of other frameworks: their networks in plain NumPy beside ours with the same weights."""

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
from golden import make_foreign as make
from minidl import functional as F
from minidl import nn
from minidl.errors import CheckpointError
from minidl.io import load_weights, weights
from minidl.io.foreign import nest
from minidl.models import SqueezeNet, VisionTransformer
from minidl.models.blocks import ConvNorm, SameConv2d

RNG = np.random.default_rng(6)


def normal(*shape):
    return RNG.normal(size=shape).astype("f4")


def load(flat, model, kind="Keras", config=None, **options):
    """load_weights from arrays by path, as if a file of that kind had held them."""
    tree = nest("drawn", flat) | ({} if config is None else {"model_config": config})
    with mock.patch.dict(
        weights.READERS, {kind: (lambda path: True, lambda path: tree)}, clear=True
    ):
        return load_weights(__file__, model, **options)


def close(model, x, expected):
    """Assert that the model makes of x what is expected."""
    with ml.no_grad():
        found = model.eval()(ml.tensor(x))
    found = (found[0] if isinstance(found, tuple) else found).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# ---- networks in NumPy, pictures (N, H, W, C) ----------------------------------------------------


def windows(x, size, stride, same):
    """What each place of a kernel (size, size) sees: {(i, j): (N, H', W', C)}."""
    pads = [(0, 0)] * 4
    for axis in (1, 2) if same else ():
        n = x.shape[axis]
        more = max((-(-n // stride) - 1) * stride + size - n, 0)
        pads[axis] = (more // 2, more - more // 2)
    x = np.pad(x, pads)
    h, w = ((n - size) // stride + 1 for n in x.shape[1:3])
    places = itertools.product(range(size), repeat=2)
    return {(i, j): x[:, i:, j:][:, ::stride, ::stride][:, :h, :w] for i, j in places}


def conv(x, kernel, bias=0, stride=1, same=True):
    """Kernel (H, W, I, O)."""
    seen = windows(x.astype("f8"), len(kernel), stride, same)
    return sum(part @ kernel[i, j] for (i, j), part in seen.items()) + bias


def depthwise(x, kernel, bias=0, stride=1):
    """Kernel (H, W, I, M); output channels i·M + m."""
    seen = windows(x.astype("f8"), len(kernel), stride, True)
    y = sum(part[..., None] * kernel[i, j] for (i, j), part in seen.items())
    return y.reshape(*y.shape[:3], -1) + bias


def norm(x, scale, shift, mean, var, eps):
    return (x - mean) / np.sqrt(var + eps) * scale + shift


def layer_norm(x, scale, bias, eps=1e-6):
    return norm(x, scale, bias, x.mean(-1, keepdims=True), x.var(-1, keepdims=True), eps)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Net(nn.Module):
    """Convolution, norm, depthwise convolution, dense layer on the flattened picture."""

    def __init__(self, i, o, size, stride, many, features, classes, *, bias=True, eps=1e-5):
        super().__init__()
        self.conv, self.bn = SameConv2d(i, o, size, stride, bias=bias), nn.BatchNorm2d(o, eps)
        self.deep = SameConv2d(o, o * many, 3, groups=o)
        self.fc = nn.Linear(features, classes)

    def forward(self, x):
        y = self.deep(F.relu(self.bn(self.conv(x.permute(0, 3, 1, 2)))))
        return self.fc(y.flatten(1))


sizes = st.tuples(*[st.integers(1, 3)] * 6, st.integers(2, 5), st.integers(2, 5))


def drawn_net(i, o, size, stride, many, classes, height, width):
    """Arguments of Net, a picture, and kernel, bias, norm's four, deep's two, dense's two."""
    features = -(-height // stride) * -(-width // stride) * o * many
    arrays = [normal(size, size, i, o), normal(o), *normal(3, o), normal(o) ** 2 / 100,
              normal(3, 3, o, many), normal(o * many),
              normal(features, classes), normal(classes)]  # fmt: skip
    return (i, o, size, stride, many, features, classes), normal(2, height, width, i), arrays


def net(x, arrays, stride, eps):
    """What a network of these arrays gives."""
    kernel, bias, *four, deep, deep_bias, dense, dense_bias = arrays
    y = relu(norm(conv(x, kernel, bias, stride), *four, eps))
    return depthwise(y, deep, deep_bias).reshape(len(x), -1) @ dense + dense_bias


# ---- Keras ---------------------------------------------------------------------------------------

NAMES = ["conv2d_7/kernel", "conv2d_7/bias", "batch_normalization/gamma",
         "batch_normalization/beta", "batch_normalization/moving_mean",
         "batch_normalization/moving_variance", "depthwise_conv2d/depthwise_kernel",
         "depthwise_conv2d/bias", "dense_1/kernel", "dense_1/bias"]  # fmt: skip


def keras_names(names, style):
    """Layer/array as in a whole model, in weights, or numbered as in Keras 3's .weights.h5."""
    found, seen = [], {}
    for name in names:
        *layer, last = name.split("/")
        first, layer = layer[0], "/".join(layer)
        number = seen[layer] = seen.get(layer, -1) + 1
        numbered = f"layers/{layer}/vars/{number}"
        found.append(
            numbered if style == "3" else f"{'model_weights/' * (style == 'whole')}{first}"
            f"/{layer}{'_1' if style == 'twice' else ''}/{last}:0"
        )  # fmt: skip
    return found


@given(drawn=sizes, style=st.sampled_from(["whole", "plain", "twice", "3"]), own=st.booleans())
def test_keras_picture_network(drawn, style, own):
    """Its own epsilon (1e-3 or the configuration's), SAME padding, flattened pictures."""
    args, x, arrays = drawn_net(*drawn)
    eps = 0.02 if own and style != "3" else 1e-3
    layers = [{"config": {"name": "batch_normalization", "epsilon": eps}}]
    config = {"config": {"layers": [{"config": {"layers": layers}}]}} if own else None
    model = Net(*args)
    flat = dict(zip(keras_names(NAMES, style), arrays))
    flat |= {"optimizer_weights/m/conv2d/kernel:0": normal(1)} if style == "whole" else {}
    load(flat, model, config=config if style != "3" else None)
    close(model, x, net(x, arrays, args[3], eps))


def keras_steps(kind, x, kernel, recurrent, bias):
    """The outputs (T, B, H) of a Keras layer (reset_after) for x (T, B, I)."""
    hidden = len(recurrent)
    h = c = np.zeros((x.shape[1], hidden))
    outputs = []
    for step in x:
        if kind == "gru":
            a, b = step @ kernel + bias[0], h @ recurrent + bias[1]
            z, r = (sigmoid(a[:, s] + b[:, s]) for s in (slice(hidden), slice(hidden, -hidden)))
            h = z * h + (1 - z) * np.tanh(a[:, -hidden:] + r * b[:, -hidden:])
        elif kind == "lstm":
            i, f, g, o = np.split(step @ kernel + h @ recurrent + bias, 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            h = np.tanh(step @ kernel + h @ recurrent + bias)
        outputs.append(h)
    return np.stack(outputs)


class Reader(nn.Module):
    """An embedding, recurrent layers, a dense layer at every step."""

    def __init__(self, kind, vocab, dim, hidden, layers, both, out):
        super().__init__()
        self.table = nn.Embedding(vocab, dim)
        self.rnn = getattr(nn, kind)(dim, hidden, layers, bidirectional=both)
        self.fc = nn.Linear(hidden * (1 + both), out)

    def forward(self, x):
        return self.fc(self.rnn(self.table(x))[0])


@given(
    kind=st.sampled_from(["LSTM", "GRU", "RNN"]), dim=st.integers(1, 4), hidden=st.integers(1, 4),
    layers=st.integers(1, 2), both=st.booleans(), new=st.booleans(),
)  # fmt: skip
def test_keras_recurrent_network(kind, dim, hidden, layers, both, new):
    """Gate orders, biases, stacked and bidirectional layers, embeddings; Keras 2's and 3's names."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    table, words = normal(5, dim), RNG.integers(0, 5, (4, 2))
    names, arrays, y = ["embedding/embeddings"], [table], table[words]
    title = {"RNN": "simple_rnn"}.get(kind, kind.lower())
    for n in range(layers):
        outputs = []
        for way in ("forward", "backward") if both else ("",):
            bias = normal(2, gates * hidden) if kind == "GRU" else normal(gates * hidden)
            given = normal(y.shape[-1], gates * hidden), normal(hidden, gates * hidden), bias
            end = "" if n == 0 else f"_{n}"
            place = f"bidirectional{end}/{way}_{title}{end}" if both else f"{title}{end}"
            cell = "cell" if new else f"{title}_cell_{n}"
            names += [f"{place}/{cell}/{a}" for a in ("kernel", "recurrent_kernel", "bias")]
            arrays += given
            seen = y[::-1] if way == "backward" else y
            made = keras_steps(kind.lower(), seen, *given)
            outputs.append(made[::-1] if way == "backward" else made)
        y = np.concatenate(outputs, -1)
    dense, bias = normal(y.shape[-1], 3), normal(3)
    names, arrays = [*names, "dense/kernel", "dense/bias"], [*arrays, dense, bias]
    model = Reader(kind, 5, dim, hidden, layers, both, 3)
    flat = dict(zip(keras_names(names, "3" if new else "plain"), arrays))
    load(flat, model)
    close(model, words, y @ dense + bias)
    if both:  # a direction is not taken for a layer, even where its shapes fit
        with pytest.raises(CheckpointError, match="other direction"):
            load(flat, Reader(kind, 5, dim, hidden, 2 * layers, False, 3))


@pytest.mark.parametrize("bias", [{}, {"bias": normal(6)}])
def test_a_gru_that_pytorch_cannot_compute_is_refused(bias):
    """reset_after=False has one bias; without biases it cannot be told."""
    flat = {f"gru/gru_cell/{key}:0": a for key, a in bias.items()}
    flat |= {"gru/gru_cell/kernel:0": normal(3, 6), "gru/gru_cell/recurrent_kernel:0": normal(2, 6)}
    with pytest.raises(CheckpointError, match=r"test_io_layouts.py: gru/gru_cell.*reset_after"):
        load(flat, nn.GRU(3, 2, bias=bool(bias)))


def test_what_is_no_known_layer_is_never_dropped():
    """A separable convolution's second kernel, a slope, an attention's kernels: unexpected."""
    conv = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.BatchNorm2d(2))
    flat = {"s/depthwise_kernel:0": normal(3, 3, 2, 1), "s/bias:0": normal(2)}
    flat |= {f"bn/{key}:0": normal(2) for key in ("gamma", "beta", "moving_mean")}
    flat["bn/moving_variance:0"] = np.ones(2, "f4")
    load(flat, conv)
    for more in ("s/pointwise_kernel", "a_prelu/alpha", "mha/query/unknown", "layers/x/vars/0"):
        with pytest.raises(CheckpointError, match=r"unexpected: [^;\n]*$"):
            load(flat | {f"{more}:0": normal(2)}, conv)
        load(flat | {f"{more}:0": normal(2)}, conv, strict=False)
        assert np.array_equal(conv[1].running_var.numpy() * 1e3 // 1, [1000, 1000])


def test_layers_of_one_shape_must_have_a_known_order():
    """Numbers, or a configuration; names alone would be sorted by the alphabet."""
    arrays = {name: normal(3, 3) for name in ("query", "key", "value")}
    flat = {f"{name}/kernel:0": array for name, array in arrays.items()}
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    before = [layer.weight.numpy().copy() for layer in model]
    with pytest.raises(CheckpointError, match="query: which of it and key comes first"):
        load(flat, model)
    assert all(np.array_equal(a, layer.weight.numpy()) for a, layer in zip(before, model))
    config = {"config": [{"config": {"name": name}} for name in arrays]}
    load(flat, model, config=config)
    for array, layer in zip(arrays.values(), model):
        assert np.array_equal(array.T, layer.weight.numpy())
    flat = {f"dense_{n}/kernel:0": normal(3, 3) for n in (10, 9, 101)}
    load(flat, model)
    for n, layer in zip((9, 10, 101), model):
        assert np.array_equal(flat[f"dense_{n}/kernel:0"].T, layer.weight.numpy())
