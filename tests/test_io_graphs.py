"""TensorFlow Lite, Caffe and SqueezeNets: networks in plain NumPy beside ours, the same weights."""

import numpy as np
import pytest
from numpy_layers import close, conv, depthwise, load_tree, norm, normal, relu, windows

from golden import make_foreign as make
from minidl import nn
from minidl.errors import CheckpointError
from minidl.io import load_weights
from minidl.io.foreign import nest
from minidl.models import SqueezeNet
from minidl.models.blocks import ConvNorm


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_tflite_network_with_folded_norms(kind, tmp_path):
    """OHWI and 1HW(I·M), biases for the norms behind; dense on the picture; a 1x1 head."""
    pytest.importorskip("flatbuffers")
    stored = [normal(4, 3, 3, 2), normal(1, 3, 3, 4), normal(5, 4 * 3 * 3), normal(3, 1, 1, 5)]
    biases, x = [normal(len(a) if len(a) > 1 else 4) for a in stored], normal(2, 5, 6, 2)
    scales = [{"scale": [0.01] * n, "zero": [0] * n, "axis": axis}
              for n, axis in ((4, 0), (4, 3), (5, 0), (3, 0))]  # fmt: skip
    if kind == "float16":
        stored = [a.astype("f2") for a in stored]
    if kind == "int8":
        stored = [np.clip(a * 50, -127, 127).astype("i1") for a in stored]
    tensors, operators = [("x", (1, 5, 6, 2), None)], []
    same = [("Int8", 0), ("Int32", 2), ("Int32", 2)]
    options = [(0, 1, [*same, ("Int8", 1)]), (1, 2, [("Int8", 0), ("Int32", 1), ("Int32", 1)]),
               (2, 8, []), (0, 1, [("Int8", 1), ("Int32", 1), ("Int32", 1)])]  # fmt: skip
    last = 0
    for n, (code, option, fields) in enumerate(options):
        at = len(tensors)
        tensors += [(f"k{n}", stored[n], scales[n] if kind == "int8" else None)]
        tensors += [(f"b{n}", biases[n], None), (f"wide{n}", stored[n].shape, None)]
        tensors += [(f"y{n}", (1,), None)]
        if kind == "float16":
            operators.append((3, [at], [at + 2], 0, []))
        weight = at + 2 if kind == "float16" else at
        operators.append((code, [last, weight, at + 1], [at + 3], option, fields))
        last = at + 3
    (tmp_path / "m").write_bytes(make.tflite(tensors, operators, codes=(3, 4, 9, 6)))
    units = ConvNorm(2, 4, 3, 2, padding="same"), ConvNorm(4, 4, 3, 1, 4, act=None, padding="same")
    model = nn.Sequential(*units, nn.Flatten(), nn.Linear(36, 5), nn.Linear(5, 3))
    units[0][1].eps = units[1][1].eps = 0.1
    load_weights(tmp_path / "m", model)
    a, b, c, d = (w.astype("f8") * (0.01 if kind == "int8" else 1) for w in stored)
    y = relu(conv(x, a.transpose(1, 2, 3, 0), biases[0], 2))
    y = depthwise(y, b[0][..., None], biases[1]).reshape(2, -1)
    close(model, x.transpose(0, 3, 1, 2), (y @ c.T + biases[2]) @ d[:, 0, 0].T + biases[3])


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("scale", [0, 1, 2])
def test_caffe_network(old, scale, tmp_path):
    """BatchNorm's sums and their number, with or without a Scale and its shift; (O, I, H, W)."""
    shapes = (2, 4, 4, 2), (3, 2, 3, 3), (3,), (5, 48), (5,)
    x, kernel, bias, dense, dense_bias = (normal(*shape) for shape in shapes)
    mean, var, (gain, shift) = normal(3), normal(3) ** 2, normal(2, 3)
    parts = {"conv": [kernel, bias], "bn": [mean * 4, var * 4, np.float32([4])],
             "scale": [gain, shift][:scale], "fc": [dense, dense_bias]}  # fmt: skip
    (tmp_path / "net").write_bytes(make.caffe(parts, old))
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3, 1e-3), nn.Flatten(),
                          nn.Linear(48, 5))  # fmt: skip
    load_weights(tmp_path / "net", model)
    y = conv(x, kernel.transpose(2, 3, 1, 0), bias)
    y = norm(y, gain if scale else 1, shift if scale > 1 else 0, mean, var, 1e-5)
    y = y.transpose(0, 3, 1, 2).reshape(2, -1)
    close(model, x.transpose(0, 3, 1, 2), y @ dense.T + dense_bias)
    parts["slope"] = [normal(3)]  # a PReLU is no norm
    (tmp_path / "net").write_bytes(make.caffe(parts))
    with pytest.raises(CheckpointError, match=r"unexpected: slope.0 \(3,\)$"):
        load_weights(tmp_path / "net", model)


def test_caffe_dense_layers_of_four_axes(tmp_path):
    layers = {"fc1": [normal(3, 4), normal(3)], "conv": [normal(2, 1, 1, 1), normal(2)],
              "one": [normal(1, 1, 3, 3), normal(1)]}  # fmt: skip
    (tmp_path / "net").write_bytes(make.caffe(layers, True, True))
    model = nn.ModuleList([nn.Linear(4, 3), nn.Conv2d(1, 2, 1), nn.Conv2d(1, 1, 3)])
    load_weights(tmp_path / "net", model)
    for (weight, bias), module in zip(layers.values(), model):
        assert np.array_equal(weight, module.weight.detach().numpy())
        assert np.array_equal(bias, module.bias.detach().numpy())


@pytest.mark.parametrize("kind", ["Keras", "Caffe"])
def test_squeezenet_by_its_names(kind):
    """In any order, and without its head when asked; the network in NumPy."""
    sizes = {"conv10": (1, 32, 3), "fire3/expand3x3": (3, 4, 16), "fire3/expand1x1": (1, 4, 16),
             "fire2/expand1x1": (1, 2, 8), "fire2/expand3x3": (3, 2, 8), "conv1": (3, 3, 4),
             "fire2/squeeze1x1": (1, 4, 2), "fire3/squeeze1x1": (1, 16, 4)}  # fmt: skip
    kernels = {name: normal(k, k, i, o) / k for name, (k, i, o) in sizes.items()}
    biases = {name: normal(o) for name, (_, _, o) in sizes.items()}
    if kind == "Keras":
        flat = {f"{n}/{n}_1/kernel:0": a for n, a in kernels.items()}
        flat |= {f"{n}/{n}_1/bias:0": a for n, a in biases.items()}
        tree = nest("x", flat)
    else:
        tree = {n: {"0": kernels[n].transpose(3, 2, 0, 1), "1": biases[n]} for n in sizes}
    model = SqueezeNet(4, 3, ((2,), (4,)), 3)
    load_tree(tree, model, kind)
    del tree["conv10"]
    with pytest.raises(CheckpointError, match=r"missing: classifier.1.weight .* classifier.1"):
        load_tree(tree, model, kind)
    found = load_tree(tree, model, kind, strict=False)
    assert found.missing_keys == ["classifier.1.weight", "classifier.1.bias"]

    def layer(name, x, **how):
        return relu(conv(x, kernels[name], biases[name], **how))

    def pooled(x):
        return np.max([*windows(x, 3, 2, False).values()], 0)

    x = normal(2, 31, 31, 3)
    y = layer("conv1", x, stride=2, same=False)
    for n in (2, 3):
        y = layer(f"fire{n}/squeeze1x1", pooled(y))
        y = np.concatenate([layer(f"fire{n}/expand{k}x{k}", y) for k in (1, 3)], -1)
    close(model, x.transpose(0, 3, 1, 2), layer("conv10", y).mean((1, 2)))
