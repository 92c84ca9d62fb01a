"""Normalisation: batch, instance, group, layer and RMS norm, and norms along an axis."""

import math
from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, op, raw
from minidl.derivatives import recomputing
from minidl.errors import require
from minidl.fusion import pointwise, rsqrt, update, where
from minidl.ops import pointwise as pw
from minidl.ops.arguments import check_real, check_same_dtype
from minidl.ops.autocasting import alike
from minidl.ops.reduce import mean, norm
from minidl.ops.shape import expand, flatten, reshape, to_dtype

_TOPS = {None: 0.0, "relu": math.inf, "relu6": 6.0}  # the most that comes out; 0: anything


def _fit(name: str, x: Any, weight: Any, bias: Any, shape: tuple[int, ...]) -> None:
    """x is floating; weight and bias, where given, have the shape and its dtype.

    Those of an x in a half type may be float32.
    """
    check_real(name, x)
    fitting = (x.dtype, np.float32) if x.dtype.itemsize == 2 else (x.dtype,)
    for what, v in (("weight", weight), ("bias", bias)):
        if v is not None and (v.shape != shape or v.dtype not in fitting):
            require(v.shape == shape, name, f"{what} must have shape {shape}", x=x, **{what: v})
            check_same_dtype(name, x=x, weight=weight, bias=bias)


def _over_channels(v: Any, x: Any) -> Any:
    """v (C,) shaped to broadcast over x (N, C, ...); None stays None."""
    return v if v is None else reshape(v, (1, -1) + (1,) * (x.ndim - 2))


def _moments(x: Any, axes: tuple[int, ...]) -> tuple:
    """Mean and biased variance over the axes, by elementary ops."""
    m = mean(x, axes, True)
    return m, mean(pw.square(pw.sub(x, m)), axes, True)


def batch_norm_by_elementary_ops(x: Any, w: Any, b: Any, more: Any, *, eps: float,
                                 act: str | None) -> tuple:  # fmt: skip
    """Definition of normalise_batch."""
    m, var = _moments(x, (0, *range(2, x.ndim)))
    vectors = (m, var, _over_channels(w, x), _over_channels(b, x))
    return _affine(x, *vectors, more, eps=eps, act=act), flatten(m), flatten(var)


@op(definition=batch_norm_by_elementary_ops)
def normalise_batch(x: Any, w: Any, b: Any, more: Any, *, eps: float, act: str | None) -> Any:
    """Centre and scale every channel over the batch (Ioffe and Szegedy 2015).

    x (N, C, ...); w, b (C,) or None; more like x or None -> y like x, mean (C,), biased variance
    (C,), of which only y is differentiated. y is act(normalised x + more) where these are asked
    for, act a "relu" or "relu6". Saves x, w, b, two numbers a channel and, for act behind more, y.
    """
    be, top = backend.of(x), _TOPS[act]
    y, m, var = be.batch_norm(x, w, b, more, eps, top)
    saved = (x, w, b, m, var, y if act and more is not None else None)
    return (y, m, var), saved, lambda g, need, *kept: be.batch_norm_grad(g[0], *kept, eps, top)


@pointwise
def _affine(x, m, var, w, b, more, *, eps, act):
    """(x - m) / sqrt(var + eps) * w + b (+ more, then act)."""
    scale = rsqrt(var + eps)
    y = (x - m) * (scale if w is None else scale * w)
    y = y if b is None else y + b
    y = y if more is None else y + more
    y = y if act is None else where(y <= 0, 0.0, y)
    return where(y >= 6, 6.0, y) if act == "relu6" else y


def batch_norm(input: Any, running_mean: Any, running_var: Any, weight: Any = None,
               bias: Any = None, training: bool = False, momentum: float = 0.1,
               eps: float = 1e-5) -> Any:  # fmt: skip
    """Batch norm of input (N, C, ...) by the batch's statistics (training) or the running ones.

    Training moves running_mean and running_var, where given, towards the batch's mean and unbiased
    variance by momentum, in place. weight, bias and the statistics are (C,) or None.
    """
    statistics = (running_mean, running_var)
    return batch_norm_with(None, None, input, *statistics, weight, bias, training, momentum, eps)


def batch_norm_with(more: Any, act: str | None, x: Any, running_mean: Any, running_var: Any,
                    weight: Any, bias: Any, training: bool, momentum: float,
                    eps: float) -> Any:  # fmt: skip
    """act(batch_norm(x, …) + more) in one pass over memory; more is like x or None."""
    name = "batch_norm"
    (more,) = alike(x, more)
    require(x.ndim >= 2, name, "x must have at least 2 axes (N, C, ...)", x=x)
    _fit(name, x, weight, bias, (x.shape[1],))
    for v in (running_mean, running_var):
        fits = v is None or v.shape == (x.shape[1],)
        require(fits, name, "running statistics must have shape (C,)", x=x, statistic=v)
    if not training:
        given = running_mean is not None and running_var is not None
        require(given, name, "running_mean and running_var are needed unless training")
        channels = running_mean, running_var, *alike(x, weight, bias)
        vectors = (_over_channels(v, x) for v in channels)
        return to_dtype(_affine(x, *vectors, more, eps=eps, act=act), x.dtype)
    count = math.prod(x.shape) // max(x.shape[1], 1)
    require(count != 1, name, "training needs more than one value per channel", x=x)
    require(more is None or more.shape == x.shape, name, "what is added must be like x", x=x,
            added=more)  # fmt: skip
    normalise = normalise_batch if x.shape[1] else batch_norm_by_elementary_ops
    y, m, var = normalise(x, weight, bias, more, eps=eps, act=act)
    if count:
        _move(running_mean, running_var, raw(m), raw(var), count, momentum)
    return y


@update(inplace=("mean", "var"))
def _moved(mean, var, m, v, *, momentum, scale):
    """mean and var moved towards m and scale v."""
    mean = None if mean is None else mean + momentum * (m - mean)
    return mean, None if var is None else var + momentum * (scale * v - var)


def _move(mean: Any, var: Any, m: Any, v: Any, count: int, momentum: float) -> None:
    """Move running statistics towards a batch's, in place and outside the graph."""
    if recomputing.get():
        return
    given = {"mean": mean, "var": var}
    absent = tuple([name for name, a in given.items() if a is None])
    if len(absent) < 2:
        running = [raw(a) for a in given.values() if a is not None]
        row = [*running, *(backend.of(m).cast(a, running[0].dtype) for a in (m, v))]
        _moved.apply_([row], absent, momentum=momentum, scale=count / (count - 1))
    for a in given.values():
        if isinstance(a, Tensor):
            a.bump()


def group_norm_by_elementary_ops(x: Any, w: Any, b: Any, *, groups: int, eps: float) -> tuple:
    """Definition of normalise_groups."""
    apart = reshape(x, (x.shape[0], groups, math.prod(x.shape[1:]) // groups))
    m, var = _moments(apart, (2,))
    y = reshape(_affine(apart, m, var, None, None, None, eps=eps, act=None), x.shape)
    y = y if w is None else pw.mul(y, _over_channels(w, x))
    return y if b is None else pw.add(y, _over_channels(b, x)), flatten(m, 1), flatten(var, 1)


@op(definition=group_norm_by_elementary_ops)
def normalise_groups(x: Any, w: Any, b: Any, *, groups: int, eps: float) -> Any:
    """Centre and scale each sample's groups of channels (Wu and He 2018).

    x (N, C, ...); w, b (C,) or None -> y like x, mean and biased variance (N, groups), of which
    only y is differentiated. Saves x, w and two numbers a group.
    """
    be = backend.of(x)
    y, m, var = be.group_norm(x, w, b, groups, eps)
    return (y, m, var), (x, w, m, var), lambda g, need, *kept: be.group_norm_grad(g[0], *kept, eps)


def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None,
               eps: float = 1e-5) -> Any:  # fmt: skip
    """Group norm of input (N, C, ...) with C / num_groups channels a group; weight, bias (C,)."""
    require(input.ndim >= 2, "group_norm", "x must have at least 2 axes (N, C, ...)", x=input)
    fits = num_groups > 0 and input.shape[1] % num_groups == 0
    require(fits, "group_norm", "C must be divisible by num_groups", x=input, num_groups=num_groups)
    _fit("group_norm", input, weight, bias, (input.shape[1],))
    return normalise_groups(input, weight, bias, groups=num_groups, eps=eps)[0]


def instance_norm(input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None,
                  bias: Any = None, use_input_stats: bool = True, momentum: float = 0.1,
                  eps: float = 1e-5) -> Any:  # fmt: skip
    """Group norm with one channel a group, x (N, C, ...), or batch norm by running statistics.

    With use_input_stats the running statistics, where given, move towards the means over the batch
    of the samples' means and unbiased variances.
    """
    require(input.ndim >= 3, "instance_norm", "x must have at least 3 axes (N, C, ...)", x=input)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    count = math.prod(input.shape[2:])
    require(count != 1, "instance_norm", "needs more than one value per channel", x=input)
    _fit("instance_norm", input, weight, bias, (input.shape[1],))
    y, m, var = normalise_groups(input, weight, bias, groups=input.shape[1], eps=eps)
    if count and input.shape[0] and not (running_mean is None is running_var):
        _move(running_mean, running_var, mean(raw(m), 0), mean(raw(var), 0), count, momentum)
    return y


def layer_norm_by_elementary_ops(x: Any, w: Any, b: Any, *, count: int, eps: float,
                                 centre: bool) -> Any:  # fmt: skip
    """Definition of normalise_rows."""
    axes = tuple(range(x.ndim - count, x.ndim))
    m, var = _moments(x, axes) if centre else (0.0, mean(pw.square(x), axes, True))
    return _affine(x, m, var, w, b, None, eps=eps, act=None)


@op(definition=layer_norm_by_elementary_ops)
def normalise_rows(x: Any, w: Any, b: Any, *, count: int, eps: float, centre: bool) -> Any:
    """Centre (layer norm) and scale x over its last `count` axes, then apply w and b.

    x (..., D); w, b (D...) or None -> like x. Saves x, w and two numbers a row.
    """
    be, shape = backend.of(x), x.shape[x.ndim - count :]
    n = math.prod(shape)
    y, m, rstd = be.layer_norm(x, w, b, n, eps, centre)

    def vjp(g: Any, need: Any, x: Any, w: Any, m: Any, rstd: Any) -> Any:
        dx, dw, db = be.layer_norm_grad(g, x, w, m, rstd, n, centre)
        return dx, dw.reshape(shape), db.reshape(shape)

    return y, (x, w, m, rstd), vjp


def _rows(name: str, x: Any, shape: Any, w: Any, b: Any, eps: float, centre: bool) -> Any:
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if not (shape and tuple(x.shape[-len(shape) :]) == shape):
        require(False, name, f"the last axes of x must be normalized_shape {shape}", x=x)
    _fit(name, x, w, b, shape)
    return normalise_rows(x, w, b, count=len(shape), eps=eps, centre=centre)


def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None,
               eps: float = 1e-5) -> Any:  # fmt: skip
    """Layer norm over the last axes; weight and bias have normalized_shape (Ba et al. 2016)."""
    return _rows("layer_norm", input, normalized_shape, weight, bias, eps, True)


def rms_norm(input: Any, normalized_shape: Any, weight: Any = None,
             eps: float | None = None) -> Any:  # fmt: skip
    """x / sqrt(mean(x²) + eps) over the last axes; eps None is the machine epsilon of its sums."""
    eps = float(np.finfo(np.promote_types(input.dtype, np.float32)).eps) if eps is None else eps
    return _rows("rms_norm", input, normalized_shape, weight, None, eps, False)


def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    """x divided by its p-norm along dim, or by eps where the norm is smaller."""
    return pw.div(input, expand(pw.clamp(norm(input, p, dim, True), eps), shape=input.shape))
