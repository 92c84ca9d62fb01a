"""Attention on the GPU by blocks of scores, as src/attention.cu and src/attention_grad.cu say."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl.backend.cuda import runtime
from minidl.backend.cuda.memory import contiguous, reshape
from minidl.backend.cuda.plans import IDENTITY, accumulator, write
from minidl.backend.cuda.runtime import THREADS, Array, Maybe, empty, kernel, launch
from minidl.backend.looping import merged, repeated, strides_of_thirds
from minidl.errors import require

_WIDEST = 256  # columns of q, k and v
_CHUNK = 16  # bytes
_BLOCKS = 264  # that the forward pass should have: two for each multiprocessor of an H200
_AXES = 8  # of struct Move of attention.cu
_WORDS = 17 + 8 * 4  # of struct Shape of attention.cuh


class Cut(NamedTuple):
    """How the kernels cut up rows of `width` elements: struct Cut of attention.cuh."""

    width: int
    threads: int
    kept: int  # rows that a block keeps
    passing: int  # rows that pass by at a time
    parts: int  # blocks that share out the columns of the results
    shared: int  # bytes
    tile: int  # bytes of rows passing by, at most


def cut_of(dtype: np.dtype, columns: int, scores: int = 1, results: int = 1,
           tile: int = 1 << 14) -> Cut:  # fmt: skip
    """The cut of a kernel with so many arrays of scores a warp and of results, as attention.cuh."""
    width, size = max(64, 1 << (columns - 1).bit_length()), accumulator(dtype).itemsize
    line, half = width * dtype.itemsize, dtype.itemsize == 2
    warps = 4 if line <= 512 else 2 if line <= 1024 else results
    repeat = 2 if half and width <= 128 else 1
    out, room = min(width, 1024 // size), 1280 // size
    if half:  # attend needs more registers for other things
        room = (352 if scores + results == 2 else 384) // repeat
    kept, passing = 16 * repeat * warps // results, 64
    while passing > 8 and (passing * line > tile or out + passing * scores > room):
        passing = passing * 3 // 4 if passing % 3 else passing * 2 // 3
    shared = (max(scores, results) * kept + 4 * passing) * line
    if results == 2:  # scores for another warp; lse and delta, twice
        shared += kept * passing * dtype.itemsize + 4 * passing * size
    return Cut(width, 32 * warps, kept, passing, width // out, shared, tile)


def _launch(file: str, name: str, cut: Cut, blocks: int, *args: Any) -> None:
    """Launch a kernel of one dtype, that of its first argument, and width."""
    run = kernel(file, name, args[0].dtype, cut.width, cut.tile)
    launch(run, blocks, *args, threads=cut.threads, shared=cut.shared)


# ---- how arrays lie ------------------------------------------------------------------------------


def _four(x: Array) -> Array:
    """x (..., T, D) as (B, H, T, D) with contiguous rows: a view where its strides allow it."""
    if x.shape[-1] > 1 and x.strides[-1] != x.itemsize:
        x = contiguous(x)
    if x.ndim <= 4:
        return x[(None,) * (4 - x.ndim)]
    shape = (math.prod(x.shape[:-3]), *x.shape[-3:])
    sizes, _ = merged(x.shape[:-3], range(x.ndim - 3), [list(x.strides[:-3])])
    return x.reshape(shape) if len(sizes) < 2 else reshape(x, shape)


def _made_like(x: Array, width: int) -> Array:
    """An empty (B, H, T, width) whose rows and heads lie in memory in the order of x's."""
    b, h, t, _ = x.shape
    if x.strides[2] > x.strides[1] > 0:
        return empty((b, t, h, width), x.dtype).transpose(0, 2, 1, 3)
    return empty((b, h, t, width), x.dtype)


def _like_three(*given: Array) -> list[Array]:
    """Empty arrays for the gradients of q, k and v.

    Where those three share out one projection's memory, their gradients share out an array like it,
    so that they need not be put together again.
    """
    q, strides = given[0], strides_of_thirds(given, [x.data.ptr for x in given])
    if strides is None:
        return [_made_like(x, x.shape[3]) for x in given]
    whole = runtime.seen(empty((3 * q.size,), q.dtype), (3, *q.shape), strides)
    return [whole[i] for i in range(3)]


def _mask(mask: Maybe, lead: tuple, tq: int, tk: int, q: Array) -> tuple[Array, int, list[int]]:
    """The mask (something, without one), its kind and strides over batch, head, row, column."""
    if mask is None:
        return q, 0, [0] * 4
    shape = (*lead, tq, tk)
    steps = repeated((mask.dtype, mask.shape, mask.strides), shape)
    sizes, outer = merged(shape[:-3], range(len(shape[:-3])), [steps[:-3]])
    if len(sizes) > 1:
        given, mask = mask, empty(shape, mask.dtype)
        write(IDENTITY, [given], mask)
        steps, outer = list(mask.strides), [[mask.strides[-4]]]
    four = [outer[0][0] if sizes else 0, *([0] + steps)[-3:]]
    return mask, 1 if mask.dtype == np.bool_ else 2, [s // mask.itemsize for s in four]


def _strides(x: Array) -> list[int]:
    """struct Strides of x (B, H, T, D)."""
    steps = [s if n > 1 else 0 for s, n in zip(x.strides[:3], x.shape[:3])]
    whole = not any(n % _CHUNK for n in (x.data.ptr, x.shape[3] * x.itemsize, *steps))
    return [*(s // x.itemsize for s in steps), int(whole and abs(steps[2]) < 1 << 24)]


class _Call(NamedTuple):
    """What the kernels of one call are told besides their arrays."""

    masked: int  # the kind of mask
    steps: list[int]  # its strides
    causal: bool
    moved: bool  # whether `before` is given

    def shape(self, tiles: int, arrays: Sequence[Array], splits: int = 1, span: int = 0) -> Any:
        """struct Shape of attention.cuh, as an argument; arrays are q, k, v, y, g, dq, dk, dv."""
        (b, h, tq, d), (groups, tk, e) = arrays[0].shape, arrays[2].shape[1:]
        words = [b * h, h, h // groups, tq, tk, d, e, self.causal, self.moved, self.masked]
        words += [tiles, splits, span, *self.steps, *(n for x in arrays for n in _strides(x))]
        words += [0] * (_WORDS - len(words))
        return np.array(words, np.int64).view(f"V{8 * _WORDS}")


def _checked(q: Array, v: Array) -> int:
    """The wider of the head sizes of q and v."""
    wide, rule = max(q.shape[-1], v.shape[-1]), f"a GPU takes heads of at most {_WIDEST} elements"
    require(wide <= _WIDEST, "attention", rule, query=q, value=v)
    return wide


# ---- launchers -----------------------------------------------------------------------------------


def _splits(blocks: int, tk: int, passing: int) -> tuple[int, int]:
    """Into how many parts, of which length, the keys are cut to have enough blocks."""
    count = max(1, min(_BLOCKS // blocks, tk // (4 * passing)))
    span = -(-tk // (count * passing)) * passing
    return -(-tk // span), span


def attend(q: Array, k: Array, v: Array, mask: Maybe, causal: bool, scale: float,
           before: Maybe = None) -> tuple[Array, Array]:  # fmt: skip
    """softmax(scale q kᵀ + mask) v and its rows' log-sum-exp / log 2 (float32 for half types).

    q (..., H, Tq, D), k (..., G, Tk, D), v (..., G, Tk, E), G dividing H; mask broadcasts to
    (..., H, Tq, Tk): bool (True: take part) or of q's dtype, added. Causal: row t sees the keys
    0..t, or 0..before + t (before (1,) int64, at most Tk - Tq). D and E are at most 256.
    """
    cut = cut_of(q.dtype, _checked(q, v))
    q4, k4, v4 = _four(q), _four(k), _four(v)
    (b, h, tq, _), (tk, e) = q4.shape, v4.shape[2:]
    y, lse = _made_like(q4, e), empty((b, h, tq), accumulator(q.dtype))
    if not tk:
        write(IDENTITY, [0], y)
        write(IDENTITY, [math.inf], lse)
    elif y.size:
        tiles = -(-tq // cut.kept)
        splits, span = _splits(b * h * tiles * cut.parts, tk, cut.passing)
        seen, masked, steps = _mask(mask, q.shape[:-2], tq, tk, q4)
        call = _Call(masked, steps, causal, before is not None)
        shape = call.shape(tiles, (q4, k4, v4, y), splits, span)
        some = empty((splits, b, h, tq, e), lse.dtype) if splits > 1 else lse
        levels = empty((2, splits, b, h, tq), lse.dtype) if splits > 1 else lse
        given = (q4, k4, v4, seen, q4 if before is None else before, y, levels, some, shape)
        blocks = b * h * tiles * splits * cut.parts
        _launch("attention.cu", "attend", cut, blocks, *given, float(scale))
        if splits > 1:
            run = kernel("attention.cu", "combine", q.dtype)
            launch(run, b * h * tq, some, levels, y, lse, shape, threads=128)
    return y.reshape(*q.shape[:-1], e), lse


def attend_grad(g: Array, q: Array, k: Array, v: Array, mask: Maybe, y: Array, lse: Array,
                causal: bool, scale: float) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gradients of q, k and v from that of y, attend's result."""
    wide = _checked(q, v)
    q4, k4, v4, y4, g4 = map(_four, (q, k, v, y, g))
    made = _like_three(q4, k4, v4)
    if not g.size or not k.size:
        for d in made:
            write(IDENTITY, [0], d)
    else:
        (b, h, tq, _), (groups, tk) = q4.shape, k4.shape[1:3]
        seen, masked, steps = _mask(mask, q.shape[:-2], tq, tk, q4)
        call, arrays = _Call(masked, steps, causal, False), (q4, k4, v4, y4, g4, *made)
        delta = empty(lse.shape, lse.dtype)
        run = kernel("attention_grad.cu", "row_dots", q.dtype)
        launch(run, -(-delta.size // 8), g4, y4, delta, call.shape(1, arrays))
        given = (q4, k4, v4, seen, g4, lse, delta)
        for name, results, heads, rows in (("query_grad", 1, h, tq), ("key_grad", 2, groups, tk)):
            cuts = [cut_of(q.dtype, wide, 3 - results, results, 1 << n) for n in (14, 13)]
            cut = cuts[cuts[0].shared > runtime.shared_limit()]
            tiles, out = -(-rows // cut.kept), made[:1] if results == 1 else made[1:]
            last = (call.shape(tiles, arrays), float(scale))
            _launch("attention_grad.cu", name, cut, b * heads * tiles * cut.parts, *given, *out,
                    *last)  # fmt: skip
    dq, dk, dv = (d.reshape(x.shape) for d, x in zip(made, (q, k, v), strict=True))
    return dq, dk, dv


def put_rows(room: Array, new: Array, first: Array) -> None:
    """room (..., S, D)[..., first : first + T, :] = new (..., T, D); first (1,) int64."""
    lead = new.shape[:-2]
    sizes, steps = merged(lead, range(len(lead)), [list(x.strides[:-2]) for x in (new, room)])
    rule = f"at most {_AXES - 2} axes before the rows that cannot be merged"
    require(len(sizes) <= _AXES - 2, "put_rows", rule, room=room, new=new)
    rows = [[*sizes, *new.shape[-2:]]]
    for x, step in zip((new, room), steps):
        rows.append([s // x.itemsize for s in (*step, *x.strides[-2:])])
    words = [len(rows[0]), room.shape[-2]]
    for row in rows:
        words += [*row, *[0] * (_AXES - len(row))]
    move = np.array(words, np.int64).view(f"V{8 * len(words)}")
    run = kernel("attention.cu", "put_rows", room.dtype)
    launch(run, -(-new.size // THREADS), room, new, first, move, new.size)
