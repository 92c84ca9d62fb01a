"""Pooling kernels on channels-last images: the inner loop runs over channels.

The largest value of a window is remembered by its place in the window (one byte an output where
the window has at most 256 places). Gradients are gathered, one row of the input at a time: each row
asks which windows reach it, so that no two threads write to one place. Means are a depthwise
convolution with ones, divided by the windows' sizes.
"""

from collections.abc import Iterator

import numpy as np

from minidl.backend.cpu.depthwise import correlate
from minidl.backend.cpu.jit import R, Scratch, at, device, kernel, launch_rows, zero
from minidl.backend.cpu.layout import pad
from minidl.backend.cpu.memory import Array, Pair, empty, empty_nchw, nhwc, zeros
from minidl.backend.cpu.replay import made, note


def _max_pool(t, slot, x, y, arg, scratch, h, w, oh, ow, c, kh, kw, sh, sw, ph, pw, dh, dw):
    """Rows of y and arg; a NaN wins, then the first of equal values; -inf where nothing is.

    A pixel's places are counted in R, as vectors.
    """
    seen = at(scratch, slot * c)
    for q in range(ow):
        dst, place = at(y, (t * ow + q) * c), at(arg, (t * ow + q) * c)
        for j in range(c):
            dst[j], seen[j] = R(-np.inf), R(0)
        first = True
        for i in range(kh):
            r = t % oh * sh - ph + i * dh
            if r < 0 or r >= h:
                continue
            for k in range(kw):
                s = q * sw - pw + k * dw
                if s < 0 or s >= w:
                    continue
                src = at(x, ((t // oh * h + r) * w + s) * c)
                n = i * kw + k
                for j in range(c):
                    better = first | (src[j] > dst[j]) | (src[j] != src[j])
                    dst[j] = src[j] if better else dst[j]
                    seen[j] = R(n) if better else seen[j]
                first = False
        for j in range(c):
            place[j] = seen[j]


def _max_pool_grad(t, g, dx, arg, h, w, oh, ow, c, kh, kw, sh, sw, ph, pw, dh, dw):
    """Rows of dx: the sum of the cotangents of the windows whose largest value lies there."""
    row = at(dx, t * w * c)
    zero(row, w * c)
    for i in range(kh):
        r = t % h + ph - i * dh
        if r < 0 or r % sh != 0 or r // sh >= oh:
            continue
        above = (t // h * oh + r // sh) * ow
        for k in range(kw):
            n = i * kw + k
            for q in range(ow):
                s = q * sw - pw + k * dw
                if s < 0 or s >= w:
                    continue
                gi, place = at(g, (above + q) * c), at(arg, (above + q) * c)
                dst = at(row, s * c)
                for j in range(c):
                    dst[j] += gi[j] if place[j] == n else R(0)


_SIZES = " int" * 13
# By function and the dtype of the places.
_max_kernels = {(f, p): kernel(f"R* R* {p}* {more}{_SIZES}")(f)
                for f, more in ((_max_pool, "R*"), (_max_pool_grad, ""))
                for p in ("u1", "i4")}  # fmt: skip


@device
def _later(best, v, where, n):
    """The better of two values and its place; a NaN wins, then the first of equal values."""
    if v > best or v != v:
        return v, R(n)
    return best, where


@kernel("R* R* u1* int int")
def _halve(t, x, y, arg, w, c):
    """Rows of _max_pool for windows of 2 x 2 side by side; places are counted in R, as vectors."""
    for q in range(w // 2):
        a, b = at(x, (t * 2 * w + q * 2) * c), at(x, (t * 2 * w + w + q * 2) * c)
        dst, place = at(y, (t * (w // 2) + q) * c), at(arg, (t * (w // 2) + q) * c)
        for j in range(c):
            v, n = _later(a[j], a[c + j], R(0), 1)
            v, n = _later(v, b[j], n, 2)
            v, n = _later(v, b[c + j], n, 3)
            dst[j], place[j] = v, n


@kernel("R* R* u1* int int")
def _halve_grad(t, g, dx, arg, w, c):
    """Pairs of rows of dx, the adjoint of _halve: each place is written once."""
    for q in range(w // 2):
        a, b = at(dx, (t * 2 * w + q * 2) * c), at(dx, (t * 2 * w + w + q * 2) * c)
        a1, b1 = at(a, c), at(b, c)
        gi, place = at(g, (t * (w // 2) + q) * c), at(arg, (t * (w // 2) + q) * c)
        for j in range(c):
            v, n = gi[j], R(place[j])
            a[j] = v if n == R(0) else R(0)
            a1[j] = v if n == R(1) else R(0)
            b[j] = v if n == R(2) else R(0)
            b1[j] = v if n == R(3) else R(0)


def _halves(size: Pair, out: Pair, kernel: Pair, *window: Pair) -> bool:
    """Whether windows of 2 x 2 cover an image of this size, each place once."""
    exact = tuple(size) == (2 * out[0], 2 * out[1])
    return exact and (kernel, *window) == ((2, 2), (2, 2), (0, 0), (1, 1))


def max_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
               out: Pair) -> tuple[Array, Array]:  # fmt: skip
    """Largest value of each window of x (N, C, H, W) and its place in the window, both NCHW."""
    n, c, h, w = x.shape
    kind = "u1" if kernel[0] * kernel[1] <= 256 else "i4"
    y, place = empty_nchw(n, c, *out, dtype=x.dtype), empty_nchw(n, c, *out, dtype=kind)
    arrays = nhwc(x), nhwc(y), nhwc(place)
    if _halves((h, w), out, kernel, stride, padding, dilation):
        launch_rows(_halve, n * out[0], w * c, *arrays, w, c)
    else:
        work, sizes = _max_kernels[_max_pool, kind], (*kernel, *stride, *padding, *dilation)
        launch_rows(work, n * out[0], out[1] * c, *arrays, Scratch(c), h, w, *out, c, *sizes)
    return y, place


def max_pool2d_grad(g: Array, place: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair,
                    dilation: Pair) -> Array:  # fmt: skip
    """Gradient of max_pool2d's x (N, C, *size), given the places it returned."""
    n, c, oh, ow = g.shape
    dx = empty_nchw(n, c, *size, dtype=g.dtype)
    arrays = nhwc(g), nhwc(dx), nhwc(place)
    if _halves(size, (oh, ow), kernel, stride, padding, dilation):
        launch_rows(_halve_grad, n * oh, size[1] * c, *arrays, size[1], c)
    else:
        work = _max_kernels[_max_pool_grad, place.dtype.str[1:]]
        sizes = (*size, oh, ow, c, *kernel, *stride, *padding, *dilation)
        launch_rows(work, n * size[0], size[1] * c, *arrays, *sizes)
    return dx


def max_pool2d_indices(place: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair,
                       dilation: Pair) -> Array:  # fmt: skip
    """Positions h * W + w in the input (int64, NCHW) of the places that max_pool2d returned."""
    return made(_positions, place, size, kernel, stride, padding, dilation)


def _positions(place: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair,
               dilation: Pair) -> Array:  # fmt: skip
    i, j = np.divmod(place, kernel[1], dtype=np.int64)
    rows = np.arange(place.shape[2])[:, None] * stride[0] - padding[0]
    columns = np.arange(place.shape[3]) * stride[1] - padding[1]
    return (rows + i * dilation[0]) * size[1] + columns + j * dilation[1]


def _shares(size: Pair, kernel: Pair, stride: Pair, padding: Pair, out: Pair, with_pad: bool,
            divisor: int) -> Array:  # fmt: skip
    """(OH, OW, 1): one over what the sum of each window is divided by."""
    counts = []
    for n, k, s, p, windows in zip(size, kernel, stride, padding, out, strict=True):
        start = np.arange(windows) * s - p
        first, last = (start, n + p) if with_pad else (np.maximum(start, 0), n)
        counts.append(np.minimum(start + k, last) - first)
    return 1 / np.maximum(divisor or np.outer(*counts), 1)[..., None]


def avg_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, out: Pair, with_pad: bool,
               divisor: int) -> Array:  # fmt: skip
    """Means over windows of x (N, C, H, W); divisor replaces their size unless 0."""
    n, c, h, w = x.shape
    y = empty_nchw(n, c, *out, dtype=x.dtype)
    shares = _shares((h, w), kernel, stride, padding, out, with_pad, divisor).astype(x.dtype)
    rows = nhwc(y)
    correlate(nhwc(x), np.ones((c, *kernel), x.dtype), None, rows, stride, padding, (1, 1))
    note(np.multiply, rows, shares, rows)
    return y


def avg_pool2d_grad(g: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair, with_pad: bool,
                    divisor: int) -> Array:  # fmt: skip
    """Gradient of avg_pool2d's x (N, C, *size)."""
    n, c, oh, ow = g.shape
    dx = empty_nchw(n, c, *size, dtype=g.dtype)
    shares = _shares(size, kernel, stride, padding, (oh, ow), with_pad, divisor).astype(g.dtype)
    around = (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1])
    ones = np.ones((c, *kernel), g.dtype)
    correlate(nhwc(g) * shares, ones, None, nhwc(dx), (1, 1), around, (1, 1), stride)
    return dx


def unfold(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair) -> Array:
    """The windows of x (N, C, H, W), zero outside, as columns: (N, C * kh * kw, oh * ow)."""
    n, c = x.shape[:2]
    wide = pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)), 0)
    y = empty((n, c, *kernel, *out), x.dtype)
    for i, j, rows, columns in _offsets(kernel, stride, dilation, out):
        note(np.copyto, y[:, :, i, j], wide[:, :, rows, columns])
    return y.reshape(n, c * kernel[0] * kernel[1], out[0] * out[1])


def fold(g: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
         out: Pair) -> Array:  # fmt: skip
    """The adjoint of unfold: columns added up where their windows lie, (N, C, *size)."""
    n, c = g.shape[0], g.shape[1] // (kernel[0] * kernel[1])
    v = g.reshape(n, c, *kernel, *out)
    y = zeros((n, c, size[0] + 2 * padding[0], size[1] + 2 * padding[1]), g.dtype)
    for i, j, rows, columns in _offsets(kernel, stride, dilation, out):
        place = y[:, :, rows, columns]
        note(np.add, place, v[:, :, i, j], place)
    return y[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]


def _offsets(kernel: Pair, stride: Pair, dilation: Pair, out: Pair) -> Iterator:
    """Each place of the window with the rows and columns of the padded image that it meets."""
    for place in np.ndindex(*kernel):
        axes = zip(place, dilation, stride, out, strict=True)
        yield *place, *(slice(k * d, k * d + s * (n - 1) + 1, s) for k, d, s, n in axes)
