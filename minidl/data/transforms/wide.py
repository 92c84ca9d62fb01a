"""Wide transforms: random areas and turns, padding, functions of one picture, Pillow's pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from minidl.data.transforms.base import Compose, Draws, Transform, pair, to_dtype
from minidl.data.transforms.colour import luminance
from minidl.data.transforms.geometry import RandomAffine, pad, resize
from minidl.errors import DTypeError, require

_TRIES = 10  # areas that are drawn before the middle of the picture is taken


class RandomResizedCrop(Transform):
    """Cut out a random area and resize it to `size`; bilinear, antialiased (Szegedy et al. 2015).

    scale: the area's share of the picture; ratio: its width by its height.
    """

    def __init__(self, size: int | Sequence[int], scale: Sequence[float] = (0.08, 1.0),
                 ratio: Sequence[float] = (3 / 4, 4 / 3)) -> None:  # fmt: skip
        name = "RandomResizedCrop"
        self.size, self.scale, self.ratio = pair(size, name), tuple(scale), tuple(ratio)
        for key, value in (("scale", self.scale), ("ratio", self.ratio)):
            fits = len(value) == 2 and 0 < value[0] <= value[1]
            require(fits, name, f"{key} must be a rising pair above 0", got=value)

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        u = draws.uniform(4 * _TRIES).reshape(len(x), _TRIES, 4)
        y = np.empty((len(x), *self.size, x.shape[3]), x.dtype)
        for i, row in enumerate(u):
            top, left, h, w = self._area(x.shape[1:3], row)
            y[i] = resize(x[i : i + 1, top : top + h, left : left + w], self.size)[0]
        return y

    def _area(self, picture: Sequence[int], u: np.ndarray) -> tuple[int, int, int, int]:
        """Top, left, height, width of the first drawn area that lies within the picture."""
        (height, width), (low, high) = picture, np.log(self.ratio)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0])
        shape = np.exp(low + (high - low) * u[:, 1])
        ws, hs = (np.rint(np.sqrt(a)).astype(int) for a in (area * shape, area / shape))
        for h, w, down, across in zip(hs, ws, *u[:, 2:].T, strict=True):
            if 0 < h <= height and 0 < w <= width:
                return int(down * (height - h + 1)), int(across * (width - w + 1)), h, w
        h = min(height, round(width / self.ratio[0]))
        w = min(width, round(height * self.ratio[1]))
        return (height - h) // 2, (width - w) // 2, h, w


class RandomRotation(RandomAffine):
    """Turn by an angle drawn from (-degrees, degrees) or a pair; the nearest pixel is taken."""

    def __init__(self, degrees: float | Sequence[float], *, fill: float = 0) -> None:
        super().__init__(degrees, fill=fill)


class _Sometimes(Transform):
    """What happens to each picture with probability p."""

    def __init__(self, p: float) -> None:
        require(0 <= p <= 1, type(self).__name__, "p must lie in [0, 1]", p=p)
        self.p = p

    def changed(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        """All pictures as those are that are drawn."""
        raise NotImplementedError(type(self).__name__)

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        chosen = draws.uniform(1)[:, 0] < self.p
        y = self.changed(x, draws)
        same, rule = y.shape == x.shape, "the pictures must keep their size and channels"
        require(same, type(self).__name__, rule, pictures=x, result=y)
        return np.where(chosen[:, None, None, None], y, x.astype(y.dtype, copy=False))


class RandomVerticalFlip(_Sometimes):
    """Turn upside down with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def changed(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        return x[:, ::-1]


class RandomGrayscale(_Sometimes):
    """Take the colours away, in as many channels, with probability p."""

    def __init__(self, p: float = 0.1) -> None:
        super().__init__(p)

    def changed(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        return np.broadcast_to(to_dtype(luminance(x), x.dtype), x.shape)


class RandomApply(_Sometimes):
    """Transforms that happen with probability p, all of them or none."""

    def __init__(self, transforms: Sequence[Callable], p: float = 0.5) -> None:
        super().__init__(p)
        self.transforms = list(transforms)

    def changed(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        y = Compose(self.transforms).batched(x.transpose(0, 3, 1, 2), draws)
        return y.transpose(0, 2, 3, 1)


class Pad(Transform):
    """Pixels around the picture: one number, (left and right, top and bottom), or all four sides.

    padding_mode: constant (`fill`), edge, reflect or symmetric.
    """

    def __init__(
        self, padding: int | Sequence[int], fill: float = 0, padding_mode: str = "constant"
    ) -> None:
        sides = (padding,) * 2 if isinstance(padding, int) else tuple(padding)
        require(len(sides) in (2, 4), "Pad", "padding must be 1, 2 or 4 numbers", padding=padding)
        self.padding = sides if len(sides) == 4 else sides * 2
        self.fill, self.padding_mode = fill, padding_mode

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        left, top, right, bottom = self.padding
        return pad(x, (top, bottom), (left, right), self.fill, self.padding_mode)


class ToPILImage:
    """A Tensor (C, H, W) or array (H, W, C), or (H, W), with floats from 0 to 1, as Pillow's."""

    def __call__(self, pic: Any) -> Image.Image:
        x = np.asarray(pic)
        if x.ndim == 3 and not isinstance(pic, np.ndarray):
            x = x.transpose(1, 2, 0)
        fits = x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (1, 3, 4))
        require(fits, "ToPILImage", "the picture must be grey, RGB or RGBA", picture=x)
        fits, rule = x.dtype == np.uint8 or x.dtype.kind == "f", "pixels must be uint8 or floats"
        require(fits, "ToPILImage", rule, error=DTypeError, picture=x)
        x = x if x.dtype == np.uint8 else to_dtype(x * 255.0, np.dtype(np.uint8))
        return Image.fromarray(x[..., 0] if x.shape[2:] == (1,) else x)
