"""Arrays on the GPU: made, copied, filled, converted, joined and padded, all by one kernel."""

import functools
import math
import sys
from typing import Any

import numpy as np

from minidl.backend import looping
from minidl.backend.cuda import runtime
from minidl.backend.cuda.plans import IDENTITY, write
from minidl.backend.cuda.runtime import Array, Maybe, empty
from minidl.backend.looping import dense_like, is_channels_last, joint_of, order_of, padding_of
from minidl.errors import GraphError, RangeError, require

_FLAGS = 256  # of a block
flags: dict[tuple[str, int], int] = {}  # places, by op and length: graphs keep them for good


def index_rule(n: int) -> str:
    """What an index into n things must obey."""
    return f"every index must lie in [0, {n})"


@functools.cache
def _words(block: int) -> Array:
    """What indices out of range set, of the places of a block: (_FLAGS,) uint64."""
    return zeros((_FLAGS,), np.uint64)


def flag(op: str, n: int) -> Array:
    """What an op's index into n things sets if it is out of range: (1,) uint64."""
    block, place = divmod(flags.setdefault((op, n), len(flags)), _FLAGS)
    return _words(block)[place : place + 1]


def raise_flags() -> None:
    """Raise, naming op, range and value, if an index was out of range; waits for the GPU."""
    blocks = [_words(i) for i in range(-(-len(flags) // _FLAGS))]
    worst = np.array([words.get() for words in blocks], np.uint64).reshape(-1)
    for place in np.flatnonzero(worst):
        for words in blocks:
            write(IDENTITY, [0], words)
        (op, n), value = [*flags][place], int(worst[place].astype(np.int64))
        require(False, op, index_rule(n), error=RangeError, index=value)


def from_host(x: np.ndarray) -> Array:
    """A copy on the GPU of an array in the host's memory, with its axes in the same order there."""
    rule = "the host's memory cannot be copied while a function is captured"
    fix = "make the tensor before, or give it to the function"
    require(not runtime.recording(), "cuda", rule, error=GraphError, fix=fix, x=x)
    order = order_of([(x.dtype, x.shape, x.strides)], x.shape)
    plain = np.asarray(x.transpose(order), order="C")
    there = runtime.cupy().asarray(plain)
    return there.transpose(sorted(range(x.ndim), key=lambda i: order[i]))


def adopted(x: Any) -> Array:
    """An array on the GPU that another library made, over the same memory."""
    return x if type(x).__module__.partition(".")[0] == "cupy" else runtime.cupy().asarray(x)


def constant(x: np.ndarray) -> Array:
    """An array of the host's that will not change, on the GPU: copied once, up to 16 MiB."""
    if x.nbytes > 1 << 24:
        return from_host(x)
    there = (_constant if x.nbytes <= 1 << 16 else _large)(x.tobytes(), x.shape, x.dtype)
    if runtime.recording():
        _captured.append(there)
    return there


_captured: list[Array] = []  # constants that graphs read, which may not go


def _copied(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    return from_host(np.frombuffer(data, dtype).reshape(shape))


_constant, _large = (functools.lru_cache(maxsize=n)(_copied) for n in (1024, 32))


def to_host(x: Array) -> np.ndarray:
    """A copy in the host's memory; waits for the GPU."""
    raise_flags()
    order = order_of([(x.dtype, x.shape, x.strides)], x.shape)
    back = sorted(range(x.ndim), key=lambda i: order[i])
    return contiguous(x.transpose(order)).get().transpose(back)


def sole_owner(x: Array, others: int) -> bool:
    """Whether nobody but `others` references, the argument among them, hold x and its memory."""
    base, alone = x.base, sys.getrefcount(x) <= others
    return alone and (base is None or (base.size == x.size and sys.getrefcount(base) <= 3))


def empty_like(x: Array, dtype: Any = None) -> Array:
    """An uninitialised dense array of x's shape, with its axes in the same order in memory."""
    dtype = x.dtype if dtype is None else np.dtype(dtype)
    return runtime.strided(x.shape, dense_like(x.shape, x.strides, dtype.itemsize), dtype)


def full(shape: tuple[int, ...], value: Any, dtype: Any = np.float32) -> Array:
    """An array of one value in C order."""
    return _written(empty(shape, dtype), value)


def _written(y: Array, value: Any) -> Array:
    """y, once it holds an array of its shape, or a number."""
    write(IDENTITY, [value], y)
    return y


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An array of zeros in C order."""
    return full(shape, 0, dtype)


def full_like(x: Array, value: Any, dtype: Any = None) -> Array:
    """An array of one value with x's shape and layout, and its dtype unless another is given."""
    return _written(empty_like(x, dtype), value)


def empty_nchw(n: int, c: int, h: int, w: int, *, dtype: Any) -> Array:
    """An uninitialised (N, C, H, W) array whose memory is (N, H, W, C)."""
    return empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)


def contiguous(x: Array) -> Array:
    """x in C order: itself, or a copy."""
    return x if x.flags.c_contiguous else _written(empty(x.shape, x.dtype), x)


def given_or(a: Maybe, other: Array) -> tuple[Array, int]:
    """a in C order and 1, or without it another array, which is not read then, and 0."""
    return (other, 0) if a is None else (contiguous(a), 1)


def copy(x: Array) -> Array:
    """A dense copy with x's order of axes in memory."""
    return _written(empty_like(x), x)


def cast(x: Array, dtype: Any) -> Array:
    """x in another dtype with the same layout (x itself if it has it)."""
    return x if x.dtype == dtype else _written(empty_like(x, dtype), x)


conversions = [0]  # copies made by nhwc, for the layout census


def nhwc(x: Array) -> Array:
    """x (N, C, H, W) as a C-contiguous (N, H, W, C) array: a view, or one copy."""
    y = x.transpose(0, 2, 3, 1)
    conversions[0] += not y.flags.c_contiguous
    return contiguous(y)


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """x's elements in logical C order in a new shape: a view where possible."""
    seen = view_as(x, shape)
    return contiguous(x).reshape(shape) if seen is None else seen


def view_as(x: Array, shape: tuple[int, ...]) -> Array | None:
    """x's elements in logical C order in a new shape, as a view; None where there is none."""
    if x.flags.c_contiguous:
        return x.reshape(shape)
    like = np.lib.stride_tricks.as_strided(np.empty(1, x.dtype), x.shape, x.strides)  # not read
    try:
        strides = like.reshape(shape, copy=False).strides
    except ValueError:
        return None
    return runtime.seen(x, shape, strides)


def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    """x seen with its axes of size 1 repeated: a view."""
    strides = looping.repeated((x.dtype, x.shape, x.strides), shape)
    return runtime.seen(x, shape, tuple(strides))


def _empty(shape: tuple[int, ...], dtype: np.dtype, channels_last: bool) -> Array:
    return empty_nchw(*shape, dtype=dtype) if channels_last else empty(shape, dtype)


def cat(xs: Any, axis: int) -> Array:
    """The arrays one after the other; channels-last if all are."""
    shape, keys = joint_of([x.shape for x in xs], axis)
    y = _empty(shape, xs[0].dtype, all(map(is_channels_last, xs)))
    for x, key in zip(xs, keys, strict=True):
        write(IDENTITY, [x], y[key])
    return y


def assemble(xs: Any, keys: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Each of xs at its key of a new array of a shape: the memory that all lie in, or copies.

    The keys share the array out among themselves; None in xs stands for zeros. `strides` gives the
    order of the axes in memory.
    """
    given = [x for x in xs if x is not None]
    first = given[0]
    laid, base = dense_like(shape, strides, first.itemsize), first.base
    whole = base is not None and base.flags.c_contiguous and base.dtype == first.dtype
    if whole and base.size == math.prod(shape) and len(given) == len(xs):
        y = runtime.seen(base, shape, laid)
        if all(same_place(x, y[key]) for x, key in zip(xs, keys, strict=True)):
            return y
    y = runtime.strided(shape, laid, first.dtype)
    for x, key in zip(xs, keys, strict=True):
        write(IDENTITY, [0 if x is None else x], y[key])
    return y


def same_place(x: Array, y: Array) -> bool:
    """Whether x and y are the same view."""
    return (x.shape, x.strides, x.data.ptr) == (y.shape, y.strides, y.data.ptr)


def pad(x: Array, widths: tuple[tuple[int, int], ...], value: float) -> Array:
    """x with `value` around it; negative widths cut; channels-last is kept."""
    shape, inside, taken = padding_of(x.shape, widths)
    y = _empty(shape, x.dtype, is_channels_last(x))
    write(IDENTITY, [value], y)
    write(IDENTITY, [x[taken]], y[inside])
    return y


def memory_stats() -> dict[str, int]:
    """Bytes in use and idle in CuPy's pool."""
    pool = runtime.cupy().get_default_memory_pool()
    return {"allocated": pool.used_bytes(), "idle": pool.free_bytes()}


def empty_cache() -> None:
    """Give every idle block back to the driver."""
    runtime.cupy().get_default_memory_pool().free_all_blocks()
