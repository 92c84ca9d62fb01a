"""The functions that every backend has: their names, arguments and meaning, as stubs.

A backend is a module with these functions on its own kind of array (NumPy's for `cpu`); a test
compares each one with this file. The types are in the backends. Nothing here runs.
"""

import numpy as np

# ---- memory --------------------------------------------------------------------------------------


def empty(shape, dtype=np.float32):
    """An uninitialised array in C order; large ones come from the pool."""


def empty_like(x, dtype=None):
    """An uninitialised dense array of x's shape, with its axes in the same order in memory."""


def zeros(shape, dtype=np.float32):
    """An array of zeros in C order."""


def full(shape, value, dtype=np.float32):
    """An array of one value in C order."""


def empty_nchw(n, c, h, w, dtype=np.float32):
    """An uninitialised (N, C, H, W) array whose memory is (N, H, W, C)."""


def nhwc(x):
    """x (N, C, H, W) as a C-contiguous (N, H, W, C) array: a view, or one copy."""


def contiguous(x):
    """x in C order: itself, or a copy."""


def copy(x):
    """A dense copy with x's order of axes in memory."""


def memory_stats():
    """Bytes in use, at most in use, and idle in the pool; blocks mapped and reused so far."""


def empty_cache():
    """Give every idle block back to the system."""


# ---- types, layouts, joins -----------------------------------------------------------------------


def is_channels_last(x):
    """Whether x is (N, C, H, W) over channels-last memory and not in C order as well."""


def like(y, x):
    """y with its axes in memory as x's: y itself, or a copy. Shapes are equal."""


def reshape(x, shape):
    """x's elements in logical C order in a new shape: a view where possible."""


def assemble(xs, keys, shape, strides):
    """Each of xs at its key of a new array of a shape: the memory that all lie in, or copies."""


def cat(xs, axis):
    """The arrays one after the other; channels-last if the first is."""


def pad(x, widths, value):
    """x with `value` around it; negative widths cut; channels-last is kept."""


def cast(x, dtype):
    """x in another dtype with the same layout (x itself if it has it)."""


def full_like(x, value):
    """An array of one value with x's shape, dtype and layout."""


# ---- pointwise expressions -----------------------------------------------------------------------


def pointwise_signature(operands):
    """What a plan depends on: dtype, shape and strides of arrays, None for numbers."""


def pointwise(program, operands, dtype):
    """Run a program on arrays and numbers (one per leaf); a tuple of new arrays."""


def plan_pointwise(program, operands, dtype):
    """What `pointwise` does for operands of one signature, ready to be called with them."""


def update(program, rows, scalars, inplace):
    """Run a program on every row of arrays in one launch; output j overwrites array inplace[j]."""


# ---- reductions and order ------------------------------------------------------------------------


def sum(x, axes, keepdims=False):
    """Sum over axes; floats as partial sums in x's type, added up in double."""


def extreme(x, axes, largest, keepdims):
    """Maximum or minimum over axes; NaN wins."""


def argextreme(x, axis, largest):
    """Index of the first extreme along an axis (of the flattened x: None), int64."""


def cumsum(x, axis):
    """Running sums along an axis."""


def argsort(x, axis, descending):
    """Indices that sort along an axis, stable in both directions; NaN counts as largest."""


# ---- matrix products -----------------------------------------------------------------------------


def matmul(x, y, bias=None):
    """x (…, M, K) @ y (…, K, N) + bias (N,) -> (…, M, N); the leading axes broadcast."""


# ---- convolution ---------------------------------------------------------------------------------


def conv2d(x, w, b, stride, padding, dilation, groups):
    """x (N, C, H, W) * w (K, C/groups, R, S) + b (K,) -> (N, K, OH, OW), channels-last."""


def conv2d_input_grad(g, w, x_shape, stride, padding, dilation, groups):
    """The adjoint of conv2d in x: g (N, K, OH, OW), w -> (N, C, H, W), channels-last."""


def conv2d_weight_grad(g, x, w_shape, stride, padding, dilation, groups):
    """The adjoint of conv2d in w: g (N, K, OH, OW), x -> (K, C/groups, R, S)."""


# ---- pooling and patches -------------------------------------------------------------------------


def max_pool2d(x, kernel, stride, padding, dilation, out):
    """Largest value of each window of x (N, C, H, W) and its place in the window, both NCHW."""


def max_pool2d_grad(g, place, size, kernel, stride, padding, dilation):
    """Gradient of max_pool2d's x (N, C, *size), given the places it returned."""


def max_pool2d_indices(place, size, kernel, stride, padding, dilation):
    """Positions h * W + w in the input (int64, NCHW) of the places that max_pool2d returned."""


def avg_pool2d(x, kernel, stride, padding, out, with_pad, divisor):
    """Means over windows of x (N, C, H, W); divisor replaces their size unless 0."""


def avg_pool2d_grad(g, size, kernel, stride, padding, with_pad, divisor):
    """Gradient of avg_pool2d's x (N, C, *size)."""


def unfold(x, kernel, stride, padding, dilation, out):
    """The windows of x (N, C, H, W), zero outside, as columns: (N, C * kh * kw, oh * ow)."""


def fold(g, size, kernel, stride, padding, dilation, out):
    """The adjoint of unfold: columns added up where their windows lie, (N, C, *size)."""


# ---- normalisation -------------------------------------------------------------------------------


def batch_norm(x, w, b, eps):
    """y, mean (C,) and biased variance (C,) of x (N, C, ...), normalised over all axes but C."""


def batch_norm_grad(g, x, w, mean, var, eps):
    """Gradients of batch_norm's x, w and b."""


def group_norm(x, w, b, groups, eps):
    """y, mean and biased variance (N, groups) of x (N, C, ...), normalised group by group."""


def group_norm_grad(g, x, w, mean, var, eps):
    """Gradients of group_norm's x, w and b."""


def layer_norm(x, w, b, n, eps, centre):
    """y, mean and 1 / standard deviation of each row of n elements; RMS norm without centre."""


def layer_norm_grad(g, x, w, mean, rstd, n, centre):
    """Gradients of layer_norm's x, w and b, the last two as (n,)."""


# ---- rows of scores ------------------------------------------------------------------------------


def softmax(x, axis):
    """exp(x) / sum(exp(x)) along an axis."""


def softmax_grad(g, y, axis):
    """Gradient of softmax's x, from its result y."""


def log_softmax(x, axis):
    """log(softmax(x)) along an axis."""


def log_softmax_grad(g, y, axis):
    """Gradient of log_softmax's x, from its result y."""


def cross_entropy(x, label, weight, ignore, smoothing):
    """Loss of each row of scores x (M, C) with label (M,) int64; each row's max and sum of exp."""


def cross_entropy_grad(g, x, label, weight, top, total, ignore, smoothing):
    """Gradient of cross_entropy's x."""


# ---- rows of tables ------------------------------------------------------------------------------


def take_rows(table, index):
    """table (V, D) at index (...) int64 in [0, V): (..., D)."""


def add_rows(g, index, rows, skip=-1):
    """Sum of the rows of g (..., D) by index (...): (rows, D); index `skip` adds nothing."""


def check_indices(op, index, n, ignore=None):
    """Raise, naming op, range and value, if an index lies outside [0, n) and is not `ignore`."""


# ---- recurrent layers ----------------------------------------------------------------------------


def lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse):
    """Run an LSTM: x (T, B, I) -> y, c (T, B, H) and the activated gates (T, B, 4H) i, f, g, o."""


def lstm_grad(gy, gh, gc, x, h0, c0, w_ih, w_hh, y, c, gates, reverse, need):
    """Gradients of x, h0, c0, w_ih, w_hh, b_ih, b_hh from those of y, the last h, the last c."""


def gru(x, h0, w_ih, w_hh, b_ih, b_hh, reverse):
    """Run a GRU: x (T, B, I) -> y (T, B, H), and r, z, n, W_hn h + b_hn as gates (T, B, 4H)."""


def gru_grad(gy, gh, x, h0, w_ih, w_hh, y, gates, reverse, need):
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""


def rnn(x, h0, w_ih, w_hh, b_ih, b_hh, relu, reverse):
    """Run a plain recurrent layer with tanh or relu: x (T, B, I) -> y (T, B, H)."""


def rnn_grad(gy, gh, x, h0, w_ih, w_hh, y, relu, reverse, need):
    """Gradients of x, h0, w_ih, w_hh, b_ih, b_hh from those of y and the last h."""


# ---- attention -----------------------------------------------------------------------------------


def attend(q, k, v, mask, causal, scale):
    """softmax(scale q kᵀ + mask) v and its rows' log-sum-exp."""


def attend_grad(g, q, k, v, mask, lse, causal, scale):
    """Gradients of q, k and v from that of y."""
