"""Ops on images: padding, resizing, shuffling of pixels, windows as columns, pooling."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, op, raw, wrap
from minidl.errors import require, require_one_of
from minidl.ops.arguments import Sizes, check_real, ints_of
from minidl.ops.index import gather, getitem, table_rows
from minidl.ops.join import pad_constant
from minidl.ops.linalg import matmul
from minidl.ops.shape import along_one, batched, movedim, permute_axes, reshape
from minidl.tape import settled


def geometry(name: str, size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any,
             ceil: bool = False) -> tuple[Sizes, dict[str, Sizes]]:  # fmt: skip
    """How many windows fit along H and W, and the window as pairs; stride None is the kernel.

    With ceil the last window may reach beyond the padding, if it starts within the image.
    """
    k = ints_of(name, "kernel_size", kernel, 2, 1)
    s = k if stride is None else ints_of(name, "stride", stride, 2, 1)
    p, d = ints_of(name, "padding", padding, 2, 0), ints_of(name, "dilation", dilation, 2, 1)
    out = []
    for i, n in enumerate(size):
        o = (n + 2 * p[i] - d[i] * (k[i] - 1) - 1 + (s[i] - 1 if ceil else 0)) // s[i] + 1
        out.append(o - 1 if ceil and (o - 1) * s[i] >= n + p[i] else o)
    rule = "the window must fit into the padded image"
    require(min(out) > 0, name, rule, size=tuple(size), kernel_size=k)
    return tuple(out), {"kernel": k, "stride": s, "padding": p, "dilation": d}


def pick_places(x: Any, places: Sequence[np.ndarray]) -> Any:
    """x (N, C, ...) at a vector of places along each axis after C, channels-last."""
    n, c, sizes = x.shape[0], x.shape[1], tuple(x.shape[2:])
    index = np.ravel_multi_index(np.broadcast_arrays(*np.ix_(np.arange(n), *places)), (n, *sizes))
    table = reshape(movedim(x, 1, -1), (n * math.prod(sizes), c))
    be = backend.of(raw(x))
    rows = table_rows if x.dtype.name in be.FLOATS else getitem
    return settled(movedim(rows(table, be.constant(index)), -1, 1))


_MODES: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """input with pad = (before, after) on its last axis, then on the one before it, and so on.

    mode constant (value, 0 unless told), reflect, replicate or circular, the last three over the
    axes after (N, C). Negative widths cut.
    """
    count = len(pad) // 2
    fits = len(pad) % 2 == 0 and count <= input.ndim
    require(fits, "pad", "pad must hold two ints for each axis", input=input, pad=tuple(pad))
    widths = tuple((int(pad[2 * i]), int(pad[2 * i + 1])) for i in reversed(range(count)))
    if mode == "constant":
        whole = ((0, 0),) * (input.ndim - count) + widths
        fits = all(n + min(a, 0) + min(b, 0) >= 0 for n, (a, b) in zip(input.shape, whole))
        require(fits, "pad", "negative widths cut more than there is", input=input, pad=tuple(pad))
        return pad_constant(input, widths=whole, value=value or 0.0)
    require(mode in _MODES, "pad", f"mode must be constant or one of {[*_MODES]}", mode=mode)
    require(not value, "pad", "value is for the constant mode", value=value)

    def padded(x: Any) -> Any:
        return pick_places(x, [_border(n, *w, mode) for n, w in zip(x.shape[2:], widths)])

    return batched(padded, input, count + 2, "pad")


def _border(n: int, before: int, after: int, mode: str) -> np.ndarray:
    """Which of n places stands at each place of the padded axis."""
    left = n + min(before, 0) + min(after, 0)
    limit = {"reflect": n - 1, "circular": n if left > 0 else 0}.get(mode, math.inf)
    fits = max(before, after) <= limit and n > 0 and before + after >= -n
    rule = f"{mode} needs widths up to {limit}, together at least {-n}"
    require(fits, "pad", rule, size=n, pad=(before, after))
    k, wider = np.arange(n), (max(before, 0), max(after, 0))
    if mode == "circular":  # what is left goes round
        return np.pad(k[max(-before, 0) : n - max(-after, 0)], wider, "wrap")
    k = np.pad(k, wider, _MODES[mode])
    return k[max(-before, 0) : len(k) - max(-after, 0)]


# ---- resizing ------------------------------------------------------------------------------------

_AXES: dict[str, tuple[int, ...]] = dict.fromkeys(("nearest", "nearest-exact"), (1, 2, 3))
_AXES |= {"area": (1, 2), "linear": (1,), "bilinear": (2,), "bicubic": (2,)}
_SHARP = -0.75  # the slope of the cubic kernel at 1, PyTorch's


def interpolate(input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                align_corners: bool | None = None,
                recompute_scale_factor: bool | None = None) -> Any:  # fmt: skip
    """Resize the axes of input after (N, C) to size, or by scale_factor (then floor).

    mode nearest (nearest-exact: to centres), area, linear (of one axis), bilinear or bicubic (of
    two, Keys 1981); align_corners matters to the last three. As in PyTorch, a given scale_factor
    also sets the distance between samples, unless recompute_scale_factor.
    """
    name, old = "interpolate", tuple(input.shape[2:])
    require_one_of(name, _AXES, mode=mode)
    rule = f"mode {mode} resizes {_AXES[mode]} axes after (N, C)"
    require(len(old) in _AXES[mode], name, rule, input=input)
    weights = _cubic_weights if mode == "bicubic" else _linear_weights
    smooth = mode.endswith(("linear", "cubic"))
    require(smooth or align_corners is None, name, "align_corners is for smooth modes", mode=mode)
    rule = "needs either size or scale_factor"
    require((size is None) != (scale_factor is None), name, rule, size=size, scale=scale_factor)
    given = size if scale_factor is None else scale_factor
    each = tuple(given) if isinstance(given, (tuple, list)) else (given,) * len(old)
    require(len(each) == len(old), name, f"needs a value for each of {len(old)} axes", given=given)
    new = tuple(math.floor(v if scale_factor is None else n * v) for n, v in zip(old, each))
    require(min(*old, *new) > 0, name, "sizes must be positive", input=input, size=new)
    if "nearest" not in mode:
        check_real(name, input)
    told = scale_factor is not None and not recompute_scale_factor
    # old and new size, and the distance between samples in the old image
    axes = [(n, m, 1 / v if told else n / m) for n, m, v in zip(old, new, each)]
    if smooth:
        return resample(input, [weights(*axis, bool(align_corners)) for axis in axes])
    if mode == "area":
        return resample(input, [area_weights(n, m) for n, m, _ in axes])
    return pick_places(input, [_nearest(*axis, mode != "nearest") for axis in axes])


def _nearest(n: int, new: int, step: float, centres: bool) -> np.ndarray:
    at = (np.arange(new, dtype=np.float32) + np.float32(centres / 2)) * np.float32(step)
    return np.minimum(at.astype(np.int64), n - 1)


def resample(x: Any, weights: Sequence[np.ndarray]) -> Any:
    """Multiply each axis of x (N, C, ...) after C, one or two, by a matrix (new, old)."""
    if x.ndim == 3:
        return along_one(lambda image: resample(image, [np.ones((1, 1)), *weights]), x)
    n, c, h, w = x.shape
    down, across = (backend.of(raw(x)).constant(m.astype(x.dtype)) for m in weights)
    v = permute_axes(x, axes=(0, 2, 3, 1))
    if across.shape != (1, 1):
        v = matmul(across, v)
    if down.shape != (1, 1) or across.shape == (1, 1):
        v = matmul(down, reshape(v, (n, h, len(across) * c)))
        v = reshape(v, (n, len(down), len(across), c))
    return settled(permute_axes(v, axes=(0, 3, 1, 2)))


def _centres(n: int, new: int, step: float, aligned: bool) -> np.ndarray:
    """Where the new places lie among the n old ones."""
    if aligned:
        return np.arange(new) * ((n - 1) / (new - 1) if new > 1 else 0.0)
    return (np.arange(new) + 0.5) * step - 0.5


@functools.lru_cache(256)
def _linear_weights(n: int, new: int, step: float, aligned: bool) -> np.ndarray:
    """(new, n): the two nearest old places share each new one."""
    at = np.maximum(_centres(n, new, step if new != n else 1, aligned), 0)
    low = np.floor(at).astype(np.int64)
    made, rows = np.zeros((new, n)), np.arange(new)
    np.add.at(made, (rows, np.minimum(low, n - 1)), 1 - (at - low))
    np.add.at(made, (rows, np.minimum(low + 1, n - 1)), at - low)
    return made


@functools.lru_cache(256)
def _cubic_weights(n: int, new: int, step: float, aligned: bool) -> np.ndarray:
    """(new, n): the four nearest old places, of which those outside are the border's."""
    at, made = _centres(n, new, step, aligned), np.zeros((new, n))
    low = np.floor(at).astype(np.int64)
    for k in range(-1, 3):
        d, a = abs(at - low - k), _SHARP
        near, far = ((a + 2) * d - a - 3) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        np.add.at(made, (np.arange(new), np.clip(low + k, 0, n - 1)), np.where(d <= 1, near, far))
    return made


@functools.lru_cache(256)
def area_weights(n: int, new: int) -> np.ndarray:
    """(new, n) means over floor(i n / new) .. ceil((i+1) n / new), for adaptive pooling."""
    made = np.zeros((new, n))
    for i in range(new):
        lo, hi = i * n // new, -(-(i + 1) * n // new)
        made[i, lo:hi] = 1 / (hi - lo)
    return made


# ---- pixels and channels, windows and columns ----------------------------------------------------


def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """input (N, C r², H, W) -> (N, C, H r, W r): channels become pixels (Shi et al. 2016)."""
    r = upscale_factor

    def shuffled(x: Any) -> Any:
        n, c, h, w = x.shape
        require(r > 0 and c % (r * r) == 0, "pixel_shuffle", "C must be divisible by r²", x=x, r=r)
        v = reshape(permute_axes(x, axes=(0, 2, 3, 1)), (n, h, w, c // (r * r), r, r))
        v = permute_axes(v, axes=(0, 1, 4, 2, 5, 3))
        return permute_axes(reshape(v, (n, h * r, w * r, c // (r * r))), axes=(0, 3, 1, 2))

    return batched(shuffled, input, 4, "pixel_shuffle")


@op
def to_columns(x: Any, *, out: Sizes, **window: Any) -> Any:
    """Windows of x (N, C, H, W) as columns (N, C kh kw, L); window: pairs kernel, stride, …"""
    size = x.shape[2:]
    y = backend.of(x).unfold(x, out=out, **window)
    return y, (), lambda g, need: (from_columns(g, size=size, out=out, **window),)


@op
def from_columns(g: Any, *, size: Sizes, out: Sizes, **window: Any) -> Any:
    """The adjoint of to_columns: columns added up into images (N, C, *size)."""
    y = backend.of(g).fold(g, size, out=out, **window)
    return y, (), lambda h, need: (to_columns(h, out=out, **window),)


def unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
           stride: Any = 1) -> Any:  # fmt: skip
    """Sliding windows of input (N, C, H, W) as columns (N, C kh kw, L), channel slowest."""

    def columns(x: Any) -> Any:
        out, window = geometry("unfold", x.shape[2:], kernel_size, stride, padding, dilation)
        return to_columns(x, out=out, **window)

    return batched(columns, input, 4, "unfold")


def fold(input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
         stride: Any = 1) -> Any:  # fmt: skip
    """Columns (N, C kh kw, L) added up where their windows lie in images (N, C, *output_size)."""
    size = ints_of("fold", "output_size", output_size, 2, 1)
    out, window = geometry("fold", size, kernel_size, stride, padding, dilation)

    def images(x: Any) -> Any:
        area, count = math.prod(window["kernel"]), math.prod(out)
        fits = x.shape[1] % area == 0 and x.shape[2] == count
        require(fits, "fold", f"input must be (N, C * {area}, {count})", input=x)
        return from_columns(x, size=size, out=out, **window)

    return batched(images, input, 3, "fold")


# ---- pooling: the largest value or the mean over windows -----------------------------------------


@op
def largest_of_windows(x: Any, *, out: Sizes, **window: Sizes) -> Any:
    """Largest value of each window of x (N, C, H, W), and its place in the window.

    window: kernel, stride, padding and dilation, each a pair. NaN wins, then the first of equal
    values. Saves the places: one byte an output for windows of at most 256 places.
    """
    size = x.shape[2:]
    y, place = backend.of(x).max_pool2d(x, out=out, **window)
    return (y, place), (place,), lambda g, need, k: (to_largest(g[0], raw(k), size=size, **window),)


@op
def to_largest(g: Any, place: Any, *, size: Sizes, **window: Sizes) -> Any:
    """Images (N, C, *size) with each g (N, C, P, Q) added where its window's largest value lies."""
    shape = g.shape

    def vjp(h: Any, need: Any, place: Any) -> Any:
        k = backend.of(raw(h)).max_pool2d_indices(raw(place), size, **window)
        flat = reshape(h, (*shape[:2], math.prod(size)))
        return reshape(gather(flat, 2, k.reshape(*shape[:2], math.prod(shape[2:]))), shape), None

    return backend.of(g).max_pool2d_grad(g, place, size, **window), (place,), vjp


@op
def means_of_windows(x: Any, *, out: Sizes, **window: Any) -> Any:
    """Means over windows of x (N, C, H, W); window: kernel, stride, padding, with_pad, divisor."""
    size = x.shape[2:]
    y = backend.of(x).avg_pool2d(x, out=out, **window)
    return y, (), lambda g, need: (spread_means(g, size=size, **window),)


@op
def spread_means(g: Any, *, size: Sizes, **window: Any) -> Any:
    """The adjoint of means_of_windows: each g (N, C, P, Q) shared out over its window."""
    out = g.shape[2:]
    y = backend.of(g).avg_pool2d_grad(g, size, **window)
    return y, (), lambda h, need: (means_of_windows(h, out=out, **window),)


def _pooling(name: str, x: Any, *args: Any) -> tuple[Sizes, dict[str, Sizes]]:
    """`geometry`, with padding of at most half the kernel, as PyTorch wants it."""
    check_real(name, x)
    out, window = geometry(name, x.shape[2:], *args)
    fits = all(2 * p <= k for p, k in zip(window["padding"], window["kernel"]))
    require(fits, name, "padding must be at most half of the kernel", window=window)
    return out, window


def _pairs(*given: tuple[Any, int]) -> list[Any]:
    """1-D arguments as pairs with a value for the axis of size 1; None stays."""
    lone = [v[0] if isinstance(v, (tuple, list)) and len(v) == 1 else v for v, _ in given]
    return [v if v is None else (other, v) for v, (_, other) in zip(lone, given)]


def max_pool2d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
               dilation: Any = 1, ceil_mode: bool = False,
               return_indices: bool = False) -> Any:  # fmt: skip
    """Largest value of each window of input (N, C, H, W) or (C, H, W); stride None: kernel_size.

    With return_indices also the positions h * W + w (int64).
    """

    def pooled(x: Any) -> Any:
        out, window = _pooling("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)
        y, place = largest_of_windows(x, out=out, **window)
        if not return_indices:
            return y
        k = backend.of(raw(x)).max_pool2d_indices(raw(place), tuple(x.shape[2:]), **window)
        return y, wrap(k) if isinstance(x, Tensor) else k

    return batched(pooled, input, 4, "max_pool2d")


def max_pool1d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
               dilation: Any = 1, ceil_mode: bool = False,
               return_indices: bool = False) -> Any:  # fmt: skip
    """max_pool2d along the last axis of input (N, C, L) or (C, L)."""
    args = _pairs((kernel_size, 1), (stride, 1), (padding, 0), (dilation, 1))
    how = {"ceil_mode": ceil_mode, "return_indices": return_indices}
    return along_one(lambda x: max_pool2d(x, *args, **how), input)


def avg_pool2d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
               ceil_mode: bool = False, count_include_pad: bool = True,
               divisor_override: int | None = None) -> Any:  # fmt: skip
    """Mean of each window of input (N, C, H, W) or (C, H, W); stride None: kernel_size."""
    divisor, rule = divisor_override, "divisor_override must be positive"
    require(divisor is None or divisor > 0, "avg_pool2d", rule, divisor_override=divisor)

    def pooled(x: Any) -> Any:
        out, window = _pooling("avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
        del window["dilation"]
        more = {"with_pad": bool(count_include_pad), "divisor": int(divisor or 0)}
        return means_of_windows(x, out=out, **window, **more)

    return batched(pooled, input, 4, "avg_pool2d")


def avg_pool1d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
               ceil_mode: bool = False, count_include_pad: bool = True) -> Any:  # fmt: skip
    """avg_pool2d along the last axis of input (N, C, L) or (C, L)."""
    args = [*_pairs((kernel_size, 1), (stride, 1), (padding, 0)), ceil_mode, count_include_pad]
    return along_one(lambda x: avg_pool2d(x, *args), input)


def adaptive_sizes(name: str, x: Any, wanted: Any) -> list[tuple[int, int]]:
    """(old, new) sizes of H and W; None stands for the old one."""
    both = tuple(wanted) if isinstance(wanted, (tuple, list)) else (wanted,) * 2
    filled = tuple(n if v is None else v for n, v in zip(x.shape[2:], both)) + both[2:]
    require(min(x.shape[2:]) > 0, name, "the image must not be empty", x=x)
    return list(zip(x.shape[2:], ints_of(name, "output_size", filled, 2, 1)))


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over areas that cover input (N, C, H, W) or (C, H, W), as many as output_size says.

    None in output_size keeps an axis.
    """

    def pooled(x: Any) -> Any:
        check_real("adaptive_avg_pool2d", x)
        sizes = adaptive_sizes("adaptive_avg_pool2d", x, output_size)
        if all(n % m == 0 for n, m in sizes):
            return avg_pool2d(x, tuple(n // m for n, m in sizes))
        return resample(x, [area_weights(n, m) for n, m in sizes])

    return batched(pooled, input, 4, "adaptive_avg_pool2d")


def adaptive_avg_pool1d(input: Any, output_size: Any) -> Any:
    """adaptive_avg_pool2d along the last axis of input (N, C, L) or (C, L)."""
    return along_one(lambda x: adaptive_avg_pool2d(x, *_pairs((output_size, 1))), input)
