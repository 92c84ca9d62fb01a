"""Pooling on the GPU, and windows as columns (src/pool.cu)."""

from typing import Any

import numpy as np

from minidl.backend.cuda.memory import contiguous, empty_nchw, nhwc
from minidl.backend.cuda.plans import struct
from minidl.backend.cuda.rows import width_of
from minidl.backend.cuda.runtime import THREADS, Array, empty, kernel, launch

Pair = tuple[int, int]


def _launch(name: str, kinds: tuple, count: int, *args: Any) -> None:
    """So many threads, each of which takes an element, or a pack of them, of a result mostly.

    Kinds are the template's arguments: dtypes and numbers.
    """
    launch(kernel("pool.cu", name, *kinds), -(-count // THREADS), *args, count)


def _sizes(planes: Pair, size: Pair, out: Pair, *window: Pair, packs: int = 1) -> np.ndarray:
    """struct Pool, as an argument: images and channels, size of each, of its result, the window."""
    ints = planes[0], *size, planes[1], *out, *sum(window, ()), packs
    return struct(ints, (*size, *out, *window[1], packs))


def max_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
               out: Pair) -> tuple[Array, Array]:  # fmt: skip
    """Largest value of each window of x (N, C, H, W) and its place in the window, both NCHW."""
    (n, c), size = x.shape[:2], x.shape[2:]
    kind = np.dtype("u1" if kernel[0] * kernel[1] <= 256 else "i4")
    y, place = (empty_nchw(n, c, *out, dtype=t) for t in (x.dtype, kind))
    given = nhwc(x), nhwc(y), nhwc(place)
    wide, window = width_of(c, *given), (kernel, stride, padding, dilation)
    sizes = _sizes((n, c), size, out, *window, packs=c // wide)
    together = (2, 2) if kernel == (2, 2) else (1, 3)
    _launch("max_pool", (x.dtype, kind, wide, *together), y.size // wide, *given, sizes)
    return y, place


def max_pool2d_grad(g: Array, place: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair,
                    dilation: Pair) -> Array:  # fmt: skip
    """Gradient of max_pool2d's x (N, C, *size), given the places it returned."""
    (n, c), out = g.shape[:2], g.shape[2:]
    dx = empty_nchw(n, c, *size, dtype=g.dtype)
    given = nhwc(g), nhwc(place), nhwc(dx)
    wide, window = width_of(c, *given), (kernel, stride, padding, dilation)
    sizes = _sizes((n, c), size, out, *window, packs=c // wide)
    whole = out[0] * kernel[0], out[1] * kernel[1]
    apart = (*window, tuple(size)) == (kernel, kernel, (0, 0), (1, 1), whole)
    name, taken = ("max_pool_grad_apart", g) if apart else ("max_pool_grad", dx)
    _launch(name, (g.dtype, place.dtype, wide), taken.size // wide, *given, sizes)
    return dx


def max_pool2d_indices(place: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair,
                       dilation: Pair) -> Array:  # fmt: skip
    """Positions h * W + w in the input (int64, NCHW) of the places that max_pool2d returned."""
    y, out = empty(place.shape, np.int64), place.shape[2:]
    sizes = _sizes(place.shape[:2], size, out, kernel, stride, padding, dilation)
    _launch("max_positions", (place.dtype,), y.size, nhwc(place), y, sizes)
    return y


def avg_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, out: Pair, with_pad: bool,
               divisor: int) -> Array:  # fmt: skip
    """Means over windows of x (N, C, H, W); divisor replaces their size unless 0."""
    (n, c), size = x.shape[:2], x.shape[2:]
    y = empty_nchw(n, c, *out, dtype=x.dtype)
    sizes = _sizes((n, c), size, out, kernel, stride, padding, (1, 1), packs=c)
    _launch("mean_pool", (x.dtype,), y.size, nhwc(x), nhwc(y), sizes, int(with_pad), divisor)
    return y


def avg_pool2d_grad(g: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair, with_pad: bool,
                    divisor: int) -> Array:  # fmt: skip
    """Gradient of avg_pool2d's x (N, C, *size)."""
    (n, c), out = g.shape[:2], g.shape[2:]
    dx = empty_nchw(n, c, *size, dtype=g.dtype)
    sizes = _sizes((n, c), size, out, kernel, stride, padding, (1, 1), packs=c)
    _launch("mean_pool_grad", (g.dtype,), dx.size, nhwc(g), nhwc(dx), sizes, int(with_pad), divisor)
    return dx


def unfold(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair) -> Array:
    """The windows of x (N, C, H, W), zero outside, as columns: (N, C * kh * kw, oh * ow)."""
    (n, c), taps = x.shape[:2], kernel[0] * kernel[1]
    y = empty((n, c * taps, out[0] * out[1]), x.dtype)
    sizes = _sizes((n * c, 1), x.shape[2:], out, kernel, stride, padding, dilation)
    _launch("unfold", (x.dtype,), y.size // taps, contiguous(x), y, sizes)
    return y


def fold(g: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
         out: Pair) -> Array:  # fmt: skip
    """The adjoint of unfold: columns added up where their windows lie, (N, C, *size)."""
    n, c = g.shape[0], g.shape[1] // (kernel[0] * kernel[1])
    y = empty((n, c, *size), g.dtype)
    sizes = _sizes((n * c, 1), size, out, kernel, stride, padding, dilation)
    _launch("fold", (g.dtype,), y.size, contiguous(g), y, sizes)
    return y
