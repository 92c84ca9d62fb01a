"""The official data sets where they are at hand: counts, contents, published statistics."""

import numpy as np
import pytest

from minidl.data import (
    CIFAR10,
    MNIST,
    DataLoader,
    ImageFolder,
    OxfordIIITPet,
    Text,
    read_image,
    transforms,
)
from minidl.errors import DataError


def test_cifar10(real_data):
    train, test = CIFAR10(real_data), CIFAR10(real_data, train=False)
    assert len(train) == 50_000 and len(test) >= 1000
    assert train.classes[0] == "airplane" and train.classes[9] == "truck"
    assert np.bincount(train.targets).tolist() == [5000] * 10
    mean = train.images[::5].mean((0, 2, 3)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=2e-3)
    assert train.images.transpose(0, 2, 3, 1).flags.c_contiguous
    augment = transforms.Compose(
        [
            transforms.RandomCrop(32, 4),
            transforms.RandomHorizontalFlip(),
            transforms.Normalize([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        ]
    )
    test.transform = augment
    images, labels = next(iter(DataLoader(test, 128, shuffle=True, num_workers=2)))
    assert images.shape == (128, 3, 32, 32) and images.dtype == np.float32
    assert abs(images.array.mean()) < 0.3 and labels.array.max() <= 9


def test_mnist(real_data):
    train, test = MNIST(real_data), MNIST(real_data, train=False)
    assert len(train) == 60_000 and len(test) == 10_000
    assert abs(train.images.mean() / 255 - 0.1307) < 1e-4
    assert abs(train.images.std() / 255 - 0.3081) < 1e-4
    assert train.targets[:5].tolist() == [5, 0, 4, 1, 9]


def test_pets(real_data):
    data = OxfordIIITPet(real_data, transform=transforms.Resize((64, 64)))
    assert len(data.classes) == 37 and data.classes[0] == "Abyssinian"
    images, _ = next(iter(DataLoader(data, 8, shuffle=True, num_workers=2)))
    assert images.shape == (8, 3, 64, 64) and images.dtype == np.uint8
    binary = OxfordIIITPet(real_data, "test", "binary-category")
    assert set(binary.targets) == {0, 1}


def test_text(real_data):
    data = Text(real_data / "text/tinyshakespeare.txt", 64)
    assert len(data.vocabulary) == 65
    assert data.decode(data[0][0]).startswith("First Citizen:")


def test_pictures_of_every_folder(real_data):
    paths = sorted((real_data / "imagenet_sample").glob("*.jpg"))[:5]
    assert {read_image(p).shape for p in paths} == {(256, 256, 3)}
    with pytest.raises(DataError, match="no class folders|no pictures"):
        ImageFolder(real_data / "imagenet_sample")
