"""More of PyTorch's names: second names, and functions of a few lines."""

import builtins
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import Tensor, enable_grad
from minidl.errors import DTypeError, GraphError, require
from minidl.ops import creation, image, inplace, join, pointwise, shape
from minidl.ops.arguments import axis_of, broadcast_shapes, length_of
from minidl.tensor import Size, wrap
from minidl.wide.tensors import meshgrid, tensordot

_PAIRS = """
    absolute abs  negative neg  subtract sub  multiply mul  divide div  true_divide div  clip clamp
    greater gt  greater_equal ge  less lt  less_equal le  not_equal ne  arcsin asin  arccos acos
    arctan atan  arctan2 atan2  arcsinh asinh  arccosh acosh  arctanh atanh  swapaxes transpose
    swapdims transpose  moveaxis movedim  fix trunc  ravel flatten  ger outer  vdot dot
    argwhere nonzero  split_with_sizes split""".split()
SECOND = dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True))  # a name, and what it is a name of
FORMATS = {name: name for name in ("channels_last", "contiguous_format", "preserve_format")}
SECOND_JOINS = {"concat": "cat", "concatenate": "cat", "row_stack": "vstack"}

# ---- values and order ----------------------------------------------------------------------------


def clamp_min(x: Any, min: Any) -> Any:
    """x, but at least min."""
    return pointwise.clamp(x, min=min)


def clamp_max(x: Any, max: Any) -> Any:
    """x, but at most max."""
    return pointwise.clamp(x, max=max)


def addcdiv(x: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """x + value tensor1 / tensor2."""
    return x + value * (tensor1 / tensor2)


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """x where condition is true, else y; without them the places where it is, axis by axis."""
    if x is None and y is None:
        return condition.nonzero(as_tuple=True)
    return pointwise.where(condition, x, y)


def round(x: Any, *, decimals: int = 0) -> Any:
    """x rounded to so many decimals, halves to even; gradient 0."""
    return pointwise.round(x * 10.0**decimals) / 10.0**decimals if decimals else pointwise.round(x)


def logical_xor(x: Any, y: Any) -> Any:
    """Whether one of two is not 0 and the other is."""
    return (x != 0) != (y != 0)


def isin(elements: Any, test_elements: Any, *, invert: bool = False) -> Any:
    """Whether each element is among the others."""
    found = (elements.unsqueeze(-1) == test_elements.reshape(-1)).any(-1)
    return ~found if invert else found


def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours along dim, n times over, of what may be set before and behind x."""
    if n > 0 and (prepend is not None or append is not None):
        x = join.cat([t for t in (prepend, x, append) if t is not None], dim)
    for _ in range(n):
        size = length_of(dim, x, "diff")[1]
        after, before = (x.narrow(dim, min(k, size), max(size - 1, 0)) for k in (1, 0))
        x = after != before if x.dtype.kind == "b" else after - before
    return x


def dist(x: Any, y: Any, p: float = 2) -> Any:
    """The p-norm of x - y."""
    return (x - y).norm(p)


def frac(x: Any) -> Any:
    """What is behind the point, with x's sign."""
    return x - pointwise.trunc(x)


def deg2rad(x: Any) -> Any:
    """Degrees as radians."""
    return x * (math.pi / 180)


def rad2deg(x: Any) -> Any:
    """Radians as degrees."""
    return x * (180 / math.pi)


def searchsorted(sorted_sequence: Any, values: Any, *, out_int32: bool = False, right: bool = False,
                 side: str | None = None) -> Any:  # fmt: skip
    """How many numbers of a sorted last axis are less than each value, or (right) not greater.

    sorted_sequence (N,), or (..., N) with values (..., M). Intervals are halved log2(N) times.
    """
    rows, n, right = sorted_sequence, sorted_sequence.shape[-1], right or side == "right"
    x = creation.as_tensor(values, device=rows.device)
    low = creation.zeros(x.shape, dtype=np.int64, device=x.device)
    high = low + n
    for _ in range(n.bit_length()):
        middle = (low + high) // 2
        at = middle.clamp(max=n - 1)
        seen = rows[at] if rows.ndim == 1 else rows.gather(-1, at)
        above = (low < high) & (seen <= x if right else seen < x)
        low, high = pointwise.where(above, middle + 1, low), pointwise.where(above, high, middle)
    return low.int() if out_int32 else low


def bucketize(x: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """`searchsorted` of x in boundaries (N,)."""
    return searchsorted(boundaries, x, out_int32=out_int32, right=right)


# ---- joins and places ----------------------------------------------------------------------------


def numel(x: Any) -> int:
    """How many elements x has."""
    return x.numel()


def select(x: Any, dim: int, index: int) -> Any:
    """The slice of x at index along dim, without that axis: a view."""
    return x[(slice(None),) * axis_of(dim, x.ndim, "select") + (index,)]


def take(x: Any, index: Any) -> Any:
    """Elements by their places in the flattened x."""
    return x.reshape(-1)[index]


def index_fill(x: Any, dim: int, index: Any, value: Any) -> Any:
    """x with one number in the slices that a vector of indices names."""
    axis, n = length_of(dim, x, "index_fill")
    named = creation.zeros(n, dtype=np.bool_, device=x.device)
    named[index] = True
    return x.masked_fill(named.reshape((-1,) + (1,) * (x.ndim - 1 - axis)), value)


def flipud(x: Any) -> Any:
    """x with its first axis reversed."""
    return x.flip(0)


def fliplr(x: Any) -> Any:
    """x with its second axis reversed."""
    return x.flip(1)


def rot90(x: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """x turned k quarters from the first of two axes to the second."""
    require(len(dims) == 2, "rot90", "dims must be two axes", dims=dims)
    a, b = dims
    if k % 2:
        return x.flip(b if k % 4 == 1 else a).transpose(a, b)
    return x.flip(a, b) if k % 4 else x.clone()


def atleast_1d(x: Any) -> Any:
    """x, a number as a vector."""
    return x if x.ndim else x.reshape(1)


def atleast_2d(x: Any) -> Any:
    """x, a number or a vector as a matrix of one row."""
    return x if x.ndim > 1 else x.reshape(1, -1)


def atleast_3d(x: Any) -> Any:
    """x, a matrix with an axis of 1 behind, a vector (1, N, 1)."""
    return x if x.ndim > 2 else atleast_2d(x).unsqueeze(-1)


def block_diag(*tensors: Any) -> Any:
    """Matrices along the diagonal, zeros elsewhere; a vector is a row."""
    rows = [atleast_2d(t) for t in tensors]
    *before, total = itertools.accumulate((t.shape[1] for t in rows), initial=0)
    return join.cat([image.pad(t, (b, total - b - t.shape[1])) for t, b in zip(rows, before)])


def tensor_split(x: Any, indices_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """Views of so many parts, the first ones longer, or of what is between indices along dim."""
    (axis, n), given = length_of(dim, x, "tensor_split"), indices_or_sections
    if isinstance(given, int):
        given = [n // given * k + builtins.min(k, n % given) for k in range(1, given)]
    ends = [None, *given, None]
    return tuple(x[(*(slice(None),) * axis, slice(a, b))] for a, b in itertools.pairwise(ends))


def inner(x: Any, y: Any) -> Any:
    """Sums of products along the last axes of both."""
    return tensordot(x, y, ([-1], [-1])) if x.ndim and y.ndim else x * y


def hstack(tensors: Sequence[Any]) -> Any:
    """Join along the second axis; vectors and numbers along their only one."""
    joined = [atleast_1d(t) for t in tensors]
    return join.cat(joined, 0 if all(t.ndim == 1 for t in joined) else 1)


def vstack(tensors: Sequence[Any]) -> Any:
    """Join along the first axis; a vector or a number is a row."""
    return join.cat([atleast_2d(t) for t in tensors])


def column_stack(tensors: Sequence[Any]) -> Any:
    """Join along the second axis; a vector or a number is a column."""
    return join.cat([t if t.ndim > 1 else t.reshape(-1, 1) for t in tensors], 1)


def dstack(tensors: Sequence[Any]) -> Any:
    """Join along the third axis; a vector is a row of it."""
    return join.cat([atleast_3d(t) for t in tensors], 2)


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """Views of all, in their common shape."""
    common = broadcast_shapes(*(t.shape for t in tensors), name="broadcast_tensors")
    return tuple(t.expand(*common) for t in tensors)


def cartesian_prod(*tensors: Any) -> Any:
    """All ways to take an element of each vector (M, count); one vector stays as it is."""
    return join.stack([*map(shape.flatten, meshgrid(*tensors))], 1) if tensors[1:] else tensors[0]


def cross(x: Any, y: Any, dim: int = -1) -> Any:
    """Cross products of vectors of three along dim."""
    fits = all(length_of(dim, t, "cross")[1] == 3 for t in (x, y))
    require(fits, "cross", "both need 3 numbers along dim", x=x, y=y, dim=dim)
    (a, b, c), (d, e, f) = x.unbind(dim), y.unbind(dim)
    return join.stack((b * f - c * e, c * d - a * f, a * e - b * d), dim)


def kron(x: Any, y: Any) -> Any:
    """Kronecker product: y times each element of x, in x's places."""
    n = max(x.ndim, y.ndim)
    x, y = (t.reshape((1,) * (n - t.ndim) + t.shape) for t in (x, y))
    spread = x.reshape([m for size in x.shape for m in (size, 1)])
    spread = spread * y.reshape([m for size in y.shape for m in (1, size)])
    return spread.reshape([a * b for a, b in zip(x.shape, y.shape)])


# ---- draws and ranges ----------------------------------------------------------------------------


def rand_like(x: Any, *, dtype: Any = None, device: Any = None, generator: Any = None) -> Tensor:
    """Uniform numbers in [0, 1) with x's shape, dtype and device unless told otherwise."""
    how = {"dtype": dtype or x.dtype, "device": device or x.device}
    return creation.rand(x.shape, **how, generator=generator)


def randint_like(x: Any, low: int, high: Any = None, *, generator: Any = None) -> Tensor:
    """Integers low <= k < high (one number: from 0) with x's shape and dtype."""
    low, high = (0, low) if high is None else (low, high)
    return creation.randint(low, high, x.shape, dtype=x.dtype, generator=generator, device=x.device)


def logspace(start: float, end: float, steps: int, base: float = 10.0, *, dtype: Any = None,
             device: Any = None) -> Tensor:  # fmt: skip
    """steps numbers from base ** start to base ** end, of equal ratios."""
    values = np.logspace(start, end, steps, base=base)
    return creation.as_tensor(values.astype(creation.dtype_of(dtype)), device=device)


def compile(model: Any = None, **options: Any) -> Any:
    """The model or function as it is (a decorator, too): kernels are compiled whatever it says.

    To run without Python between them is `capture`.
    """
    return (lambda function: function) if model is None else model


def get_default_dtype() -> np.dtype:
    """float32."""
    return creation.dtype_of(None)


def set_default_dtype(d: Any) -> None:
    """Refuse any dtype but float32: others are asked for where a tensor or a layer is made."""
    fix = "pass dtype= to what makes tensors, or use .double()"
    ok = creation.dtype_of(d) == get_default_dtype()
    require(ok, "set_default_dtype", "the default is float32", error=DTypeError, fix=fix, d=d)


# ---- PyTorch's old constructors ------------------------------------------------------------------


def _constructor(dtype: Any) -> Any:
    def made(*data: Any) -> Tensor:
        """Of sizes an uninitialised tensor; of nested lists, an array or a tensor a copy."""
        if all(isinstance(n, (int, np.integer, Size)) for n in data):
            return creation.empty(*data or (0,), dtype=dtype)
        return creation.tensor(*data, dtype=dtype)

    made.dtype = np.dtype(dtype)  # type: ignore[attr-defined] # so that it names the dtype, too
    return made


FloatTensor, DoubleTensor, HalfTensor = map(_constructor, (np.float32, np.float64, np.float16))
LongTensor, IntTensor, ByteTensor = map(_constructor, (np.int64, np.int32, np.uint8))
BoolTensor = _constructor(np.bool_)

# ---- methods alone -------------------------------------------------------------------------------


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """1 with probability p (a number or a tensor), else 0."""

    def drawn(old: Tensor) -> Tensor:
        return (rand_like(old, dtype=np.float64, generator=generator) < p).to(old.dtype)

    return inplace.write(self, drawn, "bernoulli_")


def random_(self: Tensor, low: int, high: Any = None, *, generator: Any = None) -> Tensor:
    """Integers low <= k < high (one number: from 0)."""
    return inplace.write(
        self, lambda old: randint_like(old, low, high, generator=generator), "random_"
    )


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Exponential random numbers of rate lambd."""
    require(lambd > 0, "exponential_", "lambd must be positive", lambd=lambd)

    def drawn(old: Tensor) -> Tensor:
        return -pointwise.log1p(-rand_like(old, generator=generator)) / lambd

    return inplace.write(self, drawn, "exponential_")


def fill_diagonal_(self: Tensor, value: Any) -> Tensor:
    """A matrix's diagonal becomes value."""
    require(self.ndim == 2, "fill_diagonal_", "needs a matrix", x=self)
    self.diagonal().fill_(value)
    return self


def detach_(self: Tensor) -> Tensor:
    """Take the tensor out of the graph: a leaf that requires no grad. Views are refused."""
    require(self.parent is None, "detach_", "a view cannot be detached", error=GraphError, x=self)
    self.node, self.index, self.requires = None, 0, False
    return self


def _seen_anew(name: str) -> Callable:
    """The method that makes a tensor what shape's function of that name sees of it."""

    def in_place(self: Tensor, *args: Any) -> Tensor:
        rule = "a leaf that requires grad keeps its shape"
        require(not (self.requires and self.is_leaf), f"{name}_", rule, error=GraphError, x=self)
        before = wrap(self.array, self.requires, self.node, self.index)
        before.cell, before.parent, before.seen = self.shared(), self.parent, self.seen
        with enable_grad():  # where it has a place in a graph, it keeps one
            made = getattr(shape, name)(before, *args)
        self.array, self.node, self.parent = made.array, made.node, made.parent
        cell, self.index = self.shared(), made.index  # views of it, made earlier, are stale
        self.seen = cell.rebased = cell.reshaped = cell.rebased + 1
        return self

    in_place.__doc__ = f"{name}, of the tensor itself."
    return in_place


METHODS: dict[str, Any] = {
    **{f.__name__: f for f in (bernoulli_, random_, exponential_, fill_diagonal_, detach_)},
    **{f"{name}_": _seen_anew(name) for name in ("squeeze", "unsqueeze", "transpose", "t")},
    "__init__": lambda self, *data: self.hold(FloatTensor(*data).array),
    "bfloat16": lambda self: shape.to_dtype(self, dtypes.bfloat16),
    "data_ptr": lambda self: int(getattr(self.array.data, "ptr", 0) or self.array.ctypes.data),
    "is_cuda": property(lambda self: self.device.type == "cuda"),
    "is_sparse": property(lambda self: False),
    "pin_memory": lambda self: self,
    "type": lambda self, dtype: shape.to_dtype(self, creation.dtype_of(dtype)),
}
