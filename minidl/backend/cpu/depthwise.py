"""Depthwise convolution on channels-last arrays, on bands of rows of up to WIDE channels.

A band is copied, with its padding, into scratch memory, so that the inner loops test no bounds: for
BLOCK channels, GROUP taps of a row meet four pixels in registers, and are added to those of a row
of results, which goes past the cache when it is whole; meanwhile the next band is fetched. Pixels
of the copy lie an odd number of blocks apart, since powers of two would share few places of a
cache. Kernels are made for each (GROUP, STRIDE, DILATION), the last two horizontal.

The input gradient is the same convolution of the gradient, spread out by the stride, with the
weights turned round. The same windows, times the inputs in place of the weights, give the weights'
gradient on the way, as one partial sum per fixed range of bands.
"""

import functools
from typing import Any

# isort: off
from minidl.backend.cpu.jit import (
    Kernel, Scratch, at, device, fetch, kernel, launch, move, move_rows, special, stream, zero,
)  # fmt: skip

# isort: on
from minidl.backend.cpu.layout import pad
from minidl.backend.cpu.memory import Array, Maybe, Pair, contiguous, empty, vector
from minidl.backend.cpu.reduce import add_partials

BLOCK = 16  # channels of the inner loops
WIDE = 128  # channels copied together
TILE = 4  # pixels that the inner loops write out
BAND = 1 << 16  # numbers a band should have at most: half of a core's L2
PARTS = 32  # spans of bands, and partial sums of a weight gradient
NEAR = 1 << 20  # bytes of a result that stays in the cache


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


def _taps(y0, y1, y2, y3, u0, u1, u2, u3, p0, p1, p2, p3, gap, f, d):
    """BLOCK channels of four pixels y += GROUP taps f of the pixels from each p on.

    With GRADS d += its adjoint in f, for the cotangents u of y.
    """
    for e in range(BLOCK):
        a0, a1, a2, a3 = y0[e], y1[e], y2[e], y3[e]
        for b in range(GROUP):
            v, q = f[b * BLOCK + e], b * DILATION * gap + e
            a0 += p0[q] * v
            a1 += p1[q] * v
            a2 += p2[q] * v
            a3 += p3[q] * v
            if GRADS:
                g = p0[q] * u0[e] + p1[q] * u1[e] + p2[q] * u2[e] + p3[q] * u3[e]
                d[b * BLOCK + e] += g
        y0[e], y1[e], y2[e], y3[e] = a0, a1, a2, a3


def _row(y, u, apart, row, gap, f, d, b, ow):
    """TAPS for BLOCK channels of the row y, in whole tiles, from the tap b on."""
    for j in range(0, ow, TILE):
        results, cotangents = _four(at(y, j * BLOCK), BLOCK), _four(at(u, j * apart), apart)
        pixels = _four(at(row, (j * STRIDE + b * DILATION) * gap), STRIDE * gap)
        TAPS(*results, *cotangents, *pixels, gap, f, d)


def _bands(m, slot, x, wt, bias, y, u, part, scratch, near, span, total, band, bands, cols, gap,
           h, w, c, oh, ow, r, s, sh, ph, pw, dh, up, over):  # fmt: skip
    """y = x spread out by (up, over) * wt (blocks, r, s, BLOCK), in span m of bands (n, rows).

    With GRADS also part[m], like wt: the adjoint in wt there, for the cotangent u of y.
    """
    tall, wide = (band - 1) * sh + (r - 1) * dh + 1, (ow + TILE - 1) // TILE * TILE
    p = at(scratch, slot * (tall * cols * gap + 2 * wide * BLOCK))
    own = at(p, tall * cols * gap)
    size = (c + BLOCK - 1) // BLOCK * BLOCK * r * s
    sums = at(part, m * size)
    if GRADS:
        zero(sums, size)
    for t in range(m * span, min(m * span + span, total)):
        n, i0 = t // bands, t % bands * band
        rows, top = min(band, oh - i0), i0 * sh - ph
        soon = at(x, (n * h + (i0 + band) * sh // up) * w * c)
        first = (n * oh + i0) * ow * c
        for c0 in range(0, c, WIDE):
            few = min(WIDE, c - c0)
            _place(p, at(x, n * h * w * c + c0), few, c, gap, h, w, tall, cols, top, pw, up, over)
            for k in range(0, few, BLOCK):
                some = min(BLOCK, few - k)
                for i in range(rows):
                    place, share = first + i * ow * c + c0 + k, (c0 + k) * rows + i * BLOCK
                    seen, apart = at(u, place), c
                    fetch(at(soon, share * w), w * BLOCK)
                    if GRADS:
                        fetch(at(u, first + (band * c + share) * ow), ow * BLOCK)
                        if some < BLOCK or wide > ow:  # no whole tiles: with zeros
                            seen, apart = at(own, wide * BLOCK), BLOCK
                            zero(seen, wide * BLOCK)
                            move_rows(seen, BLOCK, at(u, place), c, ow, some)
                    move_rows(own, BLOCK, at(bias, c0 + k), 0, wide, some)
                    for a in range(r):
                        row = at(p, (i * sh + a * dh) * cols * gap + k)
                        for b in range(0, s, GROUP):
                            tap = ((c0 + k) * r + a * BLOCK) * s + b * BLOCK
                            ROW(own, seen, apart, row, gap, at(wt, tap), at(sums, tap), b, ow)
                    if near:
                        move_rows(at(y, place), c, own, BLOCK, ow, some)
                    else:
                        for j in range(ow):
                            stream(at(y, place + j * c), at(own, j * BLOCK), some)


@functools.cache
def _special(grads: bool, taps: int, stride: int, dilation: int) -> Kernel:
    """The kernel for constants GROUP, the most of a row's taps that divide it, STRIDE, DILATION."""
    group = max(k for k in range(1, 10) if taps % k == 0)
    names: dict[str, Any] = {"GROUP": group, "STRIDE": stride, "DILATION": dilation, "GRADS": grads}
    row = device(special(_row, TAPS=device(special(_taps, **names), apart=True), **names))
    return kernel("R* " * 7 + "int " * 20)(special(_bands, ROW=row, **names))


def _plan(x: Array, y: Array, taps: tuple, stride: Pair, padding: Pair,
          dilation: Pair) -> tuple[int, Scratch, tuple]:  # fmt: skip
    """How many bands there are, the scratch, and the kernels' band … dh.

    For x (N, H, W, C) and y (N, OH, OW, C).
    """
    (n, oh, ow, c), reach = y.shape, (taps[0] - 1) * dilation[0] + 1
    wide = -(-ow // TILE) * TILE  # columns of y, rounded up to whole tiles
    cols = max(wide - 1, 0) * stride[1] + (taps[1] - 1) * dilation[1] + 1  # of x that they reach
    gap = (-(-min(c, WIDE) // BLOCK) | 1) * BLOCK
    fewest = -(-oh // max(TILE, BAND // (gap * cols * stride[0]) - reach))
    band = -(-oh // max(fewest, 1))  # rows of y in a band
    bands = -(-oh // max(band, 1))  # in an image
    scratch = Scratch(((band - 1) * stride[0] + reach) * cols * gap + 2 * wide * BLOCK)
    sizes = (band, bands, cols, gap, *x.shape[1:], oh, ow, *taps)
    return n * bands, scratch, (*sizes, stride[0], *padding, dilation[0])


def _blocks(w: Array) -> Array:
    """w (C, R, S) as (blocks, R, S, BLOCK)."""
    wide = pad(w, ((0, -len(w) % BLOCK), (0, 0), (0, 0)), 0)
    return contiguous(wide.reshape(-1, BLOCK, *w.shape[1:]).transpose(0, 2, 3, 1))


def correlate(x: Array, w: Array, b: Maybe, y: Array, stride: Pair, padding: Pair, dilation: Pair,
              spread: Pair = (1, 1), u: Maybe = None) -> Maybe:  # fmt: skip
    """y (N, OH, OW, C) = x (N, H, W, C), with spread - 1 zeros between, * w (C, R, S) + b.

    For a cotangent u of y it returns that of w.
    """
    total, scratch, sizes = _plan(x, y, w.shape[1:], stride, padding, dilation)
    run = _special(u is not None, w.shape[2], stride[1], dilation[1])
    span, wt = max(1, -(-total // PARTS)), _blocks(w)
    spans = -(-total // span)
    part = y if u is None else empty((spans, *wt.shape), x.dtype)
    given = (x, wt, vector(b, 0, len(w), w.dtype), y, y if u is None else u, part, scratch)
    launch(run, spans, 1, *given, y.nbytes <= NEAR, span, total, *sizes, *spread)
    if u is None:
        return None
    return add_partials(part).transpose(0, 3, 1, 2).reshape(-1, *w.shape[1:])[: len(w)]
