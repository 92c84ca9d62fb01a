"""x[key] on the GPU: picking, writing and adding at places (src/indexing.cu).

Ints, slices, None and … give a view of x; arrays of indices then walk some of its axes. An index
out of range raises RangeError, with NumPy's words, at once where it is in the host's memory. On the
GPU it reads as 0, writes nothing and sets a flag, which is looked at when values are next read.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl.backend.cuda import runtime
from minidl.backend.cuda.memory import cast, constant, copy, flag, full, same_place, to_host, zeros
from minidl.backend.cuda.order import argsort
from minidl.backend.cuda.plans import IDENTITY, accumulator, write
from minidl.backend.cuda.runtime import THREADS, Array, empty, kernel, launch
from minidl.backend.looping import merged, repeated
from minidl.errors import GraphError, RangeError, require

Key = tuple[Any, ...]
_MOST = 8  # axes, and arrays of indices, of a walk
_PIECE = 32  # rows that a thread of add_runs adds up
_NOWHERE = (1 << 63) - 1
_INDEX = np.dtype([("at", "u8"), ("bad", "u8"), ("size", "i8"), ("step", "i8"),
                   ("lowest", "i8"), ("skip", "i8"), ("walk", "i8", _MOST)])  # fmt: skip
_WALK = np.dtype([("rank", "i8"), ("arrays", "i8"), *((k, "i8", _MOST) for k in ("size", "x", "v")),
                  ("index", _INDEX, _MOST)])  # fmt: skip


class Index(NamedTuple):
    """An array of indices and what it walks."""

    at: Array  # int64
    size: int  # of x's axis
    step: int  # from one element of the axis to the next, in elements of x
    lowest: int  # -size where negative indices count from the end, else 0
    checked: bool = True  # before: sets no flag
    skip: int = _NOWHERE  # a value that names no place


class Picked(NamedTuple):
    """x[key], in parts."""

    x: Array  # the view by ints, slices, None and …
    axes: list[int]  # of the view, that indices walk
    indices: list[Index]
    rows: tuple[int, ...]  # the joint shape of the arrays of indices
    first: int  # where in x[key] these axes begin

    @property
    def kept(self) -> list[int]:
        """The view's axes that no index walks."""
        return [i for i in range(self.x.ndim) if i not in self.axes]

    @property
    def shape(self) -> tuple[int, ...]:
        """x[key]'s shape."""
        kept = [self.x.shape[i] for i in self.kept]
        return (*kept[: self.first], *self.rows, *kept[self.first :])


# ---- keys ----------------------------------------------------------------------------------------


def _is_array(k: Any) -> bool:
    """Whether a part of a key is an array of indices: one on the host with no axes is an int."""
    return hasattr(k, "dtype") and (k.ndim > 0 or not isinstance(k, (np.ndarray, np.generic)))


def _fits(ok: bool, rule: str) -> None:
    """Raise RangeError in NumPy's words, to which the op adds its name."""
    if not ok:
        raise RangeError(rule)


def _without_masks(key: Key) -> list:
    """The key with indices in place of its masks, which are read on the host."""
    parts: list = []
    for k in key:
        if isinstance(k, bool) or getattr(k, "dtype", None) == np.bool_:
            if not isinstance(k, (bool, np.ndarray, np.generic)):
                rule = "a mask's count is not known while a function is captured"
                require(not runtime.recording(), "index", rule, error=GraphError, mask=k)
                k = to_host(k)
            parts.append(np.asarray(k))
        else:
            parts.append(k)
    return parts


def _spread(key: Key, shape: tuple[int, ...]) -> list[tuple[Any, int]]:
    """The key's parts, each with the axis of x that it takes; … as whole slices, masks as indices.

    A part that takes no axis, None or a mask of none, has axis -1.
    """
    parts = _without_masks(key)
    masks = [k.ndim if getattr(k, "dtype", None) == np.bool_ else 1 for k in parts]
    taken = sum(m for k, m in zip(parts, masks) if k is not None and k is not Ellipsis)
    rule = f"array is {len(shape)}-dimensional, but {taken} were indexed"
    _fits(taken <= len(shape), f"too many indices for array: {rule}")
    if not any(k is Ellipsis for k in parts):
        parts, masks = [*parts, Ellipsis], [*masks, 0]
    out: list[tuple[Any, int]] = []
    axis = 0
    for k, axes in zip(parts, masks):
        if k is None:
            out.append((k, -1))
            continue
        if k is Ellipsis:
            axes = len(shape) - taken
            out += [(slice(None), i) for i in range(axis, axis + axes)] or [(Ellipsis, -1)]
        elif getattr(k, "dtype", None) == np.bool_:
            for i, (m, n) in enumerate(zip(k.shape, shape[axis:])):
                rule = f"boolean index did not match indexed array along axis {axis + i}"
                sizes = f"size of axis is {n} but size of corresponding boolean axis is {m}"
                _fits(m == n, f"{rule}; {sizes}")
            found = np.nonzero(k) if axes else (np.zeros(int(k), np.int64),)
            out += [(i, axis + d if axes else -1) for d, i in enumerate(found)]
        else:
            out.append((k, axis))
        axis += axes
    return out


def _inside(k: Any, axis: int, n: int) -> None:
    """Raise if an index on the host lies outside an axis of length n."""
    for value in (int(np.min(k)), int(np.max(k))) if np.size(k) else ():
        rule = f"index {value} is out of bounds for axis {axis} with size {n}"
        _fits(-n <= value < n, rule)


def _parsed(x: Array, key: Key) -> Picked:
    """x[key] in parts, by NumPy's rules; RangeError for what does not fit."""
    parts = _spread(key, x.shape)
    arrays = [_is_array(k) for k, _ in parts]
    advanced = [i for i, (k, _) in enumerate(parts) if arrays[i] or _is_int(k)]
    viewed: list = []
    axes, given, before = [], [], []  # of the view: walked axes, their arrays; axes kept before
    kept = dims = 0
    for i, (k, axis) in enumerate(parts):
        before.append(kept)
        n = x.shape[axis] if axis >= 0 else 1
        if isinstance(k, (int, np.ndarray, np.generic)):
            _inside(k, axis, n)
        if arrays[i]:
            viewed.append(slice(None) if axis >= 0 else None)
            axes.append(dims)
            given.append((k, n))
            dims += 1
        else:
            viewed.append(int(k) if _is_int(k) else k)
            if k is None or isinstance(k, slice):
                kept, dims = kept + 1, dims + 1
    seen = x[tuple(k for k in viewed if k is not Ellipsis)]
    together = not given or advanced == list(range(advanced[0], advanced[-1] + 1))
    first = before[advanced[0]] if given and together else 0
    return _walked(seen, axes, given, first)


def _is_int(k: Any) -> bool:
    """Whether a part of a key, no mask, is one index known here."""
    return isinstance(k, (int, np.integer)) or (isinstance(k, np.ndarray) and not k.ndim)


def _walked(x: Array, axes: list[int], given: list, first: int) -> Picked:
    """The parts with arrays of indices that have one shape on the GPU."""
    try:
        rows = np.broadcast_shapes(*(k.shape for k, _ in given))
    except ValueError as error:
        shapes = " ".join(str(k.shape) for k, _ in given)
        rule = "shape mismatch: indexing arrays could not be broadcast together with shapes"
        raise RangeError(f"{rule} {shapes}") from error
    indices = []
    for axis, (k, n) in zip(axes, given):
        hosted = isinstance(k, np.ndarray)
        at = constant(np.asarray(k, np.int64)) if hosted else cast(k, np.dtype(np.int64))
        _fits(n > 0 or not at.size, f"index is out of bounds for axis {axis} with size 0")
        indices.append(Index(at, n, x.strides[axis] // x.itemsize, -n, hosted))
    return Picked(x, axes, indices, rows, first)


# ---- walks ---------------------------------------------------------------------------------------


def _steps(a: Array) -> list[int]:
    return [s // a.itemsize for s in a.strides]


def walk(shape: Sequence[int], x: Sequence[int], v: Sequence[int],
         indices: Sequence[tuple[Index, Sequence[int]]] = ()) -> np.ndarray:  # fmt: skip
    """struct Walk, as an argument: axes, their steps in x and v, and per index those in it."""
    walked = [list(x), list(v), *(list(steps) for _, steps in indices)]
    sizes, steps = merged(tuple(shape), range(len(shape)), walked)
    fits = len(sizes) <= _MOST and len(indices) <= _MOST
    require(fits, "index", f"takes up to {_MOST} axes that cannot be joined", shape=tuple(shape))
    made = np.zeros(1, _WALK)
    made["rank"], made["arrays"] = len(sizes), len(indices)
    for name, values in zip(("size", "x", "v"), (sizes, *steps)):
        made[name][0, : len(sizes)] = values
    for slot, (index, _), own in zip(made["index"][0], indices, steps[2:]):
        slot["at"] = index.at.data.ptr
        slot["bad"] = 0 if index.checked else flag("index", index.size).data.ptr
        slot["size"], slot["step"] = index.size, index.step
        slot["lowest"], slot["skip"] = index.lowest, index.skip
        slot["walk"][: len(sizes)] = own
    return made.view(f"V{_WALK.itemsize}")


def _along(index: Index, rows: tuple[int, ...]) -> list[int]:
    """Steps in an array of indices along the rows' axes."""
    strides = repeated((None, index.at.shape, index.at.strides), rows)
    return [s // index.at.itemsize for s in strides]


# ---- x[key] --------------------------------------------------------------------------------------


def pick(x: Array, key: Key) -> Array:
    """x[key]: a view, or a new array where the key holds arrays."""
    p = _parsed(x, key)
    if not p.indices:
        return p.x
    shape, at, steps = p.shape, p.first, _steps(p.x)
    y, none, behind = empty(shape, x.dtype), [0] * len(p.rows), len(shape) - p.first - len(p.rows)
    kept = [steps[i] for i in p.kept]
    along = [(k, [0] * at + _along(k, p.rows) + [0] * behind) for k in p.indices]
    places = walk(shape, kept[:at] + none + kept[at:], [0] * len(shape), along)
    run = kernel("indexing.cu", "pick", x.dtype)
    launch(run, -(-y.size // THREADS), p.x, y, places, y.size)
    return y


def put(x: Array, key: Key, v: Any) -> None:
    """x[key] = v, an array or number that broadcasts; the last of repeated places stays."""
    p = _parsed(x, key)
    _check_value(p, v)
    if hasattr(v, "dtype") and v.data.mem is x.data.mem and not same_place(v, p.x):
        v = copy(v)  # what is read may not be written by another thread before
    if not p.indices:
        write(IDENTITY, [v], p.x)
        return
    v = cast(v, x.dtype) if hasattr(v, "dtype") else full((), v, x.dtype)
    places, rows, columns, count, n = _sorted(p, v)
    run, blocks = kernel("indexing.cu", "put", x.dtype), -(-count * n // THREADS)
    launch(run, blocks, p.x, v, *places, rows, columns, count, n)


def add_at(x: Array, key: Key, v: Array) -> None:
    """x[key] += v; repeated places add up, in order."""
    _add_at(x, key, v, False)


def _add_at(x: Array, key: Key, v: Array, fresh: bool) -> None:
    """The same; fresh: x is 0."""
    p = _parsed(x, key)
    _check_value(p, v)
    v = cast(v, x.dtype) if hasattr(v, "dtype") else full((), v, x.dtype)
    places, rows, columns, count, n = _sorted(p, v)
    add_runs(p.x, v, places, rows, columns, count, n, fresh=fresh)


def pick_grad(g: Array, key: Key, shape: tuple[int, ...]) -> Array:
    """Zeros of a shape with g added at key; repeated places add up, in order."""
    y = zeros(shape, g.dtype)
    if any(_is_array(k) and k.dtype != np.bool_ for k in key):  # places may be repeated
        _add_at(y, key, g, True)
    else:
        put(y, key, g)
    return y


def _check_value(p: Picked, v: Any) -> None:
    """Raise unless v broadcasts to x[key]."""
    own = v.shape if hasattr(v, "dtype") else ()
    joined = zip(own[::-1], p.shape[::-1])
    fits = len(own) <= len(p.shape) and all(m in (1, n) for m, n in joined)
    require(fits, "index", f"the value must broadcast to the places {p.shape}", value=v)


def _sorted(p: Picked, v: Array) -> tuple:
    """Rows of x[key] by place: (places, their order), the walks of rows and columns, their counts.

    Rows are what one joint index names, columns the axes that no index walks.
    """
    along, steps = repeated((None, v.shape, v.strides), p.shape), _steps(p.x)
    along = [s // v.itemsize for s in along]
    own, end = slice(p.first, p.first + len(p.rows)), p.first + len(p.rows)
    indices = [(k, _along(k, p.rows)) for k in p.indices]
    rows = walk(p.rows, [0] * len(p.rows), along[own], indices)
    sizes = [p.x.shape[i] for i in p.kept]
    columns = walk(sizes, [steps[i] for i in p.kept], along[: p.first] + along[end:])
    count = math.prod(p.rows)
    return order_places(rows, count), rows, columns, count, math.prod(sizes)


def order_places(rows: np.ndarray, count: int) -> tuple[Array, Array]:
    """Where rows start in x, and the stable order of these places."""
    place = empty((count,), np.dtype(np.int64))
    launch(kernel("indexing.cu", "find_places"), -(-count // THREADS), place, rows, count)
    return place, argsort(place, 0, False)


def add_runs(x: Array, v: Array, places: tuple[Array, Array], rows: np.ndarray,
             columns: np.ndarray, count: int, n: int, wide: int = 1,
             fresh: bool = False) -> None:  # fmt: skip
    """Add the rows of v to x at ordered places, level by level of what pieces of rows share.

    A thread takes `wide` columns, several only of dense rows that lie at multiples of them. fresh:
    x is 0.
    """
    sums = accumulator(x.dtype)
    kinds, (place, order) = (x.dtype, "true"), places
    while count:
        pieces = -(-count // _PIECE)
        shared = pieces * 2 if pieces > 1 else 0  # rows of the next level
        part, following = empty((shared, n), sums), empty((shared,), np.dtype(np.int64))
        given = (x, v, place, order, rows, columns, part, following, count, n, int(fresh))
        run = kernel("indexing.cu", "add_runs", x.dtype, *kinds, wide)
        launch(run, -(-pieces * n // (wide * THREADS)), *given)
        v, place, count, kinds = part, following, shared, (sums, "false")
