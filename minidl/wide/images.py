"""Wide functions of images: volumes, areas, pixels and channels, sampling at places."""

import math
import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np

from minidl.errors import require, require_one_of
from minidl.ops import creation, image, pointwise
from minidl.ops.arguments import ints_of
from minidl.ops.conv import conv2d
from minidl.ops.linalg import matmul
from minidl.ops.shape import along_one, batched


def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75,
                        k: float = 1.0) -> Any:  # fmt: skip
    """x / (k + alpha · mean of x² over `size` channels around)^beta (Krizhevsky et al. 2012)."""
    require(input.ndim >= 3, "local_response_norm", "needs (N, C, …)", input=input)
    squares = input.square().reshape(*input.shape[:2], math.prod(input.shape[2:])).unsqueeze(1)
    squares = image.pad(squares, (0, 0, size // 2, (size - 1) // 2))
    means = image.avg_pool2d(squares, (size, 1), 1).reshape(input.shape)
    return input / (means * alpha + k) ** beta


def conv3d(input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Any:  # fmt: skip
    """input (N, C, D, H, W) * weight (K, C/groups, T, R, S) + bias: T convolutions of planes."""
    name = "conv3d"
    require(weight.ndim == 5, name, "weight must have 5 axes", weight=weight)
    s, *steps = ints_of(name, "stride", stride, 3, 1)
    d, *apart = ints_of(name, "dilation", dilation, 3, 1)
    reach, flat = d * (weight.shape[2] - 1), padding
    before, after = (reach // 2, reach - reach // 2) if padding == "same" else (0, 0)
    if not isinstance(padding, str):
        before, *flat = ints_of(name, "padding", padding, 3, 0)
        after = before

    def convolved(x: Any) -> Any:
        x = image.pad(x, (0, 0, 0, 0, before, after)).transpose(1, 2)
        out = (x.shape[1] - reach - 1) // s + 1
        require(out > 0, name, "the kernel is larger than the padded input", input=x, weight=weight)
        terms = []
        for k, w in enumerate(weight.unbind(2)):
            planes = x[:, k * d : k * d + (out - 1) * s + 1 : s].flatten(0, 1)
            terms.append(conv2d(planes, w, None if k else bias, steps, flat, apart, groups))
        return reduce(operator.add, terms).unflatten(0, (len(x), out)).transpose(1, 2)

    return batched(convolved, input, 5, name)


def _by_turns(name: str, input: Any, within: Callable, along: Callable) -> Any:
    """Functions of images: one of the planes of input (N, C, D, H, W), one of (D, H · W)."""

    def pooled(x: Any) -> Any:
        planes = within(x.transpose(1, 2).flatten(0, 1))
        y = planes.unflatten(0, (len(x), x.shape[2])).transpose(1, 2)
        return along(y.flatten(3)).unflatten(-1, y.shape[3:])

    return batched(pooled, input, 5, name)


def _of_volumes(pool: Callable, name: str, input: Any, settings: dict, **more: Any) -> Any:
    """A pool of input (N, C, D, H, W) with settings for three axes."""
    three = {key: ints_of(name, key, value, 3, 0) for key, value in settings.items()}
    within = {key: value[1:] for key, value in three.items()}
    along = {key: (value[0], int(key != "padding")) for key, value in three.items()}
    return _by_turns(name, input, partial(pool, **within, **more), partial(pool, **along, **more))


def max_pool3d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
               dilation: Any = 1, ceil_mode: bool = False,
               return_indices: bool = False) -> Any:  # fmt: skip
    """The largest value of each window of input (N, C, D, H, W)."""
    require(not return_indices, "max_pool3d", "gives no indices")
    settings = {"kernel_size": kernel_size, "stride": kernel_size if stride is None else stride,
                "padding": padding, "dilation": dilation}  # fmt: skip
    return _of_volumes(image.max_pool2d, "max_pool3d", input, settings, ceil_mode=ceil_mode)


def avg_pool3d(input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
               ceil_mode: bool = False, count_include_pad: bool = True,
               divisor_override: int | None = None) -> Any:  # fmt: skip
    """The mean of each window of input (N, C, D, H, W), or its sum by divisor_override."""
    settings = {"kernel_size": kernel_size, "stride": kernel_size if stride is None else stride,
                "padding": padding}  # fmt: skip
    how = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    if divisor_override is None:
        return _of_volumes(image.avg_pool2d, "avg_pool3d", input, settings, **how)
    sums = _of_volumes(image.avg_pool2d, "avg_pool3d", input, settings, **how, divisor_override=1)
    return sums / divisor_override


def adaptive_avg_pool3d(input: Any, output_size: Any) -> Any:
    """Means of areas that cover input (N, C, D, H, W), as many as output_size says."""
    d, h, w = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 3
    within, along = (partial(image.adaptive_avg_pool2d, output_size=s) for s in ((h, w), (d, None)))
    return _by_turns("adaptive_avg_pool3d", input, within, along)


def adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Largest values of areas that cover input (N, C, H, W), as many as output_size says.

    None in output_size keeps an axis. With return_indices also the positions h * W + w (int64).
    """

    def pooled(x: Any) -> Any:
        sizes = image.adaptive_sizes("adaptive_max_pool2d", x, output_size)
        down, across = (_areas(*size) for size in sizes)
        y, k = x[:, :, down[:, None, :, None], across[None, :, None, :]].flatten(4).max(-1)
        if not return_indices:
            return y
        top, left = (creation.as_tensor(a[:, 0], device=x.device) for a in (down, across))
        wide = across.shape[1]
        return y, (k // wide + top.unsqueeze(1)) * x.shape[3] + k % wide + left

    return batched(pooled, input, 4, "adaptive_max_pool2d")


def adaptive_max_pool1d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """adaptive_max_pool2d along the last axis of input (N, C, L) or (C, L)."""
    size = output_size[0] if isinstance(output_size, (tuple, list)) else output_size
    return along_one(lambda x: adaptive_max_pool2d(x, (1, size), return_indices), input)


def _areas(n: int, new: int) -> np.ndarray:
    """(new, widest): the places of each area of n, short ones with their last place repeated."""
    first, end = np.arange(new) * n // new, -(-np.arange(1, new + 1) * n // new)
    return np.minimum(first[:, None] + np.arange((end - first).max()), end[:, None] - 1)


def max_unpool2d(input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
                 output_size: Any = None) -> Any:  # fmt: skip
    """Each value of input (N, C, H, W) put back where max_pool2d found it, zeros elsewhere."""
    name = "max_unpool2d"
    kernel, step, pad = (ints_of(name, what, value, 2, least) for what, value, least in (
        ("kernel_size", kernel_size, 1), ("stride", kernel_size if stride is None else stride, 1),
        ("padding", padding, 0)))  # fmt: skip
    require(input.shape == indices.shape, name, "indices must have input's shape", input=input,
            indices=indices)  # fmt: skip
    usual = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(input.shape[-2:], step, pad, kernel)]
    size = usual if output_size is None else list(output_size)[-2:]
    lead = input.shape[:-2]
    start = creation.zeros(*lead, math.prod(size), dtype=input.dtype, device=input.device)
    return start.scatter(-1, indices.flatten(-2), input.flatten(-2)).reshape(*lead, *size)


def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """input (N, C, H r, W r) -> (N, C r², H, W): the inverse of pixel_shuffle."""
    r, (*lead, c, h, w) = downscale_factor, input.shape
    fits = r > 0 and h % r == 0 and w % r == 0
    require(fits, "pixel_unshuffle", "H and W must be divisible by r", input=input, r=r)
    blocks = input.reshape(*lead, c, h // r, r, w // r, r)
    n = len(lead)
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return blocks.permute(*order).reshape(*lead, c * r * r, h // r, w // r)


def channel_shuffle(input: Any, groups: int) -> Any:
    """Channels of (N, C, …) dealt out: the k-th of all groups together (Zhang et al. 2018)."""
    n, c, *rest = input.shape
    require(c % groups == 0, "channel_shuffle", "groups must divide C", input=input, groups=groups)
    return input.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(input.shape)


# ---- sampling at places (Jaderberg et al. 2015) --------------------------------------------------


def affine_grid(theta: Any, size: Any, align_corners: bool | None = None) -> Any:
    """Places (N, H, W, 2) of the pixels of images of size (N, C, H, W) under maps theta (N, 2, 3).

    From -1 to 1 across an image: its corner pixels' centres with align_corners, else its borders.
    """
    n, _, h, w = size
    fits = tuple(theta.shape) == (n, 2, 3)
    require(fits, "affine_grid", f"theta must be ({n}, 2, 3) for size {tuple(size)}", theta=theta)
    rows, columns = (np.linspace(-1, 1, k) * (1 if align_corners else (k - 1) / k) if k > 1
                     else np.zeros(1) for k in (h, w))  # fmt: skip
    x, y = np.meshgrid(columns, rows)
    places = np.stack([x, y, np.ones_like(x)], -1).reshape(h * w, 3).astype(theta.dtype)
    base = creation.as_tensor(places, device=theta.device)
    return matmul(base, theta.transpose(1, 2)).reshape(n, h, w, 2)


def grid_sample(input: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros",
                align_corners: bool | None = None) -> Any:  # fmt: skip
    """Values of images (N, C, H, W) at places grid (N, OH, OW, 2) of (x, y): (N, C, OH, OW).

    Places as in `affine_grid`; mode bilinear or nearest; padding_mode zeros, border or reflection.
    """
    name = "grid_sample"
    require_one_of(name, ("bilinear", "nearest"), mode=mode)
    require_one_of(name, ("zeros", "border", "reflection"), padding_mode=padding_mode)
    fits = input.ndim == grid.ndim == 4 and grid.shape[-1] == 2 and len(grid) == len(input)
    require(fits, name, "needs images (N, C, H, W) and grid (N, OH, OW, 2)", input=input, grid=grid)
    x, y = (_pixel(grid[..., i], input.shape[3 - i], padding_mode, bool(align_corners))
            for i in (0, 1))  # fmt: skip
    if mode == "nearest":
        return _values_at(input, x.round(), y.round())
    left, top = x.floor().detach(), y.floor().detach()
    right, low = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
    above, under = (
        _values_at(input, left, row) * (1 - right) + _values_at(input, left + 1, row) * right
        for row in (top, top + 1)
    )
    return above * (1 - low) + under * low


def _pixel(at: Any, n: int, padding_mode: str, aligned: bool) -> Any:
    """Coordinates from -1 to 1 as those of n pixels, kept inside unless zeros surround them."""
    at = (at + 1) * (0.5 * (n - 1)) if aligned else (at + 1) * (0.5 * n) - 0.5
    if padding_mode == "zeros":
        return at
    if padding_mode == "reflection":
        first, span = (0.0, n - 1) if aligned else (-0.5, n)
        away = (at - first).remainder(2 * span) if span else at * 0
        at = pointwise.minimum(away, 2 * span - away) + first
    return at.clamp(0, n - 1)


def _values_at(images: Any, x: Any, y: Any) -> Any:
    """Images (N, C, H, W) at whole columns x and rows y (N, OH, OW), 0 outside: (N, C, OH, OW)."""
    n, c, h, w = images.shape
    inside = (x >= 0).logical_and(x <= w - 1).logical_and(y >= 0).logical_and(y <= h - 1)
    place = y.clamp(0, h - 1).long() * w + x.clamp(0, w - 1).long()
    found = images.flatten(2).gather(2, place.reshape(n, 1, -1).expand(n, c, place[0].numel()))
    return pointwise.where(inside.unsqueeze(1), found.reshape(n, c, *x.shape[1:]), 0.0)
