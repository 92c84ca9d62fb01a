"""RandAugment and AutoAugment: random operations on each uint8 picture, done by Pillow."""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from minidl.data.transforms.base import Draws, Transform
from minidl.errors import DTypeError, require

Picture = Image.Image


def _affine(picture: Picture, coefficients: tuple[float, ...]) -> Picture:
    return picture.transform(picture.size, Image.Transform.AFFINE, coefficients)


def _enhancement(name: str) -> tuple[float, Callable[[Picture, float], Picture]]:
    return 0.9, lambda p, m: getattr(ImageEnhance, name)(p).enhance(1 + m)


# By name: the largest magnitude m and f(picture, m); torchvision's set, ranges and signs.
OPERATIONS: dict[str, tuple[float, Callable[[Picture, float], Picture]]] = {
    "Identity": (0, lambda p, m: p),
    "ShearX": (0.3, lambda p, m: _affine(p, (1, m, 0, 0, 1, 0))),
    "ShearY": (0.3, lambda p, m: _affine(p, (1, 0, 0, m, 1, 0))),
    "TranslateX": (150 / 331, lambda p, m: _affine(p, (1, 0, -int(m * p.width), 0, 1, 0))),
    "TranslateY": (150 / 331, lambda p, m: _affine(p, (1, 0, 0, 0, 1, -int(m * p.height)))),
    "Rotate": (30, lambda p, m: p.rotate(m)),
    **{name: _enhancement(name) for name in ("Brightness", "Color", "Contrast", "Sharpness")},
    "Posterize": (1, lambda p, m: ImageOps.posterize(p, 8 - round(4 * abs(m)))),
    "Solarize": (1, lambda p, m: ImageOps.solarize(p, math.ceil(255 - 255 * abs(m)))),
    "AutoContrast": (0, lambda p, m: ImageOps.autocontrast(p)),
    "Equalize": (0, lambda p, m: ImageOps.equalize(p)),
    "Invert": (0, lambda p, m: ImageOps.invert(p)),
}


def operate(picture: Picture, name: str, share: float, negative: bool) -> Picture:
    """Apply one operation at a share 0..1 of its largest magnitude, perhaps negated."""
    largest, function = OPERATIONS[name]
    return function(picture, -share * largest if negative else share * largest)


class _Policy(Transform):
    words = 0  # random words a picture

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        name = type(self).__name__
        require(x.dtype == np.uint8, name, "pictures must be uint8", error=DTypeError, pictures=x)
        require(x.shape[3] in (1, 3), name, "pictures must have 1 or 3 channels", pictures=x)
        pixels = np.ascontiguousarray(x[..., 0] if x.shape[3] == 1 else x)
        u = draws.uniform(self.words).tolist()
        made = [self.augment(Image.fromarray(p), v) for p, v in zip(pixels, u, strict=True)]
        return np.array([np.asarray(picture) for picture in made], np.uint8).reshape(x.shape)

    def augment(self, picture: Picture, u: list[float]) -> Picture:
        """Change one picture by `words` uniform numbers."""
        raise NotImplementedError


class RandAugment(_Policy):
    """num_ops random operations at one magnitude of num_magnitude_bins (Cubuk et al. 2020)."""

    names = [n for n in OPERATIONS if n != "Invert"]

    def __init__(self, num_ops: int = 2, magnitude: int = 9, num_magnitude_bins: int = 31) -> None:
        rule = f"magnitude must lie in 0..{num_magnitude_bins - 1}"
        require(0 <= magnitude < num_magnitude_bins, "RandAugment", rule, magnitude=magnitude)
        self.num_ops, self.magnitude, self.words = num_ops, magnitude, 2 * num_ops
        self.num_magnitude_bins = num_magnitude_bins

    def augment(self, picture: Picture, u: list[float]) -> Picture:
        share = self.magnitude / max(self.num_magnitude_bins - 1, 1)
        for which, sign in zip(u[0::2], u[1::2], strict=True):
            picture = operate(picture, self.names[int(which * len(self.names))], share, sign < 0.5)
        return picture


# Cubuk et al. 2019, table 7: (operation, probability, magnitude 0..9) twice a sub-policy.
CIFAR10_POLICY = """
Invert .1 7, Contrast .2 6; Rotate .7 2, TranslateX .3 9; Sharpness .8 1, Sharpness .9 3
ShearY .5 8, TranslateY .7 9; AutoContrast .5 8, Equalize .9 2; ShearY .2 7, Posterize .3 7
Color .4 3, Brightness .6 7; Sharpness .3 9, Brightness .7 9; Equalize .6 5, Equalize .5 1
Contrast .6 7, Sharpness .6 5; Color .7 7, TranslateX .5 8; Equalize .3 7, AutoContrast .4 8
TranslateY .4 3, Sharpness .2 6; Brightness .9 6, Color .2 8; Solarize .5 2, Invert .0 3
Equalize .2 0, AutoContrast .6 0; Equalize .2 8, Equalize .6 4; Color .9 9, Equalize .6 6
AutoContrast .8 4, Solarize .2 8; Brightness .1 3, Color .7 0; Solarize .4 5, AutoContrast .9 3
TranslateY .9 9, TranslateY .7 9; AutoContrast .9 2, Solarize .8 3; Equalize .8 8, Invert .1 3
TranslateY .7 9, AutoContrast .9 1
"""


class AutoAugment(_Policy):
    """One of the 25 sub-policies learnt on CIFAR-10 for each picture (Cubuk et al. 2019)."""

    words = 5
    pairs = CIFAR10_POLICY.strip().replace("\n", ";").split(";")
    policies = [[step.split() for step in pair.split(",")] for pair in pairs]

    def augment(self, picture: Picture, u: list[float]) -> Picture:
        steps = self.policies[int(u[0] * len(self.policies))]
        for (name, p, level), chance, sign in zip(steps, u[1:3], u[3:5], strict=True):
            if chance <= float(p):
                picture = operate(picture, name, int(level) / 9, sign < 0.5)
        return picture
