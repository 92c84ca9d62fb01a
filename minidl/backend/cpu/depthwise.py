"""Depthwise convolution on channels-last arrays, on bands of rows of up to WIDE channels.

A band is copied, with its padding, into scratch memory, so that the inner loops test no bounds: for
BLOCK channels, GROUP taps of a row meet four pixels in registers, and are added to those of the
result. Pixels lie an odd number of blocks apart there, since powers of two would share few places
of a cache. Kernels are made for each (GROUP, STRIDE, DILATION), the last two horizontal. The input
gradient is the same convolution of the gradient, spread out by the stride, with the weights turned
round; the weight gradient keeps one partial sum per fixed range of bands.
"""

import functools
from types import FunctionType
from typing import Any

# isort: off
from minidl.backend.cpu.jit import (
    Kernel, Scratch, at, device, kernel, launch, move, move_rows, special, zero,
)  # fmt: skip

# isort: on
from minidl.backend.cpu.layout import pad
from minidl.backend.cpu.memory import Array, Maybe, Pair, contiguous, empty, vector
from minidl.backend.cpu.reduce import add_partials

BLOCK = 16  # channels of the inner loops
WIDE = 128  # channels copied together
TILE = 4  # pixels that the inner loops write out
BAND = 1 << 16  # numbers a band should have at most: half of a core's L2
PARTS = 32  # partial sums of a weight gradient


@device
def _place(p, x, few, c, gap, h, w, rows, cols, top, left, up, over):
    """p (rows, cols, gap): `few` channels of x (h, w, c), spread out by (up, over), from its row
    `top` and, in all rows, `left` zeros on; zeros where nothing is."""
    for u in range(rows):
        y, row = (u + top) // up, at(p, u * cols * gap)
        inside = y * up == u + top and y >= 0 and y < h
        start = min(left, cols) if inside and over == 1 else cols
        end = min(cols, max(start, w + left))
        zero(row, start * gap)
        zero(at(row, end * gap), (cols - end) * gap)
        for j in range(w if inside else 0):
            v = j * over + left
            if v >= 0 and v < cols:
                move(at(row, v * gap), at(x, (y * w + j) * c), few)


@device
def _four(p, step):
    """The pointers p, p + step, p + 2 step, p + 3 step."""
    return p, at(p, step), at(p, 2 * step), at(p, 3 * step)


def _taps(y0, y1, y2, y3, p0, p1, p2, p3, gap, f):
    """BLOCK channels of four pixels += GROUP taps f of the pixels from each p on."""
    for e in range(BLOCK):
        a0, a1, a2, a3 = y0[e], y1[e], y2[e], y3[e]
        for b in range(GROUP):
            v, q = f[b * BLOCK + e], b * DILATION * gap + e
            a0 += p0[q] * v
            a1 += p1[q] * v
            a2 += p2[q] * v
            a3 += p3[q] * v
        y0[e], y1[e], y2[e], y3[e] = a0, a1, a2, a3


def _taps_grad(g0, g1, g2, g3, p0, p1, p2, p3, gap, f):
    """The adjoint of _taps in f, for cotangents g of y."""
    for e in range(BLOCK):
        for b in range(GROUP):
            q = b * DILATION * gap + e
            f[b * BLOCK + e] += p0[q] * g0[e] + p1[q] * g1[e] + p2[q] * g2[e] + p3[q] * g3[e]


@device
def _alone(rest, x, c, ow, n):
    """rest (whole tiles, BLOCK) = n channels of the row x, pixels of which are c apart; zeros."""
    zero(rest, (ow + TILE - 1) // TILE * TILE * BLOCK)
    move_rows(rest, BLOCK, x, c, ow, n)


def _row(y, c, row, gap, f, b, ow):
    """TAPS for BLOCK channels of the row y, or its cotangent, in whole tiles, from the tap b."""
    for j in range(0, ow, TILE):
        pixels = _four(at(row, (j * STRIDE + b * DILATION) * gap), STRIDE * gap)
        TAPS(*_four(at(y, j * c), c), *pixels, gap, f)


def _forward(t, slot, x, wt, bias, y, scratch, band, bands, cols, gap,
             h, w, c, oh, ow, r, s, sh, ph, pw, dh, up, over):  # fmt: skip
    """y = x spread out by (up, over) * wt (blocks, r, s, BLOCK), for a band (n, rows)."""
    tall = (band - 1) * sh + (r - 1) * dh + 1
    p = at(scratch, slot * (tall * cols * gap + (ow + TILE) * BLOCK))
    rest = at(p, tall * cols * gap)
    n, i0 = t // bands, t % bands * band
    for c0 in range(0, c, WIDE):
        few, top = min(WIDE, c - c0), i0 * sh - ph
        _place(p, at(x, n * h * w * c + c0), few, c, gap, h, w, tall, cols, top, pw, up, over)
        rows, own = min(band, oh - i0), at(y, (n * oh + i0) * ow * c + c0)
        move_rows(own, c, at(bias, c0), 0, rows * ow, few)  # the rest meets it in the cache
        for k in range(0, few, BLOCK):
            wide = min(BLOCK, few - k)
            # No whole tiles, or pixels that share few places of a cache: a row of its own.
            alone = wide < BLOCK or ow % TILE > 0 or (c % 256 == 0 and c * ow > 1 << 13)
            for i in range(rows):
                out = at(own, i * ow * c + k)
                to, apart = (rest, BLOCK) if alone else (out, c)
                if alone:
                    _alone(rest, out, c, ow, wide)
                for a in range(r):
                    row = at(p, (i * sh + a * dh) * cols * gap + k)
                    for b in range(0, s, GROUP):
                        f = at(wt, ((c0 + k) * r + a * BLOCK) * s + b * BLOCK)
                        ROW(to, apart, row, gap, f, b, ow)
                move_rows(out, c, rest, BLOCK, ow if alone else 0, wide)


def _weight_grad(m, slot, x, g, part, scratch, span, total, band, bands, cols, gap,
                 h, w, c, oh, ow, r, s, sh, ph, pw, dh):  # fmt: skip
    """part[m] (blocks, r, s, BLOCK) = sum of x·g over the m-th span of bands (n, rows)."""
    tall = (band - 1) * sh + (r - 1) * dh + 1
    p = at(scratch, slot * (tall * cols * gap + (ow + TILE) * BLOCK))
    rest = at(p, tall * cols * gap)
    size = (c + BLOCK - 1) // BLOCK * BLOCK * r * s
    to = at(part, m * size)
    zero(to, size)
    for u in range(m * span, min(m * span + span, total)):
        n, i0 = u // bands, u % bands * band
        for c0 in range(0, c, WIDE):
            few, top = min(WIDE, c - c0), i0 * sh - ph
            _place(p, at(x, n * h * w * c + c0), few, c, gap, h, w, tall, cols, top, pw, 1, 1)
            for k in range(0, few, BLOCK):
                for i in range(min(band, oh - i0)):
                    out, apart = at(g, (n * oh + i0 + i) * ow * c + c0 + k), c
                    if few - k < BLOCK or ow % TILE > 0:
                        _alone(rest, out, c, ow, min(BLOCK, few - k))
                        out, apart = rest, BLOCK
                    for a in range(r):
                        row = at(p, (i * sh + a * dh) * cols * gap + k)
                        for b in range(0, s, GROUP):
                            f = at(to, ((c0 + k) * r + a * BLOCK) * s + b * BLOCK)
                            ROW(out, apart, row, gap, f, b, ow)


@functools.cache
def _special(body: FunctionType, taps: int, stride: int, dilation: int) -> Kernel:
    """The kernel for constants GROUP, the most of a row's taps that divide it, STRIDE, DILATION."""
    group = max(k for k in range(1, 8) if taps % k == 0)
    names: dict[str, Any] = {"GROUP": group, "STRIDE": stride, "DILATION": dilation}
    taps_of = device(special(_taps if body is _forward else _taps_grad, **names), apart=True)
    row = device(special(_row, TAPS=taps_of, **names))
    pointers = 5 if body is _forward else 4
    types = "R* " * pointers + "int " * (body.__code__.co_argcount - 2 - pointers)
    return kernel(types)(special(body, ROW=row, **names))


def _plan(x: Array, y: Array, taps: tuple, stride: Pair, padding: Pair,
          dilation: Pair) -> tuple[int, Scratch, tuple]:  # fmt: skip
    """How many bands there are, the scratch, and the kernels' band … dh.

    For x (N, H, W, C) and y (N, OH, OW, C).
    """
    (n, oh, ow, c), reach = y.shape, (taps[0] - 1) * dilation[0] + 1
    wide = -(-ow // TILE) * TILE  # columns of y, rounded up to whole tiles
    cols = max(wide - 1, 0) * stride[1] + (taps[1] - 1) * dilation[1] + 1  # of x that they reach
    gap = (-(-min(c, WIDE) // BLOCK) | 1) * BLOCK
    line = gap * cols * stride[0]
    fewest = -(-oh // max(TILE, BAND // line - reach))
    band = -(-oh // max(fewest, 1))  # rows of y in a band
    bands = -(-oh // max(band, 1))  # in an image
    scratch = Scratch(((band - 1) * stride[0] + reach) * cols * gap + (ow + TILE) * BLOCK)
    sizes = (band, bands, cols, gap, *x.shape[1:], oh, ow, *taps)
    return n * bands, scratch, (*sizes, stride[0], *padding, dilation[0])


def _blocks(w: Array) -> Array:
    """w (C, R, S) as (blocks, R, S, BLOCK)."""
    wide = pad(w, ((0, -len(w) % BLOCK), (0, 0), (0, 0)), 0)
    return contiguous(wide.reshape(-1, BLOCK, *w.shape[1:]).transpose(0, 2, 3, 1))


def correlate(x: Array, w: Array, b: Maybe, y: Array, stride: Pair, padding: Pair, dilation: Pair,
              spread: Pair = (1, 1)) -> None:  # fmt: skip
    """y (N, OH, OW, C) = x (N, H, W, C), with spread - 1 zeros between, * w (C, R, S) + b."""
    total, scratch, sizes = _plan(x, y, w.shape[1:], stride, padding, dilation)
    run = _special(_forward, w.shape[2], stride[1], dilation[1])
    bias = vector(b, 0, len(w), w.dtype)
    launch(run, total, 1, x, _blocks(w), bias, y, scratch, *sizes, *spread)


def weight_grad(x: Array, g: Array, taps: Pair, stride: Pair, padding: Pair,
                dilation: Pair) -> Array:  # fmt: skip
    """The adjoint of `correlate` in w (C, R, S) for the gradient g (N, OH, OW, C) of y."""
    total, scratch, sizes = _plan(x, g, taps, stride, padding, dilation)
    c, span = x.shape[3], max(1, -(-total // PARTS))
    part = empty((-(-total // span), -(-c // BLOCK), *taps, BLOCK), x.dtype)
    run = _special(_weight_grad, taps[1], stride[1], dilation[1])
    launch(run, len(part), 1, x, g, part, scratch, span, total, *sizes)
    return add_partials(part).transpose(0, 3, 1, 2).reshape(-1, *taps)[:c]
