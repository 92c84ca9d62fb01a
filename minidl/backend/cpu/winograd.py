"""Winograd's convolution F(4x4, 3x3) for stride 1 on channels-last arrays, all three passes.

y = A^T [sum_c (G w G^T) * (B^T x B)] A for every 4x4 tile of outputs (Lavin and Gray 2016): 36
products stand for 144. The six points are 0, 3/4, -3/4, 3/2, -3/2 and infinity: all factors of A
and B are exact in float32, and the error is half that of the usual 0, 1, -1, 2, -2.

Channels are taken in blocks of BLOCK, a line of memory; strides are odd numbers of lines, since
powers of two would share few places of a cache. Each thread transforms some tiles, multiplies them
in 36 small products and transforms them back in its own cache; where tiles are few, these are three
stages that all threads share, and the weights are read once. The input gradient is the same
convolution with turned weights. The weight gradient multiplies tiles of x by tiles of g: each
thread for itself where its sums stay in its cache, else in stages that all threads share. Images
have any size: what lies beyond their edges reads as zeros and is not written.
"""

from collections import namedtuple

import numpy as np

from minidl.backend.cpu.jit import Kernel, R, Scratch, at, device, kernel, launch, panel, special
from minidl.backend.cpu.linalg import multiply, panels
from minidl.backend.cpu.memory import Array, Maybe, Pair, contiguous, empty
from minidl.backend.cpu.panel import BLOCK, PAIR

_P, _Q = 0.75, 1.5  # the finite points beside 0, with either sign
_P2, _Q2 = _P * _P, _Q * _Q
_P3, _Q3 = _P2 * _P, _Q2 * _Q
_SUM, _PRODUCT = _P2 + _Q2, _P2 * _Q2
_TILES = 24  # tiles that a thread transforms and multiplies together
_FEW = 512  # tiles up to which all are transformed first, so that weights are read just once, …
_LARGE = 1 << 20  # … if these are so many numbers at the points; else only where threads lack tiles
_SHARE = 8  # tiles, or filters, a chunk of a stage
_MOST = 48  # tiles, at least, whose products the weight gradient adds at a time …
_BUFFER = 1 << 17  # … and numbers at the points that they have at most otherwise
_SUMS = 1 << 18  # numbers up to which a thread's sums of the weight gradient are its own
_DEEP = 64  # terms of a sum that are added together
_HALF = 40 * BLOCK  # numbers of a half-done tile, and of what lies beyond an edge
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
def _block(d, o, n):
    """POINTS for a block of channels, in the usual case a whole one."""
    if n == BLOCK:
        POINTS(*d, *o, BLOCK)
    else:
        POINTS(*d, *o, n)


def _tiles(x, v, half, zero, lo, hi, h, w, c, th, tw, top, left, tile, block, point):
    """Tiles lo..hi of an image, SIZE pixels a side, at the points.

    v begins with the tile lo; its tiles, blocks of channels and points are so far apart. What fills
    up the last block is not defined.
    """
    for t in range(lo, hi):
        n = t // (th * tw)
        y, left_edge = (t // tw - n * th) * 4 - top, (t % tw) * 4 - left
        for c0 in range(0, c, BLOCK):
            for q in range(SIZE):
                xx = left_edge + q
                ok = xx >= 0 and xx < w
                base, step = (n * h * w + xx) * c + c0, w * c
                d0 = _row(x, zero, ok, y, h, base, step)
                d1 = _row(x, zero, ok, y + 1, h, base, step)
                d2 = _row(x, zero, ok, y + 2, h, base, step)
                d3 = _row(x, zero, ok, y + 3, h, base, step)
                d4 = _row(x, zero, ok, y + 4, h, base, step)
                d5 = _row(x, zero, ok, y + 5, h, base, step)
                o = _six(at(half, q * BLOCK), 6 * BLOCK)
                ANY((d0, d1, d2, d3, d4, d5), o, min(BLOCK, c - c0))
            to = at(v, (t - lo) * tile + c0 // BLOCK * block)
            for a in range(6):
                d = _six(at(half, a * 6 * BLOCK), BLOCK)
                POINTS(*d, *_six(at(to, a * 6 * point), point), BLOCK)


def _kind(name, points, size):
    """_tiles for one kind of tile."""
    block = device(special(_block, f"{name}_block", POINTS=points))
    return device(special(_tiles, name, POINTS=points, ANY=block, SIZE=size))


_input_tiles = _kind("_input_tiles", _input_points, 6)
_output_tiles = _kind("_output_tiles", _output_points, 4)
_any_outputs = device(special(_block, "_any_outputs", POINTS=_outputs))


@device
def _to_outputs(m, y, half, bias, zero, lo, hi, oh, ow, k, th, tw, tile, point):
    """Tiles lo..hi of y from m, which begins with the tile lo, so far apart as the points."""
    beyond = at(half, 36 * BLOCK)  # what lies beyond y's edges is written here
    for t in range(lo, hi):
        n = t // (th * tw)
        i, j = t // tw - n * th, t % tw
        for k0 in range(0, k, BLOCK):
            few = min(BLOCK, k - k0)
            for q in range(6):
                of = _six(at(m, q * point + (t - lo) * tile + k0), 6 * point)
                _outputs(*of, zero, *_six(at(half, q * BLOCK), 6 * BLOCK)[:4], BLOCK)
            for a in range(min(4, oh - i * 4)):
                of = _six(at(half, a * 6 * BLOCK), BLOCK)
                row, left = ((n * oh + i * 4 + a) * ow + j * 4) * k + k0, ow - j * 4
                y0 = at(y, row)
                y1 = at(y, row + k) if left > 1 else beyond
                y2 = at(y, row + 2 * k) if left > 2 else at(beyond, BLOCK)
                y3 = at(y, row + 3 * k) if left > 3 else at(beyond, 2 * BLOCK)
                _any_outputs((*of, at(bias, k0)), (y0, y1, y2, y3), few)


@kernel("R* R* R* int int")
def _weights_to_points(b, g, w, u, c, far):
    """Block b of u (blocks, 36, far): g (36, 9) times w (blocks, 9, c, BLOCK)."""
    panel(36, c, 9, g, 9, 1, at(w, b * 9 * c * BLOCK), BLOCK, c * BLOCK, at(u, b * 36 * far),
          far, False)  # fmt: skip


@kernel("R* R* R* R* int int int int")
def _weights_from_points(i, slot, g, m, w, taps, parts, k, c, to):
    """w (k, c, 9) = g (36, 9) times the sum of m (parts, k, 36, to), for filter i."""
    t = at(taps, slot * 9 * BLOCK)
    for c0 in range(0, c, BLOCK):
        for j in range(parts):
            panel(9, 1, 36, g, 1, 9, at(m, (j * k + i) * 36 * to + c0), 0, to, t, BLOCK, j > 0)
        for j in range(min(BLOCK, c - c0)):
            for e in range(9):
                w[(i * c + c0 + j) * 9 + e] = t[e * BLOCK + j]


@kernel("R* R* R* R* R* R* int int int int int int " + _SIZES)
def _convolve(lo, hi, slot, x, u, bias, zero, y, scratch, size, most, blocks, far, of, to,
              h, w, c, oh, ow, k, th, tw, ph, pw):  # fmt: skip
    """y = x * u + bias for tiles lo..hi; u is (blocks, 36, c, BLOCK)."""
    half = at(scratch, slot * size)
    v = at(half, _HALF)
    m = at(v, 36 * most * of)
    _input_tiles(x, v, half, zero, lo, hi, h, w, c, th, tw, ph, pw, 36 * of, BLOCK, of)
    for e in range(36):
        multiply(hi - lo, blocks, c, _DEEP, at(v, e * of), 36 * of, at(u, e * far), 36 * far,
                 at(m, e * to), 36 * to, False)  # fmt: skip
    _to_outputs(m, y, half, bias, zero, lo, hi, oh, ow, k, th, tw, 36 * to, to)


def _stage_points(i, slot, x, v, zero, scratch, first, tile, block, point, h, w, c, th, tw, ph, pw):
    """The first stage: one of the TILES of x from `first` on at the points, so far apart in v."""
    half, t = at(scratch, slot * _HALF), first + i
    TILES(x, at(v, i * tile), half, zero, t, t + 1, h, w, c, th, tw, ph, pw, tile, block, point)


_points = kernel("R* R* R* R*" + " int" * 11)
_stage_inputs = _points(special(_stage_points, "_stage_inputs", TILES=_input_tiles))
_stage_gradients = _points(special(_stage_points, "_stage_gradients", TILES=_output_tiles))


@kernel("R* R* R*" + " int" * 6)
def _stage_products(i, v, u, m, tiles, c, blocks, far, of, to):
    """m (36, tiles, to) = v (36, tiles, of) u, for the i-th product (point, pair of blocks)."""
    pairs = (blocks + PAIR - 1) // PAIR
    e, b = i // pairs, i % pairs * PAIR
    out = at(m, e * tiles * to + b * BLOCK)
    multiply(tiles, min(PAIR, blocks - b), c, 4 * _DEEP, at(v, e * tiles * of), of,
             at(u, (b * 36 + e) * far), 36 * far, out, to, False)  # fmt: skip


@kernel("R* R* R* R* R*" + " int" * 7)
def _stage_outputs(i, slot, m, y, bias, zero, scratch, oh, ow, k, th, tw, tile, point):
    """The last stage: a tile of y from m, so far apart as the points."""
    half = at(scratch, slot * _HALF)
    _to_outputs(at(m, i * tile), y, half, bias, zero, i, i + 1, oh, ow, k, th, tw, tile, point)


@device
def _sums(g, x, m, n, k, blocks, most, to, add):
    """m (k, blocks of x) (+)= products of n tiles of g and x (blocks, most, BLOCK)."""
    for p in range(0, n, 2 * _DEEP):
        for f in range(0, k, BLOCK):
            panel(min(BLOCK, k - f), blocks, min(2 * _DEEP, n - p), at(g, f * most + p * BLOCK), 1,
                  BLOCK, at(x, p * BLOCK), most * BLOCK, BLOCK, at(m, f * 36 * to), 36 * to,
                  add or p > 0)  # fmt: skip


@kernel("R* R* R*" + " int" * 8)
def _stage_sums(i, g, x, m, k, blocks, count, most, of_g, of_x, to, add):
    """The second stage for m (k, 36, to), for the i-th product (point, pair of x's blocks)."""
    pairs = (blocks + PAIR - 1) // PAIR
    e, b = i // pairs, i % pairs * PAIR
    _sums(at(g, e * of_g), at(x, e * of_x + b * most * BLOCK), at(m, e * to + b * BLOCK),
          count, k, min(PAIR, blocks - b), most, to, add != 0)  # fmt: skip


@kernel("R* R* R* R* R*" + " int" * 8 + " " + _SIZES)
def _tile_sums(i, slot, g, x, m, zero, scratch, size, span, total, most, blocks, of_g, of_x,
               to, h, w, c, oh, ow, k, th, tw, ph, pw):  # fmt: skip
    """m[i] (k, 36, to) = the products of tiles of g and x over the i-th span of tiles."""
    half = at(scratch, slot * size)
    xs = at(half, _HALF)
    gs = at(xs, 36 * of_x)
    for t in range(i * span, min(i * span + span, total), most):
        end, apart = min(t + most, i * span + span, total), most * BLOCK
        _input_tiles(x, xs, half, zero, t, end, h, w, c, th, tw, ph, pw, BLOCK, apart, of_x)
        _output_tiles(g, gs, half, zero, t, end, oh, ow, k, th, tw, 0, 0, BLOCK, apart, of_g)
        for e in range(36):
            _sums(at(gs, e * of_g), at(xs, e * of_x), at(m, (i * k * 36 + e) * to), end - t,
                  k, blocks, most, to, t > i * span)  # fmt: skip


# ---- launchers -----------------------------------------------------------------------------------


def correlate(x: Array, w: Array, bias: Maybe, y: Array, padding: Pair,
              turned: bool = False) -> None:  # fmt: skip
    """y (N, OH, OW, K) = x (N, H, W, C) * w (K, C, 3, 3) + bias (K,); padding up to 2.

    turned: w (C, K, 3, 3) is turned round, as for the input gradient, whose padding is 2 - padding.
    """
    v, tiles = _sizes(x, y, padding)
    blocks = -(-v.k // BLOCK)
    of, to, far = _odd(v.c), _odd(v.k), (v.c + 1) * BLOCK
    u = empty((blocks, 36, far), x.dtype)
    g = np.ascontiguousarray(_G[:, ::-1]) if turned else _G
    launch(_weights_to_points, blocks, 1, g, panels(w, turned), u, v.c, far)
    zero = np.zeros(max(v.c, to), x.dtype)
    shift = zero if bias is None else contiguous(bias)
    if tiles > (_FEW if u.size > _LARGE else 4 * _TILES):
        size = _HALF + 36 * _TILES * (of + to)
        args = (x, u, shift, zero, y, Scratch(size), size, _TILES, blocks, far, of, to)
        launch(_convolve, tiles, _TILES, *args, *v)
        return
    xs, m = empty((36, tiles, of), x.dtype), empty((36, tiles, to), x.dtype)
    _at_points(_stage_inputs, x, xs, zero, 0, tiles, (of, BLOCK, tiles * of), v)
    launch(_stage_products, 36 * -(-blocks // PAIR), 1, xs, u, m, tiles, v.c, blocks, far, of, to)
    sizes = (v.oh, v.ow, v.k, v.th, v.tw, to, tiles * to)
    launch(_stage_outputs, tiles, _SHARE, m, y, shift, zero, Scratch(_HALF), *sizes)


def _odd(n: int) -> int:
    """Room for n numbers: an odd number of blocks, so that strides of it use all of a cache."""
    return (-(-n // BLOCK) | 1) * BLOCK


def _sizes(x: Array, y: Array, padding: Pair) -> tuple[Sizes, int]:
    """Sizes of y (N, OH, OW, K) = x (N, H, W, C) * w, and tiles."""
    (n, h, w, c), (_, oh, ow, k) = x.shape, y.shape
    th, tw = -(-oh // 4), -(-ow // 4)
    return Sizes(h, w, c, oh, ow, k, th, tw, *padding), n * th * tw


def _at_points(stage: Kernel, x: Array, to: Array, zero: Array, first: int, count: int,
               strides: tuple, v: Sizes) -> None:  # fmt: skip
    """Tiles of x (an input, or a gradient of outputs) from `first` on, put at the points."""
    sizes = (*v[:3], *v[6:]) if stage is _stage_inputs else (v.oh, v.ow, v.k, v.th, v.tw, 0, 0)
    launch(stage, count, _SHARE, x, to, zero, Scratch(_HALF), first, *strides, *sizes)


def weight_grad(g: Array, x: Array, padding: Pair) -> Array:
    """The adjoint of `correlate` in w (K, C, 3, 3), at g (N, OH, OW, K)."""
    v, tiles = _sizes(x, g, padding)
    blocks, high = (-(-n // BLOCK) for n in (v.c, v.k))
    to = _odd(v.c)
    zero = np.zeros(max(v.c, v.k), x.dtype)
    size = 36 * v.k * to
    if size <= _SUMS:  # every part of the tiles has its own sums
        span = -(-tiles // max(4, min(16, 1 << (4 * _SUMS // size).bit_length() - 1)))
        most = min(span, max(_MOST, _BUFFER // (36 * (v.c + v.k))))
    else:
        span, most = tiles, min(tiles, 4 * v.k * v.c // (v.k + v.c))
    parts = -(-tiles // span)
    m = empty((parts, v.k, 36, to), x.dtype)
    of_x, of_g = ((n * most + 1) * BLOCK for n in (blocks, high))
    if size <= _SUMS:
        room = _HALF + 36 * (of_x + of_g)
        sizes = (room, span, tiles, most, blocks, of_g, of_x, to)
        launch(_tile_sums, parts, 1, g, x, m, zero, Scratch(room), *sizes, *v)
    else:
        xs, gs = empty((36, of_x), x.dtype), empty((36, of_g), x.dtype)
        for t in range(0, tiles, most):
            n = min(most, tiles - t)
            _at_points(_stage_inputs, x, xs, zero, t, n, (BLOCK, most * BLOCK, of_x), v)
            _at_points(_stage_gradients, g, gs, zero, t, n, (BLOCK, most * BLOCK, of_g), v)
            sizes = (v.k, blocks, n, most, of_g, of_x, to, t > 0)
            launch(_stage_sums, 36 * -(-blocks // PAIR), 1, gs, xs, m, *sizes)
    w = empty((v.k, v.c, 3, 3), x.dtype)
    launch(_weights_from_points, v.k, _SHARE, _G, m, w, Scratch(9 * BLOCK), parts, v.k, v.c, to)
    return w
