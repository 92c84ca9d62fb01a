"""Ops that pick elements: indexing, embeddings, gather and scatter, diagonals and triangles."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, op, raw, wrap
from minidl.errors import DTypeError, GraphError, RangeError, require
from minidl.ops import pointwise as pw
from minidl.ops.arguments import axis_of, check_real, fitted, length_of
from minidl.ops.shape import movedim, reshape, sum_to, to_dtype, unsqueeze
from minidl.tape import noted

Key = tuple[Any, ...]

# ---- x[key] --------------------------------------------------------------------------------------


def placed(x: Any, key: Any) -> tuple[Any, Key, list[Tensor]]:
    """x, an index as a tuple that NumPy takes and that never yields a number, and its tensors.

    Where ints lie apart from arrays of indices, x is its view by the ints, which in PyTorch go
    first, and the index what remains: NumPy would count them among the arrays.
    """
    given = key if isinstance(key, tuple) else (key,)
    out = [k if type(k) is int else _part(raw(k)) for k in given]
    arrays = [k for k in out if hasattr(k, "dtype")]
    if not arrays:
        return x, tuple(out) if Ellipsis in out else (*out, Ellipsis), []
    tensors = [t for t, k in zip(given, out) if isinstance(t, Tensor) and hasattr(k, "dtype")]
    if sum(map(_axes, out)) == x.ndim:  # an ellipsis of no axes sets no arrays apart
        out = [k for k in out if k is not Ellipsis]
    if len(arrays) < len(out):
        x, out = _ints_first(x, out)
    return x, tuple(out), tensors


def _part(k: Any) -> Any:
    """A part of an index as NumPy takes it; a number in an array of the host's as an int."""
    if isinstance(k, slice):
        k = slice(*[None if v is None else operator.index(v) for v in (k.start, k.stop, k.step)])
        forward = k.step is None or k.step > 0
        require(forward, "index", "slices must have a positive step", step=k.step)
    elif isinstance(k, list):
        k = np.asarray(k) if k else np.zeros(0, np.int64)
    if not hasattr(k, "dtype"):
        return k
    if k.dtype == np.uint8 and k.ndim:  # PyTorch's old masks
        k = backend.of(k).cast(k, np.dtype(np.bool_))
    if k.dtype.kind == "b":  # how many places it names must be known
        return k if isinstance(k, np.ndarray) else read_on_host("index", k)
    require(k.dtype.kind in "iu", "index", "must be integers or bools", error=DTypeError, index=k)
    return k if k.ndim or not _is_int(k) or backend.cpu.recording() else int(k)


def _is_int(k: Any) -> bool:
    """Whether a part of an index is one number, no bool, that the host knows."""
    known = isinstance(k, (int, np.integer, np.ndarray)) and not np.ndim(k)
    return known and np.asarray(k).dtype != np.bool_


def _axes(k: Any) -> int:
    """How many axes a part of an index takes; an ellipsis counts as none."""
    none = k is None or k is Ellipsis or isinstance(k, bool)
    return 0 if none else k.ndim if getattr(k, "dtype", None) == np.bool_ else 1


def _ints_first(x: Any, key: list) -> tuple[Any, list]:
    """x[ints of the key] and the rest of the key, if the ints lie apart from its arrays."""
    ints = [i for i, k in enumerate(key) if _is_int(k)]
    spots = [i for i, k in enumerate(key) if i in ints or hasattr(k, "dtype")]
    if not ints or spots[-1] - spots[0] < len(spots):
        return x, key
    first: list[Any] = []
    for k in key:
        if _is_int(k) or k is Ellipsis:
            first.append(k if k is Ellipsis else int(k))
        else:
            first += [slice(None)] * _axes(k)
    return pick(x, key=tuple(first)), [k for i, k in enumerate(key) if i not in ints]


def read_on_host(name: str, x: Any) -> np.ndarray:
    """The values of an array that a result's shape depends on.

    They cannot be read on a GPU that captures; the CPU refuses to replay what others replace.
    """
    be, rule = backend.of(x), "a shape that depends on values cannot be captured"
    require(isinstance(x, np.ndarray) or not be.recording(), name, rule, error=GraphError, x=x)
    return be.to_host(x)


def _indexed(look: Callable, x: Any, key: Key) -> Any:
    """look(x, key), which is x[key]; NumPy's complaint is worded as our own."""
    try:
        return look(x, key)
    except IndexError as error:
        require(False, "index", str(error), error=RangeError, x=x)
        raise


def shape_at(x: Any, key: Key) -> tuple[int, ...]:
    """x[key]'s shape."""
    places = [np.zeros(k.shape, np.int8) if hasattr(k, "dtype") and k.ndim else k for k in key]
    hosted = tuple([k if isinstance(k, np.ndarray) else p for k, p in zip(key, places)])
    return _indexed(operator.getitem, np.broadcast_to(np.int8(0), x.shape), hosted).shape


def getitem(x: Any, key: Any) -> Any:
    """x[key]: a view for ints, slices, None and …; a copy for arrays of indices or bools."""
    x, key, tensors = placed(x, key)
    y = pick(x, key=key)
    return noted(y, *tensors) if tensors else y


@op(view=True)
def pick(x: Any, *, key: Key) -> Any:
    """x[key]; backward adds into zeros of x's shape."""
    shape, y = x.shape, _indexed(backend.of(x).pick, x, key)
    return y, (), lambda g, need: (pick_grad(g, key=key, shape=shape),)


@op(view=True)
def seen(x: Any, *, places: Key, steps: Callable) -> Any:
    """x[..., *places], which lie evenly apart, as a view: in steps(x.strides) from the first."""
    shape, key = x.shape, (..., *places)
    start = x[..., *[slice(k.flat[0] if k.size else 0, None) for k in places]]
    y = backend.of(x).seen(start, (*shape[: -len(places)], *places[0].shape), steps(x.strides))
    return y, (), lambda g, need: (pick_grad(g, key=key, shape=shape),)


@op
def pick_grad(g: Any, *, key: Key, shape: tuple[int, ...]) -> Any:
    """Zeros of a shape with g added at key; repeated places add up, in order."""
    return backend.of(g).pick_grad(g, key, shape), (), lambda h, need: (pick(h, key=key),)


@op(view=True)
def pieces(x: Any, *, keys: tuple[Key, ...]) -> Any:
    """x[key] for each key, ints and slices that share x out among them: views."""
    like = {"keys": keys, "shape": x.shape, "strides": x.strides}
    be = backend.of(x)
    return tuple([be.pick(x, k) for k in keys]), (), lambda g, need: (assembled(*g, **like),)


@op
def assembled(*xs: Any, keys: tuple[Key, ...], shape: tuple[int, ...], strides: Any) -> Any:
    """An array laid out by `strides` with each of xs at its key, zeros where it is None."""
    be = backend.of(next(x for x in xs if x is not None))
    return be.assemble(xs, keys, shape, strides), (), lambda h, need: pieces(h, keys=keys)


@op
def with_item(x: Any, v: Any, *, key: Key) -> Any:
    """A copy of x with x[key] replaced by v (broadcast)."""
    be, shape = backend.of(x), np.shape(v)
    y = be.copy(x)
    be.put(y, key, v)

    def vjp(g: Any, need: Any) -> Any:
        gx = with_item(g, 0, key=key) if need[0] else None
        return gx, sum_to(pick(g, key=key), shape=shape) if need[1] else None

    return y, (), vjp


@op
def add_item(x: Any, v: Any, *, key: Key) -> Any:
    """A copy of x with v, of x[key]'s shape, added at key; repeated places add up, in order."""
    be = backend.of(x)
    y = be.copy(x)
    be.add_at(y, key, v)
    return y, (), lambda g, need: (g, pick(g, key=key) if need[1] else None)


def nonzero(x: Any, as_tuple: bool = False) -> Any:
    """Indices of the elements that are not zero, one row each (reads x on the host)."""
    here, be = read_on_host("nonzero", raw(x)), backend.of(raw(x))
    if as_tuple:
        return tuple([wrap(be.from_host(k)) for k in np.nonzero(np.atleast_1d(here))])
    return wrap(be.from_host(np.argwhere(here)))


# ---- rows of a table -----------------------------------------------------------------------------


@op
def table_rows(table: Any, index: Any, *, skip: int = -1) -> Any:
    """Rows of table (V, D) at index (...): (..., D); a row `skip` receives no gradient."""
    y, rows = backend.of(table).take_rows(table, index), table.shape[0]
    return y, (index,), lambda g, need, k: (add_rows(g, raw(k), rows=rows, skip=skip), None)


@op
def add_rows(g: Any, index: Any, *, rows: int, skip: int = -1) -> Any:
    """Zeros (rows, D) with the rows of g (..., D) added at index, in order, but at `skip`."""

    def vjp(h: Any, need: Any, index: Any) -> Any:
        taken = table_rows(h, raw(index))
        if skip < 0:
            return taken, None
        return pw.mul(taken, unsqueeze(to_dtype(pw.ne(raw(index), skip), taken.dtype), -1)), None

    return backend.of(g).add_rows(g, index, rows, skip), (index,), vjp


def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Rows of weight (V, D) at the indices input (...): (..., D).

    The row padding_idx (negative: from the end) gets no gradient. Raises RangeError for an index
    outside [0, V).
    """
    require(weight.ndim == 2, "embedding", "weight must have 2 axes (V, D)", weight=weight)
    check_real("embedding", weight)
    rows = weight.shape[0]
    be, index = backend.of(raw(weight)), input
    if isinstance(index, (int, np.integer, list)):
        index = be.from_host(np.asarray(index))
    be.check_indices("embedding", raw(index), rows)
    fits, rule = -rows <= (padding_idx or 0) < rows, "padding_idx must be a row of weight"
    require(fits or padding_idx is None, "embedding", rule, padding_idx=padding_idx, weight=weight)
    skip = -1 if padding_idx is None else padding_idx % rows
    return table_rows(weight, to_dtype(index, np.int64), skip=skip)


def one_hot(tensor: Any, num_classes: int = -1) -> Any:
    """int64 (..., K) with a 1 at each index; -1: K is the largest index + 1, read on the host."""
    index = raw(tensor)
    if num_classes == -1:
        require(index.size > 0, "one_hot", "needs num_classes when there is no index", tensor=index)
        num_classes = int(read_on_host("one_hot", index).max()) + 1
    be = backend.of(index)
    be.check_indices("one_hot", index, num_classes)
    found = pw.eq(unsqueeze(index, -1), be.constant(np.arange(num_classes)))
    return wrap(to_dtype(found, np.int64))


# ---- along an axis -------------------------------------------------------------------------------


def _row(x: Any) -> Any:
    """x, a number as a vector of one element."""
    return x if x.ndim else reshape(x, 1)


def _shaped(y: Any, shape: tuple[int, ...]) -> Any:
    return y if y.shape == shape else reshape(y, shape)


def _grid(name: str, x: Any, dim: int, index: Any) -> tuple[Key, tuple[int, ...]]:
    """Open grids of index's shape with index itself along dim, checked, and that shape."""
    i, k, sizes = axis_of(dim, x.ndim, name), _row(raw(index)), tuple(x.shape) or (1,)
    fits = k.ndim == len(sizes)
    fits = fits and all(a <= b for j, (a, b) in enumerate(zip(k.shape, sizes)) if j != i)
    require(fits, name, "index must have x's axes and be no longer than it", x=x, index=k)
    backend.of(k).check_indices(name, k, sizes[i])
    grid = list(np.ogrid[tuple(slice(n) for n in k.shape)])
    grid[i] = k
    return tuple(grid), k.shape


def _covering(name: str, x: Any, src: Any, shape: tuple[int, ...]) -> Any:
    """The part of src that index, of the given shape, pairs with."""
    src = _row(src)
    fits = src.ndim == len(shape) and all(a <= b for a, b in zip(shape, src.shape))
    require(fits, name, f"src must cover index {shape}", src=src)
    require(src.dtype == x.dtype, name, "src must have x's dtype", error=DTypeError, x=x, src=src)
    return getitem(src, tuple(slice(n) for n in shape))


def gather(x: Any, dim: int, index: Any) -> Any:
    """y[i][j] = x[index[i][j]][j] for dim 0, and so on."""
    y = noted(pick(_row(x), key=_grid("gather", x, dim, index)[0]), index)
    return _shaped(y, raw(index).shape)


def scatter(x: Any, dim: int, index: Any, src: Any = None, *, value: Any = None) -> Any:
    """x with src[i][j] (or one number) written at x[index[i][j]][j] (dim 0); the last one stays."""
    (key, shape), src = _grid("scatter", x, dim, index), value if src is None else src
    number = isinstance(src, (int, float))
    src = fitted("scatter", src, x.dtype) if number else _covering("scatter", x, src, shape)
    return _shaped(noted(with_item(_row(x), src, key=key), index), x.shape)


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """x with src[i][j] added at x[index[i][j]][j] (dim 0); repeated places add up in order."""
    key, shape = _grid("scatter_add", x, dim, index)
    src = _covering("scatter_add", x, src, shape)
    return _shaped(noted(add_item(_row(x), src, key=key), index), x.shape)


def index_select(x: Any, dim: int, index: Any) -> Any:
    """The slices of x along dim that a vector of indices names."""
    i, k, rows = axis_of(dim, x.ndim, "index_select"), raw(index), _row(x)
    require(k.ndim <= 1, "index_select", "index must be a vector", index=k)
    backend.of(k).check_indices("index_select", k, rows.shape[i])
    y = noted(pick(rows, key=(slice(None),) * i + (k.reshape(-1),)), index)
    return y if x.ndim else reshape(y, ())


# ---- diagonals and triangles ---------------------------------------------------------------------


def _diagonal(shape: tuple[int, ...], offset: int) -> Key:
    """The key of a diagonal of the last two axes, of a shape (n, m)."""
    n, m = shape
    k = np.arange(max(min(n + min(offset, 0), m - max(offset, 0)), 0))
    return Ellipsis, k - min(offset, 0), k + max(offset, 0)


def diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonals of the planes (dim1, dim2), as a new last axis: a view."""
    i, j = axis_of(dim1, x.ndim, "diagonal"), axis_of(dim2, x.ndim, "diagonal")
    require(i != j, "diagonal", "dim1 and dim2 must differ", dim1=dim1, dim2=dim2)
    planes = movedim(x, (i, j), (-2, -1))
    _, *places = _diagonal(planes.shape[-2:], offset)
    return seen(planes, places=tuple(places), steps=lambda s: (*s[:-2], sum(s[-2:])))


def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Matrices with the last axis of x on a diagonal."""
    n = length_of(-1, x, "diag_embed")[1] + abs(offset)
    y = pick_grad(x, key=_diagonal((n, n), offset), shape=(*x.shape[:-1], n, n))
    return movedim(y, (-2, -1), (dim1, dim2))


def diag(x: Any, diagonal: int = 0) -> Any:
    """A vector as a diagonal matrix, or the diagonal of a matrix."""
    require(x.ndim in (1, 2), "diag", "x must be a vector or a matrix", x=x)
    return diag_embed(x, diagonal) if x.ndim == 1 else pick(x, key=_diagonal(x.shape, diagonal))


def _lower_triangle(name: str, x: Any, diagonal: int) -> Any:
    """True on and below a diagonal of the last two axes (…, N, M) of x: (N, M)."""
    require(x.ndim >= 2, name, "x must have at least 2 axes", x=x)
    return backend.of(raw(x)).constant(np.tri(x.shape[-2], x.shape[-1], diagonal, bool))


def tril(x: Any, diagonal: int = 0) -> Any:
    """x with zeros above the diagonal."""
    return pw.where(_lower_triangle("tril", x, diagonal), x, np.zeros((), x.dtype))


def triu(x: Any, diagonal: int = 0) -> Any:
    """x with zeros below the diagonal."""
    return pw.where(_lower_triangle("triu", x, diagonal - 1), np.zeros((), x.dtype), x)
