"""Transforms that take away or exchange parts of pictures: erasing, Cutout, MixUp, CutMix."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, wrap
from minidl.data.transforms.base import Draws, Transform, draws_for, raw
from minidl.data.transforms.fused import Fused
from minidl.errors import DeviceError, require

Boxes = np.ndarray | None


class RandomErasing(Transform):
    """Overwrite a random rectangle by `value`, with probability p (Zhong et al. 2017).

    scale: range of its share of the area; ratio: range of its height by its width (torchvision's).
    """

    def __init__(self, p: float = 0.5, scale: Sequence[float] = (0.02, 0.33),
                 ratio: Sequence[float] = (0.3, 3.3), value: float = 0) -> None:  # fmt: skip
        self.p, self.scale, self.ratio, self.value = p, scale, ratio, value

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        return erase(x, self._boxes(x.shape[1:3], draws), self.value)

    def plan(self, work: Fused, draws: Draws) -> None:
        work.erase(self._boxes(work.size, draws), self.value)

    def _boxes(self, picture: Sequence[int], draws: Draws) -> np.ndarray:
        """(N, 4) top, left, height, width; the first of ten tries that fits, else all 0."""
        chosen, (h, w), tries = draws.uniform(1) < self.p, picture, 10
        u = draws.uniform(2 * tries + 2)
        area = h * w * (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, :tries])
        low, high = map(math.log, self.ratio)
        aspect = np.exp(low + (high - low) * u[:, tries : 2 * tries])
        heights, widths = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (heights >= 1) & (heights <= h) & (widths >= 1) & (widths <= w)
        rows, first = np.arange(len(u)), np.argmax(fits, axis=1)
        size = np.stack([heights[rows, first], widths[rows, first]], 1)
        corner = np.floor(u[:, -2:] * (picture - size + 1))
        boxes = np.concatenate([corner, size], 1).astype(np.int64)
        return np.where(chosen & fits.any(axis=1, keepdims=True), boxes, 0)


def erase(x: np.ndarray, boxes: np.ndarray, value: Any) -> np.ndarray:
    """A copy of x (N, H, W, C) with boxes (N, 4: top, left, height, width) set to value."""
    y = x.copy()
    for i, (top, left, h, w) in enumerate(boxes.tolist()):
        if h:
            part = (i, slice(top, top + h), slice(left, left + w))
            y[part] = value[part] if isinstance(value, np.ndarray) else value
    return y


class Cutout(RandomErasing):
    """Overwrite a square of `size` about a random pixel, cut off at the edges (DeVries 2017)."""

    def __init__(self, size: int, value: float = 0) -> None:
        self.size, self.value = size, value

    def _boxes(self, picture: Sequence[int], draws: Draws) -> np.ndarray:
        return _box_about(draws.uniform(2), picture, self.size)


def _box_about(u: np.ndarray, picture: Sequence[int], size: Any) -> np.ndarray:
    """(N, 4) boxes of a size (N, 2) about uniform pixels, cut off at the picture's edges (h, w)."""
    start = np.floor(u * picture) - size // 2
    low, high = np.clip(start, 0, picture), np.clip(start + size, 0, picture)
    return np.concatenate([low, high - low], 1).astype(np.int64)


class MixUp:
    """Blend each picture and its label with the one before it in the batch (Zhang et al. 2018).

    Called as mix(images (N, C, H, W), labels (N,)[, indices, epoch]) -> images float32 and soft
    labels (N, num_classes) float32. Each sample has its own share, drawn from Beta(alpha, alpha).
    The partners are those of torchvision: the batch rolled by one. On a GPU where both are there.
    """

    def __init__(self, *, num_classes: int, alpha: float = 1.0) -> None:
        require(0 < alpha < math.inf, type(self).__name__, "alpha must be positive", alpha=alpha)
        self.num_classes, self.alpha = num_classes, alpha

    def __call__(self, images: Any, labels: Any, indices: Any = None, epoch: int = 0) -> Any:
        x, y = raw(images), raw(labels)
        rule = "images must be (N, C, H, W), labels int (N,)"
        ok = x.ndim == 4 and y.shape == x.shape[:1] and y.dtype.kind in "iu"
        require(ok, type(self).__name__, rule, images=x, labels=y)
        be, rule = backend.of(x), "images and labels must be on one device"
        require(be is backend.of(y), type(self).__name__, rule, error=DeviceError, images=x)
        be.check_indices(type(self).__name__, y, self.num_classes)
        draws = draws_for(type(self).__name__, len(x), indices, epoch)
        share, boxes = self._drawn(draws, x.shape[2:])
        label = share if boxes is None else 1 - boxes[:, 2:].prod(1) / math.prod(x.shape[2:])
        mix = _mix if be is backend.cpu else _mix_on_gpu
        mixed, soft = mix(x, y, share, boxes, label, self.num_classes)
        return (wrap(mixed), wrap(soft)) if isinstance(images, Tensor) else (mixed, soft)

    def _drawn(self, draws: Draws, size: tuple[int, ...]) -> tuple[np.ndarray, Boxes]:
        """The pictures' shares (N,) in their blends, and the boxes (N, 4) that partners fill."""
        return _beta(draws, self.alpha), None


class CutMix(MixUp):
    """Paste a rectangle of the picture before it in the batch into each one (Yun et al. 2019)."""

    def _drawn(self, draws: Draws, size: tuple[int, ...]) -> tuple[np.ndarray, Boxes]:
        share = _beta(draws, self.alpha)
        sizes = np.floor(np.sqrt(1 - share)[:, None] * size)
        return np.ones(len(share)), _box_about(draws.uniform(2), size, sizes)


def _mix(x: np.ndarray, y: np.ndarray, share: np.ndarray, boxes: Boxes, label: np.ndarray,
         classes: int) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Pictures (N, C, H, W) blended with those before them, and soft labels."""
    pixels = x.transpose(0, 2, 3, 1)
    before = np.roll(pixels, 1, axis=0)
    if boxes is None:
        mine = share.astype(np.float32)[:, None, None, None]
        mixed = pixels * mine + before * (1 - mine)
    else:
        mixed = erase(pixels, boxes, before)
    soft = np.zeros((len(y), classes), np.float32)
    np.add.at(soft, (np.arange(len(y)), y), label)
    np.add.at(soft, (np.arange(len(y)), np.roll(y, 1)), 1 - label)
    return mixed.transpose(0, 3, 1, 2), soft


def _mix_on_gpu(x: Any, y: Any, share: np.ndarray, boxes: Boxes, label: np.ndarray,
                classes: int) -> tuple[Any, Any]:  # fmt: skip
    """The same on a GPU."""
    n, dtype = len(x), x.dtype
    if boxes is None:
        dtype = x.dtype if x.dtype == np.float64 else np.dtype(np.float32)
        boxes = np.zeros((n, 4), np.int64)
    before = np.roll(np.arange(n), 1)
    return backend.of(x).blend_pictures(x, before, share, boxes, label, y, classes, dtype)


def _beta(draws: Draws, alpha: float) -> np.ndarray:
    """(N,) from Beta(alpha, alpha), the first of 32 tries that is accepted.

    Below 1 by Jöhnk's rejection (at least half are accepted), to 4 from under the density's peak
    (0.46), above by Cheng's BB (1978; 0.88), where the logit of what is proposed is logistic. All
    tries fail with a probability of 4e-9 at most.
    """
    u, v = np.hsplit(np.maximum(draws.uniform(2 * 32), 2.0**-33), 2)
    if alpha < 1:
        a, b = np.log(u) / alpha, np.log(v) / alpha
        total = np.logaddexp(a, b)
        value, accepted = np.exp(a - total), total <= 0
    elif alpha <= 4:
        value, accepted = u, v <= (4 * u * (1 - u)) ** (alpha - 1)
    else:
        value = 1 / (1 + (1 / u - 1) ** alpha**-0.5)
        accepted = v * 4 * u * (1 - u) <= (4 * value * (1 - value)) ** alpha
    return value[np.arange(len(u)), np.argmax(accepted, axis=1)]
