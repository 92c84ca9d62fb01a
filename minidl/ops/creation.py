"""Makes tensors: from data, of one value, of ranges, of random numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import backend, random
from minidl.autograd import Device, Tensor, raw
from minidl.dtypes import default, is_real
from minidl.errors import DeviceError, DTypeError, require
from minidl.ops.shape import sizes_of

_HOST = np.empty(0)


def backend_of(device: Any) -> Any:
    """The backend of a device's name; a GPU that is not there raises and says what is missing."""
    kind = "cpu" if device is None else Device(str(device)).type
    require(kind in ("cpu", "cuda"), "device", "must be 'cpu' or 'cuda'", error=DeviceError,
            device=device)  # fmt: skip
    require(
        kind == "cpu", "device", "the CUDA backend is not part of this version",
        error=DeviceError, fix="use device='cpu'", device=device,
    )  # fmt: skip
    return backend.of(_HOST)


def _dtype(dtype: Any) -> np.dtype:
    try:
        return default if dtype is None else np.dtype(dtype)
    except TypeError:
        require(False, "dtype", "must be a NumPy dtype", error=DTypeError, dtype=dtype)
        raise


def _made(array: np.ndarray, requires_grad: bool) -> Tensor:
    out = Tensor(array)
    return out.requires_grad_() if requires_grad else out


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A new tensor with a copy of data: floats become float32, ints int64; arrays keep their dtype."""
    backend_of(device)
    return _made(_array(data, dtype, True), requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """data as a tensor, sharing memory where it is an array of the right dtype."""
    backend_of(device)
    if isinstance(data, Tensor) and (dtype is None or dtype == data.dtype):
        return data
    return Tensor(_array(data, dtype, False))


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor over the array's own memory."""
    require(isinstance(array, np.ndarray), "from_numpy", "needs a NumPy array", error=DTypeError,
            array=array)  # fmt: skip
    return Tensor(array)


def _array(data: Any, dtype: Any, copy: bool) -> np.ndarray:
    given = raw(data)
    if hasattr(given, "__array_interface__") or isinstance(given, np.generic):
        array = np.array(given, copy=True) if copy else np.asarray(given)
    elif hasattr(given, "__dlpack__"):
        array = np.from_dlpack(given)
        array = array.copy() if copy else array
    else:
        array = _from_nested(given, dtype is None)
    kind = array.dtype.kind
    require(kind in "fiub" or array.dtype.name == "bfloat16", "tensor",
            "data must be real numbers or bools", error=DTypeError, data=array)  # fmt: skip
    wanted = None if dtype is None else _dtype(dtype)
    return array if wanted is None or wanted == array.dtype else array.astype(wanted)


def _from_nested(data: Any, narrow: bool) -> np.ndarray:
    """Nested lists of numbers (or tensors): float32 (float64 unless `narrow`), int64 or bool."""
    if isinstance(data, (list, tuple)):
        data = [_plain(item) for item in data]
    try:
        array = np.array(data)
    except ValueError:
        require(False, "tensor", "nested lists must be rectangular")
        raise
    if array.dtype == np.float64:
        return array.astype(default) if narrow else array
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


def _plain(item: Any) -> Any:
    if isinstance(item, (list, tuple)):
        return [_plain(x) for x in item]
    return item.tolist() if isinstance(item, Tensor) else item


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """An uninitialised tensor."""
    be = backend_of(device)
    return _made(be.empty(_size(size, "empty"), _dtype(dtype)), requires_grad)


def _size(size: tuple, name: str) -> tuple[int, ...]:
    shape = sizes_of(size, name)
    require(min(shape, default=0) >= 0, name, "sizes must not be negative", size=shape)
    return shape


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    be = backend_of(device)
    return _made(be.zeros(_size(size, "zeros"), _dtype(dtype)), requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    be = backend_of(device)
    return _made(be.full(_size(size, "ones"), 1, _dtype(dtype)), requires_grad)


def full(
    size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """A tensor of one value; its dtype follows the value (float32, int64, bool)."""
    be = backend_of(device)
    if dtype is None:
        kinds = {bool: np.dtype(bool), int: np.dtype(np.int64)}
        dtype = kinds.get(type(fill_value), default)
    return _made(be.full(_size((size,), "full"), fill_value, _dtype(dtype)), requires_grad)


def _like(x: Any, value: Any, dtype: Any, requires_grad: bool) -> Tensor:
    a = raw(x)
    y = backend.of(a).empty_like(a, dtype)
    if value is not None:
        y.fill(value)
    return _made(y, requires_grad)


def zeros_like(x: Any, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros with x's shape, dtype and layout."""
    return _like(x, 0, dtype, requires_grad)


def ones_like(x: Any, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones with x's shape, dtype and layout."""
    return _like(x, 1, dtype, requires_grad)


def full_like(x: Any, fill_value: Any, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """One value with x's shape, dtype and layout."""
    return _like(x, fill_value, dtype, requires_grad)


def empty_like(x: Any, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Uninitialised, with x's shape, dtype and layout."""
    return _like(x, None, dtype, requires_grad)


def eye(
    n: int, m: int | None = None, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Ones on the diagonal (n, m)."""
    backend_of(device)
    require(n >= 0 and (m or 0) >= 0, "eye", "sizes must not be negative", n=n, m=m)
    return _made(np.eye(n, m, dtype=_dtype(dtype)), requires_grad)


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """start, start + step, … below end; int64 from ints, else float32."""
    backend_of(device)
    if end is None:
        start, end = 0, start
    require(step != 0 and (end - start) * step >= 0, "arange", "step must lead from start to end",
            start=start, end=end, step=step)  # fmt: skip
    if dtype is None:
        dtype = np.int64 if all(isinstance(v, int) for v in (start, end, step)) else default
    count = math.ceil((end - start) / step)
    return _made((start + np.arange(count) * step).astype(_dtype(dtype)), requires_grad)


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """steps points from start to end, both included."""
    backend_of(device)
    require(steps >= 0, "linspace", "steps must not be negative", steps=steps)
    return _made(np.linspace(start, end, steps).astype(_dtype(dtype)), requires_grad)


# ---- random --------------------------------------------------------------------------------------


def _stream(generator: Any) -> Any:
    return generator if generator is not None else random.default("tensor")


def rand(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Any = None,
) -> Tensor:  # fmt: skip
    """Uniform numbers in [0, 1)."""
    backend_of(device)
    return _made(_stream(generator).uniform(_size(size, "rand"), _dtype(dtype)), requires_grad)


def randn(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Any = None,
) -> Tensor:  # fmt: skip
    """Standard normal numbers."""
    backend_of(device)
    return _made(_stream(generator).normal(_size(size, "randn"), _dtype(dtype)), requires_grad)


def rand_like(x: Any, *, dtype: Any = None, generator: Any = None) -> Tensor:
    """Uniform numbers in [0, 1) with x's shape and dtype."""
    return rand(x.shape, dtype=dtype or x.dtype, generator=generator)


def randn_like(x: Any, *, dtype: Any = None, generator: Any = None) -> Tensor:
    """Standard normal numbers with x's shape and dtype."""
    return randn(x.shape, dtype=dtype or x.dtype, generator=generator)


def randint(
    low: int, high: Any = None, size: Any = None, *, dtype: Any = np.int64, device: Any = None,
    generator: Any = None,
) -> Tensor:  # fmt: skip
    """Integers low <= k < high: randint(high, size) or randint(low, high, size)."""
    backend_of(device)
    if size is None:
        low, high, size = 0, low, high
    require(high > low, "randint", "high must be above low", low=low, high=high)
    found = _stream(generator).integers(low, high, _size((size,), "randint"))
    return Tensor(found.astype(dtype))


def randperm(n: int, *, device: Any = None, generator: Any = None) -> Tensor:
    """A random order of 0..n-1 (int64)."""
    backend_of(device)
    return Tensor(_stream(generator).permutation(n))


def bernoulli(x: Any, p: float | None = None, *, generator: Any = None) -> Tensor:
    """1 with probability x (or p), else 0, in x's dtype."""
    a = raw(x)
    require(is_real(a.dtype), "bernoulli", "needs a floating-point tensor", error=DTypeError, x=a)
    chance = a if p is None else p
    require(
        bool(np.all((chance >= 0) & (chance <= 1))), "bernoulli", "probabilities must lie in [0, 1]"
    )
    return Tensor((_stream(generator).uniform(a.shape, np.float64) < chance).astype(a.dtype))


def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Any = None) -> Tensor:
    """Normal numbers with the given means and standard deviations."""
    shape = tuple(size) if size is not None else np.broadcast_shapes(np.shape(mean), np.shape(std))
    require(bool(np.all(raw(std) >= 0)), "normal", "std must not be negative", std=std)
    z = _stream(generator).normal(shape, default)
    return Tensor((raw(mean) + z * raw(std)).astype(default))


def multinomial(
    x: Any, num_samples: int, replacement: bool = False, *, generator: Any = None
) -> Tensor:
    """Indices drawn with the probabilities x (…, K), rows need not sum to 1 -> (…, num_samples)."""
    w = raw(x).astype(np.float64)
    require(w.ndim in (1, 2) and w.shape[-1] > 0, "multinomial", "x must be (K,) or (B, K)", x=x)
    require(
        bool(np.isfinite(w).all() and (w >= 0).all() and (w.sum(-1) > 0).all()),
        "multinomial", "weights must be finite, not negative and not all zero",
    )  # fmt: skip
    stream = _stream(generator)
    if replacement:
        edges = np.cumsum(w, -1) / w.sum(-1, keepdims=True)
        u = stream.uniform((*w.shape[:-1], num_samples), np.float64)
        found = (u[..., None] >= edges[..., None, :]).sum(-1)
        last = w.shape[-1] - 1 - (w[..., ::-1] > 0).argmax(-1)  # rounding never picks a zero weight
        return Tensor(np.minimum(found, last[..., None]))
    require(
        num_samples <= int((w > 0).sum(-1).min()), "multinomial",
        "cannot draw more than there are weights above zero without replacement",
        num_samples=num_samples,
    )  # fmt: skip
    u = stream.uniform(w.shape, np.float64)
    with np.errstate(divide="ignore"):
        keys = np.where(w > 0, np.log1p(-u) / np.where(w > 0, w, 1), -np.inf)
    return Tensor(np.argsort(-keys, axis=-1, kind="stable")[..., :num_samples])
