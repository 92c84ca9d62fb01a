"""The functions that every backend has: their names, arguments and meaning, as stubs.

A backend is a module with these functions on its own kind of array (NumPy's for `cpu`); a test
compares each one with this file. Nothing here runs.
"""
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.backend.expression import Program

Array = Any  # an array of the backend
Arrays = tuple[Array | None, ...]
Pair = tuple[int, int]
Signature = tuple


# ---- memory --------------------------------------------------------------------------------------


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An uninitialised array in C order; large ones come from the pool."""


def empty_like(x: Array, dtype: Any = None) -> Array:
    """An uninitialised dense array of x's shape, with its axes in the same order in memory."""


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An array of zeros in C order."""


def full(shape: tuple[int, ...], value: Any, dtype: Any = np.float32) -> Array:
    """An array of one value in C order."""


def empty_nchw(n: int, c: int, h: int, w: int, dtype: Any = np.float32) -> Array:
    """An uninitialised (N, C, H, W) array whose memory is (N, H, W, C)."""


def nhwc(x: Array) -> Array:
    """x (N, C, H, W) as a C-contiguous (N, H, W, C) array: a view, or one copy."""


def contiguous(x: Array) -> Array:
    """x in C order: itself, or a copy."""


def copy(x: Array) -> Array:
    """A dense copy with x's order of axes in memory."""


def memory_stats() -> dict[str, int]:
    """Bytes in use, at most in use, and idle in the pool; blocks mapped and reused so far."""


def empty_cache() -> None:
    """Give every idle block back to the system."""


# ---- types, layouts, joins -----------------------------------------------------------------------


def is_channels_last(x: Array) -> bool:
    """Whether x is (N, C, H, W) over channels-last memory and not in C order as well."""


def like(y: Array, x: Array) -> Array:
    """y with its axes in memory as x's: y itself, or a copy. Shapes are equal."""


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    """x's elements in logical C order in a new shape: a view where possible."""


def cat(xs: Any, axis: int) -> Array:
    """The arrays one after the other; channels-last if the first is."""


def pad(x: Array, widths: tuple[tuple[int, int], ...], value: float) -> Array:
    """x with `value` around it; negative widths cut; channels-last is kept."""


def cast(x: Array, dtype: Any) -> Array:
    """x in another dtype with the same layout (x itself if it has it)."""


def full_like(x: Array, value: Any) -> Array:
    """An array of one value with x's shape, dtype and layout."""


# ---- pointwise expressions -----------------------------------------------------------------------


def pointwise_signature(operands: Sequence[Any]) -> Signature:
    """What a plan depends on: dtype, shape and strides of arrays, None for numbers."""


def pointwise(program: Program, operands: Sequence[Any], dtype: Any) -> tuple:
    """Run a program on arrays and numbers (one per leaf); a tuple of new arrays."""


def plan_pointwise(program: Program, operands: Signature, dtype: Any) -> Callable:
    """What `pointwise` does for operands of one signature, ready to be called with them."""


def update(
    program: Program, rows: Sequence[Sequence[Array]], scalars: Sequence[float],
    inplace: Sequence[int],
) -> None:  # fmt: skip
    """Run a program on every row of arrays in one launch; output j overwrites array inplace[j]."""


# ---- reductions and order ------------------------------------------------------------------------


def sum(x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """Sum over axes; floats as partial sums in x's type, added up in double."""


def extreme(x: Array, axes: tuple[int, ...], largest: bool, keepdims: bool) -> Array:
    """Maximum or minimum over axes; NaN wins."""


def argextreme(x: Array, axis: int | None, largest: bool) -> Array:
    """Index of the first extreme along an axis (of the flattened x: None), int64."""


def cumsum(x: Array, axis: int) -> Array:
    """Running sums along an axis."""


def argsort(x: Array, axis: int, descending: bool) -> Array:
    """Indices that sort along an axis, stable in both directions; NaN counts as largest."""


# ---- matrix products -----------------------------------------------------------------------------


def matmul(x: Array, y: Array) -> Array:
    """x (…, M, K) @ y (…, K, N) -> (…, M, N); the leading axes broadcast."""


# ---- convolution ---------------------------------------------------------------------------------


def conv2d(
    x: Array, w: Array, b: Array | None, stride: tuple, padding: tuple, dilation: tuple,
    groups: int,
) -> Array:  # fmt: skip
    """x (N, C, H, W) * w (K, C/groups, R, S) + b (K,) -> (N, K, OH, OW), channels-last."""


def conv2d_input_grad(
    g: Array, w: Array, x_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int,
) -> Array:  # fmt: skip
    """The adjoint of conv2d in x: g (N, K, OH, OW), w -> (N, C, H, W), channels-last."""


def conv2d_weight_grad(
    g: Array, x: Array, w_shape: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int,
) -> Array:  # fmt: skip
    """The adjoint of conv2d in w: g (N, K, OH, OW), x -> (K, C/groups, R, S)."""


# ---- pooling and patches -------------------------------------------------------------------------


def max_pool2d(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair,
) -> tuple[Array, Array]:  # fmt: skip
    """Largest value of each window of x (N, C, H, W) and its place in the window, both NCHW."""


def max_pool2d_grad(
    g: Array, place: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
) -> Array:  # fmt: skip
    """Gradient of max_pool2d's x (N, C, *size), given the places it returned."""


def max_pool2d_indices(
    place: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
) -> Array:  # fmt: skip
    """Positions h * W + w in the input (int64, NCHW) of the places that max_pool2d returned."""


def avg_pool2d(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, out: Pair, with_pad: bool, divisor: int,
) -> Array:  # fmt: skip
    """Means over windows of x (N, C, H, W); divisor replaces their size unless 0."""


def avg_pool2d_grad(
    g: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair, with_pad: bool, divisor: int,
) -> Array:  # fmt: skip
    """Gradient of avg_pool2d's x (N, C, *size)."""


def unfold(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair) -> Array:
    """The windows of x (N, C, H, W), zero outside, as columns: (N, C * kh * kw, oh * ow)."""


def fold(
    g: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair,
) -> Array:  # fmt: skip
    """The adjoint of unfold: columns added up where their windows lie, (N, C, *size)."""


# ---- normalisation -------------------------------------------------------------------------------


def batch_norm(
    x: Array, w: Array | None, b: Array | None, eps: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """y, mean (C,) and biased variance (C,) of x (N, C, ...), normalised over all axes but C."""


def batch_norm_grad(
    g: Array, x: Array, w: Array | None, mean: Array, var: Array, eps: float,
) -> Arrays:  # fmt: skip
    """Gradients of batch_norm's x, w and b."""


def group_norm(
    x: Array, w: Array | None, b: Array | None, groups: int, eps: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """y, mean and biased variance (N, groups) of x (N, C, ...), normalised group by group."""


def group_norm_grad(
    g: Array, x: Array, w: Array | None, mean: Array, var: Array, eps: float,
) -> Arrays:  # fmt: skip
    """Gradients of group_norm's x, w and b."""


def layer_norm(
    x: Array, w: Array | None, b: Array | None, n: int, eps: float, centre: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """y, mean and 1 / standard deviation of each row of n elements; RMS norm without centre."""


def layer_norm_grad(
    g: Array, x: Array, w: Array | None, mean: Array, rstd: Array, n: int, centre: bool,
) -> Arrays:  # fmt: skip
    """Gradients of layer_norm's x, w and b, the last two as (n,)."""


# ---- rows of scores ------------------------------------------------------------------------------


def softmax(x: Array, axis: int) -> Array:
    """exp(x) / sum(exp(x)) along an axis."""


def softmax_grad(g: Array, y: Array, axis: int) -> Array:
    """Gradient of softmax's x, from its result y."""


def log_softmax(x: Array, axis: int) -> Array:
    """log(softmax(x)) along an axis."""


def log_softmax_grad(g: Array, y: Array, axis: int) -> Array:
    """Gradient of log_softmax's x, from its result y."""


def cross_entropy(
    x: Array, label: Array, weight: Array | None, ignore: int, smoothing: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Loss of each row of scores x (M, C) with label (M,) int64; each row's max and sum of exp."""


def cross_entropy_grad(
    g: Array, x: Array, label: Array, weight: Array | None, top: Array, total: Array, ignore: int,
    smoothing: float,
) -> Array:  # fmt: skip
    """Gradient of cross_entropy's x."""


# ---- rows of tables ------------------------------------------------------------------------------


def take_rows(table: Array, index: Array) -> Array:
    """table (V, D) at index (...) int64 in [0, V): (..., D)."""


def add_rows(g: Array, index: Array, rows: int, skip: int = -1) -> Array:
    """Sum of the rows of g (..., D) by index (...): (rows, D); index `skip` adds nothing."""


def check_indices(op: str, index: Array, n: int, ignore: int | None = None) -> None:
    """Raise, naming op, range and value, if an index lies outside [0, n) and is not `ignore`."""


# ---- recurrent layers ----------------------------------------------------------------------------


def lstm(
    x: Array, h0: Array, c0: Array, w_ih: Array, w_hh: Array, b_ih: Array | None,
    b_hh: Array | None, reverse: bool,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Run an LSTM: x (T, B, I) -> y, c (T, B, H) and the activated gates (T, B, 4H) i, f, g, o."""


def lstm_grad(
    gy: Array | None, gh: Array | None, gc: Array | None, x: Array, h0: Array, c0: Array,
    w_ih: Array, w_hh: Array, y: Array, c: Array, gates: Array, reverse: bool, need: tuple,
) -> tuple:  # fmt: skip
    """Gradients of x, h0, c0, w_ih, w_hh, b_ih, b_hh from those of y, the last h, the last c."""


def gru(
    x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: Array | None, b_hh: Array | None,
    reverse: bool,
) -> tuple[Array, Array]:  # fmt: skip
    """Run a GRU: x (T, B, I) -> y (T, B, H), and r, z, n, W_hn h + b_hn as gates (T, B, 4H)."""


def gru_grad(
    gy: Array | None, gh: Array | None, x: Array, h0: Array, w_ih: Array, w_hh: Array, y: Array,
    gates: Array, reverse: bool, need: tuple,
) -> tuple:  # fmt: skip
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""


def rnn(
    x: Array, h0: Array, w_ih: Array, w_hh: Array, b_ih: Array | None, b_hh: Array | None,
    relu: bool, reverse: bool,
) -> Array:  # fmt: skip
    """Run a plain recurrent layer with tanh or relu: x (T, B, I) -> y (T, B, H)."""


def rnn_grad(
    gy: Array | None, gh: Array | None, x: Array, h0: Array, w_ih: Array, w_hh: Array, y: Array,
    relu: bool, reverse: bool, need: tuple,
) -> tuple:  # fmt: skip
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""


# ---- attention -----------------------------------------------------------------------------------


def attend(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float,
) -> tuple[Array, Array]:  # fmt: skip
    """softmax(scale q kᵀ + mask) v and its rows' log-sum-exp."""


def attend_grad(
    g: Array, q: Array, k: Array, v: Array, mask: Array | None, lse: Array, causal: bool,
    scale: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Gradients of q, k and v from that of y."""
