"""Losses, and the cosine similarity."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

from minidl import backend
from minidl.autograd import op, raw
from minidl.dtypes import int64, is_real
from minidl.errors import DTypeError, require, require_one_of
from minidl.fusion import abs, exp, log, log1p, maximum, pointwise, softplus, sqrt, where
from minidl.ops import pointwise as pw
from minidl.ops.arguments import broadcast_shapes, check_real
from minidl.ops.autocasting import raised
from minidl.ops.index import gather, getitem
from minidl.ops.reduce import mean, sum_axes
from minidl.ops.reduce import sum as sum_over
from minidl.ops.shape import broadcast_to, movedim, reshape, squeeze, to_dtype, unsqueeze
from minidl.ops.softmax import log_softmax

REDUCTIONS: dict[str, Callable] = {"none": lambda loss: loss, "mean": mean, "sum": sum_over}


def reduced(name: str, loss: Any, reduction: str) -> Any:
    """The element-wise losses themselves (none), their mean or their sum."""
    require_one_of(name, REDUCTIONS, reduction=reduction)
    return REDUCTIONS[reduction](loss)


# ---- cross entropy -------------------------------------------------------------------------------


def nll_rows(logp: Any, label: Any, weight: Any, *, ignore: int, mean: bool,
             smoothing: float = 0.0) -> Any:  # fmt: skip
    """cross_entropy_rows of rows of log-probabilities (M, C), by elementary ops."""
    label, classes = raw(label), logp.shape[1:]
    kept = pw.ne(label, ignore)
    index = pw.where(kept, label, 0)
    weights = backend.of(label).full(classes, 1, logp.dtype) if weight is None else raw(weight)
    own = pw.mul(getitem(weights, index), kept)
    loss = pw.mul(pw.neg(squeeze(gather(logp, 1, unsqueeze(index, 1)), 1)), own)
    if smoothing:
        soft = pw.mul(sum_axes(pw.mul(logp, weights), axes=(1,)), smoothing / classes[0])
        loss = pw.sub(pw.mul(loss, 1 - smoothing), soft)
    loss = pw.where(kept, loss, 0.0)
    return pw.div(sum_over(loss), sum_over(own)) if mean else loss


def cross_entropy_by_elementary_ops(x: Any, label: Any, weight: Any, **options: Any) -> Any:
    """Definition of cross_entropy_rows."""
    return nll_rows(log_softmax(x, 1), label, weight, **options)


@op(definition=cross_entropy_by_elementary_ops)
def cross_entropy_rows(x: Any, label: Any, weight: Any, *, ignore: int, smoothing: float,
                       mean: bool) -> Any:  # fmt: skip
    """(1-e) w_t (lse - x_t) + e/C sum_c w_c (lse - x_c) of each row of scores with its label t.

    x (M, C); label (M,) int64; weight (C,) or None, a constant -> (M,), 0 where label is `ignore`;
    with `mean` their sum over that of the weights w_t. Saves x and two numbers a row.
    """
    be = backend.of(x)
    loss, *rows = be.cross_entropy(x, label, weight, ignore, smoothing, mean)

    def vjp(g: Any, need: Any, *saved: Any) -> Any:
        return be.cross_entropy_grad(g, *saved, ignore, smoothing), None, None

    return loss, (x, label, weight, *rows), vjp


def _by_class(name: str, f: Callable, x: Any, target: Any, weight: Any, ignore: int,
              reduction: str) -> Any:  # fmt: skip
    """f(scores (M, C), labels (M,), weights, mean=) of scores x (C,) or (N, C, ...), reduced.

    With mean f takes the mean itself, over the weights of the labels that are not ignored.
    """
    x = raised(x)
    check_real(name, x)
    shape = x.shape
    require(shape != (), name, "x must be (C,) or (N, C, ...)", x=x)
    axis = 1 if len(shape) > 1 else 0
    count, rest = shape[axis], shape[:axis] + shape[axis + 1 :]
    require(target.shape == rest, name, f"target must have shape {rest}", x=x, target=target)
    fits = weight is None or (weight.shape == (count,) and weight.dtype == x.dtype)
    require(fits, name, "weight must be (C,) of x's dtype", x=x, weight=weight)
    label = raw(target)
    backend.of(label).check_indices(name, label, count, ignore)
    label = to_dtype(target, int64)
    if len(shape) != 2:
        x = reshape(movedim(x, axis, -1), (math.prod(rest), count))
        label = reshape(label, -1)
    loss = f(x, label, weight, mean=reduction == "mean")
    return loss if reduction == "mean" else reduced(name, reshape(loss, rest), reduction)


def cross_entropy(input: Any, target: Any, weight: Any = None, *, ignore_index: int = -100,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> Any:  # fmt: skip
    """Cross entropy in nats of scores input (C,) or (N, C, ...).

    target: class indices of input's shape without C (RangeError outside [0, C) unless
    ignore_index), or probabilities of input's shape. weight (C,). The mean over indices is
    weighted by their weights.
    """
    smoothing = float(label_smoothing)
    ok, rule = 0 <= smoothing <= 1, "label_smoothing must lie in [0, 1]"
    require(ok, "cross_entropy", rule, label_smoothing=smoothing)
    if is_real(target.dtype):
        return _soft_cross_entropy(input, target, weight, reduction, smoothing)
    loss = functools.partial(cross_entropy_rows, ignore=ignore_index, smoothing=smoothing)
    return _by_class("cross_entropy", loss, input, target, weight, ignore_index, reduction)


def _soft_cross_entropy(x: Any, p: Any, weight: Any, reduction: str, smoothing: float) -> Any:
    """Cross entropy with probabilities p of x's shape; the mean is over all but C."""
    fits = x.shape == p.shape and x.ndim > 0
    rule = "target must be class indices (ints), or probabilities of x's shape"
    require(fits, "cross_entropy", rule, x=x, target=p)
    axis = min(x.ndim - 1, 1)
    if smoothing:
        p = pw.add(pw.mul(p, 1 - smoothing), smoothing / x.shape[axis])
    terms = pw.mul(log_softmax(x, axis), p)
    if weight is not None:
        terms = pw.mul(terms, reshape(weight, (x.shape[axis],) + (1,) * (x.ndim - 1 - axis)))
    return reduced("cross_entropy", pw.neg(sum_axes(terms, axes=(axis,))), reduction)


def nll_loss(input: Any, target: Any, weight: Any = None, *, ignore_index: int = -100,
             reduction: str = "mean") -> Any:  # fmt: skip
    """-w_t x_t of log-probabilities x (C,) or (N, C, ...) and class indices, as cross_entropy."""
    loss = functools.partial(nll_rows, ignore=ignore_index)
    return _by_class("nll_loss", loss, input, target, weight, ignore_index, reduction)


# ---- element-wise losses -------------------------------------------------------------------------


@pointwise
def squared_error(x, y):
    """(x - y)²."""
    d = x - y
    return d * d


@pointwise
def absolute_error(x, y):
    """|x - y|."""
    return abs(x - y)


@pointwise
def smooth_l1(x, y, *, beta):
    """d² / 2 beta below beta, d - beta / 2 from there on."""
    d = abs(x - y)
    return where(d < beta, d * d * 0.5 / beta, d - 0.5 * beta)


@pointwise
def huber(x, y, *, delta):
    """d² / 2 below delta, delta (d - delta / 2) from there on."""
    return delta * smooth_l1(x, y, beta=delta)


@pointwise
def logistic_loss(x, y, p):
    """Stable -(p y log s(x) + (1 - y) log(1 - s(x))), s the sigmoid."""
    return (1 - y) * x + softplus(-x) * (1 if p is None else 1 + (p - 1) * y)


@pointwise
def bernoulli_loss(x, y):
    """-(y log x + (1 - y) log(1 - x)), the logarithms cut at -100."""
    return (y - 1) * maximum(log1p(-x), -100.0) - y * maximum(log(x), -100.0)


@pointwise
def bernoulli_slopes(x, y):
    """Derivatives of bernoulli_loss by x and by y, without the cut."""
    return (x - y) / maximum((1 - x) * x, 1e-12), log1p(-x) - log(x)


@pointwise
def divergence(x, y):
    """y (log y - x), 0 at y = 0."""
    return where(y == 0, 0.0, y * log(y)) - y * x


@pointwise
def divergence_of_logs(x, y):
    """exp(y) (y - x)."""
    return exp(y) * (y - x)


@op
def bernoulli_nll(x: Any, y: Any) -> Any:
    """bernoulli_loss with PyTorch's gradient, finite at 0 and 1. Saves x and y."""

    def vjp(g: Any, need: Any, x: Any, y: Any) -> Any:
        slopes = bernoulli_slopes(x, y)
        return tuple(pw.mul(g, s) if wanted else None for s, wanted in zip(slopes, need))

    return bernoulli_loss(x, y), (x, y), vjp


def _matched(name: str, f: Callable, x: Any, y: Any, reduction: str) -> Any:
    """f(x, y) reduced; different shapes are broadcast with a warning, as in PyTorch."""
    real = is_real(x.dtype) or is_real(y.dtype)
    require(real, name, "needs floating-point tensors", error=DTypeError, x=x, target=y)
    if tuple(x.shape) != tuple(y.shape):
        text = f"{name}: shapes {tuple(x.shape)} and {tuple(y.shape)} are broadcast"
        warnings.warn(text, UserWarning, stacklevel=3)
    return reduced(name, f(x, y), reduction)


def mse_loss(input: Any, target: Any, *, reduction: str = "mean") -> Any:
    """(x - y)², reduced."""
    return _matched("mse_loss", squared_error, input, target, reduction)


def l1_loss(input: Any, target: Any, *, reduction: str = "mean") -> Any:
    """|x - y|, reduced."""
    return _matched("l1_loss", absolute_error, input, target, reduction)


def smooth_l1_loss(input: Any, target: Any, *, reduction: str = "mean", beta: float = 1.0) -> Any:
    """Quadratic below beta, linear above (Girshick 2015), reduced; beta 0 is l1_loss."""
    require(beta >= 0, "smooth_l1_loss", "beta must not be negative", beta=beta)
    loss = functools.partial(smooth_l1, beta=beta) if beta else absolute_error
    return _matched("smooth_l1_loss", loss, input, target, reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """delta times smooth_l1_loss with beta = delta."""
    require(delta > 0, "huber_loss", "delta must be positive", delta=delta)
    return _matched("huber_loss", functools.partial(huber, delta=delta), input, target, reduction)


def _weighted(name: str, f: Callable, x: Any, y: Any, weight: Any, reduction: str) -> Any:
    """f(x, y), of one shape, times weight, reduced."""
    require(x.shape == y.shape, name, "target must have input's shape", input=x, target=y)
    loss = f(x, y)
    return reduced(name, loss if weight is None else pw.mul(loss, weight), reduction)


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, *,
                         reduction: str = "mean") -> Any:  # fmt: skip
    """-(y log x + (1 - y) log(1 - x)) of probabilities x, times weight, reduced.

    On the CPU RangeError where input or target lies outside [0, 1].
    """
    for given in (raw(input), raw(target)):
        backend.of(given).check_probabilities("binary_cross_entropy", given)
    return _weighted("binary_cross_entropy", bernoulli_nll, input, target, weight, reduction)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """binary_cross_entropy of sigmoid(x), stable at large |x|; pos_weight multiplies the y term."""
    name, p = "binary_cross_entropy_with_logits", pos_weight
    return _weighted(name, lambda x, y: logistic_loss(x, y, p), input, target, weight, reduction)


def kl_div(input: Any, target: Any, *, reduction: str = "mean", log_target: bool = False) -> Any:
    """target (log target - x) of log-probabilities x; batchmean divides the sum by N."""
    loss = divergence_of_logs(input, target) if log_target else divergence(input, target)
    if reduction == "batchmean":
        return pw.div(sum_over(loss), float(input.shape[0] if input.ndim else 1))
    return reduced("kl_div", loss, reduction)


# ---- similarity ----------------------------------------------------------------------------------


@pointwise
def cosine(xy, xx, yy, *, eps):
    """xy / (max(|x|, eps) max(|y|, eps)) from inner products."""
    return xy / (sqrt(maximum(xx, eps * eps)) * sqrt(maximum(yy, eps * eps)))


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """x1 · x2 / (max(|x1|, eps) max(|x2|, eps)) along dim, broadcast."""
    shape = broadcast_shapes(tuple(x1.shape), tuple(x2.shape), name="cosine_similarity")
    x, y = (broadcast_to(v, shape) for v in (x1, x2))
    return cosine(*[sum_over(pw.mul(a, b), dim) for a, b in ((x, y), (x, x), (y, y))], eps=eps)
