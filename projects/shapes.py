"""Shapes: ten classes of 32 x 32 pictures made from a seed, for work without any download.

One of ten shapes at a random place, size and turn, in a random light colour with a gradient, on a
darker wavy background of two colours with stray lines and dots and pixel noise. Position and
colour say nothing about the class: a linear model of the pixels fails, a small ConvNet does not.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.data.dataset import Arrays
from minidl.data.images import Function, ImageArrays
from minidl.errors import ShapeError, require
from minidl.random import Generator

SIZE = 32
_CHUNK = 100  # images made at a time: their float32 planes stay in the L2 cache
_CLUTTER = 2  # stray lines a picture
_ROOT = np.float32(0.75**0.5)

Draws = Iterator[np.ndarray]  # uniform numbers (n, 1, 1)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(a, b) - 0.24, np.maximum(a, b) - 0.95)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five arms: fold the angle into half an arm, then the distance to that arm's edge."""
    sector = np.float32(np.pi / 5)
    angle = np.abs((np.arctan2(v, u) + sector) % (2 * sector) - sector)
    r = np.hypot(u, v)
    tip, notch = np.array([1.05, 0.0]), 0.42 * np.array([np.cos(sector), np.sin(sector)])
    nx, ny = (notch - tip)[1], -(notch - tip)[0]
    scale = np.float32(1 / np.hypot(nx, ny))
    return (r * np.cos(angle) - np.float32(tip[0])) * np.float32(nx) * scale + (
        r * np.sin(angle) * np.float32(ny) * scale
    )


# Signed distances to each shape's edge, negative inside, in units of the shape's radius.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.85,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.74) - 0.19,
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 0.95, 0.72 - np.hypot(u - 0.48, v)),
    "triangle": lambda u, v: np.maximum(np.abs(u) * _ROOT + 0.5 * v, -v) - 0.52,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.72,
    "frame": lambda u, v: np.abs(np.maximum(np.abs(u), np.abs(v)) - 0.72 + 0.05) - 0.17,
    "cross": _cross,
    "star": _star,
    "bar": lambda u, v: np.maximum(np.abs(u) - 1.0, np.abs(v) - 0.27),
    "pair": lambda u, v: np.hypot(np.abs(u) - 0.58, v) - 0.38,
}


class Shapes(ImageArrays):
    """`n` pictures (n, 3, 32, 32) uint8 and labels of ten shapes; train and test never overlap.

    A picture depends on (seed, train, its index) alone. 12,000 take about a second.
    """

    def __init__(self, train: bool = True, n: int | None = None, *, seed: int = 0,
                 transform: Function = None,
                 target_transform: Function = None) -> None:  # fmt: skip
        n = (10_000 if train else 2_000) if n is None else n
        require(n > 0, "Shapes", "n must be positive", n=n, error=ShapeError)
        generator = Generator(seed, "data")
        chunks = [np.arange(lo, min(lo + _CHUNK, n)) for lo in range(0, n, _CHUNK)]
        made = [_draw(generator, rows, 0 if train else 1) for rows in chunks]
        images, labels = (np.concatenate(parts) for parts in zip(*made, strict=True))
        super().__init__(images, labels, list(SHAPES), transform, target_transform)


def _draw(generator: Generator, rows: np.ndarray, part: int) -> Arrays:
    """Pictures (n, 32, 32, 3) uint8 and labels (n,) of the rows of one part of the data."""
    n = len(rows)
    drawn = generator.keyed_bits(rows, 64, part)
    uniform = iter((drawn.astype(np.float32) * np.float32(2.0**-32)).T[:, :, None, None])
    labels = (drawn[:, 63] % len(SHAPES)).astype(np.int64)
    places = np.arange(SIZE, dtype=np.float32)
    x, y = places[None, None, :], places[None, :, None]

    image = _background(uniform, x, y)
    for _ in range(_CLUTTER):
        image += _stray(uniform, x, y) * (_colour(uniform) - image)
    inside, u = _shape(uniform, labels, x, y)
    colour = _contrast(0.4 + 0.6 * _colour(uniform), image, inside)
    shade = (1 + 0.35 * (next(uniform) - 0.5) * u)[:, None]
    image += inside[:, None] * (colour * shade - image)

    noise = generator.keyed_bits(rows, SIZE * SIZE * 3 // 4, part, first=64)
    noise = noise.view(np.int8).reshape(n, SIZE, SIZE, 3) >> 4  # uniform in -8 ... 7
    image *= 255
    image += noise.transpose(0, 3, 1, 2)
    pixels = np.clip(image, 0, 255, out=image).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), labels


def _colour(uniform: Draws) -> np.ndarray:
    """A random colour (n, 3, 1, 1)."""
    return np.stack([next(uniform) for _ in range(3)], axis=1)


def _background(uniform: Draws, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two colours blended by a slow wave: (n, 3, 32, 32) in 0..1."""
    first, second = 0.6 * _colour(uniform), 0.6 * _colour(uniform)
    kx, ky, phase = (next(uniform) for _ in range(3))
    wave = np.sin((kx - 0.5) * 0.9 * x + (ky - 0.5) * 0.9 * y + phase * np.float32(2 * np.pi))
    return first + (0.5 + 0.5 * wave)[:, None] * (0.4 * (second - first))


def _turned(x: np.ndarray, y: np.ndarray, angle: np.ndarray, scale: Any = 1) -> Any:
    """(x, y) in coordinates turned by an angle and in units of scale."""
    c, s = np.cos(angle) / scale, np.sin(angle) / scale
    return c * x + s * y, c * y - s * x


def _stray(uniform: Draws, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coverage (n, 1, 32, 32) of a thin line or a dot somewhere in the picture."""
    cx, cy = next(uniform) * SIZE, next(uniform) * SIZE
    u, v = _turned(x - cx, y - cy, next(uniform) * np.float32(np.pi))
    length, width = 0.5 + 7 * next(uniform) ** 2, 0.5 + 0.9 * next(uniform)
    return np.clip(0.5 + width - np.hypot(np.maximum(np.abs(u) - length, 0), v), 0, 1)[:, None]


def _shape(uniform: Draws, labels: np.ndarray, x: np.ndarray, y: np.ndarray) -> Arrays:
    """Coverage (n, 32, 32) of each picture's shape, and its first own coordinate."""
    radius = 7.5 + 5.0 * next(uniform)
    room = SIZE - 1.4 * radius
    cx, cy = 0.7 * radius + next(uniform) * room, 0.7 * radius + next(uniform) * room
    u, v = _turned(x - cx, y - cy, next(uniform) * np.float32(2 * np.pi), radius)
    distance = np.empty_like(u)
    for k, shape in enumerate(SHAPES.values()):
        of = np.flatnonzero(labels == k)
        distance[of] = shape(u[of], v[of])
    return np.clip(0.5 - distance * radius, 0, 1), u


def _contrast(colour: np.ndarray, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Lift a colour that is not at least 0.4 lighter in one channel than what it covers."""
    weight = inside[:, None]
    under = (image * weight).sum((2, 3), keepdims=True) / (weight.sum((2, 3), keepdims=True) + 1e-6)
    largest = (colour - under).max(1, keepdims=True)
    return np.where(largest < 0.4, under + 0.4, colour)
