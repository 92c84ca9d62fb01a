"""Batch norm on the GPU, with what follows it in one pass, and group norm (src/batch_norm.cu)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from minidl.backend.cuda.memory import cast, contiguous, nhwc
from minidl.backend.cuda.plans import PACK, accumulator
from minidl.backend.cuda.reduce import sum
from minidl.backend.cuda.rows import width_of
from minidl.backend.cuda.runtime import THREADS, Array, Maybe, empty, kernel, launch

_BLOCKS = 528  # that a launch has if it can: four on each multiprocessor of an H100 or H200
_PIECE = 64  # rows of a piece at least
_WARPS = THREADS // 32  # of a block
_BY_RESULT, _BY_INPUT = 1, 2  # how a relu's gradient is gated
Three = tuple[Array, Array, Array]


class _Cut(NamedTuple):
    """How (segments, rows, C) is cut: folded rows and columns, rows a piece, channels, groups."""

    rows: int
    columns: int
    piece: int
    channels: int
    groups: int

    @property
    def pieces(self) -> int:
        return -(-self.rows // self.piece)


def _cut(segments: int, groups: int, *arrays: Array) -> tuple[_Cut, tuple[int, int], tuple]:
    """The cut of arrays (N, S, C), the grid, and the kernels' template arguments.

    A thread has one pack of columns (rows.width_of).
    """
    v = arrays[0]
    channels = v.shape[-1]
    rows, columns = v.size // max(segments * channels, 1), channels
    while 0 < columns < 32 * PACK // v.itemsize and rows and rows % 2 == 0:
        rows, columns = rows // 2, columns * 2
    wide = width_of(columns, *arrays)
    across = segments * -(-columns // (32 * wide))
    piece = max(_PIECE, -(-rows * across // _BLOCKS))
    cut = _Cut(rows, columns, piece, channels, groups)
    return cut, (across, cut.pieces), (v.dtype, wide)


def _combine(name: str, part: Array, results: Sequence[Array], *given: int) -> None:
    """Have the pieces' results combined, one block a result."""
    each = part.size // max(results[0].size, 1)
    run = kernel("batch_norm.cu", name, part.dtype)
    launch(run, results[0].size, part, *results, *given, threads=32 if each <= 128 else THREADS)


def _columns(x: Array) -> Array:
    """x (N, C, ...) as a contiguous (N, S, C) array: a view of channels-last memory, or a copy."""
    order = [0, *range(2, x.ndim), 1]
    y = nhwc(x) if x.ndim == 4 else contiguous(x.transpose(order))
    return y.reshape(x.shape[0], math.prod(x.shape[2:]), x.shape[1])


def _uncolumns(y: Array, shape: tuple[int, ...]) -> Array:
    """The inverse view of `_columns`: an (N, C, ...) array over channels-last memory."""
    there = y.reshape(shape[0], *shape[2:], shape[1])
    return there.transpose(0, len(shape) - 1, *range(1, len(shape) - 1))


def _affine(like: Array, w: Maybe, b: Maybe) -> tuple[list, list]:
    """w and b in the dtype of sums (like, where they are missing), and whether they are there."""
    given = [like if a is None else cast(contiguous(a), like.dtype) for a in (w, b)]
    return given, [int(a is not None) for a in (w, b)]


def _normalise(
    x: Array, w: Maybe, b: Maybe, segments: int, groups: int, eps: float, more: Maybe = None,
    top: float = 0.0,
) -> Three:  # fmt: skip
    """y, mean and biased variance (segments, groups) of x (N, C, ...); a segment is some images.

    y is normalised x + more, which is like x or None, within [0, top] if top is not 0.
    """
    v, wide = _columns(x), accumulator(x.dtype)
    added = v if more is None else _columns(more)
    cut, grid, kinds = _cut(segments, groups, v, added)
    part = empty((segments, cut.pieces, 2, cut.columns), wide)
    mean, var = empty((segments, groups), wide), empty((segments, groups), wide)
    y = empty(v.shape, x.dtype)
    launch(kernel("batch_norm.cu", "moments", *kinds), grid, v, part, *cut[:3])
    _combine("combine_moments", part, (mean, var), *cut, cut.pieces)
    affine, flags = _affine(mean, w, b)
    given = (v, added, y, mean, var, *affine, *cut, float(eps), *flags)
    run = kernel("batch_norm.cu", "normalise", *kinds)
    launch(run, grid, *given, int(more is not None), float(top))
    return _uncolumns(y, x.shape), mean, var


def _gradients(
    g: Array, x: Array, w: Maybe, b: Maybe, mean: Array, var: Array, eps: float, gate: int = 0,
    top: float = 0.0, y: Maybe = None,
) -> Three:  # fmt: skip
    """dx, sums of g and of g xhat (segments, 2, C), and g behind the gate of a relu."""
    v, gv, wide, (segments, groups) = _columns(x), _columns(g), accumulator(x.dtype), mean.shape
    results, (affine, flags) = v if y is None else _columns(y), _affine(mean, w, b)
    cut, grid, kinds = _cut(segments, groups, v, gv, results)
    gated = empty(v.shape, x.dtype) if gate == _BY_RESULT else gv
    part = empty((segments, cut.pieces, 2, cut.columns), wide)
    sums = totals = empty((segments, 2, cut.channels), wide)
    statistics = (mean, var, *affine, *cut, float(eps), *flags)
    run = kernel("batch_norm.cu", "gradient_sums", *kinds, gate)
    launch(run, grid, gv, v, results, gated, part, *statistics, float(top))
    _combine("combine_sums", part, (sums,), cut.columns, cut.pieces, cut.channels)
    if groups != cut.channels:
        totals = empty((segments, 2, groups), wide)
        more = (segments, cut.channels, groups, flags[0])
        run = kernel("batch_norm.cu", "weigh_sums", x.dtype)
        launch(run, -(-totals.size // _WARPS), sums, affine[0], totals, *more)
    dx = empty(v.shape, x.dtype)
    run = kernel("batch_norm.cu", "input_gradient", *kinds, gate)
    launch(run, grid, gated, v, dx, totals, *statistics, float(top))
    return _uncolumns(dx, x.shape), sums, _uncolumns(gated, x.shape)


def batch_norm(x: Array, w: Maybe, b: Maybe, more: Maybe, eps: float, top: float) -> Three:
    """y, mean (C,) and biased variance (C,) of x (N, C, ...), normalised over all axes but C.

    y is normalised x + more, which is like x or None, within [0, top] if top is not 0.
    """
    y, mean, var = _normalise(x, w, b, 1, x.shape[1], eps, more, top)
    return y, mean[0], var[0]


def batch_norm_grad(g: Array, x: Array, w: Maybe, b: Maybe, mean: Array, var: Array, y: Maybe,
                    eps: float, top: float) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Gradients of batch_norm's x, w, b and more; y: its result, if more was added."""
    gate = 0 if not top else _BY_INPUT if y is None else _BY_RESULT
    dx, sums, gated = _gradients(g, x, w, b, mean[None], var[None], eps, gate, top, y)
    both = cast(sums[0], x.dtype if w is None else w.dtype)
    return dx, both[1], both[0], gated


def group_norm(x: Array, w: Maybe, b: Maybe, groups: int, eps: float) -> Three:
    """y, mean and biased variance (N, groups) of x (N, C, ...), normalised group by group."""
    return _normalise(x, w, b, len(x), groups, eps)


def group_norm_grad(g: Array, x: Array, w: Maybe, mean: Array, var: Array, eps: float) -> Three:
    """Gradients of group_norm's x, w and b."""
    dx, sums, _ = _gradients(g, x, w, None, mean, var, eps)
    both = cast(sum(sums, (0,)), x.dtype if w is None else w.dtype)
    return dx, both[1], both[0]
