"""The model zoo: names, shapes, outputs and gradients of other libraries; sections and heads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
import minidl.functional as F
from golden.zoo import SIDES, TRAINED, VARIANTS, digest, pictures, seeded
from minidl import models, nn
from minidl.data import CIFAR10
from minidl.errors import ShapeError
from minidl.models.blocks import SameConv2d

GOLDEN = json.loads((Path(__file__).parent / "golden" / "models.json").read_text())
# Too large, or too many, for every run; HYPOTHESIS_PROFILE=night compares their outputs too.
LARGE = {
    *"resnet34 resnet101 resnet152 cifar_resnet110 convnext_small convnext_base vit_l_16".split(),
    *"vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn vit_b_16 vit_b_32".split(),
    *"deit_small_patch16_224 deit_base_patch16_224 convnext_tiny cifar_resnet44".split(),
    *"shufflenet_v2_x1_5 shufflenet_v2_x2_0 cifar_resnet32 vit_large_pixels".split(),
}
NIGHT = os.environ.get("HYPOTHESIS_PROFILE") == "night"


def case(label):
    """A label's model, the side of its pictures and the options that it was made with."""
    return VARIANTS.get(label, (label, SIDES.get(label), {}))


def build(label, **more):
    """The model of a label with the weights that its names stand for."""
    name, _, options = case(label)
    model = getattr(models, name)(**options, **more)
    for key, value in model.state_dict().items():
        value.array[...] = seeded(key, value.shape)
    return model


@pytest.fixture
def undrawn(monkeypatch):
    """Initialisers that do nothing, so that untouched zeros cost neither time nor memory."""
    drawing = "fan_in_uniform_ kaiming_normal_ normal_ trunc_normal_ xavier_uniform_ ones_ zeros_"
    for name in drawing.split():
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


@pytest.mark.parametrize("label", [*SIDES, *VARIANTS])
def test_names_and_shapes(label, undrawn):
    """Every tensor of the other library's model, and no other."""
    name, _, options = case(label)
    state = getattr(models, name)(**options).state_dict()
    shapes = {k: v.shape for k, v in state.items()}
    few = {k: shapes[k] for k in sorted(shapes)[:3]}
    assert {k: [*v] for k, v in few.items()} == GOLDEN[label]["few"]
    assert len(shapes) == GOLDEN[label]["count"]
    assert digest(shapes.items()) == GOLDEN[label]["digest"]


@pytest.mark.parametrize("label", [*SIDES, *VARIANTS])
def test_outputs(label, undrawn):
    """Logits of seeded weights and pictures, within 1e-4 of their spread."""
    if label in LARGE and not NIGHT:
        pytest.skip("large: compared with HYPOTHESIS_PROFILE=night")
    want = GOLDEN[label]
    model = build(label).eval()
    with ml.no_grad():
        y = model(ml.tensor(pictures(2, case(label)[1]))).numpy()
    error = np.abs(y[:, :8] - want["outputs"]).max()
    assert error < 1e-4 * want["spread"], (error, want["spread"])


@pytest.mark.parametrize("label", TRAINED)
def test_a_training_step(label, undrawn):
    """Loss, norms of gradients and running variances in training mode, without dropout.

    In float64: batch norm over four pictures magnifies rounding, and relu6's kinks are many.
    """
    want = GOLDEN[label]["step"]
    model = build(label, **TRAINED[label]).train().double()
    x = ml.tensor(pictures(4, case(label)[1])).double()
    loss = F.cross_entropy(model(x), ml.arange(4))
    loss.backward()
    np.testing.assert_allclose(loss.item(), want["loss"], rtol=1e-8)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    largest = max(want["gradients"].values())  # behind a batch norm a bias's gradient is rounding
    for key, norm in want["gradients"].items():
        got = np.linalg.norm(parameters[key].grad.numpy())
        np.testing.assert_allclose(got, norm, rtol=1e-7, atol=1e-10 * largest, err_msg=key)
    for key, norm in want["variances"].items():
        got = np.linalg.norm(buffers[key].numpy())
        np.testing.assert_allclose(got, norm, rtol=1e-8, err_msg=key)


SMALL = {
    "resnet": lambda: models.resnet18(7, width=4),
    "cifar": lambda: models.cifar_resnet20(7),
    "resnet8": lambda: models.resnet8(7),
    "vgg3": lambda: models.vgg3(7, width=4, dense=8, dropout=0.1),
    "vgg3_pooled": lambda: models.vgg3(7, width=4, dense=0, patch_size=2),
    "vgg": lambda: models.ImageNetVGG((1, 0, 1, 0, 1), 7, norm=True, hidden=8),
    "squeezenet": lambda: models.squeezenet1_1(7),
    "mobilenet_v1": lambda: models.mobilenet_v1(7, width_mult=0.25),
    "mobilenet_v2": lambda: models.mobilenet_v2(7, width_mult=0.25),
    "shufflenet_v1": lambda: models.shufflenet_v1(7, width_mult=0.5),
    "shufflenet_v2": lambda: models.shufflenet_v2_x0_5(7),
    "efficientnet": lambda: models.efficientnet_b0(7),
    "convnext": lambda: models.ConvNeXt((1, 2, 1), (8, 16, 24), 7, layer_scale=0.5),
    "convmixer": lambda: models.ConvMixer(7, dim=8, depth=2),
    "vit": lambda: models.ViT(7, dim=12, depth=2, heads=2),
    "vision": lambda: models.VisionTransformer(8, 12, 2, 2, 7, image_size=32),
}


@pytest.mark.parametrize("kind", SMALL)
def test_sections(kind):
    """They own every parameter once, compose to the model at any cut, and end in the head."""
    ml.manual_seed(3)
    model = SMALL[kind]().eval()
    sections = model.sections()
    owned = [name for s in sections for name in model.parameters_of(s)]
    assert owned and sorted(owned) == sorted(k for k, _ in model.named_parameters())
    assert len(sections) > 3 and all(model.parameters_of(s) for s in sections)
    head = model.head_name
    assert {*model.parameters_of(sections[-1])} == {f"{head}.weight", f"{head}.bias"}
    x = ml.tensor(pictures(2, 32))
    with ml.no_grad():
        want = model(x).numpy()
        for cut in (0, 1, len(sections) // 2, len(sections) - 1, len(sections)):
            got = model.run(model.run(x, 0, cut), cut).numpy()
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
        embedded = model.embed(x)
    assert embedded.shape[0] == 2 and want.shape == (2, 7)


@pytest.mark.parametrize("kind", SMALL)
def test_heads(kind):
    """A new head has as many outputs as asked for, at its name; all else stays and is reached."""
    model = SMALL[kind]()
    before = {k: v for k, v in model.named_parameters() if not k.startswith(model.head_name)}
    order = [*model.state_dict()]
    new = model.replace_head(5)
    assert dict(model.named_modules())[model.head_name] is new
    assert [*model.state_dict()] == order
    assert all(dict(model.named_parameters())[k] is v for k, v in before.items())
    y = model(ml.tensor(pictures(3, 32)))
    assert y.shape == (3, 5)
    F.cross_entropy(y, ml.tensor([0, 1, 4])).backward()
    lacking = [k for k, p in model.named_parameters() if p.grad is None]
    assert not lacking


def test_a_head_that_is_no_layer():
    """An Identity in the head's place still is the last section, and cannot be replaced."""
    model = models.cifar_resnet20()
    model.linear = nn.Identity()
    assert model.sections()[-1].names == ("linear",)
    assert model(ml.tensor(pictures(2, 32))).shape == (2, 64)
    with pytest.raises(ShapeError, match="the head must be a Linear or a Conv2d; got head 'Ident"):
        model.replace_head(3)


def test_sections_are_the_blocks(undrawn):
    """As fine as residual blocks; norms, pools and dropout go with the layers that need them."""
    names = [s.names[0] for s in models.cifar_resnet20().sections()]
    assert names[:2] == ["conv1", "layer1.0"] and names[-2:] == ["layer3.2", "linear"]
    assert len(names) == 11
    names = [s.names for s in models.vgg11_bn(7, hidden=8).sections()]
    assert names[0] == tuple(f"features.{i}" for i in range(4)) and len(names) == 11
    assert names[-1] == ("classifier.5", "classifier.6")
    names = [s.names for s in models.mobilenet_v2(7).sections()]
    assert names[1] == ("features.1",) and names[-2] == ("features.18", "avgpool")
    names = [s.names for s in models.vit_b_32(7, image_size=32).sections()]
    assert names[0] == ("conv_proj", "class_token", "encoder.pos_embedding")
    assert names[-2:] == [("encoder.ln",), ("heads.head",)] and len(names) == 15


@given(st.data())
def test_same_padding(data):
    """Against the rule as tf.nn documents it, over drawn sizes, kernels, strides and groups."""
    kernel, stride = (data.draw(st.tuples(*[st.integers(1, 4)] * 2)) for _ in range(2))
    height, width, groups = (data.draw(st.integers(1, n)) for n in (9, 9, 2))
    conv = SameConv2d(2, 4, kernel, stride, groups=groups)
    x = ml.randn(2, 2, height, width)
    widths = [(0, 0), (0, 0)]
    for n, k, s in zip((height, width), kernel, stride):
        along = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)
        widths.append((along // 2, along - along // 2))
    padded = ml.tensor(np.pad(x.numpy(), widths))
    want = F.conv2d(padded, conv.weight, conv.bias, stride, groups=groups).detach().numpy()
    got = conv(x).detach().numpy()
    assert got.shape[2:] == (-(-height // stride[0]), -(-width // stride[1]))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_stochastic_depth():
    """In training whole residuals vanish or are divided by what is left; in evaluation none."""
    ml.manual_seed(5)
    block = models.blocks.InvertedResidual(8, 8, 1, 2, models.blocks.ConvNorm, drop=0.4)
    x = ml.tensor(np.ones((2, 8, 4, 4), np.float32))
    parts = set()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):  # the same in both modes
            module.training = False
    block.training = False
    residual = (block(x) - x).detach().numpy()
    block.training = True
    for _ in range(20):
        y = (block(x) - x).detach().numpy()
        for got, whole in zip(y, residual):
            kept = bool(np.abs(got).max() > 1e-6)
            parts.add(kept)
            np.testing.assert_allclose(got, whole / 0.6 if kept else 0 * whole, atol=1e-5)
    assert parts == {True, False}


def test_shortcuts_without_weights_where_only_the_channels_change():
    """They took every second pixel, which a wider block of stride 1 could not add."""
    model = models.resnet50(2, width=4, stem="cifar", shortcut="A").eval()
    x = ml.randn(1, 4, 5, 5)
    y = model.layer1[0].downsample(x).numpy()
    np.testing.assert_array_equal(y[:, 6:10], x.numpy())
    assert not y[:, :6].any() and not y[:, 10:].any()
    assert model(ml.randn(1, 3, 9, 9)).shape == (1, 2)


def test_stages_of_equal_width_halve_the_picture_too():
    """ConvNeXt left out the convolution between two stages of as many channels."""
    model = models.ConvNeXt((1, 1), (8, 8), 2)
    shapes = [tuple(part.weight.shape) for part in model.stages[1].downsample]
    assert shapes == [(8,), (8, 8, 2, 2)] and not [*model.stages[0].downsample]


def test_mistakes():
    """Options out of range are named."""
    with pytest.raises(ShapeError, match="groups must be one of"):
        models.shufflenet_v1(groups=5)
    with pytest.raises(ShapeError, match="padding must be one of"):
        models.mobilenet_v2(padding="valid")
    with pytest.raises(ShapeError, match="shortcut must be one of"):
        models.cifar_resnet(20, shortcut="C")
    with pytest.raises(ShapeError, match="patch_size must divide image_size; got image_size 100"):
        models.vit_b_16(image_size=100)


def test_keras_resnet8_on_real_pictures(real_data):
    """The committed-to accuracy of MLPerf Tiny's weights: 881 of the 1,000 test pictures (± 1)."""
    h5py = pytest.importorskip("h5py")
    path = real_data / "weights" / "cifar10_resnet8_keras.h5"
    if not path.exists():
        pytest.skip(f"{path.name} is not among the data")
    ours = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2"]
    ours += ["layer2.0.downsample.0", "layer3.0.conv1", "layer3.0.conv2", "layer3.0.downsample.0"]
    norms = ["bn1", *(f"layer{i}.0.bn{j}" for i in (1, 2, 3) for j in (1, 2))]
    kinds = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    kinds |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    state = {}
    with h5py.File(path) as file:
        for theirs, names in (("conv2d", ours), ("batch_normalization", norms), ("dense", ["fc"])):
            for i, name in enumerate(names):
                group = f"{theirs}_{i}" if i else theirs
                for key, value in file["model_weights"][group][group].items():
                    array = value[()]
                    array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
                    state[f"{name}.{kinds[key.split(':')[0]]}"] = array
    model = models.resnet8()
    model.load_state_dict(state)
    test = CIFAR10(real_data, train=False)
    with ml.no_grad():
        logits = model.eval()(ml.tensor(test.images[:1000].astype(np.float32))).numpy()
    assert abs((logits.argmax(1) == test.targets[:1000]).sum() - 881) <= 1
