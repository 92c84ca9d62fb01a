"""RandAugment and AutoAugment: torchvision's operations, all of them drawn, with both signs."""

import collections
import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from minidl.data import transforms as T
from minidl.data.transforms.policy import OPERATIONS, operate

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 12)).astype(np.uint8)


def taken(rows, columns):
    """The pixels at rows and columns, rounded; zeros outside."""
    rows, columns = (np.floor(v + 0.5).astype(int) + 13 for v in (rows, columns))
    return np.pad(PIXELS, 13)[rows, columns]


def blend(other, share):
    return np.clip(other + share * (PIXELS - other), 0, 255)


@pytest.mark.parametrize(("name", "sign"), [*itertools.product(OPERATIONS, (1, -1))])
def test_operations_are_torchvisions(name, sign):
    """At their largest magnitude, or at the multiple of it that is easy to say."""
    i, j = np.mgrid[:12, :12]
    picture, factor = Image.fromarray(PIXELS), 1 + sign * 0.9
    multiple, expected = {
        "Identity": (1, PIXELS),
        "ShearX": (1 / 0.3, taken(i, j + sign * (i + 0.5))),
        "ShearY": (1 / 0.3, taken(i + sign * (j + 0.5), j)),
        "TranslateX": (1, taken(i, j - sign * 5)),
        "TranslateY": (1, taken(i - sign * 5, j)),
        "Rotate": (3, np.rot90(PIXELS, sign)),
        "Brightness": (1, blend(0, factor)),
        "Color": (1, PIXELS),  # there is none
        "Contrast": (1, blend(PIXELS.mean(), factor)),
        "Sharpness": (1, blend(np.asarray(picture.filter(ImageFilter.SMOOTH), float), factor)),
        "Posterize": (1, PIXELS & 0b11110000),
        "Solarize": (0.5, np.where(PIXELS < 128, PIXELS, 255 - PIXELS)),
        "AutoContrast": (1, (PIXELS - PIXELS.min()) * (255 / np.ptp(PIXELS))),
        "Equalize": (1, np.asarray(ImageOps.equalize(picture))),
        "Invert": (1, 255 - PIXELS),
    }[name]
    exact = name not in ("Brightness", "Contrast", "Sharpness", "AutoContrast")
    found = np.asarray(operate(picture, name, multiple, sign < 0))
    np.testing.assert_allclose(found, expected, atol=0 if exact else 1.5)  # of bytes, cut off


def shift(picture):
    """Where the one white pixel of (1, 12, 12) went from (6, 6)."""
    return tuple(np.argwhere(picture[0])[0] - 6)


def test_operations_and_signs_are_drawn_alike(monkeypatch):
    monkeypatch.setattr(T.RandAugment, "names", ["TranslateX", "TranslateY"])
    x = np.zeros((800, 1, 12, 12), np.uint8)
    x[:, :, 6, 6] = 255
    once = collections.Counter(map(shift, T.RandAugment(1, 30)(x, np.arange(800), 0)))
    assert set(once) == {(0, 5), (0, -5), (5, 0), (-5, 0)}
    assert all(abs(n - 200) < 6 * (800 * 3 / 16) ** 0.5 for n in once.values())
    twice = T.RandAugment(2, 12, 31)(x, np.arange(800), 0)  # two fifths of the largest: 2 pixels
    assert len({shift(picture) for picture in twice}) == 9


def test_steps_of_a_policy_have_their_own_chances_and_signs(monkeypatch):
    steps = [["TranslateX", ".25", "9"], ["TranslateY", ".5", "4"]]
    monkeypatch.setattr(T.AutoAugment, "policies", [steps, [["TranslateX", "0", "9"]] * 2])
    x = np.zeros((1600, 1, 12, 12), np.uint8)
    x[:, :, 6, 6] = 255
    found = np.array([*map(shift, T.AutoAugment()(x, np.arange(1600), 0))])
    for axis, size, p in ((1, 5, 0.25), (0, 2, 0.5)):
        for sign in (1, -1):
            share = np.mean(found[:, axis] == sign * size)
            assert abs(share - p / 4) < 6 * (p / 4 / 1600) ** 0.5
    both = np.mean((found != 0).all(1))
    assert abs(both - 1 / 16) < 6 * (1 / 16 / 1600) ** 0.5
