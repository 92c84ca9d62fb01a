"""What transforms are, the random numbers they draw, and the plain ones among them."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
from PIL import Image

from minidl import random
from minidl.autograd import Tensor, wrap
from minidl.config import bound
from minidl.data.dataset import integers, raw
from minidl.data.transforms.fused import Fused, white
from minidl.dtypes import is_real
from minidl.errors import DeviceError, require
from minidl.ops.creation import as_tensor
from minidl.ops.join import stack

# Random numbers are keyed by (seed, epoch, sample), never by batch or worker.
_FRESH = 1 << 63  # draw numbers that no epoch has: for calls that name no sample


class Draws:
    """Random numbers for the samples `indices` (n,) of one epoch, taken in the transforms' order.

    Seeded by the augmentation stream; a sample's numbers do not depend on its neighbours.
    """

    def __init__(self, indices: np.ndarray, epoch: int) -> None:
        self.indices, self.epoch, self._taken = indices, epoch, 0

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """(n, count) float64 in [low, high): multiples of 2**-32 of the range."""
        source = random.default("augmentation")
        words = source.keyed_bits(self.indices, count, self.epoch, self._taken)
        self._taken += -(-count // 4) * 4
        return low + (high - low) * (words * 2.0**-32)


_current: ContextVar[Draws | None] = ContextVar("draws", default=None)


def draws_for(op: str, n: int, indices: Any, epoch: int) -> Draws:
    """The draws of n pictures by their indices, else by the sample being loaded, else new ones.

    Several pictures of one sample (a clip) draw under a number that the sample draws.
    """
    given = _current.get() if indices is None else Draws(integers(op, indices), epoch)
    if given is not None and given.indices.shape == (n,):
        return given
    require(indices is None, op, "needs one index for each picture", pictures=n, indices=indices)
    if given is None:
        number = random.default("augmentation").take()
    else:
        number = int(given.uniform(2)[0] @ (2.0**62, 2.0**30))
    return Draws(np.arange(n), _FRESH | number)


def sample(index: int, epoch: int) -> bound:
    """Within it, transforms draw that sample's numbers of that epoch."""
    return bound(_current, Draws(np.array([index]), epoch))


class Transform:
    """A function of pictures (N, C, H, W) or (C, H, W), arrays or Tensors, uint8 or floating.

    One of Pillow's counts as (C, H, W) and gives a Tensor.

    Given `indices` (N,) and `epoch`, random transforms draw the numbers of (seed, epoch, index);
    without them, those of the sample that a loader loads, else numbers never used before. Results
    lie in channels-last memory. Pictures on a GPU become the same there: a chain of crops, flips,
    Normalize and erasing is one kernel; transforms that run on the CPU only raise DeviceError.
    """

    _from_rows = False  # whether an array of one picture is (H, W, C) or (H, W), like Pillow's

    def __call__(self, images: Any, indices: Any = None, epoch: int = 0) -> Any:
        x, pillow = raw(images), isinstance(images, Image.Image)
        pillow = pillow or (self._from_rows and isinstance(images, np.ndarray) and x.ndim < 4)
        x = np.atleast_3d(x).transpose(2, 0, 1) if pillow else x
        require(x.ndim in (3, 4), type(self).__name__, "pictures must be (N, C, H, W)", images=x)
        batch = x if x.ndim == 4 else x[None]
        y = self.batched(batch, draws_for(type(self).__name__, len(batch), indices, epoch))
        y = y if x.ndim == 4 else y[0]
        return wrap(y) if pillow or isinstance(images, Tensor) else y

    def batched(self, images: Any, draws: Draws) -> Any:
        """Transform an (N, C, H, W)-shaped array with the given draws."""
        if isinstance(images, np.ndarray):
            return self.on_cpu(images, draws)
        work = Fused(images)
        self.plan(work, draws)
        return work.run()

    def on_cpu(self, images: np.ndarray, draws: Draws) -> np.ndarray:
        """What `batched` does with pictures in the CPU's memory."""
        return self.apply(images.transpose(0, 2, 3, 1), draws).transpose(0, 3, 1, 2)

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        """Transform (N, H, W, C) pixels; the input is left alone."""
        raise NotImplementedError(type(self).__name__)

    def plan(self, work: Fused, draws: Draws) -> None:
        """Add what `apply` does to the work on pictures on a GPU."""
        rule, fix = "runs on the CPU only", "apply it before the pictures go to the GPU"
        require(False, type(self).__name__, rule, error=DeviceError, fix=fix, pictures=work.x)

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({shown})"


class Lambda(Transform):
    """A function of one picture, a Tensor (C, H, W), or of what is none, such as a label."""

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        require(callable(lambd), "Lambda", "needs a function", got=lambd)
        self.lambd = lambd

    def __call__(self, images: Any, indices: Any = None, epoch: int = 0) -> Any:
        pictures = getattr(images, "ndim", 0) > 2
        return super().__call__(images, indices, epoch) if pictures else self.lambd(images)

    def batched(self, images: Any, draws: Draws) -> Any:
        return raw(stack([as_tensor(self.lambd(wrap(images[k]))) for k in range(len(images))]))

    def plan(self, work: Fused, draws: Draws) -> None:
        work.start(self.batched(work.run(), draws))


class Compose(Transform):
    """Transforms, or other functions of one picture, one after the other.

    What is no array or Tensor, as one of Pillow's pictures or a dict, is given to each as it is.
    """

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = list(transforms)
        self._steps = [t if isinstance(t, Transform) else Lambda(t) for t in self.transforms]
        self._from_rows = bool(self._steps) and self._steps[0]._from_rows

    def __call__(self, images: Any, indices: Any = None, epoch: int = 0) -> Any:
        if indices is not None or hasattr(images, "ndim"):
            return super().__call__(images, indices, epoch)
        for t in self.transforms:
            images = t(images)
        return images

    def on_cpu(self, images: np.ndarray, draws: Draws) -> np.ndarray:
        for t in self._steps:
            images = t.batched(images, draws)
        return images

    def plan(self, work: Fused, draws: Draws) -> None:
        for t in self._steps:
            t.plan(work, draws)


class Normalize(Transform):
    """(x - mean) / std by channel, in float32; uint8 pixels count from 0 to 1 (torchvision's)."""

    def __init__(self, mean: Any, std: Any, inplace: bool = False) -> None:
        self.mean, self.std = (tuple(map(float, np.atleast_1d(v))) for v in (mean, std))
        ok = len(self.mean) == len(self.std) and min(self.std) > 0
        rule = "mean and std must have one entry a channel, std > 0"
        require(ok, "Normalize", rule, mean=mean, std=std)

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        n, h, w, c = x.shape
        scale, shift, dtype = self._affine(c, x.dtype)
        # Whole rows of pixels at once: NumPy's inner loops are then w * c long, not c.
        scale, shift = (np.resize(v, w * c).astype(dtype) for v in (scale, shift))
        y = np.multiply(np.ascontiguousarray(x).reshape(n * h, w * c), scale, dtype=dtype)
        y += shift
        return y.reshape(n, h, w, c)

    def plan(self, work: Fused, draws: Draws) -> None:
        work.scale_by(*self._affine(work.channels, work.dtype))

    def _affine(self, c: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.dtype]:
        """The channels' factors and addends, one for all or each its own; the result's dtype."""
        rule = "pictures must have as many channels as mean and std"
        require(len(self.mean) in (1, c), "Normalize", rule, channels=c, mean=self.mean)
        top, mean, std = white(dtype, "Normalize"), np.array(self.mean), np.array(self.std)
        return 1.0 / (top * std), -mean / std, dtype if top == 1 else np.dtype(np.float32)


class ToFloat(Transform):
    """uint8 pixels 0..255 to float32 0..1; floating pixels stay."""

    def apply(self, x: np.ndarray, draws: Draws) -> np.ndarray:
        top = white(x.dtype, "ToFloat")
        return x if top == 1 else np.multiply(x, np.float32(1 / top), dtype=np.float32)

    def plan(self, work: Fused, draws: Draws) -> None:
        if not is_real(work.dtype):
            work.scale_by(np.float32(1 / 255), 0.0, np.dtype(np.float32))


class ToTensor(ToFloat):
    """ToFloat that takes an array of one picture for (H, W, C) or (H, W) (torchvision's)."""

    _from_rows = True


def to_dtype(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floating results back in the pictures' dtype: uint8 are rounded and clipped to 0..255."""
    return (np.clip(np.rint(y), 0, 255) if dtype == np.uint8 else y).astype(dtype, copy=False)


def pair(value: float | Sequence[float], op: str) -> tuple[Any, Any]:
    """A number as (number, number); a pair as it is."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    require(len(both) == 2, op, "needs a number or a pair", value=value)
    return both


def about(middle: float, value: float | Sequence[float], op: str) -> tuple[Any, Any]:
    """A number v as (middle - v, middle + v); a pair as it is."""
    both = (middle - value, middle + value) if isinstance(value, (int, float)) else value
    return pair(both, op)
