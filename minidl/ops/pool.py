"""Pooling: the largest value or the mean over windows of images and sequences."""

import math
from typing import Any

from minidl import backend
from minidl.autograd import Tensor, op, raw
from minidl.errors import require
from minidl.ops.arguments import check_real, ints_of
from minidl.ops.image import area_weights, geometry, resample
from minidl.ops.index import gather
from minidl.ops.shape import along_one, batched, reshape

Pair = tuple[int, ...]


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


def _pooling(name: str, x: Any, *args: Any) -> tuple[Pair, dict[str, Pair]]:
    """`geometry`, with padding of at most half the kernel, as PyTorch wants it."""
    check_real(name, x)
    out, window = geometry(name, x.shape[2:], *args)
    fits = all(2 * p <= k for p, k in zip(window["padding"], window["kernel"]))
    require(fits, name, "padding must be at most half of the kernel", window=window)
    return out, window


def _pairs(*given: tuple[Any, int]) -> list[Any]:
    """1-D arguments as pairs with a value for the axis of size 1; None stays."""
    return [
        v if v is None else (other, v[0] if isinstance(v, (tuple, list)) else v)
        for v, other in given
    ]


def max_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Largest value of each window of input (N, C, H, W) or (C, H, W); stride None: kernel_size.

    With return_indices also the positions h * W + w (int64).
    """

    def pooled(x: Any) -> Any:
        args = (kernel_size, stride, padding, dilation, ceil_mode)
        out, window = _pooling("max_pool2d", x, *args)
        y, place = largest_of_windows(x, out=out, **window)
        if not return_indices:
            return y
        k = backend.of(raw(x)).max_pool2d_indices(raw(place), tuple(x.shape[2:]), **window)
        return y, Tensor(k) if isinstance(x, Tensor) else k

    return batched(pooled, input, 4, "max_pool2d")


def max_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """max_pool2d along the last axis of input (N, C, L) or (C, L)."""
    args = _pairs((kernel_size, 1), (stride, 1), (padding, 0), (dilation, 1))
    how = {"ceil_mode": ceil_mode, "return_indices": return_indices}
    return along_one(lambda x: max_pool2d(x, *args, **how), input)


def avg_pool2d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """Mean of each window of input (N, C, H, W) or (C, H, W); stride None: kernel_size."""
    divisor, rule = divisor_override, "divisor_override must be positive"
    require(divisor is None or divisor > 0, "avg_pool2d", rule, divisor_override=divisor)

    def pooled(x: Any) -> Any:
        out, window = _pooling("avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
        del window["dilation"]
        more = {"with_pad": bool(count_include_pad), "divisor": int(divisor or 0)}
        return means_of_windows(x, out=out, **window, **more)

    return batched(pooled, input, 4, "avg_pool2d")


def avg_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:  # fmt: skip
    """avg_pool2d along the last axis of input (N, C, L) or (C, L)."""
    args = _pairs((kernel_size, 1), (stride, 1), (padding, 0))
    how = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return along_one(lambda x: avg_pool2d(x, *args, **how), input)


def _sizes(name: str, x: Any, wanted: Any) -> list[tuple[int, int]]:
    """(old, new) sizes of H and W; None stands for the old one."""
    both = tuple(wanted) if isinstance(wanted, (tuple, list)) else (wanted,) * 2
    filled = tuple(n if v is None else v for n, v in zip(x.shape[2:], both))
    require(min(x.shape[2:]) > 0, name, "the image must not be empty", x=x)
    return list(zip(x.shape[2:], ints_of(name, "output_size", filled, 2, 1)))


def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over areas that cover input (N, C, H, W) or (C, H, W), as many as output_size says.

    None in output_size keeps an axis.
    """

    def pooled(x: Any) -> Any:
        check_real("adaptive_avg_pool2d", x)
        sizes = _sizes("adaptive_avg_pool2d", x, output_size)
        if all(n % m == 0 for n, m in sizes):
            return avg_pool2d(x, tuple(n // m for n, m in sizes))
        return resample(x, [area_weights(n, m) for n, m in sizes])

    return batched(pooled, input, 4, "adaptive_avg_pool2d")


def adaptive_avg_pool1d(input: Any, output_size: Any) -> Any:
    """adaptive_avg_pool2d along the last axis of input (N, C, L) or (C, L)."""
    return along_one(lambda x: adaptive_avg_pool2d(x, *_pairs((output_size, 1))), input)
