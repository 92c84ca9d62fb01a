"""Kernels over rows of scores: softmax, log-softmax, cross entropy and their gradients.

Each row is read twice from cache: once for its largest value, once for the exponentials. Rows that
are -inf throughout give NaN, as 0/0 does. Sums are in the working precision, 2,048 terms at a time.
"""

import numpy as np

# isort: off
from minidl.backend.cpu.jit import (
    SUM, Kernel, R, at, device, dot, exp, kernel, larger, launch, launch_rows, log, sum_of, zero,
)  # fmt: skip

# isort: on
from minidl.backend.cpu.memory import Array, Maybe, contiguous, empty, full, vector


@device
def largest(x, n):
    """Largest of n values; with a NaN among them, which makes all sums NaN, any or NaN."""
    m = x[0]
    for j in range(n):
        m = larger(m, x[j])
    return m


@device
def _exp_sum(x, y, n, m, keep):
    """Sum of exp(x - m), as a double; keep: the terms go to y."""
    total = 0.0
    for j0 in range(0, n, SUM):
        s = R(0)
        for j in range(j0, min(j0 + SUM, n)):
            e = exp(x[j] - m)
            if keep:
                y[j] = e
            s += e
        total += s
    return total


@device(exact=True)
def _less(x, m, l):
    """x - m - l, where m is so large that x - (m + l) would lose l."""
    return (x - m) - l


@kernel("R* R* int", fast=True)
def _softmax(i, x, y, n):
    """y = exp(x - max) / sum over rows of n."""
    src, dst = at(x, i * n), at(y, i * n)
    scale = R(1 / _exp_sum(src, dst, n, largest(src, n), True))
    for j in range(n):
        dst[j] *= scale


@kernel("R* R* R* int", fast=True)
def _softmax_grad(i, g, y, dx, n):
    """dx = y * (g - sum(g * y)) over rows of n."""
    gi, yi, dst = at(g, i * n), at(y, i * n), at(dx, i * n)
    total = 0.0
    for j0 in range(0, n, SUM):
        total += dot(at(gi, j0), at(yi, j0), min(SUM, n - j0))
    t = R(total)
    for j in range(n):
        dst[j] = yi[j] * (gi[j] - t)


@kernel("R* R* int", fast=True)
def _log_softmax(i, x, y, n):
    """y = x - max - log(sum(exp(x - max))) over rows of n."""
    src, dst = at(x, i * n), at(y, i * n)
    m = largest(src, n)
    l = log(R(_exp_sum(src, dst, n, m, False)))
    for j in range(n):
        dst[j] = _less(src[j], m, l)


@kernel("R* R* R* int", fast=True)
def _log_softmax_grad(i, g, y, dx, n):
    """dx = g - exp(y) * sum(g) over rows of n."""
    gi, yi, dst = at(g, i * n), at(y, i * n), at(dx, i * n)
    t = R(sum_of(gi, n))
    for j in range(n):
        dst[j] = gi[j] - exp(yi[j]) * t


@device
def _row_loss(i, x, label, weight, loss, top, total, n, ignore, smoothing):
    """loss = (1-e) w_t (lse - x_t) + e/n sum_c w_c (lse - x_c), lse = top + log(total)."""
    t = label[i]
    if t == ignore:
        loss[i] = R(0)
        top[i] = R(0)
        total[i] = R(1)
        return
    src = at(x, i * n)
    m = largest(src, n)
    s = R(_exp_sum(src, src, n, m, False))
    l = log(s)
    top[i] = m
    total[i] = s
    r = R(0)
    for c in range(n if smoothing != R(0) else 0):
        r -= weight[c] * _less(src[c], m, l)
    loss[i] = smoothing / R(n) * r - (R(1) - smoothing) * weight[t] * _less(src[t], m, l)


@device
def _weighted_mean(_, loss, label, weight, y, m, ignore):
    """y[0] = sum of m losses / y[1], y[1] = sum of their labels' weights; sums are doubles."""
    total = weights = 0.0
    for i in range(m):
        if label[i] != ignore:
            total += loss[i]
            weights += weight[label[i]]
    y[0] = R(total / weights)  # no label, no mean: NaN
    y[1] = R(weights)


@kernel("R* i8* R* R* R* R* R* int int int R", fast=True)
def _cross_entropy(lo, hi, slot, x, label, weight, loss, top, total, y, m, n, ignore, smoothing):
    """The losses of rows lo..hi, and y of all m of them where these are all."""
    for i in range(lo, hi):
        _row_loss(i, x, label, weight, loss, top, total, n, ignore, smoothing)
    if hi - lo == m:
        _weighted_mean(0, loss, label, weight, y, m, ignore)


_mean_of_losses = kernel("R* i8* R* R* int int")(_weighted_mean.function)


@kernel("R* int R* i8* R* R* R* R* int int R R R*", fast=True)
def _cross_entropy_grad(
    i, g, step, x, label, weight, top, total, dx, n, ignore, smoothing, weights, whole
):
    """dx = g / whole (((1-e) w_t + e/n sum w) p_c - e/n w_c - (1-e) w_t [c = t]), p the softmax."""
    t = label[i]
    src, dst = at(x, i * n), at(dx, i * n)
    if t == ignore:
        zero(dst, n)
        return
    s = g[i * step] / whole[0]
    hard = s * (R(1) - smoothing) * weight[t]
    soft = s * (smoothing / R(n))
    m, scale = top[i], (hard + soft * weights) / total[i]
    for c in range(n):
        e = exp(src[c] - m) * scale
        dst[c] = e if smoothing == R(0) else e - soft * weight[c]
    dst[t] -= hard


def _by_rows(k: Kernel, axis: int, *arrays: Array) -> Array:
    """Run a kernel of rows along one axis: its result has that axis contiguous in memory."""
    moved = [contiguous(np.moveaxis(a, axis, -1)) for a in arrays]
    y = empty(moved[0].shape, moved[0].dtype)
    n = y.shape[-1]
    launch_rows(k, y.size // max(n, 1), n, *moved, y, n)
    return np.moveaxis(y, -1, axis)


def softmax(x: Array, axis: int) -> Array:
    """exp(x) / sum(exp(x)) along an axis."""
    return _by_rows(_softmax, axis, x)


def softmax_grad(g: Array, y: Array, axis: int) -> Array:
    """Gradient of softmax's x, from its result y."""
    return _by_rows(_softmax_grad, axis, g, y)


def log_softmax(x: Array, axis: int) -> Array:
    """log(softmax(x)) along an axis."""
    return _by_rows(_log_softmax, axis, x)


def log_softmax_grad(g: Array, y: Array, axis: int) -> Array:
    """Gradient of log_softmax's x, from its result y."""
    return _by_rows(_log_softmax_grad, axis, g, y)


def cross_entropy(x: Array, label: Array, weight: Maybe, ignore: int, smoothing: float,
                  mean: bool) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Loss of each row of scores x (M, C) with label (M,) int64; each row's max and sum of exp.

    The last (1,) is what the losses are divided by: 1, or with `mean` the sum of the labels'
    weights, and the first is the mean.
    """
    m, n = x.shape
    loss, top, total = empty((m,), x.dtype), empty((m,), x.dtype), empty((m,), x.dtype)
    weights = vector(weight, 1, n, x.dtype)
    x, label = contiguous(x), contiguous(label)
    both = empty((2,), x.dtype)
    args = (x, label, weights, loss, top, total, both, m, n, ignore, smoothing)
    if not launch_rows(_cross_entropy, m, n, *args) and mean:
        launch(_mean_of_losses, 1, 1, loss, label, weights, both, m, ignore)
    if not mean:
        return loss, top, total, full((1,), 1, x.dtype)
    return both[0, ...], top, total, both[1:]


def cross_entropy_grad(g: Array, x: Array, label: Array, weight: Maybe, top: Array, total: Array,
                       whole: Array, ignore: int, smoothing: float) -> Array:  # fmt: skip
    """Gradient of cross_entropy's x; g (M,), or () of the mean."""
    m, n = x.shape
    weights = vector(weight, 1, n, x.dtype)
    dx = empty((m, n), x.dtype)
    args = (contiguous(g), g.ndim, contiguous(x), contiguous(label), weights, top, total, dx, n)
    spread = float(weights.sum()) if smoothing else 0.0
    launch_rows(_cross_entropy_grad, m, n, *args, ignore, smoothing, spread, whole)
    return dx
