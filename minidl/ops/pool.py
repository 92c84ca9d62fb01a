"""Pooling: the largest value or the mean over windows of images and sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, op, raw
from minidl.errors import DTypeError, require
from minidl.ops.image import area_weights, batched, geometry, pair, resample
from minidl.ops.index import gather, scatter
from minidl.ops.join import cat, narrow
from minidl.ops.shape import reshape, unsqueeze

Pair = tuple[int, int]


@op
def largest_of_windows(x: Any, *, out: Pair, **window: Pair) -> Any:
    """Largest value of each window of x (N, C, H, W), and its place in the window.

    window: kernel, stride, padding and dilation, each a pair. NaN wins, then the first of equal
    values. Saves the places: one byte an output for windows of at most 256 places.
    """
    size = x.shape[2:]
    y, place = backend.of(x).max_pool2d(x, out=out, **window)

    def vjp(g: Any, need: Any, place: Any) -> Any:
        return (to_largest(g[0], raw(place), size=size, **window),)

    return (y, place), (place,), vjp


@op
def to_largest(g: Any, place: Any, *, size: Pair, **window: Pair) -> Any:
    """Images (N, C, *size) with each g (N, C, P, Q) added where its window's largest value lies."""
    shape = g.shape

    def vjp(h: Any, need: Any, place: Any) -> Any:
        k = backend.of(raw(h)).max_pool2d_indices(raw(place), size, **window)
        flat = reshape(h, (*shape[:2], math.prod(size)))
        taken = gather(flat, 2, k.reshape(*shape[:2], math.prod(shape[2:])))
        return reshape(taken, shape), None

    return backend.of(g).max_pool2d_grad(g, place, size, **window), (place,), vjp


@op
def means_of_windows(x: Any, *, out: Pair, **window: Any) -> Any:
    """Means over windows of x (N, C, H, W); window: kernel, stride, padding, with_pad, divisor."""
    size = x.shape[2:]
    y = backend.of(x).avg_pool2d(x, out=out, **window)
    return y, (), lambda g, need: (spread_means(g, size=size, **window),)


@op
def spread_means(g: Any, *, size: Pair, **window: Any) -> Any:
    """The adjoint of means_of_windows: each g (N, C, P, Q) shared out over its window."""
    out = g.shape[2:]
    y = backend.of(g).avg_pool2d_grad(g, size, **window)
    return y, (), lambda h, need: (means_of_windows(h, out=out, **window),)


def _pooling(name: str, size: Pair, *args: Any) -> tuple[Pair, dict[str, Pair]]:
    """`geometry`, with padding of at most half the kernel, as PyTorch wants it."""
    out, window = geometry(name, size, *args)
    fits = all(2 * p <= k for p, k in zip(window["padding"], window["kernel"]))
    require(fits, name, "padding must be at most half of the kernel", window=window)
    return out, window


def _floating(name: str, x: Any) -> None:
    require(x.dtype.kind in "fV", name, "x must be floating point", error=DTypeError, x=x)


def max_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Largest value of each window of x (N, C, H, W) or (C, H, W); stride None: kernel_size.

    With return_indices also the positions h * W + w (int64).
    """
    _floating("max_pool2d", input)

    def pooled(x: Any) -> tuple:
        size = tuple(x.shape[2:])
        args = (kernel_size, stride, padding, dilation, ceil_mode)
        out, window = _pooling("max_pool2d", size, *args)
        y, place = largest_of_windows(x, out=out, **window)
        if not return_indices:
            return (y,)
        index = backend.of(raw(place)).max_pool2d_indices(raw(place), size, **window)
        return y, Tensor(index) if isinstance(x, Tensor) else index

    return _unpacked(_each(pooled, input, 4, "max_pool2d"))


def _each(f: Callable[[Any], tuple], x: Any, ndim: int, name: str) -> tuple:
    """`batched` for a function with several results."""
    results: list[Any] = []

    def first(v: Any) -> Any:
        results.extend(f(v))
        return results[0]

    y = batched(first, x, ndim, name)
    return (y, *(reshape(r, tuple(y.shape)) for r in results[1:]))


def _unpacked(results: tuple) -> Any:
    return results if len(results) > 1 else results[0]


def _along_one(f: Callable, x: Any, name: str) -> Any:
    """A 2-D pooling of x (N, C, L) or (C, L) along its last axis."""
    require(x.ndim in (2, 3), name, "x must be (N, C, L) or (C, L)", x=x)
    results = f(unsqueeze(x, x.ndim - 1))
    several = results if isinstance(results, tuple) else (results,)
    return _unpacked(tuple(reshape(r, (*r.shape[:-2], r.shape[-1])) for r in several))


def _one(value: Any, other: int) -> Any:
    """A 1-D argument as a pair with `other` for the axis added."""
    if value is None:
        return None
    return (other, value[0] if isinstance(value, (tuple, list)) else value)


def max_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """max_pool2d along the last axis of x (N, C, L) or (C, L)."""
    args = (_one(kernel_size, 1), _one(stride, 1), _one(padding, 0), _one(dilation, 1))
    return _along_one(
        lambda x: max_pool2d(x, *args, ceil_mode, return_indices), input, "max_pool1d"
    )


def avg_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """Mean of each window of x (N, C, H, W) or (C, H, W); stride None: kernel_size."""
    _floating("avg_pool2d", input)
    require(divisor_override is None or divisor_override > 0, "avg_pool2d",
            "divisor_override must be positive", divisor_override=divisor_override)  # fmt: skip

    def pooled(x: Any) -> Any:
        args = (kernel_size, stride, padding, 1, ceil_mode)
        out, window = _pooling("avg_pool2d", tuple(x.shape[2:]), *args)
        del window["dilation"]
        more = {"with_pad": bool(count_include_pad), "divisor": int(divisor_override or 0)}
        return means_of_windows(x, out=out, **window, **more)

    return batched(pooled, input, 4, "avg_pool2d")


def avg_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:  # fmt: skip
    """avg_pool2d along the last axis of x (N, C, L) or (C, L)."""
    args = (_one(kernel_size, 1), _one(stride, 1), _one(padding, 0), ceil_mode, count_include_pad)
    return _along_one(lambda x: avg_pool2d(x, *args), input, "avg_pool1d")


def _targets(name: str, size: tuple, wanted: Any) -> Pair:
    """The output's size, None meaning the input's."""
    both = tuple(wanted) if isinstance(wanted, (tuple, list)) else (wanted,) * 2
    filled = tuple(n if v is None else v for n, v in zip(size, both))
    require(min(size) > 0, name, "the image must not be empty", size=size)
    return pair(name, "output_size", filled, 1)


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over output_size areas of x (N, C, H, W) or (C, H, W) that cover it (None: as x)."""
    _floating("adaptive_avg_pool2d", input)

    def pooled(x: Any) -> Any:
        size = tuple(x.shape[2:])
        out = _targets("adaptive_avg_pool2d", size, output_size)
        if all(n % o == 0 for n, o in zip(size, out)):
            return avg_pool2d(x, tuple(n // o for n, o in zip(size, out)))
        return resample(x, [area_weights(n, o) for n, o in zip(size, out)])

    return batched(pooled, input, 4, "adaptive_avg_pool2d")


def adaptive_avg_pool1d(input: Any, output_size: Any) -> Any:
    """adaptive_avg_pool2d along the last axis of x (N, C, L) or (C, L)."""
    size = _one(output_size, 1)
    return _along_one(lambda x: adaptive_avg_pool2d(x, size), input, "adaptive_avg_pool1d")


def adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Largest values over output_size areas of x (N, C, H, W) or (C, H, W) that cover it."""

    def pooled(x: Any) -> tuple:
        h, w = x.shape[2:]
        out = _targets("adaptive_max_pool2d", (h, w), output_size)
        if h % out[0] == 0 and w % out[1] == 0:
            return max_pool2d(x, (h // out[0], w // out[1]), return_indices=True)
        bounds = [(i * h // out[0], -(-(i + 1) * h // out[0])) for i in range(out[0])]
        rows = [_strip(x, top, bottom, out[1]) for top, bottom in bounds]
        return cat([r[0] for r in rows], 2), cat([r[1] for r in rows], 2)

    both = _each(pooled, input, 4, "adaptive_max_pool2d")
    return both if return_indices else both[0]


def _strip(x: Any, top: int, bottom: int, count: int) -> tuple:
    """Largest values and positions of `count` areas of x's rows top..bottom, (N, C, 1, count)."""
    w, found = x.shape[3], []
    for j in range(count):
        left, right = j * w // count, -(-(j + 1) * w // count)
        area = narrow(narrow(x, 2, top, bottom - top), 3, left, right - left)
        y, k = max_pool2d(area, (bottom - top, right - left), return_indices=True)
        i, j_in = np.divmod(raw(k), right - left)
        k = (i + top) * w + j_in + left
        found.append((y, Tensor(k) if isinstance(x, Tensor) else k))
    return cat([y for y, _ in found], 3), cat([k for _, k in found], 3)


def adaptive_max_pool1d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """adaptive_max_pool2d along the last axis of x (N, C, L) or (C, L)."""
    size = _one(output_size, 1)
    return _along_one(
        lambda x: adaptive_max_pool2d(x, size, return_indices), input, "adaptive_max_pool1d"
    )


def max_unpool2d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Any:  # fmt: skip
    """Zeros with the values of max_pool2d's result written back at its indices."""
    name = "max_unpool2d"
    k, p = pair(name, "kernel_size", kernel_size, 1), pair(name, "padding", padding, 0)
    s = k if stride is None else pair(name, "stride", stride, 1)
    require(tuple(indices.shape) == tuple(input.shape), name,
            "indices must have x's shape", x=input, indices=indices)  # fmt: skip
    lead, out = tuple(input.shape[:-2]), tuple(input.shape[-2:])
    size = tuple((o - 1) * b - 2 * c + a for o, a, b, c in zip(out, k, s, p))
    size = size if output_size is None else tuple(output_size[-2:])
    flat = (*lead, math.prod(out))
    empty = backend.of(raw(input)).zeros((*lead, math.prod(size)), input.dtype)
    y = scatter(empty, -1, reshape(raw(indices), flat), reshape(input, flat))
    return reshape(y, (*lead, *size))
