"""Transforms that move pixels: crops, flips, resizing, affine maps."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.data.transforms.base import Draws, Transform, about, pair, to_dtype
from minidl.data.transforms.fused import Fused
from minidl.errors import DeviceError, require


def pad(x: np.ndarray, up: Any, side: Any, fill: float = 0, mode: Any = "constant") -> np.ndarray:
    """(N, H, W, C) with `up` rows above and below and `side` columns left and right, or pairs."""
    widths = (0, 0), pair(up, "pad"), pair(side, "pad"), (0, 0)
    if not np.any(widths):
        return x
    return np.pad(x, widths, mode, **{"constant_values": fill} if mode == "constant" else {})


class RandomCrop(Transform):
    """Cut a random window of `size` out of the picture, padded first (torchvision's).

    padding: pixels added at each side, one number or (left and right, top and bottom);
    padding_mode: constant (`fill`), edge, reflect or symmetric.
    """

    def __init__(self, size: int | Sequence[int], padding: int | Sequence[int] | None = None,
                 pad_if_needed: bool = False, fill: float = 0,
                 padding_mode: str = "constant") -> None:  # fmt: skip
        self.size, self.padding = pair(size, "RandomCrop"), pair(padding or 0, "RandomCrop")
        self.pad_if_needed, self.fill, self.padding_mode = pad_if_needed, fill, padding_mode

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        h, w = self.size
        up, side, corners = self._windows(x.shape[1:3], draws)
        x = pad(x, up, side, self.fill, self.padding_mode)
        y = np.empty((len(x), h, w, x.shape[3]), x.dtype)
        for i, (top, left) in enumerate(corners.tolist()):
            y[i] = x[i, top : top + h, left : left + w]
        return y

    def plan(self, work: Fused, draws: Draws) -> None:
        ok, rule = self.padding_mode == "constant", "padding on a GPU must be constant"
        require(ok, "RandomCrop", rule, error=DeviceError, padding_mode=self.padding_mode)
        up, side, corners = self._windows(work.size, draws)
        work.crop(corners - (up, side), self.size, self.fill)

    def _windows(self, picture: Sequence[int], draws: Draws) -> tuple[int, int, np.ndarray]:
        """Padding above and at the left, and the windows' corners (N, 2) in padded pictures."""
        (h, w), (side, up), (height, width) = self.size, self.padding, picture
        if self.pad_if_needed:
            up, side = max(up, h - height), max(side, w - width)
        height, width = height + 2 * up, width + 2 * side
        rule = "the padded picture is smaller than the crop"
        require(height >= h and width >= w, "RandomCrop", rule, padded=(height, width), size=(h, w))
        return up, side, (draws.uniform(2) * (height - h + 1, width - w + 1)).astype(int)


class RandomTranslate(Transform):
    """Shift by up to `fraction` of the height and width in whole pixels; `fill` comes in."""

    def __init__(self, fraction: float, fill: float = 0) -> None:
        require(0 <= fraction < 1, "RandomTranslate", "fraction must lie in [0, 1)", got=fraction)
        self.fraction, self.fill = fraction, fill

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        return self._crop(x.shape[1:3]).apply(x, draws)

    def plan(self, work: Fused, draws: Draws) -> None:
        self._crop(work.size).plan(work, draws)

    def _crop(self, picture: Sequence[int]) -> RandomCrop:
        up, side = (round(self.fraction * length) for length in picture)
        return RandomCrop(picture, (side, up), fill=self.fill)


class CenterCrop(Transform):
    """The middle window of `size`; smaller pictures are padded with zeros (torchvision's).

    Of an odd number of zeros the bottom and the right get one more.
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = pair(size, "CenterCrop")

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        (h, w), ((up, top), (side, left)) = self.size, map(self._place, self.size, x.shape[1:3])
        return pad(x, up, side)[:, top : top + h, left : left + w]

    def plan(self, work: Fused, draws: Draws) -> None:
        (up, top), (side, left) = map(self._place, self.size, work.size)
        work.crop(np.tile((top - up, left - side), (len(work.x), 1)), self.size, 0)

    @staticmethod
    def _place(size: int, length: int) -> tuple[int, int]:
        """Padding at either end of an axis of a length, and where the window begins then."""
        around = max(0, (size - length + 1) // 2)
        return around, (size - length) % 2 if around else round((length - size) / 2)


class RandomHorizontalFlip(Transform):
    """Mirror left and right with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        chosen = np.flatnonzero(self._chosen(draws))
        y = x.copy()
        y[chosen] = np.take(np.ascontiguousarray(x)[chosen], np.arange(x.shape[2])[::-1], axis=2)
        return y

    def plan(self, work: Fused, draws: Draws) -> None:
        work.flip(self._chosen(draws))

    def _chosen(self, draws: Draws) -> np.ndarray:
        return draws.uniform(1)[:, 0] < self.p


@functools.lru_cache(64)
def _triangle_weights(n: int, m: int) -> np.ndarray:
    """(m, n) float32: m samples out of n by an antialiased tent filter.

    Pillow's and torchvision's bilinear: the tent is as wide as one output pixel when shrinking.
    """
    scale = n / m
    centre = (np.arange(m) + 0.5) * scale
    weights = np.maximum(1 - np.abs(np.arange(n) + 0.5 - centre[:, None]) / max(scale, 1.0), 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(N, H, W, C) to (N, *size, C) by antialiased bilinear interpolation."""
    n, h, w, c = x.shape
    if (h, w) == size:
        return x
    y = np.matmul(_triangle_weights(h, size[0]), x.reshape(n, h, w * c).astype(np.float32))
    y = np.matmul(_triangle_weights(w, size[1]), y.reshape(n * size[0], w, c))
    return to_dtype(y.reshape(n, *size, c), x.dtype)


class Resize(Transform):
    """Resize to (h, w), or the shorter side to an int keeping the aspect; bilinear, antialiased."""

    def __init__(self, size: int | Sequence[int], *, antialias: Any = True) -> None:
        self.size = (size,) if isinstance(size, int) else tuple(size)
        ok = len(self.size) in (1, 2) and all(isinstance(s, int) and s > 0 for s in self.size)
        rule = "size must be one or two positive integers, antialias not False"
        require(ok and antialias is not False, "Resize", rule, size=size, antialias=antialias)

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        (h, w), s = x.shape[1:3], self.size[0]
        shorter = (s, int(s * w / h)) if h <= w else (int(s * h / w), s)
        return resize(x, self.size if len(self.size) == 2 else shorter)


class RandomAffine(Transform):
    """Turn, shift, scale and shear about the middle (torchvision's RandomAffine).

    degrees: a number d for (-d, d) or a pair; translate: largest shift as fractions of width and
    height; scale: a pair; shear: degrees along x, a number or a pair (or four: x and y);
    fill: the value of pixels from outside. The nearest pixel is taken.
    """

    def __init__(self, degrees: float | Sequence[float], translate: Sequence[float] | None = None,
                 scale: Sequence[float] | None = None, shear: float | Sequence[float] | None = None,
                 *, fill: float = 0) -> None:  # fmt: skip
        self.translate, self.scale, self.fill = translate or (0, 0), scale or (1, 1), fill
        shears = [shear] if isinstance(shear, (int, float)) else list(shear or [0])
        along_x = about(0, shears[0] if len(shears) == 1 else shears[:2], "RandomAffine")
        self.degrees = about(0, degrees, "RandomAffine")
        self.shear = (*along_x, *(shears[2:] or (0, 0)))

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        h, w = x.shape[1:3]
        u = draws.uniform(6)
        low, high = np.array([self.degrees, self.shear[:2], self.shear[2:]], float).T[:, :, None]
        angle, *shears = np.deg2rad(low + (high - low) * u.T[:3])
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 3]
        shift = np.rint(np.multiply(self.translate, (w, h)) * (2 * u[:, 4:] - 1))
        (c, s), (x_by_y, y_by_x) = (np.cos(angle), np.sin(angle)), -np.tan(shears)
        # On (x, y) with y pointing down: shear in x, then in y, then rotation and scale.
        turn = np.array([[c, -s], [s, c]]) * scale
        skew = np.array([[np.ones(len(u)), x_by_y], [y_by_x, 1 + y_by_x * x_by_y]])
        return warp(x, np.linalg.inv(np.einsum("ijn,jkn->nik", turn, skew)), shift, self.fill)


def warp(x: np.ndarray, inverse: np.ndarray, shift: np.ndarray, fill: float) -> np.ndarray:
    """out(p) = x(inverse (p - middle - shift) + middle), p = (x, y); (N, 2, 2) and (N, 2)."""
    n, h, w, c = x.shape
    middle = np.array([(w - 1) / 2, (h - 1) / 2])
    px = np.arange(w) - middle[0] - shift[:, :1]  # (N, W)
    py = np.arange(h) - middle[1] - shift[:, 1:]
    ax, ay = inverse[:, :, 0, None] * px[:, None], inverse[:, :, 1, None] * py[:, None]
    source = ax[:, :, None, :] + ay[:, :, :, None] + middle[:, None, None]  # (N, 2, H, W)
    # The frame of `fill` stands for everything outside.
    ix = np.clip(np.rint(source[:, 0]).astype(int) + 1, 0, w + 1)
    iy = np.clip(np.rint(source[:, 1]).astype(int) + 1, 0, h + 1)
    return pad(x, 1, 1, fill)[np.arange(n)[:, None, None], iy, ix]
