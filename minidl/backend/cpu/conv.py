"""Convolution on channels-last arrays: Winograd's for 3x3, panel im2col + GEMM, 1x1 as a GEMM.

A panel of output positions (64-256 rows of R·S·C numbers) is gathered into a scratch buffer that
stays in L2 and multiplied there by the weights. Weights are (K, R, S, C/groups) in memory. The
input gradient multiplies first and scatters the panel into its image, so chunks are whole images;
the weight gradient keeps one partial sum per fixed range of positions.
"""

from collections import namedtuple

import numpy as np

from minidl.backend.cpu import depthwise, winograd
from minidl.backend.cpu.jit import R, Scratch, at, device, gemm, kernel, launch
from minidl.backend.cpu.linalg import linear, matmul
from minidl.backend.cpu.memory import Array, Maybe, contiguous, empty, empty_nchw, nhwc
from minidl.backend.cpu.reduce import add_partials

# Sizes of a 2-d convolution; the order is that of the kernels' arguments.
Geometry = namedtuple("Geometry", "h w c oh ow k r s sh sw ph pw dh dw groups")
Pair = tuple[int, int]
_SIZES = " ".join(["int"] * len(Geometry._fields))
_LEAST = 8  # channels on either side from which Winograd's algorithm gains
_PANEL = 1 << 17  # numbers in a panel: 512 KiB of float32, half of a core's L2


def out_size(n: int, k: int, stride: int, pad: int, dilation: int) -> int:
    """Positions of a kernel of k taps on n points."""
    return (n + 2 * pad - dilation * (k - 1) - 1) // stride + 1


@device
def _walk(p, x, lo, hi, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw, c0, cg, back):
    """Rows lo..hi of the im2col matrix (positions, r·s·cg), channels c0..c0+cg, and the panel p.

    The panel is filled from the image x, or (back: the adjoint) added into it.
    """
    for t in range(lo, hi):
        n = t // (oh * ow)
        u = t - n * oh * ow
        i = u // ow
        j = u - i * ow
        for a in range(r):
            y = i * sh - ph + a * dh
            x0 = j * sw - pw
            whole = dw == 1 and cg == c and x0 >= 0 and x0 + s <= w  # the taps lie side by side
            taps, size = (1, s * c) if whole else (s, cg)
            for b in range(taps):
                xx = x0 + b * dw
                q = at(p, (((t - lo) * r + a) * s + b) * cg)
                v = at(x, ((n * h + y) * w + xx) * c + c0)
                if y < 0 or y >= h or xx < 0 or xx >= w:
                    if not back:
                        for e in range(size):
                            q[e] = R(0)
                elif back:
                    for e in range(size):
                        v[e] += q[e]
                else:
                    for e in range(size):
                        q[e] = v[e]


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
    for g in range(groups):
        weights = at(wt, g * kg * row)
        out = at(y, lo * k + g * kg)
        _walk(p, x, lo, hi, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw, g * cg, cg, False)
        gemm(0, 1, hi - lo, kg, row, R(1), p, row, weights, row, R(1), out, k)


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
            _walk(p, x, start, end, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw, q * cg, cg, True)
        start = end


@kernel("R* R* R* R* int int int " + _SIZES)
def _weight_grad(lo, hi, slot, x, g, part, panel, block, span, total,
                 h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """part[i] = g^T im2col(x) over the i-th span of positions, as (k, r·s·cg)."""
    cg, kg = c // groups, k // groups
    row = r * s * cg
    p = at(panel, slot * block * row)
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
                _walk(p, x, start, end, h, w, c, oh, ow, r, s, sh, sw, ph, pw, dh, dw,
                      q * cg, cg, False)  # fmt: skip
                gemm(1, 0, kg, row, end - start, R(1), rows, k, p, row, R(1), to, row)
            start = end


# ---- launchers -----------------------------------------------------------------------------------


def _plan(
    x_shape: tuple, w_shape: tuple, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    least: int,
) -> tuple[Geometry, int, int]:  # fmt: skip
    """Sizes, numbers in a row of a panel, and its rows: as many as fit, `least` to 256."""
    (_, c, h, w), (k, _, r, s) = x_shape, w_shape
    oh = out_size(h, r, stride[0], padding[0], dilation[0])
    ow = out_size(w, s, stride[1], padding[1], dilation[1])
    row = r * s * (c // groups)
    block = max(least, min(256, _PANEL // row // 16 * 16))
    return Geometry(h, w, c, oh, ow, k, r, s, *stride, *padding, *dilation, groups), row, block


def _is_winograd(v: Geometry, n: int, dtype: np.dtype) -> bool:
    """Whether Winograd's algorithm serves: float32, 3x3, stride 1, and channels enough to gain."""
    plain = (v.r, v.s, v.sh, v.sw, v.dh, v.dw, v.groups) == (3, 3, 1, 1, 1, 1, 1)
    wide = min(v.c, v.k) >= _LEAST and max(v.ph, v.pw) <= 2
    return plain and wide and dtype == np.float32 and n > 0


def _is_product(v: Geometry) -> bool:
    """Whether every output is a product of one pixel with the weights."""
    return v[6:] == (1, 1, 1, 1, 0, 0, v.dh, v.dw, 1)


def _is_depthwise(v: Geometry) -> bool:
    return v.groups == v.c == v.k and v.groups > 1


def conv2d(
    x: Array, w: Array, b: Maybe, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """x (N, C, H, W) * w (K, C/groups, R, S) + b (K,) -> (N, K, OH, OW), channels-last."""
    v, row, block = _plan(x.shape, w.shape, stride, padding, dilation, groups, 64)
    n, xs = x.shape[0], nhwc(x)
    if _is_product(v):
        return linear(xs, w[:, :, 0, 0], b).transpose(0, 3, 1, 2)
    y = empty_nchw(n, v.k, v.oh, v.ow, x.dtype)
    ys = nhwc(y)
    if _is_depthwise(v):
        depthwise.correlate(xs, w[:, 0], b, ys, stride, padding, dilation)
    elif _is_winograd(v, n, x.dtype):
        winograd.correlate(xs, w, b, ys, padding)
    else:
        weights, bias = contiguous(w.transpose(0, 2, 3, 1)), xs if b is None else contiguous(b)
        args = (xs, weights, bias, ys, Scratch(block * row))
        launch(_forward, n * v.oh * v.ow, block, *args, b is not None, block, *v)
    return y


def conv2d_input_grad(
    g: Array, w: Array, x_shape: tuple, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """The adjoint of conv2d in x: g (N, K, OH, OW), w -> (N, C, H, W), channels-last."""
    v, row, block = _plan(x_shape, w.shape, stride, padding, dilation, groups, 64)
    if _is_product(v):
        return linear(nhwc(g), w[:, :, 0, 0].T, None).transpose(0, 3, 1, 2)
    n = x_shape[0]
    x = empty_nchw(n, v.c, v.h, v.w, g.dtype)
    if _is_depthwise(v):
        pad = ((v.r - 1) * v.dh - v.ph, (v.s - 1) * v.dw - v.pw)
        turned = w[:, 0, ::-1, ::-1]
        depthwise.correlate(nhwc(g), turned, None, nhwc(x), (1, 1), pad, dilation, stride)
    elif _is_winograd(v, n, x.dtype):
        winograd.correlate(nhwc(g), w, None, nhwc(x), (2 - v.ph, 2 - v.pw), turned=True)
    else:
        images = max(1, block // max(v.oh * v.ow, 1))
        args = (nhwc(g), contiguous(w.transpose(0, 2, 3, 1)), nhwc(x), Scratch(block * row))
        launch(_input_grad, n, images, *args, block, *v)
    return x


def conv2d_weight_grad(
    g: Array, x: Array, w_shape: tuple, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """The adjoint of conv2d in w: g (N, K, OH, OW), x -> (K, C/groups, R, S)."""
    v, row, block = _plan(x.shape, w_shape, stride, padding, dilation, groups, 128)
    xs, gs = nhwc(x), nhwc(g)
    if _is_depthwise(v):
        found = depthwise.weight_grad(xs, gs, (v.r, v.s), stride, padding, dilation)
        return found.reshape(w_shape)
    if _is_winograd(v, len(x), x.dtype):
        return winograd.weight_grad(gs, xs, padding)
    if _is_product(v):
        rows = len(x) * v.oh * v.ow
        return matmul(gs.reshape(rows, v.k).T, xs.reshape(rows, v.c)).reshape(w_shape)
    total = len(x) * v.oh * v.ow  # partial sums: at most 8 MiB, at least 4
    span = max(1, -(-total // max(4, min(32, (1 << 21) // max(v.k * row, 1)))))
    part = empty((-(-total // span), v.k, v.r, v.s, v.c // groups), x.dtype)
    args = (xs, gs, part, Scratch(block * row), block, span, total)
    launch(_weight_grad, len(part), 1, *args, *v)
    return add_partials(part).transpose(0, 3, 1, 2)
