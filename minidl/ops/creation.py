"""Makes tensors: from data, of one value, of ranges, of random numbers."""

import math
from typing import Any

import numpy as np

from minidl import backend, random
from minidl.autograd import Device, Tensor, raw, wrap
from minidl.dtypes import default
from minidl.errors import DeviceError, DTypeError, ShapeError, require, reworded
from minidl.ops.arguments import broadcast_shapes, check_real, fitted, sizes_of
from minidl.ops.index import read_on_host
from minidl.ops.shape import to_device, to_dtype


def backend_of(device: Any) -> Any:
    """The backend of a device's name; a GPU that is not there raises and says what is missing."""
    named = Device("cpu" if device is None else device)
    rule = "must be 'cpu' or 'cuda'"
    require(named.type in ("cpu", "cuda"), "device", rule, error=DeviceError, device=device)
    if named.type == "cpu":
        return backend.cpu
    from minidl.backend import cuda

    cuda.require_device(named.index or 0)
    return cuda


def memory_stats(device: Any = None) -> dict[str, int]:
    """Bytes in use and idle in a device's pool of memory, and what else it counts."""
    return backend_of(device).memory_stats()


def empty_cache(device: Any = None) -> None:
    """Give every idle block of a device's pool back."""
    backend_of(device).empty_cache()


def dtype_of(dtype: Any) -> np.dtype:
    """NumPy's dtype for what names one; None stands for float32."""
    try:
        return default if dtype is None else np.dtype(dtype)
    except TypeError:
        raise DTypeError(f"dtype: must be a NumPy dtype; got dtype {dtype!r}") from None


def _made(array: Any, device: Any, requires_grad: bool = False) -> Tensor:
    """An array as a tensor, on a device (None: where it lies)."""
    made = wrap(array) if device is None else moved(wrap(array), device)
    return made.requires_grad_() if requires_grad else made


# ---- from data -----------------------------------------------------------------------------------


def tensor(data: Any, *, dtype: Any = None, device: Any = None,
           requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A copy of data as a tensor: floats become float32, ints int64; arrays keep their dtype."""
    if _on_gpu(data):
        copied = as_tensor(data, dtype, device).detach()
        copied = copied if copied.array is not raw(data) else copied.clone()
        return copied.requires_grad_(requires_grad)
    return _made(_array(data, dtype, True), device, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """data as a tensor, sharing memory where it is an array of the right dtype and device."""
    if isinstance(data, Tensor) or _on_gpu(data):
        from minidl.backend.cuda import adopted

        t = data if isinstance(data, Tensor) else wrap(adopted(data))
        return to_dtype(t if device is None else moved(t, device), dtype)
    return _made(_array(data, dtype, False), device)


def _computed(values: np.ndarray, device: Any, requires_grad: bool) -> Tensor:
    """Values that the arguments tell, on a device; a captured function may make them too."""
    be = backend_of(device)
    kept = be.constant(values)
    return _made(values if kept is values else be.copy(kept), device, requires_grad)


def _on_gpu(data: Any) -> bool:
    array = raw(data)
    return not isinstance(array, np.ndarray) and hasattr(array, "__cuda_array_interface__")


def moved(x: Tensor, device: Any) -> Tensor:
    """x in a device's memory: x itself if it is there."""
    there, back = backend_of(device), backend.of(raw(x))
    return x if there is back else to_device(x, there=there, back=back)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor over the array's own memory."""
    _check_numbers("from_numpy", array)
    return wrap(array)


def _array(data: Any, dtype: Any, copy: bool) -> np.ndarray:
    given = raw(data)
    if hasattr(given, "__array_interface__"):
        array = np.asarray(given)
    elif hasattr(given, "__dlpack__"):
        array = np.from_dlpack(given)
    else:
        with reworded(ShapeError, "tensor: nested lists must be rectangular", ValueError):
            array, copy = np.array(_plain(given)), False
        first = given
        while isinstance(first, (list, tuple)) and first:
            first = first[0]
        usual = {"f": default, "i": np.int64, "u": np.int64}.get(array.dtype.kind)
        own = getattr(first, "dtype", usual)  # of NumPy's numbers, of tensors
        dtype = dtype or (own if getattr(own, "kind", "") == array.dtype.kind else usual)
    _check_numbers("tensor", array)
    with np.errstate(invalid="ignore"):
        made = array.astype(array.dtype if dtype is None else dtype_of(dtype), copy=copy)
    fits = not isinstance(given, (int, float, list, tuple)) or made.dtype.kind not in "iu"
    fits = fits or bool((made == np.trunc(array)).all())
    require(fits, "tensor", f"numbers must fit into {made.dtype}", error=DTypeError, data=data)
    return made


def _check_numbers(name: str, data: Any) -> None:
    """Raise unless data is an array of what tensors hold, in the byte order that kernels read."""
    fits = isinstance(data, np.ndarray) and data.dtype.isnative
    fits = fits and (data.dtype.kind in "fiub" or data.dtype.name == "bfloat16")
    rule = "data must be real numbers or bools in a NumPy array of the machine's byte order"
    require(fits, name, rule, error=DTypeError, data=data)


def _plain(item: Any) -> Any:
    """Nested lists of numbers, for those of numbers and tensors."""
    if isinstance(item, (list, tuple)):
        return [_plain(x) for x in item]
    return item.tolist() if isinstance(item, Tensor) else item


# ---- of one value, ranges ------------------------------------------------------------------------


def _size(size: tuple, name: str) -> tuple[int, ...]:
    shape = sizes_of(size, name)
    require(min(shape, default=0) >= 0, name, "sizes must not be negative", size=shape)
    return shape


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """An uninitialised tensor."""
    array = backend_of(device).empty(_size(size, "empty"), dtype_of(dtype))
    return _made(array, device, requires_grad)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    return full(_size(size, "zeros"), 0.0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    return full(_size(size, "ones"), 1.0, dtype=dtype, device=device, requires_grad=requires_grad)


def _number(name: str, value: Any) -> Any:
    """A number, or the one that a 0-d array or tensor holds."""
    if not hasattr(value, "shape"):
        return value
    require(value.shape == (), name, "fill_value must be a number", fill_value=value)
    return value.item()


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
         requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A tensor of one value; its dtype follows the value (float32, int64, bool)."""
    fill_value = _number("full", fill_value)
    dtype = dtype_of(dtype or {bool: np.bool_, int: np.int64}.get(type(fill_value)))
    shape, value = _size((size,), "full"), fitted("full", fill_value, dtype)
    return _made(backend_of(device).full(shape, value, dtype), device, requires_grad)


def empty_like(x: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
               memory_format: Any = None) -> Tensor:  # fmt: skip
    """Uninitialised, with x's shape, dtype, device and layout unless told otherwise."""
    return _made(backend.of(raw(x)).empty_like(raw(x), dtype), device, requires_grad)


def full_like(x: Any, fill_value: Any, *, dtype: Any = None, device: Any = None,
              requires_grad: bool = False, memory_format: Any = None) -> Tensor:  # fmt: skip
    """One value, with what else is x's as in `empty_like`."""
    value = fitted("full_like", _number("full_like", fill_value), dtype_of(dtype or x.dtype))
    return _made(backend.of(raw(x)).full_like(raw(x), value, dtype), device, requires_grad)


def zeros_like(x: Any, **options: Any) -> Tensor:
    """Zeros, with the options of `full_like`."""
    return full_like(x, 0, **options)


def ones_like(x: Any, **options: Any) -> Tensor:
    """Ones, with the options of `full_like`."""
    return full_like(x, 1, **options)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None,
        requires_grad: bool = False) -> Tensor:  # fmt: skip
    """Ones on the diagonal (n, m)."""
    require(n >= 0 and (m or 0) >= 0, "eye", "sizes must not be negative", n=n, m=m)
    return _computed(np.eye(n, m, dtype=dtype_of(dtype)), device, requires_grad)


def arange(start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
           requires_grad: bool = False) -> Tensor:  # fmt: skip
    """start, start + step, … below end; int64 from ints, else float32."""
    if end is None:
        start, end = 0, start
    if dtype == np.int64:  # as in PyTorch, cut off first
        start, end, step = int(start), int(end), int(step)
    ok, rule = step != 0 and 0 <= (end - start) / step < math.inf, "step must lead to end"
    require(ok, "arange", rule, start=start, end=end, step=step)
    if dtype is None and all(isinstance(v, int) for v in (start, end, step)):
        dtype = np.int64
    values = start + np.arange(math.ceil((end - start) / step)) * step
    return _computed(values.astype(dtype_of(dtype)), device, requires_grad)


def linspace(start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None,
             requires_grad: bool = False) -> Tensor:  # fmt: skip
    """steps points from start to end, both included."""
    require(steps >= 0, "linspace", "steps must not be negative", steps=steps)
    return _computed(np.linspace(start, end, steps).astype(dtype_of(dtype)), device, requires_grad)


# ---- random: from a generator, else from the stream "tensor" -------------------------------------


def stream_of(generator: random.Generator | None) -> random.Generator:
    return generator if generator is not None else random.default("tensor")


def rand(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
         generator: Any = None) -> Tensor:  # fmt: skip
    """Uniform numbers in [0, 1)."""
    values = stream_of(generator).uniform(_size(size, "rand"), dtype_of(dtype))
    return _made(values, device, requires_grad)


def randn(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
          generator: Any = None) -> Tensor:  # fmt: skip
    """Standard normal numbers."""
    values = stream_of(generator).normal(_size(size, "randn"), dtype_of(dtype))
    return _made(values, device, requires_grad)


def randn_like(x: Any, *, dtype: Any = None, device: Any = None,
               generator: Any = None) -> Tensor:  # fmt: skip
    """Standard normal numbers with x's shape, dtype and device unless told otherwise."""
    return randn(x.shape, dtype=dtype or x.dtype, device=device or x.device, generator=generator)


def randint(low: int = 0, high: Any = None, size: Any = None, *, dtype: Any = np.int64,
            device: Any = None, generator: Any = None) -> Tensor:  # fmt: skip
    """Integers low <= k < high: randint(high, size) or randint(low, high, size)."""
    if size is None or high is None:
        low, high, size = 0, low, high if size is None else size
    require(high > low, "randint", "high must be above low", low=low, high=high)
    values = stream_of(generator).integers(low, high, _size((size,), "randint"))
    return _made(values.astype(dtype), device)


def randperm(n: int, *, device: Any = None, generator: Any = None) -> Tensor:
    """A random order of 0..n-1 (int64)."""
    return _made(stream_of(generator).permutation(n), device)


def bernoulli(x: Any, p: float | None = None, *, generator: Any = None) -> Tensor:
    """1 with probability x (or p), else 0, in x's dtype."""
    check_real("bernoulli", x)
    chance = read_on_host("bernoulli", raw(x)) if p is None else np.asarray(p)
    ok = bool(((chance >= 0) & (chance <= 1)).all())
    require(ok, "bernoulli", "probabilities must lie in [0, 1]", p=p)
    drawn = stream_of(generator).uniform(tuple(x.shape), np.float64) < chance
    return wrap(backend.of(raw(x)).from_host(drawn.astype(x.dtype)))


def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Any = None,
           device: Any = None, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """Normal numbers with the given means and standard deviations."""
    shape = broadcast_shapes(np.shape(mean), np.shape(std), name="normal") if size is None else size
    where = next((t.device for t in (mean, std) if isinstance(t, Tensor)), device)
    mean, std = (read_on_host("normal", raw(t)) if hasattr(t, "dtype") else t for t in (mean, std))
    require(bool(np.all(std >= 0)), "normal", "std must not be negative", std=std)
    values = mean + std * stream_of(generator).normal(shape, default)
    return _made(values.astype(default), where, requires_grad)


def multinomial(x: Any, num_samples: int, replacement: bool = False, *,
                generator: Any = None) -> Tensor:  # fmt: skip
    """Indices drawn with the probabilities x (…, K), rows need not sum to 1 -> (…, num_samples)."""
    w, stream = read_on_host("multinomial", raw(x)), stream_of(generator)
    fits, rule = w.ndim in (1, 2) and num_samples > 0, "needs x (K,) or (B, K), and some samples"
    require(fits, "multinomial", rule, x=x, num_samples=num_samples)
    rows = w.reshape(-1, w.shape[-1])
    found = [stream.choice(row, num_samples, replacement=replacement) for row in rows]
    indices = np.array(found, np.int64).reshape(*w.shape[:-1], num_samples)
    return wrap(backend.of(raw(x)).from_host(indices))
