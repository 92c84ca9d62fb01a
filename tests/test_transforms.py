"""Batched transforms: values against Pillow, colorsys, SciPy-free definitions; keyed randomness."""

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minidl import random
from minidl.autograd import Tensor, wrap
from minidl.data import transforms as T
from minidl.errors import DTypeError, MinidlError, ShapeError
from minidl.random import Generator


def batch(n=6, h=12, w=10, c=3, dtype=np.uint8):
    bits = Generator(h * 100 + w, "data").bits(n * h * w * c).reshape(n, h, w, c)
    x = (bits >> 24).astype(dtype) if dtype == np.uint8 else (bits * 2.0**-32).astype(dtype)
    return x.transpose(0, 3, 1, 2)


EVERY = [
    T.RandomCrop(8, 2),
    T.RandomCrop((20, 9), pad_if_needed=True, padding_mode="reflect"),
    T.CenterCrop(7),
    T.CenterCrop(15),
    T.RandomHorizontalFlip(),
    T.RandomTranslate(0.2, fill=9),
    T.Resize(6),
    T.Resize((15, 7)),
    T.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 10),
    T.RandomAffine((5, 9), shear=(0, 5, 0, 5), fill=3),
    T.ColorJitter(0.4, 0.4, (0.5, 2), 0.2),
    T.Grayscale(3),
    T.Grayscale(1),
    T.GaussianBlur(5),
    T.RandomErasing(1.0),
    T.RandomErasing(0.5, value=7),
    T.Cutout(5),
    T.RandAugment(),
    T.AutoAugment(),
    T.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    T.ToFloat(),
    T.Compose([T.RandomCrop(8, 2), T.RandomHorizontalFlip(), T.ToFloat()]),
    T.RandomResizedCrop(5),
    T.RandomResizedCrop((9, 4), (0.2, 0.5), (0.5, 2)),
    T.RandomRotation(30, fill=2),
    T.RandomVerticalFlip(),
    T.RandomGrayscale(0.5),
    T.RandomApply([T.ColorJitter(0.4), T.RandomHorizontalFlip()]),
    T.Pad((1, 2, 3, 0), fill=7),
]


@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_a_sample_does_not_depend_on_its_batch(transform):
    x = batch()
    before = x.copy()
    indices = np.array([9, 2, 2, 70_000, 0, 5])
    whole = transform(x, indices, 3)
    assert np.array_equal(x, before), "the input was changed"
    for part in ([3], [5, 0, 1], [4, 2]):
        assert np.array_equal(transform(x[part], indices[part], 3), whole[part])
    planes = np.ascontiguousarray(x)
    assert np.array_equal(transform(planes, indices, 3), whole)
    dtype = np.float32 if isinstance(transform, (T.Normalize, T.ToFloat, T.Compose)) else x.dtype
    assert whole.dtype == dtype
    single = transform(x[0])
    assert single.shape == whole.shape[1:]
    tensor = transform(wrap(x), indices, 3)
    assert isinstance(tensor, Tensor) and np.array_equal(tensor.array, whole)


@pytest.mark.parametrize("transform", [T.RandomCrop(3), T.RandomErasing(), T.RandAugment()])
def test_every_picture_needs_an_index(transform):
    """With too few the rest was uninitialised memory, or an error of NumPy's."""
    for indices in ([0, 1], [[0], [1], [2]], 0):
        with pytest.raises(ShapeError, match=f"{type(transform).__name__}: needs one index for"):
            transform(batch(3), np.array(indices), 0)
    with pytest.raises(ShapeError, match="MixUp: needs one index"):
        T.MixUp(num_classes=2)(batch(3), np.zeros(3, int), np.arange(2), 0)


RANDOM = [t for t in EVERY if type(t).__name__.startswith("Rand") or isinstance(t, T.ColorJitter)]


@pytest.mark.parametrize("transform", RANDOM, ids=repr)
def test_epochs_and_samples_differ(transform):
    x = np.repeat(batch(1, 12, 12), 60, axis=0)
    first = transform(x, np.arange(60), 0)
    assert len({a.tobytes() for a in first}) > 1
    assert not np.array_equal(first, transform(x, np.arange(60), 1))
    assert not np.array_equal(transform(x), transform(x))


def test_crops_are_windows_of_the_padded_picture():
    x = batch()
    found = T.RandomCrop((8, 7), (1, 2), fill=5)(x, np.arange(6), 0)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (1, 1)), constant_values=5)
    seen = set()
    for i, y in enumerate(found):
        places = [
            (a, b)
            for a in range(padded.shape[2] - 7)
            for b in range(padded.shape[3] - 6)
            if np.array_equal(padded[i, :, a : a + 8, b : b + 7], y)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 2
    with pytest.raises(ShapeError, match="smaller than the crop"):
        T.RandomCrop(99)(x)


def test_every_place_of_a_crop_is_as_likely():
    x = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    counts = np.bincount(T.RandomCrop(1)(np.repeat(x, 8000, 0)).ravel(), minlength=16)
    assert abs(counts - 500).max() < 6 * 500**0.5


def test_flips():
    x = batch(200, 4, 4)
    y = T.RandomHorizontalFlip(0.3)(x, np.arange(200), 0)
    flipped = (y == x[..., ::-1]).all((1, 2, 3))
    assert ((y == x).all((1, 2, 3)) ^ flipped).all()
    assert abs(flipped.mean() - 0.3) < 6 * (0.21 / 200) ** 0.5
    assert np.array_equal(T.RandomHorizontalFlip(1.0)(x), x[..., ::-1])


@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 50), st.integers(1, 50))
def test_resize_equals_pillow(h, w, to_h, to_w):
    x = batch(1, h, w)
    expected = Image.fromarray(x[0].transpose(1, 2, 0)).resize((to_w, to_h), Image.BILINEAR)
    got = T.Resize((to_h, to_w))(x)[0].transpose(1, 2, 0)
    # Pillow rounds to bytes between its two passes, we once: they may differ by 1.
    assert abs(got.astype(int) - np.asarray(expected)).max() <= 1


def test_resize_of_the_shorter_side():
    assert T.Resize(5)(batch(1, 10, 20)).shape == (1, 3, 5, 10)
    assert T.Resize(5)(batch(1, 21, 10)).shape == (1, 3, 10, 5)
    x = batch(2, 9, 9, dtype=np.float64)
    assert T.Resize(5)(x).dtype == np.float64
    np.testing.assert_allclose(T.Resize((4, 6))(np.ones_like(x)), 1, rtol=1e-6)


def test_affine_maps():
    x = batch(3, 9, 9)
    quarter = T.RandomAffine((90, 90))(x)
    assert np.array_equal(quarter, np.rot90(x, -1, axes=(2, 3)))  # clockwise, as torchvision's
    assert np.array_equal(T.RandomAffine(0)(x), x)
    moved = T.RandomAffine(0, translate=(0.4, 0.4), fill=7)(x, np.arange(3), 0)
    for y, original in zip(moved, x, strict=True):
        padded = np.pad(original, ((0, 0), (9, 9), (9, 9)), constant_values=7)
        assert any(
            np.array_equal(padded[:, a : a + 9, b : b + 9], y)
            for a in range(5, 14)
            for b in range(5, 14)
        )
    double = T.RandomAffine(0, scale=(3, 3))(x)
    assert np.array_equal(double, np.repeat(np.repeat(x[:, :, 3:6, 3:6], 3, 2), 3, 3))
    sheared = T.RandomAffine(0, shear=(45, 45))(x)
    assert np.array_equal(sheared[:, :, 4], x[:, :, 4])
    assert np.array_equal(sheared[:, :, 3, 1:], x[:, :, 3, :-1])


def degrees(up, along):
    return np.degrees(np.arctan2(up, along))


@pytest.mark.parametrize(("options", "spot", "low", "high", "seen"), [
    ({"degrees": (10, 40)}, (30, 0), 10, 40, lambda x, y: degrees(y, x)),
    ({"degrees": 20}, (30, 0), -20, 20, lambda x, y: degrees(y, x)),
    ({"degrees": 0, "scale": (0.5, 1.5)}, (30, 0), 15, 45, lambda x, y: x),
    ({"degrees": 0, "translate": (0.2, 0)}, (0, 0), -20, 20, lambda x, y: x),
    ({"degrees": 0, "translate": (0, 0.1)}, (0, 0), -10, 10, lambda x, y: y),
    ({"degrees": 0, "shear": (10, 40)}, (0, 30), 10, 40, lambda x, y: degrees(-x, y)),
    ({"degrees": 0, "shear": (0, 0, 10, 40)}, (30, 0), 10, 40, lambda x, y: degrees(-y, x)),
])  # fmt: skip
def test_affine_maps_are_uniform_over_their_ranges(options, spot, low, high, seen):
    """Of a spot (x, y) from the middle, its place in 200 pictures."""
    x, y = spot[0] + 50, spot[1] + 50
    pictures = np.zeros((200, 1, 101, 101), np.uint8)
    pictures[:, :, y - 3 : y + 4, x - 3 : x + 4] = 1
    moved = T.RandomAffine(**options)(pictures, np.arange(200), 0)[:, 0].astype(float)
    at = np.arange(101) - 50
    mass = moved.sum((1, 2))
    found = seen((moved.sum(1) @ at) / mass, (moved.sum(2) @ at) / mass)
    rounding = 0.03 * (high - low)
    assert low - rounding < found.min() < low + 4 * rounding
    assert high - 4 * rounding < found.max() < high + rounding
    assert abs(found.mean() - (low + high) / 2) < rounding + 6 * (high - low) / 2400**0.5


@pytest.mark.parametrize("h", [3, 4, 5, 6, 9])
def test_centre_crops_are_torchvisions(h):
    """Of an odd number of zeros one more was at the top and the left."""
    x = batch(2, h, 5)
    for to_h in range(1, 12):
        up, down = max(0, to_h - h) // 2, (max(0, to_h - h) + 1) // 2
        padded = np.pad(x, ((0, 0), (0, 0), (up, down), (1, 2)))
        top = round((h + up + down - to_h) / 2)
        assert np.array_equal(T.CenterCrop((to_h, 8))(x), padded[:, :, top : top + to_h])


def test_shears_along_both_axes_are_torchvisions():
    """The shear along y came first: (3, 2) from the middle went to (3, 0)."""
    x = np.zeros((1, 9, 9), np.uint8)
    x[0, 4 + 2, 4 + 3] = 1
    y = T.RandomAffine((0, 0), shear=(30, 30, 30, 30))(x)[0]
    # x' = 3 - tan(30°) 2 = 1.85, y' = 2 - tan(30°) x' = 0.93
    assert np.argwhere(y).tolist() == [[4 + 1, 4 + 2]]


def test_ratios_of_erased_boxes_are_torchvisions():
    """They were widths by heights."""
    x = np.zeros((50, 1, 64, 64), np.float32)
    erased = T.RandomErasing(1.0, (0.05, 0.1), (3.0, 4.0), value=1)(x)[:, 0]
    heights, widths = erased.any(2).sum(1), erased.any(1).sum(1)
    ratio = heights / widths
    assert len(ratio) == 50 and 2.5 < ratio.min() and ratio.max() < 4.8


@pytest.mark.parametrize(("level", "threshold"), [(1, 246.5), (2, 238), (9, 178.5), (30, 0)])
def test_solarize_takes_half_thresholds(level, threshold, monkeypatch):
    """Pixels below a threshold stay; it was cut off to an integer."""
    monkeypatch.setattr(T.RandAugment, "names", ["Solarize"])
    x = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    expected = np.where(x < threshold, x, 255 - x)
    assert np.array_equal(T.RandAugment(1, level)(x), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pillows_pictures_have_their_channels_last(mode):
    """They were taken for (C, H, W)."""
    pixels = batch(1, c=4)[0].transpose(1, 2, 0)[..., : len(mode)].squeeze()
    x = T.Compose([T.CenterCrop((9, 8)), T.ToTensor()])(Image.fromarray(pixels))
    assert isinstance(x, Tensor) and x.shape == (len(mode), 9, 8)
    expected = np.atleast_3d(pixels)[2:11, 1:9].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(x, expected, rtol=1e-6)


INVALID = {
    "ranges must ascend": [
        lambda: T.ColorJitter(brightness=-0.5),
        lambda: T.ColorJitter(brightness=(2, 1)),
        lambda: T.ColorJitter(contrast=(-3, -2)),
        lambda: T.ColorJitter(hue=-0.2),
        lambda: T.ColorJitter(hue=0.6),
    ],
    "odd size and sigma > 0": [
        lambda: T.GaussianBlur(3, 0),
        lambda: T.GaussianBlur(3, (-1, 2)),
        lambda: T.GaussianBlur(3, (2, 1)),
        lambda: T.GaussianBlur(-1),
        lambda: T.GaussianBlur(4),
    ],
    "uint8 or floating": [
        lambda: T.ColorJitter(0.5)(batch().astype(np.uint16)),
        lambda: T.Normalize((0.5,), (0.5,))(batch().astype(np.int32)),
        lambda: T.ToFloat()(batch() > 100),
    ],
    "alpha must": [lambda: T.MixUp(num_classes=2, alpha=np.inf)],
}


@pytest.mark.parametrize("rule", INVALID)
def test_ranges_and_dtypes_that_mean_nothing_are_refused(rule):
    """They gave black pictures, others than those asked for, or pixels above white."""
    for give in INVALID[rule]:
        with pytest.raises(MinidlError, match=rule):
            give()


def test_normalise_and_float():
    x = batch()
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    m, s = (np.array(v).reshape(3, 1, 1) for v in (mean, std))
    y = T.Normalize(mean, std)(x)
    np.testing.assert_allclose(y, (x / 255 - m) / s, rtol=1e-5, atol=1e-5)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous and y.dtype == np.float32
    f = T.ToTensor()(x)
    np.testing.assert_allclose(f, x / 255, rtol=1e-6)
    np.testing.assert_allclose(T.Normalize(mean, std)(f), y, rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapeError, match="as many channels"):
        T.Normalize((0.5, 0.5), (1, 1))(x)
    with pytest.raises(ShapeError, match="std > 0"):
        T.Normalize((0.5,), (0,))
    with pytest.raises(ShapeError, match=r"\(N, C, H, W\)"):
        T.ToFloat()(np.zeros((2, 2)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_colour_jitter_steps(dtype):
    x = batch(2, dtype=dtype)
    top = 255 if dtype == np.uint8 else 1
    unit, step = x / top, 0.502 / top if dtype == np.uint8 else 1e-5
    grey = (unit * np.array([0.2989, 0.587, 0.114]).reshape(3, 1, 1)).sum(1, keepdims=True)

    def near(transform, expected):
        np.testing.assert_allclose(transform(x) / top, np.clip(expected, 0, 1), atol=step)

    near(T.ColorJitter(brightness=(1.5, 1.5)), unit * 1.5)
    mean = grey.mean((1, 2, 3), keepdims=True)
    near(T.ColorJitter(contrast=(0.5, 0.5)), mean + 0.5 * (unit - mean))
    near(T.ColorJitter(saturation=(2, 2)), grey + 2 * (unit - grey))
    near(T.Grayscale(3), np.repeat(grey, 3, 1))

    def turned(p):
        h, s, v = colorsys.rgb_to_hsv(*p)
        return colorsys.hsv_to_rgb((h + 0.3) % 1, s, v)

    near(T.ColorJitter(hue=(0.3, 0.3)), np.apply_along_axis(turned, 1, unit))


def test_blur_is_a_normalised_gaussian():
    x = np.zeros((1, 1, 9, 9), np.float64)
    x[0, 0, 4, 4] = 1
    y = T.GaussianBlur(5, (1.3, 1.3))(x)[0, 0]
    taps = np.exp(-0.5 * (np.arange(-2, 3) / 1.3) ** 2)
    taps /= taps.sum()
    np.testing.assert_allclose(y[2:7, 2:7], np.outer(taps, taps), rtol=1e-5)
    assert abs(y.sum() - 1) < 1e-6


def test_erasing():
    x = batch(400, 16, 16)
    x = np.maximum(x, 1)
    gone = (T.RandomErasing(0.5)(x, np.arange(400), 0) == 0).all(1)
    share = gone.mean((1, 2))
    assert abs((share > 0).mean() - 0.5) < 6 * 0.5 / 20
    # Sides are rounded to whole pixels: of at least 0.02 of 256 of them 1 x 3 may be left.
    assert share.max() <= 0.36 and share[share > 0].min() >= 3 / 256
    for mask in gone[share > 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert np.array_equal(mask, rows[:, None] & columns)
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
    holes = (T.Cutout(6)(x) == 0).all(1).sum((1, 2))
    assert holes.max() == 36 and holes.min() < 36


def test_mix_up_and_cut_mix():
    x, y = batch(300, 8, 8), np.arange(300) % 5
    images, soft = T.MixUp(num_classes=5, alpha=0.4)(x, y, np.arange(300), 2)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    share = soft[np.arange(300), y][:, None, None, None]
    np.testing.assert_allclose(images, x * share + np.roll(x, 1, 0) * (1 - share), atol=1e-3)
    images, soft = T.CutMix(num_classes=5)(x, y, np.arange(300), 2)
    mine = (images == x).all(1).mean((1, 2))
    share = soft[np.arange(300), y]
    np.testing.assert_allclose(mine, share, atol=0.02)  # a pixel may agree by chance
    assert images.dtype == np.uint8 and share.min() < 0.3 and share.max() == 1
    part = T.CutMix(num_classes=5)(x[3:5], y[3:5], np.arange(3, 5), 2)[1]
    assert part[1, y[4]] == soft[4, y[4]]
    with pytest.raises(ShapeError, match="labels int"):
        T.MixUp(num_classes=5)(x, y * 0.5)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0, 4.0, 4.1, 10.0, 100.0, 1000.0, 1e6])
def test_shares_follow_the_beta_distribution(alpha):
    """The larger alpha was, the more shares were uniform: no try had been accepted."""
    n = 20_000
    x, y = np.zeros((n, 1, 1, 1), np.uint8), np.arange(n) % 2
    share = T.MixUp(num_classes=2, alpha=alpha)(x, y, np.arange(n), 0)[1][np.arange(n), y]
    var = 1 / (4 * (2 * alpha + 1))
    square = (share.astype(np.float64) - 0.5) ** 2
    assert abs(share.mean(dtype=np.float64) - 0.5) < 6 * (var / n) ** 0.5
    # Beta's kurtosis is below the normal's, so the squares deviate by less than var * sqrt(2).
    assert abs(square.mean() - var) < 6 * var * (2 / n) ** 0.5
    fourth = 3 * var**2 * (2 * alpha + 1) / (2 * alpha + 3)
    assert abs((square**2).mean() - fourth) < 6 * fourth * (96 / 9 / n) ** 0.5


@pytest.mark.parametrize(("alpha", "expected"), [
    (0.2, [0.0010735410032, 0.9865759611130, 0.0000124623293, 0.2234936803579]),
    (1.0, [0.1805505156517, 0.9806232452393, 0.0223815720528, 0.5134562253952]),
    (4.0, [0.5737430453300, 0.4954532980919, 0.8527209758759, 0.5134562253952]),
])  # fmt: skip
def test_shares_of_small_alphas_stay_as_they_were(alpha, expected, monkeypatch):
    monkeypatch.setitem(random._streams, "augmentation", Generator(1, "augmentation"))
    x, y = np.zeros((4, 1, 1, 1), np.uint8), np.arange(4) % 2
    soft = T.MixUp(num_classes=2, alpha=alpha)(x, y, np.arange(4), 0)[1]
    np.testing.assert_allclose(soft[np.arange(4), y], expected, rtol=1e-6)


def test_policies_need_bytes():
    for transform in (T.RandAugment(), T.AutoAugment()):
        with pytest.raises(DTypeError, match="uint8"):
            transform(batch(dtype=np.float32))
        assert transform(batch(2, c=1)).shape == (2, 1, 12, 10)
    assert len(T.AutoAugment.policies) == 25
    with pytest.raises(ShapeError, match="magnitude"):
        T.RandAugment(magnitude=31)
    assert np.array_equal(T.RandAugment(3, 0, 1)(batch()).shape, batch().shape)
    identity = T.RandAugment(num_ops=0)
    assert np.array_equal(identity(batch()), batch())
