"""Tensor: an array, the node of the tape that made it, and the version its views share.

The operators and most methods are attached from the tables of minidl/methods.py; here is what a
tensor is: its data, its place in the graph, and how it shows itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import backend
from minidl.dtypes import is_real
from minidl.errors import GraphError, require


class Device(str):
    """A device's name ("cpu", "cuda:0"), with PyTorch's `.type` and `.index`."""

    @property
    def type(self) -> str:
        """ "cpu" or "cuda"."""
        return self.partition(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]
        """Number of the device, None when not given."""
        number = self.partition(":")[2]
        return int(number) if number else None


class Size(tuple):
    """A tensor's shape: a tuple of ints that also tells their product."""

    __slots__ = ()

    def numel(self) -> int:
        """How many elements a tensor of this shape has."""
        return math.prod(self)


CPU = Device("cpu")
# Options of np.array2string.
printing: dict[str, Any] = {"precision": 4, "threshold": 1000, "max_line_width": 81}


class Cell:
    """What all views of one memory share: its version, and how often its graph was re-based.

    reshaped: what that was when a tensor last took another shape in place.
    """

    __slots__ = ("rebased", "reshaped", "version")

    def __init__(self) -> None:
        self.version = self.rebased = self.reshaped = 0


class Tensor:
    """An n-dimensional array that remembers how it was made (PyTorch's Tensor).

    Make one with `ml.tensor`, or of a raw array (NumPy's on the CPU, CuPy's on a GPU) with `wrap`.
    """

    __slots__ = ("__dict__", "__weakref__", "array", "index", "node", "requires")
    __array_priority__ = 1000  # NumPy defers to the reflected operators
    # What few tensors have is set where it is needed: every result costs the time of its fields.
    leaf_grad: Tensor | None = None
    cell: Cell | None = None
    # For a view: of what, how, and whether it was made under no_grad of what requires grad.
    parent: tuple[Tensor, Callable[[Any], Any], bool] | None = None
    seen = 0  # for a view: the cell's `rebased` when it was made
    hooks: dict | None = None

    array: Any
    requires: bool
    node: Any  # the op that made it, None for a leaf
    index: int  # which of the node's outputs it is

    if TYPE_CHECKING:  # attached from the table in minidl/methods.py

        def __init__(self, *data: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, key: Any) -> Tensor: ...
        def __setitem__(self, key: Any, value: Any) -> None: ...
        def __neg__(self) -> Tensor: ...
        def __add__(self, other: Any) -> Tensor: ...

        __invert__ = __neg__
        __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __add__
        __pow__ = __matmul__ = __and__ = __or__ = __lt__ = __le__ = __gt__ = __ge__ = __add__

    def hold(self, array: Any, requires_grad: bool = False) -> None:
        """Become a leaf with a raw array."""
        self.array, self.requires, self.node, self.index = array, requires_grad, None, 0

    # ---- what it is --------------------------------------------------------------------------

    shape = property(lambda self: Size(self.array.shape), doc="Lengths of the axes.")
    ndim = property(lambda self: self.array.ndim, doc="Number of axes.")
    dtype = property(lambda self: self.array.dtype, doc="Type of the elements (NumPy's dtypes).")
    is_leaf = property(lambda self: self.node is None, doc="Whether no recorded operation made it.")
    grad_fn = property(lambda self: self.node, doc="The node that made it, None for a leaf.")

    @property
    def device(self) -> Device:
        """Where the array lives."""
        return CPU if isinstance(self.array, np.ndarray) else Device(f"cuda:{self.array.device.id}")

    @property
    def requires_grad(self) -> bool:
        """Whether operations on it are recorded."""
        return self.requires

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def grad(self) -> Tensor | None:
        """Gradient accumulated by `backward`: leaf's shape and dtype, None when there is none."""
        return self.leaf_grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            require(isinstance(value, Tensor), "grad", "must be a Tensor or None", value=value)
            fits = value.shape == self.shape and value.dtype == self.dtype
            require(fits, "grad", "must have the tensor's shape and dtype", grad=value, tensor=self)
        self.leaf_grad = value

    @property
    def version(self) -> int:
        """How often its memory was written in place."""
        return self.cell.version if self.cell is not None else 0

    def bump(self) -> None:
        """Say that its memory was written in place, so that graphs that saved it notice."""
        self.shared().version += 1

    def shared(self) -> Cell:
        """The cell it shares with its views."""
        if self.cell is None:
            self.cell = Cell()
        return self.cell

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Turn recording on or off for a leaf, in place."""
        ok, rule = self.is_leaf, "can only be turned off on a leaf; use detach()"
        if requires_grad:
            ok, rule = is_real(self.dtype), "needs a floating-point tensor"
        require(ok, "requires_grad_", rule, error=GraphError, tensor=self)
        self.requires = bool(requires_grad)
        return self

    # ---- out of the graph and out of minidl --------------------------------------------------

    def detach(self) -> Tensor:
        """The same memory outside the graph."""
        out = wrap(self.array)
        out.cell = self.shared()
        return out

    def _take_data(self, value: Tensor) -> None:
        require(value.shape == self.shape, "data", "must keep the shape", value=value, tensor=self)
        self.array = value.array

    data = property(detach, _take_data, doc="What `detach()` gives (PyTorch's older name for it).")

    def numpy(self) -> np.ndarray:
        """The NumPy array itself (no copy); raises for a tensor that requires grad."""
        rule = "the tensor requires grad; use detach().numpy()"
        require(not self.requires, "numpy", rule, error=GraphError, tensor=self)
        return self.__array__()

    def item(self) -> Any:
        """The value of a tensor with one element, as a Python number."""
        require(self.array.size == 1, "item", "needs a tensor of one element", tensor=self)
        return self._read("item").item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self._read("tolist").tolist()

    def _read(self, name: str) -> Any:
        """The array on the host, for who reads values: what is captured must not depend on them."""
        be, rule = backend.of(self.array), "values cannot be read while a function is captured"
        require(not be.recording(), name, rule, error=GraphError, tensor_shape=self.shape)
        return be.to_host(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._read("numpy"), dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if isinstance(self.array, np.ndarray):
            raise AttributeError("__cuda_array_interface__: the tensor is on the CPU")
        return self.array.__cuda_array_interface__

    # ---- Python's protocols ------------------------------------------------------------------

    def __len__(self) -> int:
        if not self.array.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self.array.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        rule = "only a tensor of one element is true or false; use .any() or .all()"
        require(self.array.size == 1, "bool", rule, tensor=self)
        return bool(self._read("bool").item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError("only integer tensors of one element can be an index")
        return int(self.item())

    __hash__ = object.__hash__

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec or not self.ndim else repr(self)

    def __repr__(self) -> str:
        host = self.__array__()
        how, op = {**printing, "floatmode": "maxprec"}, self.node and self.node.op
        if host.dtype.kind == "f" and np.modf(host[np.isfinite(host)])[0].any():
            how["floatmode"] = "fixed"  # as PyTorch, but where all numbers are whole
        text = np.array2string(host, separator=", ", prefix="tensor(", **how)
        notes = {
            f"dtype={host.dtype}": host.dtype not in (np.float32, np.int64, np.bool_),
            f"device='{self.device}'": self.device.type != "cpu",
            f"op={op}": op, "requires_grad=True": self.requires and not op,
        }  # fmt: skip
        return f"tensor({', '.join([text, *[note for note, shown in notes.items() if shown]])})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (type(self), np.array(self.__array__(), order="K"), self.requires)

    def __deepcopy__(self, memo: dict) -> Tensor:
        made = _rebuild(type(self), backend.of(self.array).copy(self.array), self.requires)
        made.leaf_grad = None if self.leaf_grad is None else self.leaf_grad.__deepcopy__(memo)
        memo[id(self)] = made
        return made


def wrap(array: Any, requires_grad: bool = False, node: Any = None, index: int = 0) -> Tensor:
    """A raw array as a Tensor."""
    made = _new(Tensor)
    made.array = array
    made.requires = requires_grad
    made.node = node
    made.index = index
    return made


_new = Tensor.__new__


def _rebuild(kind: type[Tensor], array: np.ndarray, requires_grad: bool) -> Tensor:
    made = kind.__new__(kind)
    made.hold(array, requires_grad)
    return made


def raw(x: Any) -> Any:
    """The array of a Tensor, anything else as it is."""
    return x.array if isinstance(x, Tensor) else x


def items_in(nest: Any) -> list[Any]:
    """What nested tuples, lists and dicts hold."""
    if isinstance(nest, dict):
        nest = [*nest.values()]
    if isinstance(nest, (tuple, list)):
        return [item for part in nest for item in items_in(part)]
    return [nest]


def arrays_in(nest: Any) -> list[Any]:
    """The raw arrays in nested tuples, lists and dicts."""
    return [raw(item) for item in items_in(nest) if hasattr(raw(item), "nbytes")]
