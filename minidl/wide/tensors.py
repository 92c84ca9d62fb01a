"""Wide functions of tensors: running products, order, joins, rows by index, sums of products."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd import Tensor, raw
from minidl.dtypes import is_real
from minidl.errors import ShapeError, require, require_one_of, reworded
from minidl.ops import creation, index, join, pointwise, shape
from minidl.ops.arguments import axis_of, broadcast_shapes, length_of, sizes_of
from minidl.ops.linalg import bmm, matmul, mm
from minidl.ops.reduce import Values, norm, root, var_mean
from minidl.tape import noted
from minidl.tensor import printing

# ---- values and order ----------------------------------------------------------------------------


def nan_to_num(x: Any, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    """x with NaN and the infinities replaced; None: by the largest and the lowest number."""
    if not is_real(x.dtype):
        return x.clone()
    most = float(np.finfo(x.dtype).max) if x.dtype.kind == "f" else (2 - 2**-7) * 2.0**127
    y = pointwise.where(x.isnan(), nan, x)
    y = pointwise.where(x == math.inf, most if posinf is None else posinf, y)
    return pointwise.where(x == -math.inf, -most if neginf is None else neginf, y)


def cumprod(x: Any, dim: int, *, dtype: Any = None) -> Any:
    """Running products along dim, in log2(n) rounds; the gradient divides by nothing."""
    axis = axis_of(dim, x.ndim, "cumprod")
    y = shape.to_dtype(x, dtype or (np.int64 if x.dtype.kind in "bui" else None))
    n, step = y.shape[axis] if y.ndim else 0, 1
    while step < n:
        product = y.narrow(axis, step, n - step) * y.narrow(axis, 0, n - step)
        y = join.cat((y.narrow(axis, 0, step), product), axis)
        step *= 2
    return y.clone() if y is x else y


def median(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower of the two middle values, NaN where there is one: (values, indices) along dim."""
    if dim is None:
        return median(x.flatten(), 0).values
    n = x.shape[axis_of(dim, x.ndim, "median")] if x.ndim else 1
    require(n > 0, "median", "cannot reduce an axis of size 0", x=x, dim=dim)
    if not x.ndim:
        return Values(x.clone(), creation.zeros((), dtype=np.int64, device=x.device))
    values, order = x.sort(dim)
    # NaN sorts last
    place = pointwise.where(values.narrow(dim, n - 1, 1).isnan(), n - 1, (n - 1) // 2)
    found = values.gather(dim, place), order.gather(dim, place)
    return Values(*(y if keepdim else y.squeeze(dim) for y in found))


def std_mean(x: Any, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *,
             correction: Any = None) -> tuple[Any, Any]:  # fmt: skip
    """(std, mean), as each by itself."""
    variance, mean = var_mean(x, dim, unbiased, keepdim, correction=correction)
    return root(variance, None), mean


def unique(x: Any, sorted: bool = True, return_inverse: bool = False,
           return_counts: bool = False, dim: int | None = None) -> Any:  # fmt: skip
    """The distinct elements in order, where each element is among them, how often each is there.

    dim: of the slices along it, ordered by their first difference. Their number depends on the
    values, which are read on the host.
    """
    if dim is not None:
        told = np.unique(index.read_on_host("unique", raw(x)), True, True, True, axis=dim)[1:]
        first, inverse, counts = (creation.as_tensor(k.reshape(-1), device=x.device) for k in told)
        kinds = [x.index_select(dim, first)] + [inverse] * return_inverse + [counts] * return_counts
        return tuple(kinds) if len(kinds) > 1 else kinds[0]
    values, order = x.flatten().sort()
    first = join.cat((values[:1] == values[:1], values[1:] != values[:-1]))
    starts = first.nonzero().flatten()
    ends = join.cat((starts[1:], creation.as_tensor([len(values)], device=x.device)))
    inverse = order.scatter(0, order, first.long().cumsum(0) - 1).reshape(x.shape)
    found = [values[starts]] + [inverse] * return_inverse + [ends - starts] * return_counts
    return tuple(found) if len(found) > 1 else found[0]


def bincount(x: Any, weights: Any = None, minlength: int = 0) -> Any:
    """How often each of 0, 1, … is in a vector of indices, or the sums of their weights."""
    require(x.ndim == 1 and x.dtype.kind in "ui", "bincount", "needs a vector of ints", x=x)
    size = max(minlength, int(x.max().item()) + 1 if len(x) else 0)
    if weights is None:
        weights = creation.ones_like(x, dtype=np.int64)
    elif not is_real(weights.dtype):
        weights = weights.double()
    start = creation.zeros(size, dtype=weights.dtype, device=x.device)
    return start.scatter_add(0, x.long(), weights)


def equal(x: Any, y: Any) -> bool:
    """Whether both have one shape and the same values, read on the host."""
    return x.shape == y.shape and bool((x == y).all().item())


def is_floating_point(x: Any) -> bool:
    """Whether the elements are floats, of any size."""
    return is_real(x.dtype)


def is_tensor(x: Any) -> bool:
    """Whether x is a Tensor."""
    return isinstance(x, Tensor)


def trace(x: Any) -> Any:
    """The sum of a matrix's diagonal."""
    require(x.ndim == 2, "trace", "x must be a matrix", x=x)
    return x.diagonal().sum()


# ---- joins and places ----------------------------------------------------------------------------


def tile(x: Any, *dims: Any) -> Any:
    """`repeat` whose missing counts, of the first axes, are 1."""
    counts = sizes_of(dims, "tile")
    return x.repeat((1,) * (x.ndim - len(counts)) + counts)


def roll(x: Any, shifts: Any, dims: Any = None) -> Any:
    """x shifted round along the dims, or (None) as a flat row."""
    if dims is None:
        return roll(x.flatten(), shifts, 0).reshape(x.shape)
    steps, axes = ([v] if isinstance(v, int) else list(v) for v in (shifts, dims))
    fits = len(steps) == len(axes)
    require(fits, "roll", "needs a shift for each of dims", shifts=shifts, dims=dims)
    for shift, dim in zip(steps, axes):
        n = length_of(dim, x, "roll")[1]
        k = shift % n if n else 0
        x = join.cat((x.narrow(dim, n - k, k), x.narrow(dim, 0, n - k)), dim)
    return x


def repeat_interleave(x: Any, repeats: Any, dim: int | None = None, *,
                      output_size: int | None = None) -> Any:  # fmt: skip
    """Every slice of x along dim (None: of the flattened x) repeated; output_size is not needed."""
    name, counts = "repeat_interleave", raw(repeats)
    if dim is None or not x.ndim:
        x, dim = x.reshape(-1), 0
    if hasattr(counts, "dtype"):
        counts = index.read_on_host(name, counts)
    with reworded(ShapeError, f"{name}: repeats must fit", TypeError, ValueError):
        places = np.repeat(np.arange(length_of(dim, x, name)[1]), counts)
    return x.index_select(dim, creation.as_tensor(places, device=x.device))


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Any, ...]:
    """Each vector spread over the grid of all; "xy" exchanges the first two axes."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    require_one_of("meshgrid", ("ij", "xy"), indexing=indexing)
    vectors = [t.reshape(-1) for t in given]
    sizes, n = [len(v) for v in vectors], len(vectors)
    grids = [v.reshape((1,) * i + (-1,) + (1,) * (n - 1 - i)).expand(*sizes)
             for i, v in enumerate(vectors)]  # fmt: skip
    return tuple(g.transpose(0, 1) if indexing == "xy" and n > 1 else g for g in grids)


def tril_indices(row: int, col: int, offset: int = 0, *, device: Any = None) -> Any:
    """Rows and columns (2, count) of a matrix's lower triangle, row by row."""
    return creation.as_tensor(np.stack(np.tril_indices(row, offset, col)), device=device)


def triu_indices(row: int, col: int, offset: int = 0, *, device: Any = None) -> Any:
    """Rows and columns (2, count) of a matrix's upper triangle, row by row."""
    return creation.as_tensor(np.stack(np.triu_indices(row, offset, col)), device=device)


def unfold_dim(x: Any, dimension: int, size: int, step: int) -> Any:
    """Windows of `size` along an axis, every `step`: a new last axis, a view (Tensor.unfold)."""
    i, n = length_of(dimension, x, "unfold")
    fits = 0 < size <= n and step > 0
    require(fits, "unfold", "size must fit and step be positive", x=x, size=size, step=step)
    places = np.arange(0, n - size + 1, step)[:, None] + np.arange(size)
    windows = index.seen(shape.movedim(x, i, -1), places=(places,),
                         steps=lambda s: (*s[:-1], step * s[-1], s[-1]))  # fmt: skip
    return shape.movedim(windows, -2, i)


# ---- rows by index -------------------------------------------------------------------------------


def take_along_dim(x: Any, indices: Any, dim: int | None = None) -> Any:
    """`gather` that broadcasts all axes but dim; None: from the flattened x."""
    if dim is None:
        return x.flatten().gather(0, indices.flatten())
    axis = axis_of(dim, x.ndim, "take_along_dim")
    require(x.ndim == indices.ndim, "take_along_dim", "needs as many axes", x=x, indices=indices)
    others = [(*t.shape[:axis], 1, *t.shape[axis + 1 :]) for t in (x, indices)]
    common = broadcast_shapes(*others, name="take_along_dim")
    x, k = (t.expand(*common[:axis], t.shape[axis], *common[axis + 1 :]) for t in (x, indices))
    return x.gather(axis, pointwise.where(k < 0, k + x.shape[axis], k))


def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
    """x with the slices of alpha times source added where a vector of indices says along dim."""
    axis = axis_of(dim, x.ndim, "index_add")
    fitting = (*x.shape[:axis], index.array.size, *x.shape[axis + 1 :])
    require(source.shape == fitting, "index_add", f"source must be {fitting}", x=x, source=source)
    places = index.reshape((1,) * axis + (-1,) + (1,) * (source.ndim - axis - 1))
    source = source if alpha == 1 else source * alpha
    return x.scatter_add(dim, places.expand(*source.shape), source)


def scatter_reduce(x: Any, dim: int, index: Any, src: Any, reduce: str, *,
                   include_self: bool = True) -> Any:  # fmt: skip
    """x with the src that index sends to each of its places reduced with it, or (False) without.

    reduce: sum, prod, mean, amax or amin; of extremes that tie the later share half a gradient.
    """
    require_one_of("scatter_reduce", ("sum", "prod", "mean", "amax", "amin"), reduce=reduce)
    whole = None if is_real(x.dtype) else np.iinfo(x.dtype)
    lowest, highest = (whole.min, whole.max) if whole else (-math.inf, math.inf)
    start = {"prod": 1, "amax": lowest, "amin": highest}.get(reduce, 0)
    begun = x if include_self else x.scatter(dim, index, start)
    if reduce in _FOLDS:
        return _folded(_FOLDS[reduce], begun, dim, index, src)
    total = begun.scatter_add(dim, index, src)
    if reduce == "sum":
        return total
    ones = creation.ones_like(x)
    count = ones if include_self else ones.scatter(dim, index, 0)
    count = count.scatter_add(dim, index, creation.ones_like(src))
    return total / count if x.dtype.kind == "f" else total // count


_FOLDS = {"prod": pointwise.mul, "amax": pointwise.maximum, "amin": pointwise.minimum}


def _folded(f: Callable, x: Any, dim: int, index: Any, src: Any) -> Any:
    """f(x, src) at the places of each slice of index along dim, one after the other."""
    for k in range(index.shape[dim]):
        places, given = index.narrow(dim, k, 1), src.narrow(dim, k, 1)
        given = given[tuple([slice(n) for n in places.shape])]
        x = x.scatter(dim, places, f(x.gather(dim, places), given))
    return x


def index_put(x: Any, indices: tuple, values: Any, accumulate: bool = False) -> Any:
    """x with values written (or added) at x[indices]."""
    whole, key, tensors = index.placed(x, tuple(indices))
    require(whole is x, "index_put", "takes no numbers apart from arrays", indices=indices)
    values = shape.broadcast_to(values, index.shape_at(x, key))
    return noted((index.add_item if accumulate else index.with_item)(x, values, key=key), *tensors)


def masked_select(x: Any, mask: Any) -> Any:
    """The elements of x where mask holds, as a vector (reads the mask on the host)."""
    common = broadcast_shapes(tuple(x.shape), tuple(mask.shape), name="masked_select")
    seen = np.broadcast_to(index.read_on_host("masked_select", raw(mask)), common)
    return index.getitem(shape.broadcast_to(x, common), seen)


# ---- sums of products ----------------------------------------------------------------------------


def _added(input: Any, product: Any, beta: float, alpha: float) -> Any:
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else (input if beta == 1 else input * beta) + product


def addmm(input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta input + alpha mat1 @ mat2; with beta 0 the input counts for nothing, NaN included."""
    return _added(input, mm(mat1, mat2), beta, alpha)


def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """`addmm` of batches (B, N, K) and (B, K, M)."""
    return _added(input, bmm(batch1, batch2), beta, alpha)


def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """Sums of products over dims: two lists of axes, or how many last ones of a and first of b."""
    given = (range(a.ndim - dims, a.ndim), range(dims)) if isinstance(dims, int) else dims
    left, right = ([axis_of(d, t.ndim, "tensordot") for d in axes]
                   for t, axes in zip((a, b), given, strict=True))  # fmt: skip
    sizes = [a.shape[i] for i in left]
    fits = sizes == [b.shape[i] for i in right]
    require(fits, "tensordot", "the axes summed over must have equal sizes", a=a, b=b, dims=dims)
    kept = [i for i in range(a.ndim) if i not in left]
    others = [i for i in range(b.ndim) if i not in right]
    n, shape = math.prod(sizes), [*(a.shape[i] for i in kept), *(b.shape[i] for i in others)]
    rows = a.permute(*kept, *left).reshape(math.prod(a.shape[i] for i in kept), n)
    columns = b.permute(*right, *others).reshape(n, math.prod(b.shape[i] for i in others))
    return matmul(rows, columns).reshape(shape)


def cdist(x1: Any, x2: Any, p: float = 2.0,
          compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Any:  # fmt: skip
    """p-norms between rows of x1 (…, N, D) and x2 (…, M, D): (…, N, M); all modes are exact."""
    require(x1.shape[-1:] == x2.shape[-1:], "cdist", "needs rows of one length", x1=x1, x2=x2)
    return norm(pointwise.sub(shape.unsqueeze(x1, -2), shape.unsqueeze(x2, -3)), p, -1)


# ---- methods that take after their tensor --------------------------------------------------------


def _new(name: str) -> Callable:
    def method(self: Tensor, *args: Any, dtype: Any = None, device: Any = None,
               requires_grad: bool = False) -> Tensor:  # fmt: skip
        how = {"dtype": dtype or self.dtype, "device": device or self.device}
        return getattr(creation, name)(*args, **how, requires_grad=requires_grad)

    method.__doc__ = f"`{name}` in this tensor's dtype, on its device, unless said otherwise."
    return method


# ---- how tensors are shown -----------------------------------------------------------------------

_PROFILES = {"default": (4, 1000, 3, 80), "short": (2, 1000, 2, 80), "full": (4, math.inf, 3, 80)}


def set_printoptions(precision: Any = None, threshold: Any = None, edgeitems: Any = None,
                     linewidth: Any = None, profile: str | None = None,
                     sci_mode: bool | None = None) -> None:  # fmt: skip
    """Set how tensors are shown; what is None stays, or is as the profile has it.

    precision: digits behind the point. threshold: of more elements only the first and last
    `edgeitems` of each axis are shown. linewidth: columns. sci_mode=False: never with exponents.
    """
    names = ("precision", "threshold", "edgeitems", "max_line_width", "suppress_small")
    small = None if sci_mode is None else not sci_mode
    if profile is not None:
        require_one_of("set_printoptions", _PROFILES, profile=profile)
        printing.update(zip(names, _PROFILES[profile]))
    given = zip(names, (precision, threshold, edgeitems, linewidth, small))
    printing.update({name: value for name, value in given if value is not None})


METHODS: dict[str, Callable] = {
    "type_as": lambda self, other: shape.to_dtype(self, other.dtype),
    "view_as": lambda self, other: shape.view(self, other.shape),
    "reshape_as": lambda self, other: shape.reshape(self, other.shape),
    "unfold": unfold_dim,
    "element_size": lambda self: self.array.itemsize,
    **{f"new_{name}": _new(name) for name in "tensor zeros ones full empty".split()},
}
