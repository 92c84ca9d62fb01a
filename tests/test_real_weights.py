"""Real weights of three frameworks, where they are at hand: the accuracy known of them."""

import re

import numpy as np
import pytest
from PIL import Image

import minidl as ml
from minidl import models
from minidl.data import CIFAR10
from minidl.errors import CheckpointError
from minidl.io import load_weights
from minidl.io.naming import flatten


def right(model, x, y):
    """How many of the pictures x get their label y first, and in the first five."""
    with ml.no_grad():
        parts = [model.eval()(ml.tensor(x[i : i + 25])).numpy() for i in range(0, len(x), 25)]
    hits = np.argsort(-np.concatenate(parts), 1)[:, :5] == y[:, None]
    return hits[:, 0].sum(), hits.sum()


@pytest.fixture(scope="module")
def cifar(real_data):
    data = CIFAR10(real_data, train=False)
    return data.images[:1000].astype("f4"), np.asarray(data.targets[:1000])


@pytest.mark.parametrize("depth, count", [(20, 915), (56, 926)])
def test_the_real_cifar_resnets(depth, count, cifar, real_data):
    images, labels = cifar
    model = getattr(models, f"cifar_resnet{depth}")()
    load_weights(real_data / "weights" / f"cifar10_resnet{depth}.th", model)
    mean, std = (np.float32(x).reshape(3, 1, 1) for x in
                 ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))  # fmt: skip
    assert abs(right(model, (images / 255 - mean) / std, labels)[0] - count) <= 1


def test_the_real_keras_resnet(cifar, real_data):
    pytest.importorskip("h5py")
    images, labels = cifar
    model = models.resnet8()
    load_weights(real_data / "weights" / "cifar10_resnet8_keras.h5", model)
    assert abs(right(model, images, labels)[0] - 881) <= 1


def test_the_real_mobilenet(real_data):
    """The 200 pictures of 256x256, resized to 224 (bilinear); class 0 is the background."""
    model = models.mobilenet_v2(1001, padding="same")
    load_weights(real_data / "weights" / "mobilenet_v2_1.0_224_int8.tflite", model)
    paths = sorted((real_data / "imagenet_sample").glob("*.jpg"))
    pictures = [Image.open(p).convert("RGB").resize((224, 224), Image.BILINEAR) for p in paths]
    x = np.stack([np.asarray(p, "f4").transpose(2, 0, 1) / 127.5 - 1 for p in pictures])
    first, five = right(model, x, np.array([int(p.name[:4]) + 1 for p in paths]))
    assert len(paths) == 200 and first >= 162 and five >= 192


def test_the_real_squeezenet_but_for_its_head(real_data):
    pytest.importorskip("h5py")
    path = real_data / "weights" / "squeezenet1.1_keras_notop.h5"
    model = models.squeezenet1_1()
    with pytest.raises(CheckpointError, match="squeezenet1.1.*does not fit SqueezeNet") as caught:
        load_weights(path, model)
    text = str(caught.value)
    assert "missing" in text and "unexpected" not in text and "wrong shape" not in text
    found = load_weights(path, model, strict=False)
    assert found == (["classifier.1.weight", "classifier.1.bias"], [])
    (kernel,) = (array for name, array in flatten(load_weights(path)).items()
                 if re.search("fire9.expand3x3.*kernel", name))  # fmt: skip
    assert np.array_equal(
        model.features[12].expand3x3.weight.detach().numpy(), kernel.transpose(3, 2, 0, 1)
    )
