"""Convolution on channels-last arrays: panel im2col + GEMM, 1x1 as a GEMM, depthwise directly.

A panel of output positions (64-256 rows of R·S·C numbers) is gathered into a scratch buffer that
stays in L2 and multiplied there by the weights. Weights are (K, R, S, C/groups) in memory. The
input gradient multiplies first and scatters the panel into its image, so chunks are whole images;
the weight gradient keeps one partial sum per fixed range of positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidl.backend.cpu import memory
from minidl.backend.cpu.jit import R, Scratch, at, device, gemm, kernel, launch
from minidl.backend.cpu.reduce import add_partials


class Geometry(NamedTuple):
    """Sizes of a 2-d convolution; the order is that of the kernels' arguments."""

    h: int
    w: int
    c: int
    oh: int
    ow: int
    k: int
    r: int
    s: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    groups: int


_SIZES = " ".join(["int"] * len(Geometry._fields))
_PANEL = 1 << 17  # numbers in a panel: 512 KiB of float32, half of a core's L2


def out_size(n: int, k: int, stride: int, pad: int, dilation: int) -> int:
    """Positions of a kernel of k taps on n points."""
    return (n + 2 * pad - dilation * (k - 1) - 1) // stride + 1


@device
def _gather(p, x, lo, hi, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw, c0, cg):
    """Rows lo..hi of the im2col matrix (positions, r·s·cg), channels c0..c0+cg, into p."""
    row = r * s * cg
    for t in range(lo, hi):
        n = t // (oh * ow)
        u = t - n * oh * ow
        i = u // ow
        j = u - i * ow
        q = (t - lo) * row
        for a in range(r):
            y = i * sh - ph + a * dh
            x0 = j * sw - pw
            if y < 0 or y >= h:
                for e in range(s * cg):
                    p[q + e] = R(0)
            elif dw == 1 and cg == c and x0 >= 0 and x0 + s <= w:
                base = ((n * h + y) * w + x0) * c
                for e in range(s * c):
                    p[q + e] = x[base + e]
            else:
                for b in range(s):
                    xx = x0 + b * dw
                    base = ((n * h + y) * w + xx) * c + c0
                    if xx < 0 or xx >= w:
                        for e in range(cg):
                            p[q + b * cg + e] = R(0)
                    else:
                        for e in range(cg):
                            p[q + b * cg + e] = x[base + e]
            q += s * cg


@kernel("R* R* R* R* R* int int " + _SIZES)
def _forward(lo, hi, slot, x, wt, bias, y, panel, biased, block,
             h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """y[t] = sum over taps of x·w (+ bias) for positions lo..hi."""
    cg, kg = c // groups, k // groups
    row = r * s * cg
    p = at(panel, slot * block * row)
    for t in range(lo, hi):
        for e in range(k):
            y[t * k + e] = bias[e] if biased else R(0)
    one = r == 1 and s == 1 and sh == 1 and sw == 1 and ph == 0 and pw == 0
    for g in range(groups):
        weights = at(wt, g * kg * row)
        out = at(y, lo * k + g * kg)
        if one:
            gemm(0, 1, hi - lo, kg, row, R(1), at(x, lo * c + g * cg), c, weights, row,
                 R(1), out, k)  # fmt: skip
        else:
            _gather(p, x, lo, hi, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw, g * cg, cg)
            gemm(0, 1, hi - lo, kg, row, R(1), p, row, weights, row, R(1), out, k)


@device
def _scatter(p, x, lo, hi, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw, c0, cg):
    """Add rows lo..hi of the im2col matrix back into x (the adjoint of _gather)."""
    row = r * s * cg
    for t in range(lo, hi):
        n = t // (oh * ow)
        u = t - n * oh * ow
        i = u // ow
        j = u - i * ow
        q = (t - lo) * row
        for a in range(r):
            y = i * sh - ph + a * dh
            x0 = j * sw - pw
            if y >= 0 and y < h:
                if dw == 1 and cg == c and x0 >= 0 and x0 + s <= w:
                    base = ((n * h + y) * w + x0) * c
                    for e in range(s * c):
                        x[base + e] += p[q + e]
                else:
                    for b in range(s):
                        xx = x0 + b * dw
                        if xx >= 0 and xx < w:
                            base = ((n * h + y) * w + xx) * c + c0
                            for e in range(cg):
                                x[base + e] += p[q + b * cg + e]
            q += s * cg


@kernel("R* R* R* R* int " + _SIZES)
def _input_grad(lo, hi, slot, g, wt, x, panel, block,
                h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """x[n] = the adjoint of the convolution at g[n], for images lo..hi."""
    cg, kg = c // groups, k // groups
    row = r * s * cg
    p = at(panel, slot * block * row)
    for e in range(lo * h * w * c, hi * h * w * c):
        x[e] = R(0)
    start, stop = lo * oh * ow, hi * oh * ow
    while start < stop:
        end = min(start + block, stop)
        for q in range(groups):
            gemm(0, 0, end - start, row, kg, R(1), at(g, start * k + q * kg), k,
                 at(wt, q * kg * row), row, R(0), p, row)  # fmt: skip
            _scatter(p, x, start, end, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw, q * cg, cg)
        start = end


@kernel("R* R* R* R* int int int " + _SIZES)
def _weight_grad(lo, hi, slot, x, g, part, panel, block, span, total,
                 h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """part[i] = g^T im2col(x) over the i-th span of positions, as (k, r·s·cg)."""
    cg, kg = c // groups, k // groups
    row = r * s * cg
    p = at(panel, slot * block * row)
    one = r == 1 and s == 1 and sh == 1 and sw == 1 and ph == 0 and pw == 0
    for i in range(lo, hi):
        out = i * k * row
        for e in range(k * row):
            part[out + e] = R(0)
        start, stop = i * span, min(i * span + span, total)
        while start < stop:
            end = min(start + block, stop)
            for q in range(groups):
                to = at(part, out + q * kg * row)
                rows = at(g, start * k + q * kg)
                if one:
                    gemm(1, 0, kg, row, end - start, R(1), rows, k, at(x, start * c + q * cg), c,
                         R(1), to, row)  # fmt: skip
                else:
                    _gather(p, x, start, end, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw,
                            q * cg, cg)  # fmt: skip
                    gemm(1, 0, kg, row, end - start, R(1), rows, k, p, row, R(1), to, row)
            start = end


@kernel("R* R* R* R* int " + _SIZES)
def _depthwise(lo, hi, slot, x, wt, bias, y, biased,
               h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """One filter a channel, weights (r, s, c), for output rows (n, i) lo..hi."""
    for t in range(lo, hi):
        n = t // oh
        i = t - n * oh
        for j in range(ow):
            out = at(y, (t * ow + j) * c)
            for e in range(c):
                out[e] = bias[e] if biased else R(0)
            for a in range(r):
                yy = i * sh - ph + a * dh
                if yy >= 0 and yy < h:
                    for b in range(s):
                        xx = j * sw - pw + b * dw
                        if xx >= 0 and xx < w:
                            v = at(x, ((n * h + yy) * w + xx) * c)
                            f = at(wt, (a * s + b) * c)
                            for e in range(c):
                                out[e] += v[e] * f[e]


@kernel("R* R* R* " + _SIZES)
def _depthwise_input_grad(lo, hi, slot, g, wt, x,
                          h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """The adjoint of _depthwise in x, as a gather, for input rows (n, y) lo..hi."""
    for t in range(lo, hi):
        n = t // h
        y = t - n * h
        for xx in range(w):
            out = at(x, (t * w + xx) * c)
            for e in range(c):
                out[e] = R(0)
            for a in range(r):
                u = y + ph - a * dh
                i = u // sh
                if u >= 0 and i * sh == u and i < oh:
                    for b in range(s):
                        v = xx + pw - b * dw
                        j = v // sw
                        if v >= 0 and j * sw == v and j < ow:
                            d = at(g, ((n * oh + i) * ow + j) * c)
                            f = at(wt, (a * s + b) * c)
                            for e in range(c):
                                out[e] += d[e] * f[e]


@kernel("R* R* R* int int " + _SIZES)
def _depthwise_weight_grad(lo, hi, slot, x, g, part, span, total,
                           h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """part[i] (r, s, c) = sum of x·g over the i-th span of output rows (n, i)."""
    for q in range(lo, hi):
        out = at(part, q * r * s * c)
        for e in range(r * s * c):
            out[e] = R(0)
        for t in range(q * span, min(q * span + span, total)):
            n = t // oh
            i = t - n * oh
            for a in range(r):
                yy = i * sh - ph + a * dh
                if yy >= 0 and yy < h:
                    for b in range(s):
                        f = at(out, (a * s + b) * c)
                        for j in range(ow):
                            xx = j * sw - pw + b * dw
                            if xx >= 0 and xx < w:
                                v = at(x, ((n * h + yy) * w + xx) * c)
                                d = at(g, (t * ow + j) * c)
                                for e in range(c):
                                    f[e] += v[e] * d[e]


# ---- launchers -----------------------------------------------------------------------------------


def _block(row: int, least: int) -> int:
    """Positions per panel: as many as fit, between `least` and 256."""
    return max(least, min(256, _PANEL // row // 16 * 16))


def _geometry(
    x_shape: tuple, w_shape: tuple, stride: tuple[int, int], padding: tuple[int, int],
    dilation: tuple[int, int], groups: int,
) -> Geometry:  # fmt: skip
    _, c, h, w = x_shape
    k, _, r, s = w_shape
    oh = out_size(h, r, stride[0], padding[0], dilation[0])
    ow = out_size(w, s, stride[1], padding[1], dilation[1])
    return Geometry(h, w, c, oh, ow, k, r, s, *stride, *padding, *dilation, groups)


def _is_depthwise(v: Geometry) -> bool:
    return v.groups == v.c == v.k and v.groups > 1


def conv2d(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None,
    stride: tuple, padding: tuple, dilation: tuple, groups: int,
) -> np.ndarray:  # fmt: skip
    """x (N, C, H, W) * w (K, C/groups, R, S) + b (K,) -> (N, K, OH, OW), channels-last."""
    v = _geometry(x.shape, w.shape, stride, padding, dilation, groups)
    n = x.shape[0]
    y = memory.empty_nchw(n, v.k, v.oh, v.ow, x.dtype)
    xs, ys = memory.nhwc(x), memory.nhwc(y)
    bias = xs if b is None else memory.contiguous(b)
    if _is_depthwise(v):
        taps = memory.contiguous(w.reshape(v.k, v.r, v.s).transpose(1, 2, 0))
        launch(_depthwise, n * v.oh, 4, xs, taps, bias, ys, b is not None, *v)
        return y
    row = v.r * v.s * (v.c // groups)
    block = _block(row, 64)
    launch(
        _forward, n * v.oh * v.ow, block,
        xs, memory.contiguous(w.transpose(0, 2, 3, 1)), bias, ys, Scratch(block * row), b is not None, block, *v,
    )  # fmt: skip
    return y


def conv2d_input_grad(
    g: np.ndarray, w: np.ndarray, x_shape: tuple,
    stride: tuple, padding: tuple, dilation: tuple, groups: int,
) -> np.ndarray:  # fmt: skip
    """The adjoint of conv2d in x: g (N, K, OH, OW), w -> (N, C, H, W), channels-last."""
    v = _geometry(x_shape, w.shape, stride, padding, dilation, groups)
    n, c, height, width = x_shape
    x = memory.empty_nchw(n, c, height, width, g.dtype)
    gs, xs = memory.nhwc(g), memory.nhwc(x)
    if _is_depthwise(v):
        taps = memory.contiguous(w.reshape(v.k, v.r, v.s).transpose(1, 2, 0))
        launch(_depthwise_input_grad, n * v.h, 4, gs, taps, xs, *v)
        return x
    row = v.r * v.s * (v.c // groups)
    block = _block(row, 64)
    images = max(1, block // max(v.oh * v.ow, 1))
    panel = Scratch(block * row)
    launch(_input_grad, n, images, gs, memory.contiguous(w.transpose(0, 2, 3, 1)), xs, panel, block, *v)
    return x


def conv2d_weight_grad(
    g: np.ndarray, x: np.ndarray, w_shape: tuple,
    stride: tuple, padding: tuple, dilation: tuple, groups: int,
) -> np.ndarray:  # fmt: skip
    """The adjoint of conv2d in w: g (N, K, OH, OW), x -> (K, C/groups, R, S)."""
    v = _geometry(x.shape, w_shape, stride, padding, dilation, groups)
    n = x.shape[0]
    gs, xs = memory.nhwc(g), memory.nhwc(x)
    size = int(np.prod(w_shape))
    if _is_depthwise(v):
        total = n * v.oh
        span = max(1, -(-total // 32))
        part = memory.empty((-(-total // span), v.r, v.s, v.c), x.dtype)
        launch(_depthwise_weight_grad, len(part), 1, xs, gs, part, span, total, *v)
        return add_partials(part).transpose(2, 0, 1).reshape(w_shape)
    row = v.r * v.s * (v.c // groups)
    block = _block(row, 128)
    total = n * v.oh * v.ow
    count = max(4, min(32, (1 << 21) // max(size, 1)))  # partial sums: at most 8 MiB, at least 4
    span = max(1, -(-total // count))
    part = memory.empty((-(-total // span), v.k, v.r, v.s, v.c // groups), x.dtype)
    panel = Scratch(block * row)
    launch(_weight_grad, len(part), 1, xs, gs, part, panel, block, span, total, *v)
    return add_partials(part).transpose(0, 3, 1, 2)
