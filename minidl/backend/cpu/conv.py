"""Convolution on channels-last arrays: Winograd's for 3x3, 1x1 as a product, direct for the rest.

A chunk, some rows of an image or some whole images, is copied with its padding into scratch memory
that stays in L2. There a row of outputs is a sum over taps of products `panel` (panel.py), whose
operands are the image itself: neighbouring positions lie side by side. Nothing is gathered or
packed but the weights. The input gradient takes columns of x whose taps meet the same columns of g
together; the weight gradient keeps one partial sum per fixed range of chunks.
"""

import math
from collections import namedtuple

import numpy as np

from minidl.backend.cpu import depthwise, winograd
from minidl.backend.cpu.choice import LIMITS
from minidl.backend.cpu.jit import Scratch, at, device, kernel, launch, move, move_rows, panel, zero
from minidl.backend.cpu.linalg import linear, matmul, panels
from minidl.backend.cpu.memory import Array, Maybe, Pair, contiguous, empty, empty_nchw, nhwc, zeros
from minidl.backend.cpu.panel import BLOCK, PAIR
from minidl.backend.cpu.reduce import add_partials

# Sizes of a 2-d convolution; the order is that of the kernels' arguments.
Geometry = namedtuple("Geometry", "n h w c oh ow k r s sh sw ph pw dh dw groups")
# How it is cut: columns copied, images or rows of y in a chunk, chunks, numbers of scratch memory.
Chunks = namedtuple("Chunks", "cols many band total room")
_SIZES = " ".join(["int"] * (len(Chunks._fields) + len(Geometry._fields)))
_ROOM = 1 << 16  # numbers of x in a chunk: half of a core's L2
_POSITIONS = 128  # in a chunk, so that the weights are not read too often
_SMALL = 1 << 12  # weights that stay in L1 while all of them meet one row
_PARTS = 1 << 20  # numbers of partial sums of a weight gradient: 4 MiB


def out_size(n: int, k: int, stride: int, pad: int, dilation: int) -> int:
    """Positions of a kernel of k taps on n points."""
    return (n + 2 * pad - dilation * (k - 1) - 1) // stride + 1


@device
def _place(p, x, rows, cols, top, left, h, w, c):
    """p (rows, cols, c) = x (h, w, c) from row `top` on, behind `left` columns; zeros beyond."""
    for u in range(rows):
        y, row = top + u, at(p, u * cols * c)
        start = min(left, cols) if y >= 0 and y < h else cols
        end = max(start, min(cols, left + w))
        zero(row, start * c)
        move(at(row, start * c), at(x, y * w * c), (end - start) * c)
        zero(at(row, end * c), (cols - end) * c)


@device
def _load(p, x, t, tall, cols, many, band, n, h, w, c, oh, sh, ph, pw):
    """Copy chunk t of x to p (images, tall, cols, c): its first image and row, how many of both."""
    bands = (oh + band - 1) // band
    n0, i0 = t // bands * many, t % bands * band
    images = min(many, n - n0)
    for m in range(images):
        image, to = at(x, (n0 + m) * h * w * c), at(p, m * tall * cols * c)
        _place(to, image, tall, cols, i0 * sh - ph, pw, h, w, c)
    return n0, i0, images, min(band, oh - i0)


@device
def _pairs(size):
    """Pairs of blocks that `size` channels are made of."""
    return (size + PAIR * BLOCK - 1) // (PAIR * BLOCK)


@device
def _pair(q, size):
    """Group, block, first channel and channels of the q-th pair of blocks, and those of its panels.

    The channels are in groups of `size`.
    """
    group, place = q // _pairs(size), q % _pairs(size) * PAIR
    few = min(PAIR * BLOCK, size - place * BLOCK)
    block = group * ((size + BLOCK - 1) // BLOCK) + place
    return group, block, group * size + place * BLOCK, few, (few + BLOCK - 1) // BLOCK * BLOCK


@kernel("R* R* R* R* R* int " + _SIZES)
def _forward(t, slot, x, wt, bias, y, scratch, biased, cols, many, band, total, room,
             n, h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """y = x * wt (groups, blocks, r, s, c/groups, BLOCK) + bias, for the t-th chunk."""
    cg, kg = c // groups, k // groups
    tall, panes = (band - 1) * sh + (r - 1) * dh + 1, groups * _pairs(kg)
    p = at(scratch, slot * room)
    rest = at(p, many * tall * cols * c)
    joined = s if dw == 1 and groups == 1 else 1  # taps that lie side by side
    n0, i0, images, rows = _load(p, x, t, tall, cols, many, band, n, h, w, c, oh, sh, ph, pw)
    count = images * rows
    for v in range(count * panes):
        u, q = v % count, v // count
        if r * s * cg * k <= _SMALL:
            u, q = v // panes, v % panes
        group, block, first, few, wide = _pair(q, kg)
        m, i = u // rows, u % rows
        out = at(y, ((n0 + m) * oh + i0 + i) * ow * k + first)
        to, apart = (out, k) if few == wide else (rest, wide)
        move_rows(to, apart, at(bias, first), 0, ow if biased else 0, few)
        for a in range(r):
            row = at(p, (m * tall + i * sh + a * dh) * cols * c + group * cg)
            for b in range(0, s, joined):
                panel(ow, wide // BLOCK, joined * cg, at(row, b * dw * c), sw * c, 1,
                      at(wt, ((block * r + a) * s + b) * cg * BLOCK), r * s * cg * BLOCK, BLOCK,
                      to, apart, biased or a + b > 0)  # fmt: skip
        if few < wide:
            move_rows(out, k, rest, wide, ow, few)


@kernel("R* R* R* R* int int " + _SIZES)
def _input_grad(m, slot, g, wt, x, scratch, left, wide, cols, many, band, total, room,
                n, h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """x = the adjoint at g, wt being (groups, blocks, r, s, k/groups, BLOCK), for image m.

    g lies behind `left` of `wide` columns, the rest of which are zeros.
    """
    cg, kg = c // groups, k // groups
    p = at(scratch, slot * room)
    rest = at(p, oh * wide * k)
    _place(p, at(g, m * oh * ow * k), oh, wide, 0, left, oh, ow, k)
    for q in range(groups * _pairs(cg)):
        group, block, first, few, some = _pair(q, cg)
        for u in range(h * min(sw, w)):
            y, j = u // min(sw, w), u % min(sw, w)  # the columns j, j + sw, … of row y
            count = (w - j + sw - 1) // sw
            out = at(x, ((m * h + y) * w + j) * c + first)
            to, apart = (out, sw * c) if few == some else (rest, some)
            add = False
            for a in range(r):
                i = y + ph - a * dh
                for b in range(s if i >= 0 and i % sh == 0 and i // sh < oh else 0):
                    v = j + pw - b * dw
                    if v % sw == 0:
                        panel(count, some // BLOCK, kg,
                              at(p, (i // sh * wide + left + v // sw) * k + group * kg), k, 1,
                              at(wt, ((block * r + a) * s + b) * kg * BLOCK),
                              r * s * kg * BLOCK, BLOCK, to, apart, add)  # fmt: skip
                        add = True
            for e in range(0 if add else count):
                zero(at(to, e * apart), few)
            if few < some:
                move_rows(out, sw * c, rest, some, count, few)


@kernel("R* R* R* R* int int " + _SIZES)
def _weight_grad(e, slot, x, g, part, scratch, span, wide, cols, many, band, total, room,
                 n, h, w, c, oh, ow, k, r, s, sh, sw, ph, pw, dh, dw, groups):  # fmt: skip
    """part[e] (k, r, s or 1, wide) = the gradient of the e-th span of chunks.

    wide 0: few inputs, as of a picture's colours, are rows of the panels: part is (r, s c, k).
    """
    cg, kg = c // groups, k // groups
    tall, blocks = (band - 1) * sh + (r - 1) * dh + 1, (kg + BLOCK - 1) // BLOCK
    joined = s if dw == 1 and groups == 1 else 1
    line = r * (s // joined) * wide
    size = k * line if wide > 0 else k * r * s * c
    p = at(scratch, slot * room)
    part = at(part, e * size)
    zero(part, size)
    for t in range(e * span, min(e * span + span, total)):
        n0, i0, images, rows = _load(p, x, t, tall, cols, many, band, n, h, w, c, oh, sh, ph, pw)
        for v in range(images * rows * r if wide == 0 else 0):
            u, a = v // r, v % r
            m, i = u // rows, u % rows
            panel(s * c, blocks, ow, at(p, (m * tall + i * sh + a * dh) * cols * c), 1, sw * c,
                  at(g, ((n0 + m) * oh + i0 + i) * ow * k), BLOCK, k,
                  at(part, a * s * c * k), k, True)  # fmt: skip
        for q in range(groups * blocks if wide > 0 else 0):
            first = q // blocks * kg + q % blocks * BLOCK
            few = min(BLOCK, (q // blocks + 1) * kg - first)
            to = at(part, first * line)
            for v in range(r * (s // joined)):
                a, b = v // (s // joined), v % (s // joined)
                for c0 in range(0, joined * cg, PAIR * BLOCK):
                    pair = min(PAIR, (joined * cg - c0 + BLOCK - 1) // BLOCK)
                    for u in range(images * rows):
                        m, i = u // rows, u % rows
                        of = ((m * tall + i * sh + a * dh) * cols + b * dw) * c
                        panel(few, pair, ow, at(g, ((n0 + m) * oh + i0 + i) * ow * k + first), 1,
                              k, at(p, of + q // blocks * cg + c0), BLOCK, sw * c,
                              at(to, v * wide + c0), line, True)  # fmt: skip


# ---- launchers -----------------------------------------------------------------------------------


def _sizes(x: tuple, w: tuple, stride: Pair, padding: Pair, dilation: Pair,
           groups: int) -> Geometry:  # fmt: skip
    """The sizes for x (N, C, H, W) and w (K, C/groups, R, S)."""
    (n, c, h, wide), (k, _, r, s) = x, w
    oh = out_size(h, r, stride[0], padding[0], dilation[0])
    ow = out_size(wide, s, stride[1], padding[1], dilation[1])
    return Geometry(n, h, wide, c, oh, ow, k, r, s, *stride, *padding, *dilation, groups)


def _in_rows(v: Geometry) -> tuple[Geometry, Chunks]:
    """The sizes that the kernels take, and how the work is cut.

    Where every pixel stands for itself, some rows are one of up to _POSITIONS, of 16 or more.
    """
    if _is_product(v) and v.sh == v.sw == 1 and v.n * v.h * v.w:
        lines, most = v.n * v.h, min(_POSITIONS // v.w, v.n * v.h // 16)
        some = max([m for m in range(1, most + 1) if lines % m == 0] or [1])
        v = v._replace(n=lines // some, h=1, w=some * v.w, oh=1, ow=some * v.w)
    cols, reach = (v.ow - 1) * v.sw + (v.s - 1) * v.dw + 1, (v.r - 1) * v.dh + 1
    line = max(cols * v.c, 1)
    band = max(1, min(v.oh, (_ROOM // line - reach) // v.sh + 1))
    size = ((band - 1) * v.sh + reach) * line
    many = max(1, min(v.n, _ROOM // size, _POSITIONS // max(v.oh * v.ow, 1))) if band == v.oh else 1
    total = -(-v.n // many) * -(-v.oh // band)
    return v, Chunks(cols, many, band, total, many * size + max(v.ow, 1) * PAIR * BLOCK)


def _is_winograd(v: Geometry, dtype: np.dtype) -> bool:
    """Whether Winograd's algorithm serves: float32, 3x3, stride 1, and channels enough to gain."""
    plain = (v.r, v.s, v.sh, v.sw, v.dh, v.dw, v.groups) == (3, 3, 1, 1, 1, 1, 1)
    wide = min(v.c, v.k) >= LIMITS["winograd_channels"] and max(v.ph, v.pw) <= 2
    return plain and wide and dtype == np.float32 and v.n > 0


def _is_product(v: Geometry) -> bool:
    """Whether every output is a product of one pixel with the weights."""
    return (v.r, v.s, v.ph, v.pw, v.groups) == (1, 1, 0, 0, 1)


def _is_small(v: Geometry) -> bool:
    """Whether too few pixels meet the weights for these to be packed."""
    return _is_product(v) and v.sh == v.sw == 1 and v.n * v.h * v.w < 2 * _POSITIONS


def _is_depthwise(v: Geometry) -> bool:
    return v.groups == v.c == v.k and v.groups > 1


def _depthwise_grads(g: Array, w: Array, v: Geometry, x: Maybe = None) -> tuple:
    """dx, and dw if x is given: both in one pass over g."""
    dx, turned = empty_nchw(v.n, v.c, v.h, v.w, dtype=g.dtype), w[:, 0, ::-1, ::-1]
    window = (1, 1), ((v.r - 1) * v.dh - v.ph, (v.s - 1) * v.dw - v.pw), (v.dh, v.dw), (v.sh, v.sw)
    dw = depthwise.correlate(nhwc(g), turned, None, nhwc(dx), *window, x if x is None else nhwc(x))
    return dx, None if dw is None else dw[:, ::-1, ::-1].reshape(w.shape)


def conv2d(x: Array, w: Array, b: Maybe, stride: Pair, padding: Pair, dilation: Pair,
           groups: int) -> Array:  # fmt: skip
    """x (N, C, H, W) * w (K, C/groups, R, S) + b (K,) -> (N, K, OH, OW), channels-last."""
    v, xs = _sizes(x.shape, w.shape, stride, padding, dilation, groups), nhwc(x)
    if _is_small(v):
        return linear(xs, w[:, :, 0, 0], b).transpose(0, 3, 1, 2)
    y = empty_nchw(v.n, v.k, v.oh, v.ow, dtype=x.dtype)
    ys = nhwc(y)
    if _is_depthwise(v):
        depthwise.correlate(xs, w[:, 0], b, ys, stride, padding, dilation)
    elif _is_winograd(v, x.dtype):
        winograd.correlate(xs, w, b, ys, padding)
    else:
        bias, (v, cut) = xs if b is None else contiguous(b), _in_rows(v)
        args = (xs, panels(w, False, groups), bias, ys, Scratch(cut.room), b is not None)
        launch(_forward, cut.total, 1, *args, *cut, *v)
    return y


def conv2d_input_grad(g: Array, w: Array, x_shape: tuple, stride: Pair, padding: Pair,
                      dilation: Pair, groups: int) -> Array:  # fmt: skip
    """The adjoint of conv2d in x: g (N, K, OH, OW), w -> (N, C, H, W), channels-last."""
    v = _sizes(x_shape, w.shape, stride, padding, dilation, groups)
    if _is_small(v):
        return linear(nhwc(g), w[:, :, 0, 0].T, None).transpose(0, 3, 1, 2)
    if _is_depthwise(v):
        return _depthwise_grads(g, w, v)[0]
    x = empty_nchw(v.n, v.c, v.h, v.w, dtype=g.dtype)
    if _is_winograd(v, x.dtype):
        winograd.correlate(nhwc(g), w, None, nhwc(x), (2 - v.ph, 2 - v.pw), turned=True)
    else:
        v, cut = _in_rows(v)
        left = max(0, -(-((v.s - 1) * v.dw - v.pw) // v.sw))
        wide = left + max(v.ow, (v.w - 1 + v.pw) // v.sw + 1)
        cut = cut._replace(room=v.oh * wide * v.k + v.w * PAIR * BLOCK)
        args = (nhwc(g), panels(w, True, groups), nhwc(x), Scratch(cut.room), left, wide)
        launch(_input_grad, v.n, 1, *args, *cut, *v)
    return x


def conv2d_weight_grad(g: Array, x: Array, w_shape: tuple, stride: Pair, padding: Pair,
                       dilation: Pair, groups: int) -> Array:  # fmt: skip
    """The adjoint of conv2d in w: g (N, K, OH, OW), x -> (K, C/groups, R, S)."""
    v = _sizes(x.shape, w_shape, stride, padding, dilation, groups)
    xs, gs = nhwc(x), nhwc(g)
    if _is_depthwise(v):
        return _depthwise_grads(g, zeros(w_shape, x.dtype), v, x)[1]  # whatever the weights are
    if _is_winograd(v, x.dtype):
        return winograd.weight_grad(gs, xs, padding)
    if _is_product(v):
        rows, seen = v.n * v.oh * v.ow, xs[:, :: v.sh, :: v.sw]
        return matmul(gs.reshape(rows, v.k).T, seen.reshape(rows, v.c)).reshape(w_shape)
    v, cut = _in_rows(v)
    joined = v.s if v.dw == 1 and groups == 1 else 1
    few = joined * w_shape[1]
    colours = groups == 1 and joined == v.s and few < BLOCK and v.k % BLOCK == 0
    wide = 0 if colours else -(-few // BLOCK) * BLOCK
    shape = (v.r, few, v.k) if colours else (v.k, v.r, v.s // joined, wide)
    span = max(1, -(-cut.total // max(4, min(32, _PARTS // max(math.prod(shape), 1)))))
    part = empty((-(-cut.total // span), *shape), x.dtype)
    launch(_weight_grad, len(part), 1, xs, gs, part, Scratch(cut.room), span, wide, *cut, *v)
    found = add_partials(part)
    if colours:
        return found.reshape(v.r, v.s, v.c, v.k).transpose(3, 2, 0, 1)
    return found[..., :few].reshape(v.k, v.r, v.s, w_shape[1]).transpose(0, 3, 1, 2)


def conv2d_grads(g: Array, x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair,
                 groups: int) -> tuple[Array, Array]:  # fmt: skip
    """Both adjoints, in x and in w."""
    v = _sizes(x.shape, w.shape, stride, padding, dilation, groups)
    if _is_depthwise(v):
        return _depthwise_grads(g, w, v, x)
    window = (stride, padding, dilation, groups)
    return conv2d_input_grad(g, w, x.shape, *window), conv2d_weight_grad(g, x, w.shape, *window)
