"""Winograd's convolution F(4x4, 3x3) for stride 1 on channels-last arrays, all three passes.

y = A^T [sum_c (G w G^T) * (B^T x B)] A for every 4x4 tile of outputs (Lavin and Gray 2016): 36
products stand for 144. The six points are 0, 3/4, -3/4, 3/2, -3/2 and infinity: all factors of A
and B are exact in float32, and the error is half that of the usual 0, 1, -1, 2, -2.

Where there are many tiles, each thread transforms a block of them, multiplies it by 36 small GEMMs
and transforms it back in its own cache. Where there are few (and so, in a usual network, many
channels), the three stages follow each other, and the 36 products are shared out instead. The input
gradient is the same convolution with turned weights; the weight gradient multiplies tiles of x by
tiles of g, some hundred at a time, so that they stay in cache. Images have any size: what lies
beyond their edges reads as zeros and is not written.
"""

from collections import namedtuple

import numpy as np

from minidl.backend.cpu.jit import R, Scratch, at, device, gemm, kernel, launch, special
from minidl.backend.cpu.memory import Array, Maybe, contiguous, empty

_P, _Q = 0.75, 1.5  # the finite points beside 0, with either sign
_P2, _Q2 = _P * _P, _Q * _Q
_P3, _Q3 = _P2 * _P, _Q2 * _Q
_SUM, _PRODUCT = _P2 + _Q2, _P2 * _Q2
_BLOCK = 64  # tiles that a thread transforms and multiplies together
_FEW = 512  # tiles up to which the stages follow each other
_SHARE = 8  # tiles, or filters, a chunk of a stage
_SPAN = 1 << 19  # numbers of tiles whose products the weight gradient adds at a time: 2 MiB …
Pair = tuple[int, int]
# Of x (N, h, w, c), y (N, oh, ow, k), tiles an image (th, tw), padding; the kernels' order.
Sizes = namedtuple("Sizes", "h w c oh ow k th tw ph pw")
_SIZES = " ".join(["int"] * len(Sizes._fields))


def _expansion() -> Array:
    """G for both axes, (36, 9): what the 3x3 taps are at the 36 pairs of points."""
    points = (0.0, _P, -_P, _Q, -_Q)
    rows = [[p**j / np.prod([p - q for q in points if q != p]) for j in range(3)] for p in points]
    g = np.array([*rows, [0, 0, 1]])
    return np.kron(g, g).astype(np.float32)


_G = _expansion()


@device
def _six(p, step):
    """The pointers p, p + step, … p + 5 step."""
    return p, at(p, step), at(p, 2 * step), at(p, 3 * step), at(p, 4 * step), at(p, 5 * step)


@device(apart=True)
def _input_points(d0, d1, d2, d3, d4, d5, o0, o1, o2, o3, o4, o5, n):
    """B^T along one axis: six rows of n inputs at the six points."""
    for e in range(n):
        s = d4[e] - R(_Q2) * d2[e]
        t = R(_P) * (d3[e] - R(_Q2) * d1[e])
        u = d4[e] - R(_P2) * d2[e]
        v = R(_Q) * (d3[e] - R(_P2) * d1[e])
        o0[e] = R(_PRODUCT) * d0[e] - R(_SUM) * d2[e] + d4[e]
        o1[e] = s + t
        o2[e] = s - t
        o3[e] = u + v
        o4[e] = u - v
        o5[e] = R(_PRODUCT) * d1[e] - R(_SUM) * d3[e] + d5[e]


@device(apart=True)
def _output_points(d0, d1, d2, d3, d4, d5, o0, o1, o2, o3, o4, o5, n):
    """A along one axis: four rows of n outputs (d4 and d5 are not read) at the six points."""
    for e in range(n):
        s = d0[e] + R(_P2) * d2[e]
        t = R(_P) * d1[e] + R(_P3) * d3[e]
        u = d0[e] + R(_Q2) * d2[e]
        v = R(_Q) * d1[e] + R(_Q3) * d3[e]
        o0[e] = d0[e]
        o1[e] = s + t
        o2[e] = s - t
        o3[e] = u + v
        o4[e] = u - v
        o5[e] = d3[e]


@device(apart=True)
def _outputs(m0, m1, m2, m3, m4, m5, bias, y0, y1, y2, y3, n):
    """A^T along one axis, plus a bias: four rows of n outputs from their six points."""
    for e in range(n):
        s = m1[e] + m2[e]
        t = m1[e] - m2[e]
        u = m3[e] + m4[e]
        v = m3[e] - m4[e]
        y0[e] = m0[e] + s + u + bias[e]
        y1[e] = R(_P) * t + R(_Q) * v + bias[e]
        y2[e] = R(_P2) * s + R(_Q2) * u + bias[e]
        y3[e] = R(_P3) * t + R(_Q3) * v + m5[e] + bias[e]


@device
def _row(x, zero, inside, y, h, base, step):
    """Row y of a column of pixels, or zeros where it lies outside."""
    return at(x, base + y * step) if inside and y >= 0 and y < h else zero


# POINTS, SIZE and TILES stand for what `special` gives each kind of tile.
def _tiles(x, v, half, zero, lo, hi, first, count, h, w, c, th, tw, top, left):
    """Tiles lo..hi of an image, SIZE pixels a side, at the points.

    v (36, count, c) has room for the tiles from `first` on.
    """
    for t in range(lo, hi):
        n = t // (th * tw)
        i = t // tw - n * th
        y, left_edge = i * 4 - top, (t % tw) * 4 - left
        for q in range(SIZE):
            xx = left_edge + q
            ok = xx >= 0 and xx < w
            base, step = (n * h * w + xx) * c, w * c
            d0 = _row(x, zero, ok, y, h, base, step)
            d1 = _row(x, zero, ok, y + 1, h, base, step)
            d2 = _row(x, zero, ok, y + 2, h, base, step)
            d3 = _row(x, zero, ok, y + 3, h, base, step)
            d4 = _row(x, zero, ok, y + 4, h, base, step)
            d5 = _row(x, zero, ok, y + 5, h, base, step)
            o0, o1, o2, o3, o4, o5 = _six(at(half, q * c), 6 * c)
            POINTS(d0, d1, d2, d3, d4, d5, o0, o1, o2, o3, o4, o5, c)
        for a in range(6):
            d0, d1, d2, d3, d4, d5 = _six(at(half, a * 6 * c), c)
            o0, o1, o2, o3, o4, o5 = _six(at(v, (a * 6 * count + t - first) * c), count * c)
            POINTS(d0, d1, d2, d3, d4, d5, o0, o1, o2, o3, o4, o5, c)


_input_tiles = device(special(_tiles, "_input_tiles", POINTS=_input_points, SIZE=6))
_output_tiles = device(special(_tiles, "_output_tiles", POINTS=_output_points, SIZE=4))


@device
def _to_outputs(m, y, half, bias, zero, lo, hi, first, count, oh, ow, k, th, tw):
    """Tiles lo..hi of y from m (36, count, k), which begins with the tile `first`."""
    beyond = at(half, 36 * k)  # what lies beyond y's edges is written here
    for t in range(lo, hi):
        for q in range(6):
            m0, m1, m2, m3, m4, m5 = _six(at(m, (q * count + t - first) * k), 6 * count * k)
            y0, y1, y2, y3, _, _ = _six(at(half, q * k), 6 * k)
            _outputs(m0, m1, m2, m3, m4, m5, zero, y0, y1, y2, y3, k)
        n = t // (th * tw)
        i, j = t // tw - n * th, t % tw
        for a in range(min(4, oh - i * 4)):
            m0, m1, m2, m3, m4, m5 = _six(at(half, a * 6 * k), k)
            row, left = ((n * oh + i * 4 + a) * ow + j * 4) * k, ow - j * 4
            y0 = at(y, row)
            y1 = at(y, row + k) if left > 1 else beyond
            y2 = at(y, row + 2 * k) if left > 2 else at(beyond, k)
            y3 = at(y, row + 3 * k) if left > 3 else at(beyond, 2 * k)
            _outputs(m0, m1, m2, m3, m4, m5, bias, y0, y1, y2, y3, k)


@kernel("R* R* R* int int")
def _weights_to_points(lo, hi, slot, g, w, u, k, c):
    """u (36, k, c) = g (36, 9) w (k, c, 9), for filters lo..hi."""
    for i in range(lo, hi):
        gemm(0, 1, 36, c, 9, R(1), g, 9, at(w, i * c * 9), 9, R(0), at(u, i * c), k * c)


@kernel("R* R* R* int int")
def _weights_from_points(lo, hi, slot, g, m, w, k, c):
    """w (k, c, 9) = g (36, 9) m (36, k, c), for filters lo..hi."""
    for i in range(lo, hi):
        gemm(1, 0, c, 9, 36, R(1), at(m, i * c), k * c, g, 9, R(0), at(w, i * c * 9), 9)


@kernel("R* R* R* R* R* R* int int " + _SIZES)
def _convolve(lo, hi, slot, x, u, bias, zero, y, scratch, size, turned,
              h, w, c, oh, ow, k, th, tw, ph, pw):  # fmt: skip
    """y = x * u + bias for tiles lo..hi; u is (36, k, c), or (36, c, k) where it is turned."""
    n = hi - lo
    half = at(scratch, slot * size)
    v = at(half, 40 * max(c, k))
    m = at(v, 36 * _BLOCK * c)
    _input_tiles(x, v, half, zero, lo, hi, lo, n, h, w, c, th, tw, ph, pw)
    for e in range(36):
        gemm(0, 0 if turned else 1, n, k, c, R(1), at(v, e * n * c), c, at(u, e * k * c),
             k if turned else c, R(0), at(m, e * n * k), k)  # fmt: skip
    _to_outputs(m, y, half, bias, zero, lo, hi, lo, n, oh, ow, k, th, tw)


def _stage_points(lo, hi, slot, x, v, zero, scratch, first, count, h, w, c, th, tw, ph, pw, size):
    """The first stage: v (36, count, c) = the TILES of x from `first` on, at the points."""
    half = at(scratch, slot * size)
    TILES(x, v, half, zero, lo + first, hi + first, first, count, h, w, c, th, tw, ph, pw)


_points = kernel("R* R* R* R*" + " int" * 10)
_stage_inputs = _points(special(_stage_points, "_stage_inputs", TILES=_input_tiles))
_stage_gradients = _points(special(_stage_points, "_stage_gradients", TILES=_output_tiles))


@kernel("R* R* R* int int int int int R")
def _stage_products(lo, hi, slot, a, b, y, ta, tb, m, n, k, beta):
    """The second stage: y[e] (m, n) = op(a[e]) op(b[e]) + beta y[e], a sum over k, at points e."""
    for e in range(lo, hi):
        gemm(ta, tb, m, n, k, R(1), at(a, e * m * k), m if ta else k, at(b, e * k * n),
             k if tb else n, beta, at(y, e * m * n), n)  # fmt: skip


@kernel("R* R* R* R* R* int int int int int int int")
def _stage_outputs(lo, hi, slot, m, y, bias, zero, scratch, count, oh, ow, k, th, tw, size):
    """The third stage: y (N, oh, ow, k) from m (36, count, k)."""
    _to_outputs(m, y, at(scratch, slot * size), bias, zero, lo, hi, 0, count, oh, ow, k, th, tw)


# ---- launchers -----------------------------------------------------------------------------------


def correlate(
    x: Array, w: Array, bias: Maybe, y: Array, padding: Pair, turned: bool = False
) -> None:
    """y (N, OH, OW, K) = x (N, H, W, C) * w (K, C, 3, 3) + bias (K,); padding up to 2.

    turned: w (C, K, 3, 3) is turned round, as for the input gradient, whose padding is 2 - padding.
    """
    v, tiles, half = _sizes(x, y, padding)
    u = empty((36, *w.shape[:2]), x.dtype)
    g = np.ascontiguousarray(_G[:, ::-1]) if turned else _G
    launch(_weights_to_points, len(w), _SHARE, g, contiguous(w), u, *w.shape[:2])
    zero = np.zeros(max(v.c, v.k), x.dtype)
    shift = zero if bias is None else contiguous(bias)
    if tiles > _FEW:
        size = half + 36 * _BLOCK * (v.c + v.k)
        launch(_convolve, tiles, _BLOCK, x, u, shift, zero, y, Scratch(size), size, turned, *v)
        return
    points = _at_points(x, v, zero, half, 0, tiles, False)
    m = empty((36, tiles, v.k), x.dtype)
    launch(_stage_products, 36, 1, points, u, m, False, not turned, tiles, v.k, v.c, 0.0)
    args = (tiles, v.oh, v.ow, v.k, v.th, v.tw, half)
    launch(_stage_outputs, tiles, _SHARE, m, y, shift, zero, Scratch(half), *args)


def _sizes(x: Array, y: Array, padding: Pair) -> tuple[Sizes, int, int]:
    """Sizes of y (N, OH, OW, K) = x (N, H, W, C) * w, tiles, numbers of a half-done tile."""
    (n, h, w, c), (_, oh, ow, k) = x.shape, y.shape
    th, tw = -(-oh // 4), -(-ow // 4)
    return Sizes(h, w, c, oh, ow, k, th, tw, *padding), n * th * tw, 40 * max(c, k)


def _at_points(
    x: Array, v: Sizes, zero: Array, half: int, first: int, count: int, gradient: bool
) -> Array:
    """(36, count, C): tiles of x (an input, or a gradient of outputs) from `first` on."""
    sizes = (v.oh, v.ow, v.k, v.th, v.tw, 0, 0) if gradient else (*v[:3], *v[6:])
    made = empty((36, count, x.shape[3]), x.dtype)
    stage = _stage_gradients if gradient else _stage_inputs
    launch(stage, count, _SHARE, x, made, zero, Scratch(half), first, count, *sizes, half)
    return made


def weight_grad(g: Array, x: Array, padding: Pair) -> Array:
    """The adjoint of `correlate` in w (K, C, 3, 3), at g (N, OH, OW, K)."""
    v, tiles, half = _sizes(x, g, padding)
    m = empty((36, v.k, v.c), x.dtype)
    zero = np.zeros(max(v.c, v.k), x.dtype)
    # … or more, so that m is not read and written too often.
    span = max(_SPAN // (36 * (v.c + v.k)), 4 * v.k * v.c // (v.k + v.c))
    for first in range(0, tiles, span):
        n = min(span, tiles - first)
        xs, gs = (_at_points(a, v, zero, half, first, n, a is g) for a in (x, g))
        launch(_stage_products, 36, 1, gs, xs, m, True, False, v.k, v.c, n, float(first > 0))
    w = empty((v.k, v.c, 3, 3), x.dtype)
    launch(_weights_from_points, v.k, _SHARE, _G, m, w, v.k, v.c)
    return w
