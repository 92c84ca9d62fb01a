"""A chain of transforms of pictures on a GPU, collected into as few kernels as it needs."""

from typing import Any

import numpy as np

from minidl import backend
from minidl.dtypes import is_real
from minidl.errors import DTypeError, require


def white(dtype: np.dtype, op: str) -> float:
    """White in pictures of a dtype: 255 of uint8, 1 of floating ones. Raises DTypeError."""
    ok, rule = dtype == np.uint8 or is_real(dtype), "pictures must be uint8 or floating"
    require(ok, op, rule, error=DTypeError, dtype=dtype)
    return 255.0 if dtype == np.uint8 else 1.0


class Fused:
    """What is to be done with pictures x (N, C, H, W) on a GPU, a kernel for as much as fits.

    A pass moves pixels by whole rows and columns (crops, flips), scales and shifts them by channel,
    then overwrites boxes; moving what has boxes, or padding with another value, begins a new one.
    """

    def __init__(self, x: Any) -> None:
        self.start(x)

    def start(self, x: Any) -> None:
        """Begin a pass on pictures."""
        white(x.dtype, "transforms")
        n, self.channels, *size = x.shape
        self.x, self.size, self.dtype, self.idle = x, (size[0], size[1]), x.dtype, True
        # Result (i, j) is x's pixel (top + i, left + step j), if within low and high.
        self.corner, self.step = np.zeros((n, 2), np.int64), np.ones(n, np.int64)
        self.low, self.high = np.zeros((n, 2), np.int64), np.tile(size, (n, 1))
        # By channel, in the units of the result.
        self.scale, self.shift = np.ones(self.channels), np.zeros(self.channels)
        self.fill: np.ndarray | None = None
        self.boxes: list[np.ndarray] = []
        self.values: list[np.ndarray] = []

    def run(self) -> Any:
        """Do it: the pictures that come of it, (N, C, *size) channels-last."""
        if self.idle:
            return self.x
        n, fill = len(self.x), np.zeros(self.channels) if self.fill is None else self.fill
        samples = np.zeros((n, 2 + len(self.boxes), 4), np.int64)
        samples[:, 0, :2], samples[:, 0, 2] = self.corner, self.step
        samples[:, 1] = np.concatenate([self.low, self.high], 1)
        for k, box in enumerate(self.boxes):
            samples[:, 2 + k] = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)
        channels = np.stack([self.scale, self.shift, fill, *self.values])
        return backend.of(self.x).augment_pictures(self.x, self.size, channels, samples, self.dtype)

    def crop(self, corners: np.ndarray, size: tuple[int, int], fill: float) -> None:
        """Windows of a size at corners (N, 2), `fill` where they lie outside of the pictures."""
        outside = bool(((corners < 0) | (corners + size > np.array(self.size))).any())
        value = self._value(fill)
        other = outside and self.fill is not None and not np.array_equal(self.fill, value)
        if self.boxes or other:
            self.start(self.run())
        # What the pictures show now is all that the windows may show.
        first, last = self.corner.copy(), self.corner + self.size
        back = self.step < 0
        first[back, 1], last[back, 1] = first[back, 1] - self.size[1] + 1, first[back, 1] + 1
        self.low, self.high = np.maximum(self.low, first), np.minimum(self.high, last)
        self.corner[:, 0] += corners[:, 0]
        self.corner[:, 1] += self.step * corners[:, 1]
        self.fill = value if outside else self.fill
        self.size, self.idle = size, False

    def flip(self, chosen: np.ndarray) -> None:
        """Mirror the chosen (N,) pictures left and right."""
        if self.boxes:
            self.start(self.run())
        self.corner[:, 1] += chosen * self.step * (self.size[1] - 1)
        self.step = np.where(chosen, -self.step, self.step)
        self.idle = False

    def scale_by(self, scale: Any, shift: Any, dtype: np.dtype) -> None:
        """Pixels times `scale` plus `shift`, by channel or for all, in another dtype."""
        self.scale, self.shift = self.scale * scale, self.shift * scale + shift
        self.fill = None if self.fill is None else self.fill * scale + shift
        self.values = [value * scale + shift for value in self.values]
        self.dtype, self.idle = dtype, False

    def erase(self, boxes: np.ndarray, value: float) -> None:
        """Overwrite boxes (N, 4: top, left, height, width) by a value."""
        self.boxes.append(boxes)
        self.values.append(self._value(value))
        self.idle = False

    def _value(self, value: float) -> np.ndarray:
        """A value by channel, as the pictures can hold it."""
        return np.full(self.channels, value).astype(self.dtype).astype(np.float64)
