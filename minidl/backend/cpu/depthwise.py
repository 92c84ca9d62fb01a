"""Depthwise convolution on channels-last arrays, on bands of rows of up to WIDE channels.

A band is copied, with its padding, into scratch memory as planes of BLOCK channels, so that the
inner loops test no bounds and every distance in them is a constant: GROUP taps of a row meet four
pixels in registers. Kernels are made for each (GROUP, STRIDE, DILATION), the last two horizontal.
The input gradient is the same convolution of the gradient, spread out by the stride, with the
weights turned round; the weight gradient keeps one partial sum per fixed range of bands.
"""

import functools
from types import FunctionType
from typing import Any

import numpy as np

# isort: off
from minidl.backend.cpu.jit import (
    Kernel, R, Scratch, at, device, kernel, launch, move, special, zero,
)  # fmt: skip

# isort: on
from minidl.backend.cpu.memory import Array, Maybe, Pair, contiguous, empty, zeros
from minidl.backend.cpu.reduce import add_partials
from minidl.backend.cpu.replay import note

BLOCK = 16  # channels of a plane
WIDE = 128  # channels copied together: their pieces of a pixel are whole pages of memory
TILE = 4  # pixels that the inner loops write out
BAND = 1 << 16  # numbers a band should have at most: half of a core's L2
PARTS = 32  # partial sums of a weight gradient


@device
def _copy(y, x, n):
    """At most BLOCK numbers, in the usual case exactly as many."""
    if n >= BLOCK:
        move(y, x, BLOCK)
    else:
        move(y, x, n)


@device
def _place(p, x, few, c, h, w, rows, cols, top, left, up, over):
    """p (planes, rows, cols, BLOCK): `few` channels of x (h, w, c), spread out by (up, over),
    from its row `top` and, in all rows, `left` zeros on; zeros where nothing is."""
    for u in range(rows):
        y = (u + top) // up
        inside = y * up == u + top and y >= 0 and y < h
        zeros = min(left, cols) if inside and over == 1 else cols
        end = max(0, w + left) * BLOCK
        for k in range(0, few, BLOCK):
            row = at(p, (k * rows + u * BLOCK) * cols)
            zero(row, zeros * BLOCK)
            zero(at(row, end), cols * BLOCK - end)
        for j in range(w if inside else 0):
            v = j * over + left
            if v >= 0 and v < cols:
                of, to = at(x, (y * w + j) * c), at(p, (u * cols + v) * BLOCK)
                for k in range(0, few, BLOCK):
                    _copy(at(to, k * rows * cols), at(of, k), few - k)


def _taps(acc, p, f):
    """acc (TILE, BLOCK) += GROUP taps f of the pixels from p on."""
    b1, b2, b3 = at(acc, BLOCK), at(acc, 2 * BLOCK), at(acc, 3 * BLOCK)
    p1, p2, p3 = at(p, STRIDE * BLOCK), at(p, 2 * STRIDE * BLOCK), at(p, 3 * STRIDE * BLOCK)
    for e in range(BLOCK):
        a0, a1, a2, a3 = acc[e], b1[e], b2[e], b3[e]
        for b in range(GROUP):
            v, q = f[b * BLOCK + e], b * DILATION * BLOCK + e
            a0 += p[q] * v
            a1 += p1[q] * v
            a2 += p2[q] * v
            a3 += p3[q] * v
        acc[e], b1[e], b2[e], b3[e] = a0, a1, a2, a3


def _taps_grad(f, p, g):
    """The adjoint of _taps in f, for cotangents g of acc."""
    g1, g2, g3 = at(g, BLOCK), at(g, 2 * BLOCK), at(g, 3 * BLOCK)
    p1, p2, p3 = at(p, STRIDE * BLOCK), at(p, 2 * STRIDE * BLOCK), at(p, 3 * STRIDE * BLOCK)
    for e in range(BLOCK):
        for b in range(GROUP):
            q = b * DILATION * BLOCK + e
            f[b * BLOCK + e] += p[q] * g[e] + p1[q] * g1[e] + p2[q] * g2[e] + p3[q] * g3[e]


def _forward(lo, hi, slot, x, wt, bias, y, panel, sums, biased, band, bands, cols, wide,
             h, w, c, oh, ow, r, s, sh, ph, pw, dh, up, over):  # fmt: skip
    """y = x spread out by (up, over) * wt (planes, r, s, BLOCK), for bands (n, rows) lo..hi."""
    tall = (band - 1) * sh + (r - 1) * dh + 1
    p = at(panel, slot * tall * cols * WIDE)
    acc = at(sums, slot * band * wide * WIDE)
    for t in range(lo, hi):
        n, i0 = t // bands, t % bands * band
        for c0 in range(0, c, WIDE):
            few = min(WIDE, c - c0)
            top, image = i0 * sh - ph, at(x, n * h * w * c + c0)
            _place(p, image, few, c, h, w, tall, cols, top, pw, up, over)
            for k in range(0, few, BLOCK):
                for i in range(min(band, oh - i0)):
                    out = at(acc, (k * band + i * BLOCK) * wide)
                    for j in range(wide):
                        for e in range(BLOCK):
                            out[j * BLOCK + e] = bias[c0 + k + e] if biased else R(0)
                    for a in range(r):
                        row = at(p, (k * tall + (i * sh + a * dh) * BLOCK) * cols)
                        for b in range(0, s, GROUP):
                            f = at(wt, ((c0 + k) * r + a * BLOCK) * s + b * BLOCK)
                            for j in range(0, ow, TILE):
                                q = j * STRIDE + b * DILATION
                                _taps(at(out, j * BLOCK), at(row, q * BLOCK), f)
            for i in range(min(band, oh - i0)):
                for j in range(ow):
                    to = at(y, ((n * oh + i0 + i) * ow + j) * c + c0)
                    of = at(acc, (i * wide + j) * BLOCK)
                    for k in range(0, few, BLOCK):
                        _copy(at(to, k), at(of, k * band * wide), few - k)


def _weight_grad(lo, hi, slot, x, g, part, panel, given, span, total, band, bands, cols, wide,
                 h, w, c, oh, ow, r, s, sh, ph, pw, dh):  # fmt: skip
    """part[m] (planes, r, s, BLOCK) = sum of x·g over the m-th span of bands (n, rows)."""
    tall = (band - 1) * sh + (r - 1) * dh + 1
    p = at(panel, slot * tall * cols * WIDE)
    d = at(given, slot * band * wide * WIDE)
    size = (c + BLOCK - 1) // BLOCK * BLOCK * r * s
    zero(at(part, lo * size), (hi - lo) * size)
    for u in range(lo * span, min(hi * span, total)):
        n, i0, to = u // bands, u % bands * band, at(part, u // span * size)
        for c0 in range(0, c, WIDE):
            few = min(WIDE, c - c0)
            top, image = i0 * sh - ph, at(x, n * h * w * c + c0)
            _place(p, image, few, c, h, w, tall, cols, top, pw, 1, 1)
            _place(d, at(g, n * oh * ow * c + c0), few, c, oh, ow, band, wide, i0, 0, 1, 1)
            for k in range(0, few, BLOCK):
                for i in range(min(band, oh - i0)):
                    for a in range(r):
                        row = at(p, (k * tall + (i * sh + a * dh) * BLOCK) * cols)
                        for b in range(0, s, GROUP):
                            f = at(to, ((c0 + k) * r + a * BLOCK) * s + b * BLOCK)
                            for j in range(0, ow, TILE):
                                q = (j * STRIDE + b * DILATION) * BLOCK
                                out = at(d, ((k * band + i * BLOCK) * wide + j * BLOCK))
                                _taps_grad(f, at(row, q), out)


@functools.cache
def _special(body: FunctionType, group: int, stride: int, dilation: int) -> Kernel:
    """The kernel for constants GROUP, STRIDE and DILATION."""
    names: dict[str, Any] = {"GROUP": group, "STRIDE": stride, "DILATION": dilation}
    names |= {f.__name__: device(special(f, **names)) for f in (_taps, _taps_grad)}
    pointers = 6 if body is _forward else 5
    types = "R* " * pointers + "int " * (body.__code__.co_argcount - 3 - pointers)
    return kernel(types)(special(body, **names))


def _plan(
    x: Array, y: Array, taps: tuple, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[int, tuple, tuple]:
    """How many bands there are, the scratch of x's and of y's, and the kernels' band … dh.

    For x (N, H, W, C) and y (N, OH, OW, C).
    """
    (n, oh, ow, c), reach = y.shape, (taps[0] - 1) * dilation[0] + 1
    wide = -(-ow // TILE) * TILE  # columns of y, rounded up to whole tiles
    cols = (wide - 1) * stride[1] + (taps[1] - 1) * dilation[1] + 1  # of x that they reach
    line = min(c, WIDE) * (cols * stride[0] + wide)
    fewest = -(-oh // max(TILE, BAND // line - reach))
    band = -(-oh // fewest)  # rows of y in a band
    bands = -(-oh // band)  # in an image
    scratch = Scratch(((band - 1) * stride[0] + reach) * cols * WIDE), Scratch(band * wide * WIDE)
    sizes = (band, bands, cols, wide, *x.shape[1:], oh, ow, *taps)
    return n * bands, scratch, (*sizes, stride[0], *padding, dilation[0])


def _blocks(w: Array) -> Array:
    """w (C, R, S), or (C, 1, 1), as (blocks, R, S, BLOCK)."""
    c, r, s = w.shape
    wide = zeros((-(-c // BLOCK) * BLOCK, r, s), w.dtype)
    note(np.copyto, wide[:c], w)
    return contiguous(wide.reshape(-1, BLOCK, r, s).transpose(0, 2, 3, 1))


def _group(s: int) -> int:
    """The most taps of a row that the inner loops take at once."""
    return max(k for k in range(1, 8) if s % k == 0)


def correlate(x: Array, w: Array, b: Maybe, y: Array, stride: Pair, padding: Pair, dilation: Pair,
              spread: Pair = (1, 1)) -> None:  # fmt: skip
    """y (N, OH, OW, C) = x (N, H, W, C), with spread - 1 zeros between, * w (C, R, S) + b."""
    total, scratch, sizes = _plan(x, y, w.shape[1:], stride, padding, dilation)
    run = _special(_forward, _group(w.shape[2]), stride[1], dilation[1])
    bias = x if b is None else _blocks(b.reshape(-1, 1, 1))
    launch(run, total, 1, x, _blocks(w), bias, y, *scratch, b is not None, *sizes, *spread)


def weight_grad(
    x: Array, g: Array, taps: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """The adjoint of `correlate` in w (C, R, S) for the gradient g (N, OH, OW, C) of y."""
    total, scratch, sizes = _plan(x, g, taps, stride, padding, dilation)
    c, span = x.shape[3], max(1, -(-total // PARTS))
    part = empty((-(-total // span), -(-c // BLOCK), *taps, BLOCK), x.dtype)
    run = _special(_weight_grad, _group(taps[1]), stride[1], dilation[1])
    launch(run, len(part), 1, x, g, part, *scratch, span, total, *sizes)
    return add_partials(part).transpose(0, 3, 1, 2).reshape(-1, *taps)[:c]
