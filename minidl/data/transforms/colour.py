"""Transforms that change colours and sharpness."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from minidl.data.transforms.base import Draws, Transform, about, pair, to_dtype
from minidl.data.transforms.fused import white
from minidl.errors import require, require_one_of

LUMA = np.array([0.2989, 0.587, 0.114], np.float32)  # ITU-R 601, as torchvision has it


def luminance(x: np.ndarray) -> np.ndarray:
    """(..., 3) to (..., 1) float32; (..., 1) stays."""
    require(x.shape[-1] in (1, 3), "luminance", "pictures must have 1 or 3 channels", pixels=x)
    return (x @ LUMA)[..., None] if x.shape[-1] == 3 else x


class Grayscale(Transform):
    """Luminance in 1 or 3 equal channels."""

    def __init__(self, num_output_channels: int = 1) -> None:
        require_one_of("Grayscale", (1, 3), num_output_channels=num_output_channels)
        self.num_output_channels = num_output_channels

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        return np.repeat(to_dtype(luminance(x), x.dtype), self.num_output_channels, axis=-1)


class ColorJitter(Transform):
    """Random brightness, contrast, saturation and hue, in a random order (torchvision's).

    A number v stands for factors in [max(0, 1 - v), 1 + v], for hue in [-v, v] turns, v <= 0.5.
    """

    def __init__(self, brightness: float | Sequence[float] = 0,
                 contrast: float | Sequence[float] = 0, saturation: float | Sequence[float] = 0,
                 hue: float | Sequence[float] = 0) -> None:  # fmt: skip
        factors = (about(1.0, v, "ColorJitter") for v in (brightness, contrast, saturation))
        turns = about(0.0, hue, "ColorJitter")
        self.ranges = [*((max(0.0, low), high) for low, high in factors), turns]
        ok = all(low <= high for low, high in self.ranges) and max(map(abs, turns)) <= 0.5
        rule = "ranges must ascend from 0 on, that of hue within -0.5 and 0.5"
        require(ok, "ColorJitter", rule, ranges=self.ranges)

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        u = draws.uniform(8)
        top = white(x.dtype, "ColorJitter")
        y = x.astype(np.float32) / np.float32(top)
        order = np.argsort(u[:, 4:], axis=1)
        steps: tuple[Callable, ...] = (np.multiply, _contrast, _saturation, _hue)
        for turn, (k, step) in itertools.product(range(4), enumerate(steps)):
            (low, high), of = self.ranges[k], np.flatnonzero(order[:, turn] == k)
            if len(of) and (low, high) != ((0.0, 0.0) if k == 3 else (1.0, 1.0)):
                factor = (low + (high - low) * u[of, k]).astype(np.float32)
                y[of] = np.clip(step(y[of], factor[:, None, None, None]), 0, 1)
        return to_dtype(y * np.float32(top), x.dtype)


def _contrast(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    grey = luminance(x).mean((1, 2, 3), keepdims=True)
    return grey + factor * (x - grey)


def _saturation(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    grey = luminance(x)
    return grey + factor * (x - grey)


def _hue(x: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Turn the hue of RGB in 0..1 by way of HSV (Smith 1978)."""
    if x.shape[-1] == 1:
        return x
    value, low = x.max(-1), x.min(-1)
    chroma = value - low
    safe = np.where(chroma > 0, chroma, 1)
    r, g, b = x[..., 0], x[..., 1], x[..., 2]
    sector = np.where(value == r, (g - b) / safe, np.where(value == g, 2 + (b - r) / safe,
                                                           4 + (r - g) / safe))  # fmt: skip
    hue = (sector + 6 * turns[..., 0]) % 6
    # Each channel is the value less chroma times a trapezoid of its distance from the hue.
    k = (hue[..., None] + np.array([5, 3, 1], np.float32)) % 6
    return value[..., None] - chroma[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1)


class GaussianBlur(Transform):
    """Blur by an odd kernel of `kernel_size` with sigma drawn from a pair; reflected borders."""

    def __init__(self, kernel_size: int, sigma: float | Sequence[float] = (0.1, 2.0)) -> None:
        self.kernel_size, self.sigma = kernel_size, pair(sigma, "GaussianBlur")
        ok = isinstance(kernel_size, int) and kernel_size % 2 == 1 and kernel_size > 0
        ok, rule = ok and 0 < self.sigma[0] <= self.sigma[1], "needs an odd size and sigma > 0"
        require(ok, "GaussianBlur", rule, kernel_size=kernel_size, sigma=sigma)

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        h, w = x.shape[1:3]
        r = self.kernel_size // 2
        require(r < min(h, w), "GaussianBlur", "the kernel exceeds the picture", pixels=x)
        taps = np.exp(-0.5 * (np.arange(-r, r + 1) / draws.uniform(1, *self.sigma)) ** 2)
        taps = (taps / taps.sum(1, keepdims=True)).astype(np.float32)[:, :, None, None, None]
        y = np.pad(x, ((0, 0), (r, r), (r, r), (0, 0)), mode="reflect").astype(np.float32)
        y = sum(taps[:, k] * y[:, k : k + h] for k in range(2 * r + 1))
        y = sum(taps[:, k] * y[:, :, k : k + w] for k in range(2 * r + 1))
        return to_dtype(y, x.dtype)
