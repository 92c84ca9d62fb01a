"""Layouts of Keras and Flax: their networks in plain NumPy beside ours with the same weights."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy_layers import RNG, close, conv, depthwise, layer_norm, load, norm, normal, relu, sigmoid

from golden import make_foreign as make
from minidl import functional as F
from minidl import nn
from minidl.errors import CheckpointError
from minidl.io import load_weights
from minidl.io.foreign import nest
from minidl.io.layers import NORM
from minidl.models import VisionTransformer, mobilenet_v2
from minidl.models.blocks import SameConv2d


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
    assume(drawn[0] * drawn[4] > 1 or drawn[2] != 3)  # two kernels of one shape: see below
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
    """Gate orders, biases, stacked and bidirectional layers, embeddings; old and new names."""
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
    with pytest.raises(CheckpointError, match=r"numpy_layers.py: gru/gru_cell.*reset_after"):
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


def test_norms_of_models_within_models_have_their_own_epsilon():
    four = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 4}
    flat = {f"model_weights/inner/bn_{n}/{key}:0": np.full(2, value, "f4")
            for n in (1, 2) for key, value in four.items()}  # fmt: skip
    layers = [{"config": {"name": f"bn_{n}", "epsilon": n / 2}} for n in (1, 2)]
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    load(flat, model, config={"config": {"layers": [{"config": {"layers": layers}}]}})
    for n in (1, 2):
        np.testing.assert_allclose(model[n - 1].running_var.numpy(), 4 + n / 2, rtol=1e-5)


def test_layers_of_one_shape_must_have_a_known_order():
    """Numbers, or a configuration; names alone would be sorted by the alphabet."""
    arrays = {name: normal(3, 3) for name in ("query", "key", "value")}
    flat = {f"{name}/kernel:0": array for name, array in arrays.items()}
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    before = [layer.weight.detach().numpy().copy() for layer in model]
    with pytest.raises(CheckpointError, match="query: which of it and key comes first"):
        load(flat, model)
    assert all(np.array_equal(a, layer.weight.detach().numpy()) for a, layer in zip(before, model))
    config = {"config": [{"config": {"name": name}} for name in arrays]}
    load(flat, model, config=config)
    for array, layer in zip(arrays.values(), model):
        assert np.array_equal(array.T, layer.weight.detach().numpy())
    flat = {f"dense_{n}/kernel:0": normal(3, 3) for n in (10, 9, 101)}
    load(flat, model)
    for n, layer in zip((9, 10, 101), model):
        assert np.array_equal(flat[f"dense_{n}/kernel:0"].T, layer.weight.detach().numpy())


def test_a_mobilenet_as_keras_applications_saves_it(tmp_path):
    """Weights alone, in groups by the alphabet: the file's list of layers tells their order."""
    h5py = pytest.importorskip("h5py")
    parts = [f"{block}_{part}" for block in ("expanded_conv", *(f"block_{n}" for n in range(1, 17)))
             for part in ("expand", "depthwise", "project")][1:]  # fmt: skip
    convs, norms = ["Conv1", *parts, "Conv_1"], ["bn_Conv1", *(f"{p}_BN" for p in parts)]
    order = [n for pair in zip(convs, [*norms, "Conv_1_bn"]) for n in pair] + ["predictions"]
    names, model = iter(order), mobilenet_v2(5, width_mult=0.25, padding="same")
    expected = {k: normal(*a.shape) for k, a in model.state_dict().items() if "tracked" not in k}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for path, module in model.named_modules():
            own = {k: expected[f"{path}.{k}"] for k, _ in module.named_parameters(recurse=False)}
            if isinstance(module, nn.BatchNorm2d):
                means = (expected[f"{path}.running_{k}"] for k in ("mean", "var"))
                name, arrays = next(names), dict(zip(NORM, (*own.values(), *means)))
            elif own:
                name, weight = next(names), own["weight"]
                deep = "depthwise_" * name.endswith("depthwise")
                turned = weight.T if weight.ndim == 2 else np.moveaxis(weight, (0, 1), (3, 2))
                turned = turned.swapaxes(2, 3) if deep else turned
                arrays = {f"{deep}kernel": turned} | {k: a for k, a in own.items() if k == "bias"}
            for key, array in arrays.items() if own else ():
                file[f"{name}/{name}/{key}:0"] = array
        assert [*names] == [] and [*file] == sorted(order)
        listed = ["input_1", *order[:5], "Conv1_relu", *order[5:]]  # layers without weights too
        file.attrs["layer_names"] = [name.encode() for name in listed]
    load_weights(tmp_path / "m.h5", model)
    for key, array in model.state_dict().items():
        if "tracked" not in key:
            wanted = expected[key] + np.float32((1e-3 - 1e-5) * key.endswith("running_var"))
            np.testing.assert_array_equal(array.numpy(), wanted, err_msg=key)
    with h5py.File(tmp_path / "m.h5", "a") as file:
        del file.attrs["layer_names"]
    with pytest.raises(CheckpointError, match="which of it and .* comes first is not known"):
        load_weights(tmp_path / "m.h5", model)


# ---- Flax, Google's ViT --------------------------------------------------------------------------


@given(drawn=sizes, packed=st.booleans())
def test_flax_picture_network(drawn, packed, tmp_path_factory):
    """As .npz and as msgpack of a training state, whose moments must not be taken for layers."""
    assume(drawn[0] * drawn[4] > 1 or drawn[2] != 3)
    args, x, arrays = drawn_net(*drawn)
    arrays[6] = arrays[6].reshape(3, 3, 1, -1)  # as a convolution in groups
    names = ["params/Conv_0/kernel", "params/Conv_0/bias", "params/BatchNorm_0/scale",
             "params/BatchNorm_0/bias", "batch_stats/BatchNorm_0/mean",
             "batch_stats/BatchNorm_0/var", "params/Conv_1/kernel", "params/Conv_1/bias",
             "params/Dense_0/kernel", "params/Dense_0/bias"]  # fmt: skip
    flat = dict(zip(names, arrays))
    path = tmp_path_factory.getbasetemp() / "flax"
    if packed:
        pytest.importorskip("msgpack")
        moments = {"0": {"mu": {"Dense_0": {"kernel": normal(2, 2)}}}}
        path.write_bytes(make.msgpack(nest("x", flat) | {"opt_state": moments, "step": 3}))
    else:
        with open(path, "wb") as file:
            np.savez(file, **flat)
    model = Net(*args, eps=2e-3)
    load_weights(path, model)
    arrays[6] = arrays[6].reshape(3, 3, args[1], -1)
    close(model, x, net(x, arrays, args[3], 1e-5))


@given(kind=st.sampled_from(["LSTM", "GRU"]), width=st.integers(1, 4), hidden=st.integers(1, 4))
def test_flax_recurrent_network(kind, width, hidden):
    """A dense layer for every gate: LSTM (biases on h) and GRU (on x, and on h of n)."""
    gates, biased = ("ifgo", "hi hf hg ho") if kind == "LSTM" else ("rzn", "ir iz in hn")
    flat = {}
    for side, rows in (("i", width), ("h", hidden)):
        for gate in gates:
            flat[f"params/{kind}Cell_0/{side}{gate}/kernel"] = normal(rows, hidden)
            if side + gate in biased:
                flat[f"params/{kind}Cell_0/{side}{gate}/bias"] = normal(hidden)
    table = normal(3, width)
    flat["params/Embed_0/embedding"] = table

    def dense(name, of):
        path = f"params/{kind}Cell_0/{name}/"
        return of @ flat[path + "kernel"] + flat.get(path + "bias", 0)

    model = nn.Sequential(nn.Embedding(3, width), getattr(nn, kind)(width, hidden))
    load(flat, model, "Flax")
    words = RNG.integers(0, 3, (4, 2))
    h = c = np.zeros((2, hidden))
    outputs = []
    for step in table[words]:
        if kind == "LSTM":
            i, f, g, o = (dense(f"i{gate}", step) + dense(f"h{gate}", h) for gate in gates)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            r, z = (sigmoid(dense(f"i{gate}", step) + dense(f"h{gate}", h)) for gate in "rz")
            h = (1 - z) * np.tanh(dense("in", step) + r * dense("hn", h)) + z * h
        outputs.append(h)
    close(model, words, np.stack(outputs))
    cell = getattr(nn, f"{kind}Cell")(width, hidden)
    load({k: a for k, a in flat.items() if "Embed" not in k}, cell, "Flax")
    close(cell, table[words[0]], outputs[0])


def test_googles_vision_transformer(tmp_path):
    """Kernels (dim, heads, width) as they stand; what the model lacks is unexpected."""
    dim, heads, width, depth, x = 8, 2, 4, 2, normal(2, 8, 8, 3)
    flat = {"cls": normal(1, 1, dim), "embedding/kernel": normal(4, 4, 3, dim) / 4,
            "embedding/bias": normal(dim), "head/kernel": normal(dim, 3), "head/bias": normal(3),
            "Transformer/posembed_input/pos_embedding": normal(1, 5, dim),
            "Transformer/encoder_norm/scale": normal(dim),
            "Transformer/encoder_norm/bias": normal(dim)}  # fmt: skip
    for n in range(depth):
        block = f"Transformer/encoderblock_{n}"
        for name in ("LayerNorm_0", "LayerNorm_2"):
            flat |= {f"{block}/{name}/{kind}": normal(dim) for kind in ("scale", "bias")}
        for i, (rows, columns) in enumerate([(dim, 4 * dim), (4 * dim, dim)]):
            flat[f"{block}/MlpBlock_3/Dense_{i}/kernel"] = normal(rows, columns) / 3
            flat[f"{block}/MlpBlock_3/Dense_{i}/bias"] = normal(columns)
        start = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            flat[f"{start}/{name}/kernel"] = normal(dim, heads, width) / 3
            flat[f"{start}/{name}/bias"] = normal(heads, width)
        flat[f"{start}/out/kernel"], flat[f"{start}/out/bias"] = normal(2, 4, dim), normal(dim)
    np.savez(tmp_path / "vit.npz", **flat)
    model = VisionTransformer(4, dim, depth, heads, 3, image_size=8)
    load_weights(tmp_path / "vit.npz", model)

    patches = x.reshape(2, 2, 4, 2, 4, 3).swapaxes(2, 3)
    y = np.einsum("nhwijc,ijcd->nhwd", patches, flat["embedding/kernel"]) + flat["embedding/bias"]
    y = np.concatenate([np.tile(flat["cls"], (2, 1, 1)), y.reshape(2, 4, dim)], 1)
    y = y + flat["Transformer/posembed_input/pos_embedding"]
    for n in range(depth):
        part = {k.split(f"block_{n}/")[-1]: a for k, a in flat.items() if f"block_{n}/" in k}
        seen = layer_norm(y, part["LayerNorm_0/scale"], part["LayerNorm_0/bias"])
        start = "MultiHeadDotProductAttention_1/"
        q, k, v = (np.einsum("btd,dhk->bthk", seen, part[f"{start}{name}/kernel"])
                   + part[f"{start}{name}/bias"] for name in ("query", "key", "value"))  # fmt: skip
        scores = np.exp(np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(width))
        seen = np.einsum("bhts,bshk->bthk", scores / scores.sum(-1, keepdims=True), v)
        y = y + np.einsum("bthk,hkd->btd", seen, part[start + "out/kernel"])
        y = y + part[start + "out/bias"]
        seen = layer_norm(y, part["LayerNorm_2/scale"], part["LayerNorm_2/bias"])
        seen = seen @ part["MlpBlock_3/Dense_0/kernel"] + part["MlpBlock_3/Dense_0/bias"]
        seen = seen * (1 + np.vectorize(math.erf)(seen / math.sqrt(2))) / 2
        y = y + seen @ part["MlpBlock_3/Dense_1/kernel"] + part["MlpBlock_3/Dense_1/bias"]
    y = layer_norm(y, flat["Transformer/encoder_norm/scale"], flat["Transformer/encoder_norm/bias"])
    close(model, x.transpose(0, 3, 1, 2), y[:, 0] @ flat["head/kernel"] + flat["head/bias"])
    with pytest.raises(CheckpointError, match=r"unexpected: pre_logits/weight \(8, 8\)$"):
        load(flat | {"pre_logits/kernel": normal(8, 8)}, model, "NumPy")
