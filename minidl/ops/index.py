"""Ops that pick elements: indexing, gather and scatter, and writing through an index."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, op, parts, raw
from minidl.errors import DTypeError, RangeError, require
from minidl.ops.shape import axis_of, broadcast_shapes, broadcast_to, cast, sum_to


def as_key(x: Any, key: Any) -> tuple:
    """An index as a tuple that NumPy takes and that never yields a NumPy scalar."""
    parts_ = key if isinstance(key, tuple) else (key,)
    out: list[Any] = []
    for k in parts_:
        k = raw(k)
        if isinstance(k, list):
            k = np.asarray(k)
            k = k.astype(np.int64) if k.size == 0 else k
        if isinstance(k, slice):
            require(
                k.step is None or k.step > 0, "index", "slices must have a positive step",
                step=k.step,
            )  # fmt: skip
            k = slice(*(None if v is None else int(v) for v in (k.start, k.stop, k.step)))
        elif hasattr(k, "dtype"):
            require(k.dtype.kind in "iub", "index", "must be integers or bools", error=DTypeError,
                    index=k)  # fmt: skip
        out.append(k)
    if not any(k is Ellipsis for k in out) and not _is_advanced(tuple(out)):
        out.append(Ellipsis)
    return tuple(out)


def _is_advanced(key: tuple) -> bool:
    return any(hasattr(k, "dtype") and (k.ndim or k.dtype.kind == "b") for k in key)


def getitem(x: Any, key: Any) -> Any:
    """x[key]: a view for ints, slices, None and …; a copy for arrays of indices or bools."""
    key = as_key(x, key)
    _check(x, key)
    return index(x, key=key)


def _check(x: Any, key: tuple) -> None:
    """Word NumPy's complaint about an index as our own."""
    try:
        np.broadcast_to(np.int8(0), x.shape)[key]
    except IndexError as error:
        require(False, "index", str(error), error=RangeError, x=x)


@op(view=True)
def index(x: Any, *, key: tuple) -> Any:
    """x[key]; backward adds into zeros of x's shape."""
    shape = x.shape
    y = np.asarray(x[key])
    return y, (), lambda g, need: (index_add_zeros(g, key=key, shape=shape),)


@op
def index_add_zeros(g: Any, *, key: tuple, shape: tuple[int, ...]) -> Any:
    """Zeros of a shape with g added at key; repeated places add up, in order."""
    y = backend.of(g).zeros(shape, g.dtype)
    if _is_advanced(key) and not all(hasattr(k, "dtype") is False or k.dtype == bool for k in key):
        np.add.at(y, key, g)
    else:
        y[key] = g
    return y, (), lambda h, need: (index(h, key=key),)


@op
def with_item(x: Any, v: Any, *, key: tuple) -> Any:
    """A copy of x with x[key] replaced by v (broadcast)."""
    y = backend.of(x).copy(x)
    y[key] = v
    shape, dtype = np.shape(v), x.dtype

    def vjp(g: Any, need: Any) -> Any:
        gx = with_item(g, np.zeros((), dtype), key=key) if need[0] else None
        gv = sum_to(index(g, key=key), shape=shape) if need[1] else None
        return gx, gv

    return y, (), vjp


def _fit_index(name: str, x: Any, dim: int, index_: Any) -> tuple[int, np.ndarray]:
    """The axis and the index array, checked against x."""
    i = axis_of(dim, x.ndim, name)
    k = raw(index_)
    require(k.dtype.kind in "iu", name, "index must be integers", error=DTypeError, index=k)
    require(
        k.ndim == x.ndim and all(a <= b for j, (a, b) in enumerate(zip(k.shape, x.shape)) if j != i),
        name, "index must have x's axes and be no longer than it", x=x, index=k,
    )  # fmt: skip
    _check_range(name, k, x.shape[i] if x.ndim else 1)
    return i, k


def _check_range(name: str, k: np.ndarray, n: int) -> None:
    """Raise where an index lies outside 0..n-1 (read at once on the CPU)."""
    if k.size:
        low, high = int(k.min()), int(k.max())
        require(
            low >= 0 and high < n, name, f"indices must lie in 0..{n - 1}", error=RangeError,
            smallest=low, largest=high,
        )  # fmt: skip


def _grid(k: np.ndarray, axis: int) -> tuple:
    """Open index grids of k's shape with k itself along the axis."""
    grid = list(np.ogrid[tuple(slice(n) for n in k.shape)])
    grid[axis] = k
    return tuple(grid)


def gather(x: Any, dim: int, index: Any) -> Any:  # noqa: A002
    """y[i][j] = x[index[i][j]][j] for dim 0, and so on."""
    if x.ndim == 0:
        return x if raw(index).ndim == 0 else broadcast_to(x, raw(index).shape)
    axis, k = _fit_index("gather", x, dim, index)
    return _index_grid(x, k, axis)


def _index_grid(x: Any, k: np.ndarray, axis: int) -> Any:
    return globals()["index"](x, key=_grid(k, axis))


@op
def _scatter_add(x: Any, src: Any, *, key: tuple) -> Any:
    y = backend.of(x).copy(x)
    np.add.at(y, key, src)
    return y, (), lambda g, need: (
        g if need[0] else None,
        index(g, key=key) if need[1] else None,
    )


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with src[i][j] added at x[index[i][j]][j] (dim 0); repeated places add up in order."""
    axis, k = _fit_index("scatter_add", x, dim, index)
    require(
        all(a <= b for a, b in zip(k.shape, src.shape)) and src.ndim == k.ndim,
        "scatter_add", "src must cover index", index=k, src=src,
    )  # fmt: skip
    src = getitem(src, tuple(slice(n) for n in k.shape))
    return _scatter_add(x, src, key=_grid(k, axis))


def scatter(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with src[i][j] (or one number) written at x[index[i][j]][j] (dim 0); the last one stays."""
    axis, k = _fit_index("scatter", x, dim, index)
    if isinstance(src, (int, float)):
        src = np.asarray(src, x.dtype)
    else:
        src = getitem(src, tuple(slice(n) for n in k.shape))
        require(src.dtype == x.dtype, "scatter", "src must have x's dtype", error=DTypeError,
                x=x, src=src)  # fmt: skip
    return with_item(x, src, key=_grid(k, axis))


def scatter_reduce(
    x: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """scatter with sum, prod, mean, amax or amin where places repeat (sum and mean differentiate)."""
    axis, k = _fit_index("scatter_reduce", x, dim, index)
    key, src = _grid(k, axis), getitem(src, tuple(slice(n) for n in k.shape))
    base = x if include_self else with_item(x, np.zeros((), x.dtype), key=key)
    if reduce in ("sum", "mean"):
        total = _scatter_add(base, src, key=key)
        if reduce == "sum":
            return total
        count = np.full(x.shape, 1.0 if include_self else 0.0, x.dtype)
        np.add.at(count, key, 1)
        return total / np.maximum(count, 1)
    kinds = {"prod": (np.multiply, 1), "amax": (np.maximum, -np.inf), "amin": (np.minimum, np.inf)}
    require(reduce in kinds, "scatter_reduce", "reduce must be sum, prod, mean, amax or amin",
            reduce=reduce)  # fmt: skip
    ufunc, start = kinds[reduce]
    y = np.array(raw(x))
    if not include_self:
        y[key] = start
    ufunc.at(y, key, raw(src))
    return Tensor(y)


def index_select(x: Any, dim: int, index: Any) -> Any:
    """The slices of x along dim that a vector of indices names."""
    i, k = axis_of(dim, x.ndim, "index_select"), raw(index)
    require(
        k.ndim <= 1 and k.dtype.kind in "iu", "index_select", "index must be a vector of integers",
        index=k,
    )  # fmt: skip
    _check_range("index_select", k, x.shape[i])
    return globals()["index"](x, key=(slice(None),) * i + (k.reshape(-1),))


def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
    """x with alpha·source added at the slices that index names."""
    i, k = axis_of(dim, x.ndim, "index_add"), raw(index)
    _check_range("index_add", k, x.shape[i])
    return _scatter_add(x, source * alpha, key=(slice(None),) * i + (k,))


def index_put(x: Any, indices: tuple, values: Any, accumulate: bool = False) -> Any:
    """x with values written (or added) at x[indices]."""
    key = as_key(x, tuple(indices))
    _check(x, key)
    if accumulate:
        shape = np.broadcast_to(np.int8(0), x.shape)[key].shape
        return _scatter_add(x, broadcast_to(values, shape), key=key)
    return with_item(x, values, key=key)


def take_along_dim(x: Any, indices: Any, dim: int) -> Any:
    """gather, with the other axes broadcast."""
    i, k = axis_of(dim, x.ndim, "take_along_dim"), raw(indices)
    shapes = [tuple(1 if j == i else n for j, n in enumerate(s)) for s in (x.shape, k.shape)]
    common = broadcast_shapes(*shapes, name="take_along_dim")
    wide = tuple(x.shape[i] if j == i else n for j, n in enumerate(common))
    long = tuple(k.shape[i] if j == i else n for j, n in enumerate(common))
    return gather(broadcast_to(x, wide), i, np.broadcast_to(k, long))


def masked_select(x: Any, mask: Any) -> Any:
    """The elements of x where mask holds, as a vector (reads the mask on the host)."""
    shape = broadcast_shapes(tuple(x.shape), tuple(mask.shape), name="masked_select")
    return getitem(broadcast_to(x, shape), np.broadcast_to(raw(mask), shape))


def repeat_interleave(x: Any, repeats: Any, dim: int | None = None) -> Any:
    """Every slice of x along dim (of the flattened x: None) repeated."""
    if dim is None:
        x, dim = x.reshape(-1), 0
    n = x.shape[axis_of(dim, x.ndim, "repeat_interleave")]
    return index_select(x, dim, np.repeat(np.arange(n), raw(repeats)))


def nonzero(x: Any, as_tuple: bool = False) -> Any:
    """Indices of the elements that are not zero, one row each (reads x on the host)."""
    found = np.nonzero(raw(x))
    if as_tuple:
        return tuple(Tensor(k) for k in found)
    return Tensor(np.stack(found, 1) if x.ndim else np.zeros((int(raw(x) != 0), 0), np.int64))


def unfold_dim(x: Any, dimension: int, size: int, step: int) -> Any:
    """Windows of `size` along an axis, every `step`: a new last axis (Tensor.unfold)."""
    i = axis_of(dimension, x.ndim, "unfold")
    n = x.shape[i]
    require(0 < size <= n and step > 0, "unfold", f"size must lie in 1..{n} and step be positive",
            size=size, step=step)  # fmt: skip
    places = np.arange(0, n - size + 1, step)[:, None] + np.arange(size)
    picked = globals()["index"](x, key=(slice(None),) * i + (places,))
    order = [j for j in range(picked.ndim) if j != i + 1] + [i + 1]
    return picked.permute(order) if isinstance(picked, Tensor) else picked.transpose(order)


def diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonals of the planes (dim1, dim2), as a new last axis."""
    i, j = axis_of(dim1, x.ndim, "diagonal"), axis_of(dim2, x.ndim, "diagonal")
    require(i != j, "diagonal", "dim1 and dim2 must differ", dim1=dim1, dim2=dim2)
    n, m = x.shape[i], x.shape[j]
    k = np.arange(max(min(n + min(offset, 0), m - max(offset, 0)), 0))
    order = [a for a in range(x.ndim) if a not in (i, j)] + [i, j]
    moved = x.permute(order) if isinstance(x, Tensor) else x.transpose(order)
    return index(moved, key=(Ellipsis, k - min(offset, 0), k + max(offset, 0)))


def diag(x: Any, diagonal: int = 0) -> Any:
    """A vector as a diagonal matrix, or the diagonal of a matrix."""
    require(x.ndim in (1, 2), "diag", "x must be a vector or a matrix", x=x)
    return diag_embed(x, diagonal) if x.ndim == 1 else globals()["diagonal"](x, diagonal)


def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Matrices with the last axis of x on a diagonal."""
    n = x.shape[-1] + abs(offset)
    k = np.arange(x.shape[-1])
    key = (Ellipsis, k - min(offset, 0), k + max(offset, 0))
    y = index_add_zeros(x, key=key, shape=(*x.shape[:-1], n, n))
    i, j = axis_of(dim1, y.ndim, "diag_embed"), axis_of(dim2, y.ndim, "diag_embed")
    if (i, j) == (y.ndim - 2, y.ndim - 1):
        return y
    from_places = list(range(y.ndim - 2))
    order: list[int] = []
    for a in range(y.ndim):
        order.append(y.ndim - 2 if a == i else y.ndim - 1 if a == j else from_places.pop(0))
    return y.permute(order)


def _triangle(x: Any, keep: np.ndarray) -> Any:
    return parts["where"](keep, x, 0.0 if x.dtype.kind == "f" else 0)


def tril(x: Any, diagonal: int = 0) -> Any:
    """x with zeros above the diagonal."""
    require(x.ndim >= 2, "tril", "x must have at least 2 axes", x=x)
    return _triangle(x, np.tri(x.shape[-2], x.shape[-1], diagonal, bool))


def triu(x: Any, diagonal: int = 0) -> Any:
    """x with zeros below the diagonal."""
    require(x.ndim >= 2, "triu", "x must have at least 2 axes", x=x)
    return _triangle(x, ~np.tri(x.shape[-2], x.shape[-1], diagonal - 1, bool))


def to_dtype(x: Any, dtype: Any) -> Any:
    """x in a dtype (itself if it has it)."""
    return x if x.dtype == np.dtype(dtype) else cast(x, dtype=np.dtype(dtype))


parts["getitem"] = getitem
parts["to_dtype"] = to_dtype
