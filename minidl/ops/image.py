"""Ops on images: padding, resizing, sampling, shuffling of pixels, windows as columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import op, raw
from minidl.errors import require
from minidl.ops import pointwise as pw
from minidl.ops.embedding import table_rows
from minidl.ops.join import narrow, pad_constant
from minidl.ops.linalg import matmul
from minidl.ops.shape import movedim, permute_axes, reshape, unsqueeze


def pair(name: str, what: str, value: Any, least: int) -> tuple[int, int]:
    """An int, or two, as a pair of ints >= least."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    both = both * 2 if len(both) == 1 else both
    ok = len(both) == 2 and all(isinstance(v, (int, np.integer)) and v >= least for v in both)
    require(ok, name, f"{what} must be one or two ints >= {least}", **{what: value})
    return int(both[0]), int(both[1])


def geometry(
    name: str, size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool = False
) -> tuple[tuple[int, int], dict[str, tuple[int, int]]]:
    """How many windows fit along H and W, and the window as pairs; stride None is the kernel.

    With ceil the last window may reach beyond the padding, if it starts within the image.
    """
    k = pair(name, "kernel_size", kernel, 1)
    s = k if stride is None else pair(name, "stride", stride, 1)
    p, d = pair(name, "padding", padding, 0), pair(name, "dilation", dilation, 1)
    out = []
    for i, n in enumerate(size):
        span = n + 2 * p[i] - d[i] * (k[i] - 1) - 1
        o = (span + (s[i] - 1 if ceil else 0)) // s[i] + 1
        out.append(o - 1 if ceil and (o - 1) * s[i] >= n + p[i] else o)
    require(min(out) > 0, name, "the window must fit into the padded image", size=tuple(size),
            kernel_size=k)  # fmt: skip
    return (out[0], out[1]), {"kernel": k, "stride": s, "padding": p, "dilation": d}


def batched(f: Callable[[Any], Any], x: Any, ndim: int, name: str) -> Any:
    """f(x), with a batch axis added and taken away again if x lacks it."""
    require(x.ndim in (ndim, ndim - 1), name, f"x must have {ndim} axes, or {ndim - 1} without N",
            x=x)  # fmt: skip
    if x.ndim == ndim:
        return f(x)
    y = f(unsqueeze(x, 0))
    return reshape(y, tuple(y.shape[1:]))


def pick_places(x: Any, places: Sequence[np.ndarray]) -> Any:
    """x (N, C, ...) at a vector of places along each axis after C, channels-last."""
    n, c, sizes = x.shape[0], x.shape[1], tuple(x.shape[2:])
    index: Any = np.arange(n).reshape((n,) + (1,) * len(sizes))
    for axis, (size, place) in enumerate(zip(sizes, places, strict=True)):
        index = index * size + place.reshape((-1,) + (1,) * (len(sizes) - 1 - axis))
    table = reshape(movedim(x, 1, -1), (n * math.prod(sizes), c))
    return movedim(table_rows(table, index.astype(np.int64)), -1, 1)


_MODES: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """x with pad = (before, after) on the last axis, then on the one before it, and so on.

    mode constant (value, 0 unless told), reflect, replicate or circular, the last three over the
    axes after (N, C). Negative widths cut.
    """
    x, count = input, len(pad) // 2
    require(len(pad) % 2 == 0 and count <= x.ndim, "pad", "pad must hold two ints for each axis",
            x=x, pad=tuple(pad))  # fmt: skip
    widths = tuple((int(pad[2 * i]), int(pad[2 * i + 1])) for i in range(count - 1, -1, -1))
    if mode == "constant":
        whole = ((0, 0),) * (x.ndim - count) + widths
        fits = all(n + a + b >= 0 for n, (a, b) in zip(x.shape, whole))
        require(fits, "pad", "negative widths cut more than there is", x=x, pad=tuple(pad))
        return pad_constant(x, widths=whole, value=0.0 if value is None else value)
    require(mode in _MODES, "pad", f"mode must be constant or one of {[*_MODES]}", mode=mode)
    require(value is None or value == 0, "pad", "value is for the constant mode", value=value)

    def padded(x: Any) -> Any:
        return pick_places(x, [_border(n, *w, mode) for n, w in zip(x.shape[2:], widths)])

    return batched(padded, x, count + 2, "pad")


def _border(n: int, before: int, after: int, mode: str) -> np.ndarray:
    """Which of n places stands at each place of the padded axis."""
    limit = {"reflect": n - 1, "circular": n}.get(mode, math.inf)
    require(max(before, after) <= limit and n > 0, "pad", f"{mode} needs widths up to {limit}",
            size=n, pad=(before, after))  # fmt: skip
    k = np.pad(np.arange(n), (max(before, 0), max(after, 0)), _MODES[mode])
    return k[max(-before, 0) : len(k) - max(-after, 0)]


# ---- resizing ------------------------------------------------------------------------------------


def interpolate(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
) -> Any:  # fmt: skip
    """Resize the axes of x after (N, C) to size, or by scale_factor (then floor).

    mode nearest, nearest-exact, area (1 to 3 axes), linear (1), bilinear, bicubic (2).
    align_corners matters to the last three. As in PyTorch, a given scale_factor also sets the
    distance between samples, unless recompute_scale_factor.
    """
    x, axes = input, input.ndim - 2
    of_axes = {"linear": (1,), "bilinear": (2,), "bicubic": (2,)}
    modes = ("nearest", "nearest-exact", "area", *of_axes)
    require(mode in modes, "interpolate", f"mode must be one of {modes}", mode=mode)
    allowed = of_axes.get(mode, (1, 2) if mode == "area" else (1, 2, 3))
    require(axes in allowed, "interpolate", f"mode {mode} resizes {allowed} axes after (N, C)", x=x)
    require(align_corners is None or mode in of_axes, "interpolate",
            "align_corners is for linear, bilinear and bicubic", mode=mode)  # fmt: skip
    require((size is None) != (scale_factor is None), "interpolate",
            "needs either size or scale_factor", size=size, scale_factor=scale_factor)  # fmt: skip
    old = tuple(x.shape[2:])
    new, steps = _sizes(old, size, scale_factor, bool(recompute_scale_factor))
    require(min(*old, *new) > 0, "interpolate", "sizes must be positive", x=x, size=new)
    if mode.startswith("nearest"):
        shift = 0.5 if mode == "nearest-exact" else 0.0
        places = zip(old, new, steps, strict=True)
        return pick_places(x, [_nearest(n, o, s, shift) for n, o, s in places])
    make = {"area": area_weights, "bicubic": _cubic_weights}.get(mode, _linear_weights)
    aligned = bool(align_corners)
    weights = [make(n, o, s, aligned) for n, o, s in zip(old, new, steps, strict=True)]
    return resample(x, weights)


def _sizes(old: tuple, size: Any, scale: Any, recompute: bool) -> tuple[tuple, list[float]]:
    """The new sizes, and the distance between samples along each axis in the old image."""
    given = size if size is not None else scale
    each = tuple(given) if isinstance(given, (tuple, list)) else (given,) * len(old)
    require(len(each) == len(old), "interpolate", f"needs one value for each of {len(old)} axes",
            given=given)  # fmt: skip
    if size is not None:
        new = tuple(int(v) for v in each)
    else:
        new = tuple(math.floor(n * float(s)) for n, s in zip(old, each))
    if size is not None or recompute:
        return new, [n / o if o else 0.0 for n, o in zip(old, new)]
    return new, [1.0 / float(s) for s in each]


def _nearest(n: int, new: int, step: float, shift: float) -> np.ndarray:
    at = np.floor((np.arange(new, dtype=np.float32) + np.float32(shift)) * np.float32(step))
    return np.minimum(at.astype(np.int64), n - 1)


def resample(x: Any, weights: Sequence[np.ndarray]) -> Any:
    """Multiply each axis of x (N, C, ...) after C, one or two, by a matrix (new, old)."""
    if x.ndim == 3:
        y = resample(unsqueeze(x, 2), [np.ones((1, 1)), *weights])
        return reshape(y, (*y.shape[:2], y.shape[3]))
    n, c, h, w = x.shape
    down, across = (m.astype(x.dtype) for m in weights)
    v = permute_axes(x, axes=(0, 2, 3, 1))
    if across.shape != (1, 1):
        v = matmul(across, v)
    if down.shape != (1, 1):
        wide = len(across) * c
        v = matmul(down, reshape(v, (n, h, wide)))
        v = reshape(v, (n, len(down), len(across), c))
    return permute_axes(v, axes=(0, 3, 1, 2))


def _positions(n: int, new: int, step: float, aligned: bool) -> np.ndarray:
    """Where each new place lies in the old axis."""
    if aligned:
        return np.arange(new) * ((n - 1) / (new - 1) if new > 1 else 0.0)
    return (np.arange(new) + 0.5) * step - 0.5


def _matrix(n: int, taps: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(new, n) with each tap's weights added at its places, places beyond the ends moved there."""
    made = np.zeros((len(taps[0][0]), n))
    for place, weight in taps:
        np.add.at(made, (np.arange(len(place)), np.clip(place, 0, n - 1)), weight)
    return made


@functools.lru_cache(256)
def _linear_weights(n: int, new: int, step: float, aligned: bool) -> np.ndarray:
    at = np.maximum(_positions(n, new, step, aligned), 0)
    low = np.floor(at).astype(np.int64)
    return _matrix(n, [(low, 1 - (at - low)), (low + 1, at - low)])


@functools.lru_cache(256)
def _cubic_weights(n: int, new: int, step: float, aligned: bool) -> np.ndarray:
    """Cubic convolution with a = -0.75 (Keys 1981)."""
    at, a = _positions(n, new, step, aligned), -0.75
    low = np.floor(at).astype(np.int64)
    taps = []
    for k in range(-1, 3):
        d = np.abs(at - low - k)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        taps.append((low + k, np.where(d <= 1, near, far)))
    return _matrix(n, taps)


@functools.lru_cache(256)
def area_weights(n: int, new: int, step: float = 0.0, aligned: bool = False) -> np.ndarray:
    """(new, n) means over floor(i n / new) .. ceil((i+1) n / new), for adaptive pooling."""
    made = np.zeros((new, n))
    for i in range(new):
        lo, hi = i * n // new, -(-(i + 1) * n // new)
        made[i, lo:hi] = 1 / (hi - lo)
    return made


# ---- sampling at given places --------------------------------------------------------------------


def affine_grid(theta: Any, size: Sequence[int], align_corners: bool | None = None) -> Any:
    """Sampling grid (N, H, W, 2) of affine maps theta (N, 2, 3) for images of size (N, C, H, W)."""
    n, h, w = size[0], size[2], size[3]
    require(tuple(theta.shape) == (n, 2, 3), "affine_grid", "theta must be (N, 2, 3)", theta=theta)

    def line(k: int) -> np.ndarray:
        ends = np.linspace(-1, 1, k) if k > 1 else np.zeros(1)
        return ends if align_corners else ends * ((k - 1) / k)

    y, x = np.meshgrid(line(h), line(w), indexing="ij")
    base = np.stack([x, y, np.ones_like(x)], -1).reshape(1, h * w, 3).astype(theta.dtype)
    return reshape(matmul(base, permute_axes(theta, axes=(0, 2, 1))), (n, h, w, 2))


def grid_sample(
    input: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Any:  # fmt: skip
    """x (N, C, H, W) at the places grid (N, P, Q, 2), (x, y) in [-1, 1]: (N, C, P, Q).

    mode bilinear or nearest; beyond the image zeros or the border's values (padding_mode).
    """
    x = input
    require(mode in ("bilinear", "nearest"), "grid_sample", "mode: bilinear or nearest", mode=mode)
    require(padding_mode in ("zeros", "border"), "grid_sample", "padding_mode: zeros or border",
            padding_mode=padding_mode)  # fmt: skip
    fits = x.ndim == grid.ndim == 4 and grid.shape[0] == x.shape[0] and grid.shape[3] == 2
    require(fits, "grid_sample", "needs x (N, C, H, W) and grid (N, P, Q, 2)", x=x, grid=grid)
    n, c, h, w = x.shape
    table = reshape(permute_axes(x, axes=(0, 2, 3, 1)), (n * h * w, c))
    axes = []
    for k, size in ((1, h), (0, w)):
        at = reshape(narrow(grid, 3, k, 1), tuple(grid.shape[:3]))
        at = pw.mul(pw.add(at, 1.0), ((size - 1) if align_corners else size) / 2)
        at = at if align_corners else pw.sub(at, 0.5)
        at = pw.clamp(at, 0.0, size - 1.0) if padding_mode == "border" else at
        axes.append(_taps(at, size, mode))
    total: Any = None
    for i, wi, inside_i in axes[0]:
        for j, wj, inside_j in axes[1]:
            index = (np.arange(n)[:, None, None] * h + i) * w + j
            weight = pw.mul(pw.mul(wi, wj), (inside_i & inside_j).astype(x.dtype))
            term = pw.mul(table_rows(table, index), unsqueeze(weight, -1))
            total = term if total is None else pw.add(total, term)
    return permute_axes(total, axes=(0, 3, 1, 2))


def _taps(at: Any, size: int, mode: str) -> list[tuple]:
    """(place, weight, whether inside) of each neighbour of the places `at` along one axis."""
    a = raw(at)
    if mode == "nearest":
        k = np.rint(a).astype(np.int64)
        return [(np.clip(k, 0, size - 1), np.ones_like(a), (k >= 0) & (k < size))]
    low = np.floor(a)
    high = pw.sub(at, low)
    both = ((low, pw.sub(1.0, high)), (low + 1, high))
    return [(np.clip(k, 0, size - 1).astype(np.int64), weight, (k >= 0) & (k < size))
            for k, weight in both]  # fmt: skip


# ---- pixels and channels, windows and columns ----------------------------------------------------


def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """x (N, C r², H, W) -> (N, C, H r, W r): channels become pixels (Shi et al. 2016)."""
    r = upscale_factor

    def shuffled(x: Any) -> Any:
        n, c, h, w = x.shape
        require(r > 0 and c % (r * r) == 0, "pixel_shuffle", "C must be divisible by r²", x=x, r=r)
        v = reshape(permute_axes(x, axes=(0, 2, 3, 1)), (n, h, w, c // (r * r), r, r))
        v = permute_axes(v, axes=(0, 1, 4, 2, 5, 3))
        return permute_axes(reshape(v, (n, h * r, w * r, c // (r * r))), axes=(0, 3, 1, 2))

    return batched(shuffled, input, 4, "pixel_shuffle")


def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """The inverse of pixel_shuffle: x (N, C, H r, W r) -> (N, C r², H, W)."""
    r = downscale_factor

    def unshuffled(x: Any) -> Any:
        n, c, h, w = x.shape
        fits = r > 0 and h % r == 0 and w % r == 0
        require(fits, "pixel_unshuffle", "H and W must be divisible by r", x=x, r=r)
        v = reshape(permute_axes(x, axes=(0, 2, 3, 1)), (n, h // r, r, w // r, r, c))
        v = permute_axes(v, axes=(0, 1, 3, 5, 2, 4))
        return permute_axes(reshape(v, (n, h // r, w // r, c * r * r)), axes=(0, 3, 1, 2))

    return batched(unshuffled, input, 4, "pixel_unshuffle")


@op
def to_columns(x: Any, *, out: tuple[int, int], **window: Any) -> Any:
    """Windows of x (N, C, H, W) as columns (N, C kh kw, L); window: pairs kernel, stride, …"""
    size = x.shape[2:]
    y = backend.of(x).unfold(x, out=out, **window)
    return y, (), lambda g, need: (from_columns(g, size=size, out=out, **window),)


@op
def from_columns(g: Any, *, size: tuple[int, int], out: tuple[int, int], **window: Any) -> Any:
    """The adjoint of to_columns: columns added up into images (N, C, *size)."""
    y = backend.of(g).fold(g, size, out=out, **window)
    return y, (), lambda h, need: (to_columns(h, out=out, **window),)


def unfold(
    input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """Sliding windows of x (N, C, H, W) as columns (N, C kh kw, L), channel slowest (im2col)."""
    args = (kernel_size, stride, padding, dilation)

    def columns(x: Any) -> Any:
        out, window = geometry("unfold", x.shape[2:], *args)
        return to_columns(x, out=out, **window)

    return batched(columns, input, 4, "unfold")


def fold(
    input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
    stride: Any = 1,
) -> Any:  # fmt: skip
    """Columns (N, C kh kw, L) added up where their windows lie in images (N, C, *output_size)."""
    size = pair("fold", "output_size", output_size, 1)
    out, window = geometry("fold", size, kernel_size, stride, padding, dilation)

    def images(x: Any) -> Any:
        area = math.prod(window["kernel"])
        require(x.shape[1] % area == 0 and x.shape[2] == math.prod(out), "fold",
                f"x must be (N, C * {area}, {math.prod(out)})", x=x)  # fmt: skip
        return from_columns(x, size=size, out=out, **window)

    return batched(images, input, 3, "fold")
