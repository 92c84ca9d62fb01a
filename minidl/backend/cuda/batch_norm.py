"""Batch norm on the GPU, with what follows it in one pass (src/batch_norm.cu)."""

import math
from typing import Any, NamedTuple

from minidl.backend.cuda.memory import cast, contiguous, nhwc
from minidl.backend.cuda.plans import code_of
from minidl.backend.cuda.printer import TYPES
from minidl.backend.cuda.reduce import accumulator
from minidl.backend.cuda.runtime import THREADS, Array, Maybe, empty, kernel, launch

_WIDE, _PIECE, _MOST = 32, 256, 65535  # columns of a block, rows of a piece, pieces at most
_BY_RESULT, _BY_INPUT = 1, 2  # how a relu's gradient is gated


class _Cut(NamedTuple):
    """How (rows, C) is cut: folded rows and columns, rows a piece, channels."""

    rows: int
    columns: int
    piece: int
    channels: int

    @property
    def pieces(self) -> int:
        return -(-self.rows // self.piece)

    @property
    def grid(self) -> tuple[int, int]:
        return -(-self.columns // _WIDE), self.pieces


def _cut(v: Array) -> _Cut:
    c = v.shape[-1]
    rows, columns = v.size // max(c, 1), c
    while columns < _WIDE and rows and rows % 2 == 0:
        rows, columns = rows // 2, columns * 2
    return _Cut(rows, columns, max(_PIECE, -(-rows // _MOST)), c)


def _of(name: str, x: Array, dtype: Any = None) -> Any:
    kind = TYPES[code_of(x.dtype if dtype is None else dtype)]
    return kernel("batch_norm.cu", f"{name}<{kind}>")


def _columns(x: Array) -> Array:
    """x (N, C, ...) as a contiguous (N, S, C) array: a view of channels-last memory, or a copy."""
    order = [0, *range(2, x.ndim), 1]
    y = nhwc(x) if x.ndim == 4 else contiguous(x.transpose(order))
    return y.reshape(x.shape[0], math.prod(x.shape[2:]), x.shape[1])


def _uncolumns(y: Array, shape: tuple[int, ...]) -> Array:
    """The inverse view of `_columns`: an (N, C, ...) array over channels-last memory."""
    there = y.reshape(shape[0], *shape[2:], shape[1])
    return there.transpose(0, len(shape) - 1, *range(1, len(shape) - 1))


def _affine(x: Array, w: Maybe, b: Maybe) -> tuple[list, list]:
    """w and b (x where they are missing), and whether they are there."""
    return [x if a is None else contiguous(a) for a in (w, b)], [int(a is not None) for a in (w, b)]


def batch_norm(
    x: Array, w: Maybe, b: Maybe, more: Maybe, eps: float, relu: bool
) -> tuple[Array, Array, Array]:
    """y, mean (C,) and biased variance (C,) of x (N, C, ...), normalised over all axes but C.

    y is relu(normalised x + more) where more (like x) is given and relu is set.
    """
    v, wide = _columns(x), accumulator(x.dtype)
    cut = _cut(v)
    part = empty((cut.pieces, 2, cut.columns), wide)
    mean, var = empty((cut.channels,), wide), empty((cut.channels,), wide)
    y = empty(v.shape, x.dtype)
    launch(_of("moments", x), cut.grid, v, part, *cut[:3])
    given = (part, mean, var, 1, *cut[:3], cut.pieces, cut.channels)
    launch(_of("combine_moments", x, wide), -(-cut.channels // THREADS), *given)
    affine, flags = _affine(v, w, b)
    added = v if more is None else _columns(more)
    given = (v, added, y, mean, var, *affine, *cut, float(eps), *flags)
    launch(_of("normalise", x), cut.grid, *given, int(more is not None), int(relu))
    return _uncolumns(y, x.shape), mean, var


def batch_norm_grad(g: Array, x: Array, w: Maybe, b: Maybe, mean: Array, var: Array, y: Maybe,
                    eps: float, relu: bool) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Gradients of batch_norm's x, w, b and more; y: its result, where more came before a relu."""
    v, gv, wide = _columns(x), _columns(g), accumulator(x.dtype)
    gate = 0 if not relu else _BY_INPUT if y is None else _BY_RESULT
    cut, (affine, flags) = _cut(v), _affine(v, w, b)
    gated = empty(v.shape, x.dtype) if gate == _BY_RESULT else gv
    part, sums = empty((cut.pieces, 2, cut.columns), wide), empty((2, cut.channels), wide)
    statistics = (mean, var, *affine, *cut, float(eps), *flags, gate)
    results = v if y is None else _columns(y)
    launch(_of("gradient_sums", x), cut.grid, gv, v, results, gated, part, *statistics)
    given = (part, sums, 1, cut.columns, cut.pieces, cut.channels)
    launch(_of("combine_sums", x, wide), -(-2 * cut.channels // THREADS), *given)
    dx = empty(v.shape, x.dtype)
    launch(_of("input_gradient", x), cut.grid, gated, v, dx, sums, *statistics)
    db, dw = (cast(s, x.dtype) for s in (sums[0], sums[1]))
    return _uncolumns(dx, x.shape), dw, db, _uncolumns(gated, x.shape)
