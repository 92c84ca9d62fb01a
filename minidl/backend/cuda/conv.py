"""Convolutions on the GPU as products without a copy of their windows (src/conv.cu)."""

from typing import Any

import numpy as np

from minidl.backend.cuda import choice, depthwise
from minidl.backend.cuda.memory import contiguous, copy, empty_nchw, nhwc, pad, zeros
from minidl.backend.cuda.plans import IDENTITY, write
from minidl.backend.cuda.reduce import accumulator, sum
from minidl.backend.cuda.runtime import Array, Maybe, empty, kernel, launch

_SIDE, _CHUNK, _DEEP = (
    128,
    16,
    64,
)  # of gemm.cuh: results of a block; bytes of a chunk, of a tile's K
_SHARED = 3 * 2 * 8192  # bytes: STAGES tiles of both operands
_BLOCKS = 264  # that a weight gradient should have: two for each multiprocessor of an H200
Pair = tuple[int, int]

_INTS = "n h w c oh ow r s sh sw ph pw dh dw uph upw ld".split()
_DIVISOR = np.dtype([("d", "i4"), ("m", "u4"), ("s", "i4")])
_DIVISORS = {f"by_{of}": of for of in ("ow", "oh", "c", "s", "uph", "upw")}
_WINDOWS = np.dtype([*((k, "i4") for k in _INTS), *((k, _DIVISOR) for k in _DIVISORS)])


def _divisor(d: int) -> tuple[int, int, int]:
    """d, and the multiplier and shift that divide by it (Granlund and Montgomery 1994)."""
    shift = (d - 1).bit_length()
    return d, (((1 << shift) - d) << 32) // d + 1, shift


def _windows(**sizes: int) -> np.ndarray:
    """struct Windows of conv.cu, as an argument."""
    made = np.zeros(1, _WINDOWS)
    for key in _INTS:
        made[key] = sizes[key]
    for key, of in _DIVISORS.items():
        made[key] = _divisor(sizes[of])
    return made.view(f"V{_WINDOWS.itemsize}")


def _whole_chunks(x: Array) -> Array:
    """x in C order, its last axis padded by zeros to whole chunks, which start at their size."""
    more = -x.shape[-1] % (choice.CHUNK // x.itemsize)
    if more:
        return pad(contiguous(x), (*[(0, 0)] * (x.ndim - 1), (0, more)), 0)
    x = contiguous(x)
    return x if x.data.ptr % choice.CHUNK == 0 else copy(x)


def _in_chunks(x: Array, ld: int) -> tuple[Array, int]:
    """x, whose pixels are ld apart, and ld: a copy unless pixels are whole chunks, each at one."""
    size = x.itemsize
    if any(n % choice.CHUNK for n in (x.data.ptr, x.shape[-1] * size, ld * size)):
        x = _whole_chunks(x)
        return x, x.shape[-1]
    return x, ld


def _correlate(x: Array, ldx: int, w: Array, b: Maybe, y: Array, ldy: int, stride: Pair,
               padding: Pair, dilation: Pair, up: Pair = (1, 1)) -> None:  # fmt: skip
    """y (N, OH, OW, K) = windows of x (N, H, W, C), spread out by `up`, times w (K, R, S, C) + b.

    x and y may be some of the channels of larger arrays, whose pixels are ldx and ldy apart.
    """
    if not y.size:
        return
    (x, ldx), w = _in_chunks(x, ldx), _whole_chunks(w)
    (n, oh, ow, k), (r, s) = y.shape, w.shape[1:3]
    v = _windows(
        n=n, h=x.shape[1], w=x.shape[2], c=x.shape[3], oh=oh, ow=ow, r=r, s=s, sh=stride[0],
        sw=stride[1], ph=padding[0], pw=padding[1], dh=dilation[0], dw=dilation[1], uph=up[0],
        upw=up[1], ld=ldx,
    )  # fmt: skip
    pixels = n * oh * ow
    tile = choice.tile("convolve", x.dtype, (pixels, k, r * s * x.shape[3]), False)
    given = (x, w, x if b is None else contiguous(b), y, v, pixels, k, ldy, int(b is not None))
    run = kernel("conv.cu", tile.of("convolve", x.dtype))
    launch(run, tile.grid(pixels, k), *given, shared=tile.shared)


def _groups(groups: int, *arrays: Any) -> Any:
    """For each group its share of every array's axis: arrays are (array, axis)."""
    for i in range(groups):
        parts = []
        for a, axis in arrays:
            share = 0 if a is None else a.shape[axis] // groups
            key = (slice(None),) * axis + (slice(i * share, (i + 1) * share),)
            parts.append(None if a is None else a[key])
        yield parts


def conv2d(
    x: Array, w: Array, b: Maybe, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """x (N, C, H, W) * w (K, C/groups, R, S) + b (K,) -> (N, K, OH, OW), channels-last."""
    xs, (r, s) = nhwc(x), w.shape[2:]
    oh, ow = (
        (n + 2 * p - d * (taps - 1) - 1) // step + 1
        for n, p, d, taps, step in zip(x.shape[2:], padding, dilation, (r, s), stride)
    )
    y = empty_nchw(len(x), len(w), oh, ow, x.dtype)
    if 1 < groups == x.shape[1]:
        depthwise.correlate(xs, w[:, 0], b, nhwc(y), stride, padding, dilation)
        return y
    for xg, wg, bg, yg in _groups(groups, (xs, 3), (w, 0), (b, 0), (nhwc(y), 3)):
        taps = wg.transpose(0, 2, 3, 1)
        _correlate(xg, x.shape[1], taps, bg, yg, len(w), stride, padding, dilation)
    return y


def conv2d_input_grad(g: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair,
                      dilation: Pair, groups: int) -> Array:  # fmt: skip
    """The adjoint of conv2d in x: g (N, K, OH, OW), w -> (N, C, H, W), channels-last."""
    n, c, h, wide = x_shape
    dx = empty_nchw(n, c, h, wide, g.dtype)
    around = tuple(
        (taps - 1) * d - p for taps, d, p in zip(w.shape[2:], dilation, padding, strict=True)
    )
    turned = w[:, :, ::-1, ::-1]
    if 1 < groups == c:
        depthwise.correlate(nhwc(g), turned[:, 0], None, nhwc(dx), (1, 1), around, dilation, stride)
        return dx
    for gg, wg, xg in _groups(groups, (nhwc(g), 3), (turned, 0), (nhwc(dx), 3)):
        sizes, taps = (g.shape[1], x_shape[1]), wg.transpose(1, 2, 3, 0)
        _correlate(gg, sizes[0], taps, None, xg, sizes[1], (1, 1), around, dilation, stride)
    return dx


def conv2d_weight_grad(g: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair,
                       dilation: Pair, groups: int) -> Array:  # fmt: skip
    """The adjoint of conv2d in w: g (N, K, OH, OW), x -> (K, C/groups, R, S)."""
    if not (g.size and x.size):
        return zeros(w_shape, g.dtype)
    dw = empty(w_shape, g.dtype)
    if 1 < groups == x.shape[1]:
        taps = (w_shape[2], w_shape[3])
        found = depthwise.weight_grad(nhwc(x), nhwc(g), taps, stride, padding, dilation)
        write(IDENTITY, [found], dw[:, 0])
        return dw
    for gg, xg, wg in _groups(groups, (nhwc(g), 3), (nhwc(x), 3), (dw, 0)):
        _weight_grad(gg, g.shape[1], xg, x.shape[1], wg, stride, padding, dilation)
    return dw


def _weight_grad(g: Array, ldg: int, x: Array, ldx: int, dw: Array, stride: Pair, padding: Pair,
                 dilation: Pair) -> None:  # fmt: skip
    """dw (K, C, R, S) from g (N, OH, OW, K) and x (N, H, W, C), split over the pixels.

    g and x may be some of the channels of larger arrays, whose pixels are ldg and ldx apart.
    """
    k, c, r, s = dw.shape
    (g, ldg), (x, ldx) = _in_chunks(g, ldg), _in_chunks(x, ldx)
    (n, oh, ow, rows), (h, w, channels) = g.shape, x.shape[1:]
    v = _windows(
        n=n, h=h, w=w, c=channels, oh=oh, ow=ow, r=r, s=s, sh=stride[0], sw=stride[1],
        ph=padding[0], pw=padding[1], dh=dilation[0], dw=dilation[1], uph=1, upw=1, ld=ldx,
    )  # fmt: skip
    deep, pixels, name = r * s * channels, n * oh * ow, "convolve_weight_grad"
    tile = choice.tile(name, g.dtype, (rows, deep, pixels), True)
    grid = tile.grid(rows, deep)
    span, parts = choice.shares(grid[0] * grid[1], pixels, g.dtype)
    part = empty((parts, rows, deep), accumulator(g.dtype))
    given = (g, x, part, v, pixels, rows, ldg, span)
    launch(kernel("conv.cu", tile.of(name, g.dtype)), (*grid, parts), *given, shared=tile.shared)
    whole = (sum(part, (0,)) if parts > 1 else part).reshape(rows, r, s, channels)
    write(IDENTITY, [whole[:k, :, :, :c].transpose(0, 3, 1, 2)], dw)
