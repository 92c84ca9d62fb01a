"""How all backends see arrays: layouts of results, merged axes, the forms of sums and matrices.

Arrays are known by their signature (dtype, shape, strides in bytes); a number has None.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl.backend.expression import Program

Signature = tuple[Any, ...]  # per operand (dtype, shape, strides), or None for a number


class Loop(NamedTuple):
    """How a program's operands, and behind them its results, are walked together."""

    dtypes: list[np.dtype]  # of the results
    strides: list[tuple[int, ...]]  # of the results
    sizes: list[int]  # of the merged axes, the slowest first; at least one
    steps: list[list[int]]  # each array's strides over them


def dense(shape: tuple[int, ...], order: Sequence[int], item: int) -> tuple[int, ...]:
    """Strides in bytes of a dense array with its axes in `order`, the slowest first."""
    strides = [0] * len(shape)
    for axis in reversed(order):
        strides[axis] = item
        item *= max(shape[axis], 1)
    return tuple(strides)


def dense_like(shape: tuple[int, ...], strides: Sequence[int], item: int) -> tuple[int, ...]:
    """Strides of a dense array whose axes lie in memory in the order of given strides."""
    return dense(shape, sorted(range(len(shape)), key=lambda i: (-abs(strides[i]), i)), item)


def is_channels_last(x: Any) -> bool:
    """Whether x is (N, C, H, W) over channels-last memory and not in C order as well."""
    return x.ndim == 4 and not x.flags.c_contiguous and x.transpose(0, 2, 3, 1).flags.c_contiguous


def order_of(signatures: Sequence[tuple], shape: tuple) -> tuple[int, ...]:
    """Axes of the result from the slowest to the fastest in memory.

    The operands of the result's shape vote with the order of their strides (axes of size 1 have no
    say). Agreement wins; else channels-last if it is among them; else C order.
    """
    axes = [i for i, n in enumerate(shape) if n > 1]
    plain = tuple(range(len(shape)))
    votes = set()
    for _, own, strides in signatures:
        if own == shape and all(strides[i] for i in axes):
            votes.add(tuple(sorted(axes, key=lambda i: (-abs(strides[i]), i))))
    last = tuple([i for i in (0, *range(2, len(shape)), 1) if i in axes])
    winner = last if last in votes and len(shape) > 2 else tuple(axes)
    if len(votes) == 1:
        (winner,) = votes
    return plain if winner == tuple(axes) else (*[i for i in plain if i not in axes], *winner)


def plan_loop(program: Program, operands: Signature, dtype: np.dtype, shape: tuple) -> Loop:
    """The loop of a program whose real results have dtype; bools are bool."""
    given = [s for s in operands if s is not None]
    order = order_of(given, shape)
    dtypes = [np.dtype(bool) if b else dtype for b in program.booleans]
    made = [dense(shape, order, t.itemsize) for t in dtypes]
    strides = [repeated(s, shape) for s in given] + [list(s) for s in made]
    sizes, steps = merged(shape, order, strides)
    if not sizes:
        items = [s[0].itemsize for s in given] + [t.itemsize for t in dtypes]
        sizes, steps = [1], [[item] for item in items]
    return Loop(dtypes, made, sizes, steps)


def merged(shape: tuple, order: Sequence[int], strides: list[list[int]]) -> tuple[list, list]:
    """Sizes and per-array strides of the axes in `order`, neighbours joined where all allow it."""
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis in (i for i in order if shape[i] != 1):
        n = shape[axis]
        if sizes and all(s[-1] == t[axis] * n for s, t in zip(steps, strides, strict=True)):
            n *= sizes.pop()
            for s in steps:
                s.pop()
        sizes.append(n)
        for s, t in zip(steps, strides, strict=True):
            s.append(t[axis])
    return sizes, steps


def repeated(s: tuple, shape: tuple) -> list[int]:
    """Strides of an operand over the result's axes: 0 where it is repeated."""
    own = [0 if n == 1 else stride for n, stride in zip(s[1], s[2], strict=True)]
    return [0] * (len(shape) - len(own)) + own


def sum_form(x: Any, axes: tuple[int, ...]) -> tuple[int, int, int] | None:
    """x as (outer, rows, columns), whose rows are summed, or None.

    Only for dense x whose summed axes lie side by side in memory and whose kept ones keep their
    logical order.
    """
    order = sorted(range(x.ndim), key=lambda i: -x.strides[i])
    if any(s < 0 for s in x.strides) or not x.transpose(order).flags.c_contiguous:
        return None
    real = [i for i in order if x.shape[i] != 1]
    gone = [i in axes for i in real]
    kept = [i for i in real if i not in axes]
    first = gone.index(True) if any(gone) else len(real)
    stop = first + sum(gone)
    if kept != sorted(kept) or not all(gone[first:stop]):
        return None
    outer, rows = (math.prod(x.shape[i] for i in part) for part in (real[:first], real[first:stop]))
    return outer, rows, x.size // max(outer * rows, 1)


def strides_of_thirds(xs: Sequence[Any], places: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of the dense array (3, …) that three views at these addresses are, or None."""
    q, base, step = xs[0], xs[0].base, places[1] - places[0]
    alike = all(x.base is base and (x.shape, x.strides) == (q.shape, q.strides) for x in xs)
    if base is None or not alike or not places[2] - places[1] == step > 0:
        return None
    strides = (step, *q.strides)
    return strides if dense_like((3, *q.shape), strides, q.itemsize) == strides else None


def matrix_form(x: Any) -> tuple[int, int] | None:
    """Whether BLAS must transpose the matrices x (…, M, N), and their leading dimension.

    None where it cannot take them as they lie.
    """
    size = x.itemsize
    rows, columns = x.strides[-2] // size, x.strides[-1] // size
    m, n = x.shape[-2:]
    if all(s >= 0 for s in x.strides[:-2]):
        if (columns == 1 or n == 1) and (rows >= n or m == 1) and x.strides[-2] >= 0:
            return 0, max(rows, n) if m > 1 else max(n, 1)
        if (rows == 1 or m == 1) and (columns >= m or n == 1) and x.strides[-1] >= 0:
            return 1, max(columns, m) if n > 1 else max(m, 1)
    return None


def joint_of(shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[tuple[int, ...], list[tuple]]:
    """The shape of arrays joined along an axis, and the key of each of them in it."""
    ends = list(itertools.accumulate((s[axis] for s in shapes), initial=0))
    shape = (*shapes[0][:axis], ends[-1], *shapes[0][axis + 1 :])
    return shape, [(slice(None),) * axis + (slice(*span),) for span in itertools.pairwise(ends)]


def padding_of(shape: tuple[int, ...], widths: Sequence[tuple[int, int]]) -> tuple[tuple, ...]:
    """The padded shape (negative widths cut), and the keys in it and in the array of what stays."""
    whole = tuple(max(n + lo + hi, 0) for n, (lo, hi) in zip(shape, widths, strict=True))
    inside = tuple(slice(max(lo, 0), m - max(hi, 0)) for m, (lo, hi) in zip(whole, widths))
    taken = tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(shape, widths))
    return whole, inside, taken
