"""Transforms of pictures on a GPU, emulated: the CPU's pictures, in as few kernels as promised."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_stand_in import NEEDED, gpu
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl as ml
from minidl.backend import cuda
from minidl.backend.cuda import augment as augment_module
from minidl.data import transforms as T
from minidl.data.transforms.base import Draws
from minidl.data.transforms.fused import Fused
from minidl.errors import DeviceError, DTypeError, RangeError, ShapeError

__all__ = ["gpu"]  # the fixture
pytestmark = [NEEDED, pytest.mark.usefixtures("gpu")]

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
NORMALISE = T.Normalize(MEAN, STD)
EPS = {"float16": 4e-3, "float32": 2e-6, "float64": 1e-14}
INDICES = np.array([9, 2, 2, 70_000, 0, 5, 31])


def batch(n=7, h=12, w=10, c=3, dtype=np.uint8):
    """Pictures (N, C, H, W) in channels-last memory."""
    x = np.random.default_rng(h * 100 + w).integers(0, 256, (n, h, w, c))
    x = x.astype(np.uint8) if dtype == np.uint8 else (x / 255).astype(dtype)
    return x.transpose(0, 3, 1, 2)


def near(got, expected, size=1.0):
    """Equal within the rounding of the expected dtype, bytes exactly; both channels-last."""
    assert got.dtype == expected.dtype and got.shape == expected.shape
    if got.size:
        assert got.transpose(0, 2, 3, 1).flags.c_contiguous
    got, eps = cuda.to_host(got), EPS.get(expected.dtype.name, 0.0)
    np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), eps, eps * size)


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels of augment.cu that were launched."""
    names = []
    kernel = augment_module.kernel

    def noted(file, name, *kinds):
        names.append(name)
        return kernel(file, name, *kinds)

    monkeypatch.setattr(augment_module, "kernel", noted)
    return names


PIPELINES = [  # and how many kernels they are
    (T.RandomCrop(8, padding=2), 1),
    (T.RandomCrop((20, 9), pad_if_needed=True, fill=7), 1),
    (T.RandomCrop((5, 10)), 1),
    (T.RandomHorizontalFlip(), 1),
    (T.RandomTranslate(0.2, fill=9), 1),
    (T.CenterCrop(7), 1),
    (T.CenterCrop(15), 1),
    (NORMALISE, 1),
    (T.Normalize((0.5,), (0.2,)), 1),
    (T.ToFloat(), 1),
    (T.RandomErasing(1.0, value=7), 1),
    (T.Cutout(5, value=0.25), 1),
    (T.Compose([T.RandomCrop(12, padding=4), T.RandomHorizontalFlip(), NORMALISE]), 1),
    (T.Compose([T.RandomHorizontalFlip(), T.RandomCrop((12, 10), padding=4),
                T.RandomTranslate(0.3), NORMALISE, T.RandomErasing(0.6)]), 1),
    (T.Compose([T.RandomHorizontalFlip(), T.RandomCrop(9, 1), T.RandomHorizontalFlip(),
                T.RandomCrop((14, 13), 4, fill=0), T.RandomHorizontalFlip()]), 1),
    (T.Compose([T.RandomCrop(6), T.CenterCrop(11), T.RandomHorizontalFlip(),
                T.RandomCrop(10, 3)]), 1),
    (T.Compose([T.ToFloat(), NORMALISE, T.RandomCrop(12, 3, fill=0.5), T.Cutout(6),
                T.RandomErasing(1, value=-3), T.Normalize(STD, (2, 3, 4))]), 1),
    (T.Compose([T.RandomErasing(1, value=200), NORMALISE, T.Cutout(4, value=9)]), 1),
    (T.Compose([T.RandomCrop(11, 2, fill=5), NORMALISE, T.RandomCrop(13, 2, fill=5)]), 2),
    (T.Compose([T.Cutout(5), T.RandomHorizontalFlip(), T.RandomErasing(1), T.RandomCrop(8)]), 3),
    (T.Compose([T.Compose([T.RandomHorizontalFlip()]), lambda x: x[:, 1:], NORMALISE]), 2),
]  # fmt: skip


@pytest.mark.parametrize("transform, kernels", PIPELINES, ids=lambda v: repr(v)[:70])
def test_pictures_are_the_cpus(transform, kernels, launches):
    """Of bytes and floats, in either memory order, alone and in a batch, given draws or fresh."""
    for dtype in (np.uint8, np.float32):
        x = batch(dtype=dtype)
        expected = transform(x, INDICES, 3)
        launches.clear()
        near(transform(cuda.from_host(x), INDICES, 3), expected, 10.0)
        floats = dtype == np.float32 and isinstance(transform, T.ToFloat)  # they stay as they are
        assert launches == ["augment"] * (0 if floats else kernels)
        if not floats:
            near(transform(cuda.from_host(np.ascontiguousarray(x)), INDICES, 3), expected, 10.0)
    tensor = transform(ml.autograd.wrap(cuda.from_host(x)), INDICES, 3)
    assert isinstance(tensor, ml.Tensor)
    near(tensor.array, expected, 10.0)
    ml.manual_seed(3)
    fresh = transform(x[0])
    ml.manual_seed(3)
    single = transform(cuda.from_host(x[0]))
    near(single[None], fresh[None], 10.0)
    ml.manual_seed(0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 5, 7, 1), (1, 6, 6, 2), (3, 4, 4, 5), (2, 33, 31, 3)])
def test_floating_pictures_of_any_size(dtype, shape):
    x = batch(*shape, dtype=dtype)
    mean, std = np.linspace(0.4, 0.5, shape[3]), np.linspace(0.3, 0.2, shape[3])
    steps = [T.RandomCrop(shape[1:3], padding=2), T.RandomHorizontalFlip(), T.Normalize(mean, std)]
    transform = T.Compose([*steps, T.RandomErasing(0.7)])
    rows = INDICES[: shape[0]]
    near(transform(cuda.from_host(x), rows, 1), transform(x, rows, 1), 10.0)
    strided = np.repeat(np.repeat(x, 2, axis=3), 2, axis=0)
    there = cuda.from_host(strided)[::2, :, :, ::2]
    near(transform(there, rows, 1), transform(x, rows, 1), 10.0)
    turned = cuda.from_host(np.ascontiguousarray(x[:, :, ::-1]))[:, :, ::-1]
    near(transform(turned, rows, 1), transform(x, rows, 1), 10.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bytes_become_any_float(dtype):
    """The kernel writes the dtype that is asked for, arithmetic in float32 or float64."""
    x = batch()
    work = Fused(cuda.from_host(x))
    T.RandomCrop(9, 2).plan(work, Draws(INDICES, 0))
    scale, shift, _ = NORMALISE._affine(3, np.dtype(np.uint8))
    work.scale_by(scale, shift, np.dtype(dtype))
    cropped = T.RandomCrop(9, 2)(x, INDICES, 0).astype(np.float64)
    expected = cropped * scale[:, None, None] + shift[:, None, None]
    near(work.run(), np.asarray(expected, dtype), 10.0)


STEPS = st.sampled_from([
    T.RandomHorizontalFlip(), T.RandomCrop((7, 8), 3, fill=1), T.RandomCrop((9, 6), 4, fill=2),
    T.CenterCrop((6, 5)), T.CenterCrop((9, 11)), T.RandomTranslate(0.4, fill=1), T.Cutout(3),
    T.RandomErasing(0.8, value=3), NORMALISE, T.ToFloat(),
])  # fmt: skip


@given(steps=st.lists(STEPS, max_size=6), epoch=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_chain_of_steps(steps, epoch):
    """In any order."""
    transform = T.Compose(steps)
    x = batch(4, 7, 6)
    near(transform(cuda.from_host(x), INDICES[:4], epoch), transform(x, INDICES[:4], epoch), 400.0)


def test_batches_and_pictures_of_nothing():
    transform = T.Compose([T.RandomCrop(4, 2), T.RandomHorizontalFlip(), NORMALISE, T.Cutout(2)])
    x = batch(3, 4, 4)
    assert transform(cuda.from_host(x[:0]), INDICES[:0], 0).shape == (0, 3, 4, 4)
    near(
        transform(cuda.from_host(x[:, :, :0]), INDICES[:3], 0), transform(x[:, :, :0], INDICES[:3])
    )
    assert T.Compose([])(cuda.from_host(x)).shape == x.shape
    assert T.RandomCrop(0)(cuda.from_host(x)).shape == (3, 3, 0, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [T.MixUp, T.CutMix])
@pytest.mark.parametrize("size", [(12, 10, 3), (5, 3, 1), (17, 31, 2)])
def test_mixes_are_the_cpus(kind, dtype, size):
    """Of pictures in any memory, at places of it that only a byte divides, and labels."""
    x, y = batch(7, *size, dtype=dtype), np.array([4, 0, 1, 1, 3, 2, 2])
    mix = kind(num_classes=5, alpha=0.7)
    images, soft = mix(x, y, INDICES, 2)
    for there in (cuda.from_host(x), cuda.from_host(np.ascontiguousarray(x))):
        got, labels = mix(there, cuda.from_host(y), INDICES, 2)
        assert got.dtype == images.dtype
        near(got, images, 255.0 if dtype == np.uint8 else 1.0)
        np.testing.assert_allclose(cuda.to_host(labels), soft, rtol=1e-6, atol=1e-7)
        assert labels.dtype == np.float32
    part = mix(x[1:4], y[1:4], INDICES[1:4], 2)
    labels = ml.autograd.wrap(cuda.from_host(y.astype(np.int32))[1:4])
    got = mix(ml.autograd.wrap(there[1:4]), labels, INDICES[1:4], 2)
    near(got[0].array, part[0], 255.0)
    np.testing.assert_allclose(cuda.to_host(got[1].array), part[1], rtol=1e-6, atol=1e-7)
    none = mix(there[:0], cuda.from_host(y[:0]), INDICES[:0], 2)
    assert none[0].shape == (0, *x.shape[1:]) and none[1].shape == (0, 5)


def test_pasted_pixels_are_exact():
    """CutMix copies infinities and NaN as they are, and none from the partner's other places."""
    x = np.full((4, 2, 5, 6), np.nan, np.float32)
    x[1::2] = 3
    mix, rows = T.CutMix(num_classes=2), np.arange(4)
    expected = mix(x, rows % 2, rows, 1)[0]
    got = mix(cuda.from_host(x), cuda.from_host(rows % 2), rows, 1)[0]
    np.testing.assert_array_equal(cuda.to_host(got), expected)
    assert np.isnan(expected[1::2]).any() and (expected[1::2] == 3).any()


def test_mistakes_are_explained():
    x, y = cuda.from_host(batch()), np.arange(7)
    others = [
        T.ColorJitter(0.1), T.Grayscale(), T.GaussianBlur(3), T.Resize(4), T.RandomAffine(5),
        T.RandAugment(), T.AutoAugment(),
    ]  # fmt: skip
    for transform in others:
        name = type(transform).__name__
        with pytest.raises(DeviceError, match=f"{name}: runs on the CPU only; .*before the pic"):
            transform(x)
        with pytest.raises(DeviceError, match=f"{name}: runs on the CPU only"):
            T.Compose([T.RandomHorizontalFlip(), transform])(x)
    with pytest.raises(DeviceError, match="RandomCrop: padding on a GPU must be constant"):
        T.RandomCrop(8, 2, padding_mode="reflect")(x)
    with pytest.raises(ShapeError, match="RandomCrop: the padded picture is smaller"):
        T.RandomCrop(99)(x)
    with pytest.raises(ShapeError, match="Normalize: pictures must have as many channels"):
        T.Normalize((0.5, 0.5), (1, 1))(x)
    with pytest.raises(DTypeError, match="transforms: pictures must be uint8 or floating"):
        T.RandomHorizontalFlip()(cuda.from_host(batch().astype(np.int32)))
    with pytest.raises(ShapeError, match=r"ToFloat: pictures must be \(N, C, H, W\)"):
        T.ToFloat()(x[0, 0])
    with pytest.raises(DeviceError, match="MixUp: images and labels must be on one device"):
        T.MixUp(num_classes=7)(x, y)
    with pytest.raises(RangeError, match=r"CutMix: every index must lie in \[0, 5\).*index 6"):
        T.CutMix(num_classes=5)(x, cuda.from_host(y))
        cuda.to_host(x)
    with pytest.raises(RangeError, match=r"MixUp: every index must lie in \[0, 5\)"):
        T.MixUp(num_classes=5)(batch(), y)
