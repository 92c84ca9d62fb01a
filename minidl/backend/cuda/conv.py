"""Convolutions on the GPU as products without a copy of their windows (src/conv.cu).

Where a window is one pixel the windows are the image itself, and the product is cuBLAS's.
"""

import itertools
import math
from typing import Any

import numpy as np

from minidl.backend.cuda import choice, depthwise, linalg
from minidl.backend.cuda.memory import contiguous, copy, empty_nchw, given_or, nhwc, pad, zeros
from minidl.backend.cuda.plans import IDENTITY, SUM, accumulator, struct, write
from minidl.backend.cuda.runtime import THREADS, Array, Maybe, empty, kernel, launch
from minidl.errors import require

Pair = tuple[int, int]
Triple = tuple[int, int, int]
Window = tuple[Pair, Pair, Pair]  # stride, padding, dilation
_TAPS = 126  # along an axis, that src/conv.cu knows at most


def _windows(x: Array, ld: int, results: Pair, taps: Pair, window: Window,
             apart: Triple = (0, 0, 0)) -> np.ndarray:  # fmt: skip
    """struct Windows of conv.cu, as an argument."""
    sizes = (*x.shape, *results, *taps, *itertools.chain(*window), ld, *apart)
    return struct(sizes, (results[1], results[0], x.shape[3], taps[1], *window[2]))


def _whole_chunks(x: Array) -> Array:
    """x in C order, its last axis padded by zeros to whole chunks, which start at their size."""
    more = -x.shape[-1] % (choice.CHUNK // x.itemsize)
    if more:
        return pad(contiguous(x), (*[(0, 0)] * (x.ndim - 1), (0, more)), 0)
    x = contiguous(x)
    return x if x.data.ptr % choice.CHUNK == 0 else copy(x)


def _in_chunks(x: Array, ld: int) -> tuple[Array, int]:
    """x, whose pixels are ld apart, and ld: a copy unless pixels are whole chunks, each at one."""
    if any(n % choice.CHUNK for n in (x.data.ptr, x.shape[-1] * x.itemsize, ld * x.itemsize)):
        x = _whole_chunks(x)
        return x, x.shape[-1]
    return x, ld


def _correlate(
    x: Array, ldx: int, w: Array, b: Maybe, y: Array, apart: Triple, window: Window
) -> None:
    """y (N, OH, OW, K) = windows of x (N, H, W, C) times w (K, R, S, C) + b.

    x may be some of the channels of a larger array, whose pixels are ldx apart, and y any pixels of
    one: `apart` are the distances of its images, rows and pixels.
    """
    if not y.size:
        return
    require(x.size > 0, "conv2d", "a GPU convolves at least one channel", x=x)
    for axis in (0, 1):
        if w.shape[1 + axis] > _TAPS:
            return _correlate_in_parts(axis, x, ldx, w, b, y, apart, window)
    (x, ldx), w = _in_chunks(x, ldx), _whole_chunks(w)
    (n, *size, _), (_, oh, ow, k) = x.shape, y.shape
    reach, pixels = _reach((size[0], size[1]), (oh, ow), w.shape[1], window) * ldx, n * oh * ow
    most = max(reach, n * size[0] * size[1], pixels + choice.ROWS, min(n - 1, 1) * apart[0])
    require(most < 1 << 31, "conv2d", "a GPU takes pixels and distances below 2**31", x=x, y=y)
    v = _windows(x, ldx, (oh, ow), w.shape[1:3], window, apart)
    tile = choice.tile("convolve", x.dtype, (pixels, k, math.prod(w.shape[1:])), False)
    bias, biased = given_or(b, x)
    given = (x, w, bias, y, v, pixels, k, biased)
    run, blocks = kernel("conv.cu", "convolve", x.dtype, tile.of(x.dtype)), tile.grid(pixels, k)
    launch(run, math.prod(blocks), *given, threads=tile.threads(x.dtype), shared=tile.shared)


def _reach(size: Pair, results: Pair, taps: int, window: Window) -> int:
    """Pixels at most from where a block's first window begins to where its last one ends."""
    (h, wide), (oh, ow), step, dilation = size, results, window[0][0], window[2][0]
    images = (choice.ROWS // (oh * ow) + 1) * max(h - (oh - 1) * step, 0)
    return ((choice.ROWS // ow + 2) * step + images + taps * dilation) * wide


def _correlate_in_parts(axis: int, x: Array, ldx: int, w: Array, b: Maybe, y: Array, apart: Triple,
                        window: Window) -> None:  # fmt: skip
    """_correlate as the sum of two: of the first taps along an axis, and of the others."""
    (stride, padding, dilation), cut = window, (slice(None),) * (1 + axis)
    _correlate(x, ldx, w[*cut, :_TAPS], b, y, apart, window)
    left, more, (_, oh, ow, k) = [*padding], empty(y.shape, y.dtype), y.shape
    left[axis] -= _TAPS * dilation[axis]
    others, dense = (stride, (left[0], left[1]), dilation), (oh * ow * k, ow * k, k)
    _correlate(x, ldx, w[*cut, _TAPS:], None, more, dense, others)
    write(SUM, [y, more], y)


def _groups(groups: int, *arrays: Any) -> Any:
    """For each group its share of every array's axis: arrays are (array, axis)."""
    for i in range(groups):
        parts = []
        for a, axis in arrays:
            share = 0 if a is None else a.shape[axis] // groups
            key = (slice(None),) * axis + (slice(i * share, (i + 1) * share),)
            parts.append(None if a is None else a[key])
        yield parts


def conv2d(x: Array, w: Array, b: Maybe, stride: Pair, padding: Pair, dilation: Pair,
           groups: int) -> Array:  # fmt: skip
    """x (N, C, H, W) * w (K, C/groups, R, S) + b (K,) -> (N, K, OH, OW), channels-last."""
    if _of_pixels(w, padding, groups):
        return linalg.linear(_seen(x, stride), contiguous(w[:, :, 0, 0]), b).transpose(0, 3, 1, 2)
    oh, ow = (
        (n + 2 * p - d * (taps - 1) - 1) // step + 1
        for n, p, d, taps, step in zip(x.shape[2:], padding, dilation, w.shape[2:], stride)
    )
    y = empty_nchw(len(x), len(w), oh, ow, dtype=x.dtype)
    if 1 < groups == x.shape[1]:
        depthwise.correlate(nhwc(x), w[:, 0], b, nhwc(y), stride, padding, dilation)
        return y
    apart, window = (oh * ow * len(w), ow * len(w), len(w)), (stride, padding, dilation)
    for xg, wg, bg, yg in _groups(groups, (nhwc(x), 3), (w, 0), (b, 0), (nhwc(y), 3)):
        _correlate(xg, x.shape[1], wg.transpose(0, 2, 3, 1), bg, yg, apart, window)
    return y


def _of_pixels(w: Array, padding: Pair, groups: int) -> bool:
    """Whether every window is one pixel, with all of its channels."""
    return groups == 1 and w.shape[2:] == (1, 1) and padding == (0, 0)


def _seen(x: Array, stride: Pair) -> Array:
    """The pixels (N, OH, OW, C) of x (N, C, H, W) that windows of one pixel see."""
    return contiguous(nhwc(x)[:, :: stride[0], :: stride[1]])


def _phases(taps: int, stride: int, padding: int,
            dilation: int) -> list[tuple[slice, slice, int, int]]:  # fmt: skip
    """An axis of x by places whose gradients come from the same taps, if from any at all.

    Place i meets tap t at row (i + padding - t dilation) / stride of g where that is whole. For
    each: the places, and the taps, padding and dilation of the correlation of g that they are of.
    """
    found = []
    for i in range(stride):
        met = [t for t in range(taps) if (i + padding - t * dilation) % stride == 0]
        if met:
            step = met[1] - met[0] if len(met) > 1 else stride  # of taps; any, of one
            turned = slice(met[-1], met[0] - 1 if met[0] else None, -step)
            around = (met[-1] * dilation - i - padding) // stride
            found.append((slice(i, None, stride), turned, around, step * dilation // stride))
    return found


def conv2d_input_grad(g: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair,
                      dilation: Pair, groups: int) -> Array:  # fmt: skip
    """The adjoint of conv2d in x: g (N, K, OH, OW), w -> (N, C, H, W), channels-last."""
    n, c, h, wide = x_shape
    if 1 < groups == c:
        dx = empty_nchw(n, c, h, wide, dtype=g.dtype)
        over = [(t - 1) * d - p for t, d, p in zip(w.shape[2:], dilation, padding, strict=True)]
        turned, around = w[:, 0, ::-1, ::-1], (over[0], over[1])
        depthwise.correlate(nhwc(g), turned, None, nhwc(dx), (1, 1), around, dilation, stride)
        return dx
    if _of_pixels(w, padding, groups):
        found = linalg.matmul(nhwc(g), contiguous(w[:, :, 0, 0]))
        if stride != (1, 1):
            seen, found = found, zeros((n, h, wide, c), g.dtype)
            write(IDENTITY, [seen], found[:, :: stride[0], :: stride[1]])
        return found.transpose(0, 3, 1, 2)
    phases = [_phases(*axis) for axis in zip(w.shape[2:], stride, padding, dilation, strict=True)]
    whole = len(phases[0]) * len(phases[1]) == stride[0] * stride[1]
    made = (empty if whole else zeros)((n, h, wide, c), g.dtype)
    for (gg, wg, xg), (down, right) in itertools.product(
        _groups(groups, (nhwc(g), 3), (w, 0), (made, 3)), itertools.product(*phases)
    ):
        places, taps, around, dilated = zip(down, right, strict=True)
        turned = wg[:, :, *taps].transpose(1, 2, 3, 0)
        apart = (h * wide * c, stride[0] * wide * c, stride[1] * c)
        part, window = xg[:, *places], ((1, 1), around, dilated)
        _correlate(gg, g.shape[1], turned, None, part, apart, window)
    return made.transpose(0, 3, 1, 2)


def conv2d_weight_grad(g: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair,
                       dilation: Pair, groups: int) -> Array:  # fmt: skip
    """The adjoint of conv2d in w: g (N, K, OH, OW), x -> (K, C/groups, R, S)."""
    if not (g.size and x.size):
        return zeros(w_shape, g.dtype)
    dw = empty(w_shape, g.dtype)
    if _of_pixels(dw, padding, groups):
        seen = _seen(x, stride).reshape(-1, x.shape[1])
        return linalg.matmul(nhwc(g).reshape(-1, g.shape[1]).T, seen).reshape(w_shape)
    if 1 < groups == x.shape[1]:
        taps = (w_shape[2], w_shape[3])
        found = depthwise.weight_grad(nhwc(x), nhwc(g), taps, stride, padding, dilation)
        write(IDENTITY, [found], dw[:, 0])
        return dw
    for gg, xg, wg in _groups(groups, (nhwc(g), 3), (nhwc(x), 3), (dw, 0)):
        _weight_grad(gg, g.shape[1], xg, x.shape[1], wg, (stride, padding, dilation))
    return dw


def conv2d_grads(g: Array, x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair,
                 groups: int) -> tuple[Array, Array]:  # fmt: skip
    """Both adjoints, in x and in w."""
    window = (stride, padding, dilation, groups)
    return conv2d_input_grad(g, w, x.shape, *window), conv2d_weight_grad(g, x, w.shape, *window)


def _weight_grad(g: Array, ldg: int, x: Array, ldx: int, dw: Array, window: Window) -> None:
    """dw (K, C, R, S) from g (N, OH, OW, K) and x (N, H, W, C), split over the pixels.

    g and x may be some of the channels of larger arrays, whose pixels are ldg and ldx apart.
    """
    k, c, r, s = dw.shape
    (g, ldg), (x, ldx) = _in_chunks(g, ldg), _in_chunks(x, ldx)
    v = _windows(x, ldx, g.shape[1:3], (r, s), window)
    pixels, rows, channels = math.prod(g.shape[:3]), g.shape[3], x.shape[3]
    deep, name = r * s * channels, "convolve_weight_grad"
    tile = choice.tile(name, g.dtype, (rows, deep, pixels), True)
    grid = tile.grid(rows, deep)
    span, parts = choice.shares(grid[0] * grid[1], pixels, g.dtype, tile.most)
    part = empty((parts, rows, deep), accumulator(g.dtype))
    given = (g, x, part, v, pixels, rows, ldg, span)
    run = kernel("conv.cu", name, g.dtype, tile.of(g.dtype))
    launch(run, (*grid, parts), *given, threads=tile.threads(g.dtype), shared=tile.shared)
    run = kernel("conv.cu", "join_weight_grad", g.dtype)
    launch(run, -(-dw.size // THREADS), part, dw, c, r * s, channels, rows, parts, dw.size)
