"""Depthwise convolution on the GPU, channels-last, tile by tile (src/depthwise.cu)."""

import numpy as np

from minidl.backend.cuda.memory import contiguous, given_or
from minidl.backend.cuda.plans import PACK, accumulator
from minidl.backend.cuda.reduce import sum
from minidl.backend.cuda.runtime import THREADS, Array, Maybe, empty, kernel, launch

_PACKS = 21  # of taps, outputs and inputs together, that a thread should hold at most
_SPAN = 64  # columns that a thread's loop over a row, unrolled, should have at most
_WIDE = 4  # channels that are read at once, of at most 16 bytes
_TAPS = 9  # that a thread of a weight gradient should hold at most
_BLOCKS = 528  # that a weight gradient should have: four for each multiprocessor of an H200
Pair = tuple[int, int]


def _pack(most: int, *arrays: Array) -> int:
    """How many channels may be read at once of arrays (..., C), at most `most`."""
    wide = min(most, PACK // arrays[0].itemsize)
    while any(a.shape[-1] % wide or a.data.ptr % (wide * a.itemsize) for a in arrays):
        wide //= 2
    return wide


def _cut(taps: int, most: int, stride: int, dilation: int) -> Pair:
    """Columns, at most so many, and taps of a row (a divisor) that a thread takes at once.

    As many taps as possible, then columns, of those whose packs fit into its registers.
    """

    def fits(tile: int, k: int) -> bool:
        met = {j * stride + e * dilation for j in range(tile) for e in range(k)}
        return k == 1 or (k + tile + len(met) <= _PACKS and max(met) < _SPAN)

    cuts = [(k, t) for k in range(1, 8) if taps % k == 0 for t in (most // 2, most) if fits(t, k)]
    group, tile = max(cuts)
    return tile, group


def _shape(most: tuple[int, int, int], wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    """A block's threads along three axes, powers of two: as wanted, then more where there is."""
    made = [1, 1, 1]
    for limits in (wanted, most):
        for i in (0, 2, 1):
            while made[i] < min(limits[i], most[i]) and 2 * np.prod(made) <= THREADS:
                made[i] *= 2
    return made[0], made[1], made[2]


def _sizes(x: Array, y: Array, taps: Pair, *rest: int) -> np.ndarray:
    """struct Depthwise, as an argument; x (N, H, W, C), y (N, OH, OW, K)."""
    c, k = x.shape[3], y.shape[3]
    *window, lanes, across, down = rest
    many = (max(k // c, 1), max(c // k, 1))
    sizes = (*x.shape, *y.shape[1:], *taps, *window, *many, lanes, across, down)
    return np.array(sizes, np.int32).view("V76")


def correlate(x: Array, w: Array, b: Maybe, y: Array, stride: Pair, padding: Pair, dilation: Pair,
              spread: Pair = (1, 1)) -> None:  # fmt: skip
    """y (N, OH, OW, K) = x (N, H, W, C), with spread - 1 zeros between, * w (.., R, S) + b.

    w has as many rows as the more of C and K: K, of K/C outputs a channel, or C, of C/K inputs an
    output. Whichever is more is a multiple of the other.
    """
    if not y.size:
        return
    weights, (bias, biased) = contiguous(w.transpose(1, 2, 0)), given_or(b, x)
    alike = x.shape[3] == y.shape[3]
    pack = _pack(_WIDE if alike else 1, x, y, weights)
    (n, oh, ow, k), (r, s) = y.shape, w.shape[1:]
    tile, group = _cut(s, 8, stride[1], dilation[1])
    packs, tiles, lines = k // pack, -(-ow // tile), n * oh
    block = _shape((packs, tiles, lines), (8, 4, 8))
    v = _sizes(x, y, (r, s), stride[0], *padding, dilation[0], spread[0], *block)
    counts = -(-packs // block[0]), -(-tiles // block[1])
    blocks = counts[0] * counts[1] * -(-lines // block[2])
    constants = (pack, tile, group, stride[1], dilation[1], spread[1])
    given = (x, weights, bias, y, v, *counts, biased)
    run = kernel("depthwise.cu", "correlate", x.dtype, *constants)
    launch(run, blocks, *given, threads=int(np.prod(block)))


def weight_grad(x: Array, g: Array, taps: Pair, stride: Pair, padding: Pair,
                dilation: Pair) -> Array:  # fmt: skip
    """The adjoint of `correlate` in w (K, R, S) for the gradient g (N, OH, OW, K) of y."""
    (n, oh, ow, k), (r, s) = g.shape, taps
    pack = _pack(_WIDE if x.shape[3] == k else 1, x, g)
    tile, group = _cut(s, 4, stride[1], dilation[1])
    deep = r if r * group <= _TAPS else 1
    packs, groups, tiles = k // pack, r // deep * (s // group), n * oh * -(-ow // tile)
    lanes, _, _ = _shape((packs, 1, 1), (16, 1, 1))
    across = min(groups, THREADS // lanes, 8)
    down = min(THREADS // (lanes * across), tiles)
    grid = -(-packs // lanes), -(-groups // across)
    pieces = max(1, min(_BLOCKS // (grid[0] * grid[1]), tiles // (4 * down)))
    piece = -(-tiles // pieces)
    part = empty((-(-tiles // piece), r * s * k), accumulator(g.dtype))
    v = _sizes(x, g, taps, stride[0], *padding, dilation[0], 1, lanes, across, down)
    constants = (pack, tile, deep, group, stride[1], dilation[1])
    run = kernel("depthwise.cu", "weight_grad", x.dtype, *constants)
    threads = lanes * across * down
    launch(run, (grid[0], len(part), grid[1]), g, x, part, v, piece, threads=threads)
    return sum(part, (0,)).reshape(r, s, k).transpose(2, 0, 1)
