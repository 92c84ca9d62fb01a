"""Softmax, log softmax and cross entropy on the GPU, by rows (src/softmax.cu)."""

from minidl.backend.cuda.memory import cast, contiguous, full, given_or
from minidl.backend.cuda.plans import accumulator
from minidl.backend.cuda.rows import launch_rows, rows_along
from minidl.backend.cuda.runtime import Array, Maybe, empty, kernel, launch


def _by_rows(name: str, axis: int, *arrays: Array) -> Array:
    """Run a kernel of rows along one axis: its result has that axis contiguous in memory."""
    given = [rows_along(a, axis) for a in arrays]
    moved, (_, rows, n, back) = [x for x, *_ in given], given[0]
    y = empty(moved[0].shape, moved[0].dtype)
    if y.size:
        launch_rows("softmax.cu", name, rows, n, (*moved, y))
    return y.transpose(back)


def softmax(x: Array, axis: int) -> Array:
    """exp(x) / sum(exp(x)) along an axis."""
    return _by_rows("softmax", axis, x)


def softmax_grad(g: Array, y: Array, axis: int) -> Array:
    """Gradient of softmax's x, from its result y."""
    return _by_rows("softmax_grad", axis, g, y)


def log_softmax(x: Array, axis: int) -> Array:
    """log(softmax(x)) along an axis."""
    return _by_rows("log_softmax", axis, x)


def log_softmax_grad(g: Array, y: Array, axis: int) -> Array:
    """Gradient of log_softmax's x, from its result y."""
    return _by_rows("log_softmax_grad", axis, g, y)


def cross_entropy(
    x: Array, label: Array, weight: Maybe, ignore: int, smoothing: float, mean: bool
) -> tuple[Array, Array, Array, Array]:
    """Loss of each row of scores x (M, C) with label (M,) int64; each row's max and sum of exp.

    The last (1,) is what the losses are divided by: 1, or with `mean` the sum of the labels'
    weights, and the first is the mean.
    """
    m, n = x.shape
    wide = accumulator(x.dtype)
    x, label = contiguous(x), contiguous(label)
    weights, weighted = given_or(weight, x)
    loss, top, total = (empty((m,), wide) for _ in range(3))
    given = (label, loss, top, total, ignore, float(smoothing), weighted)
    launch_rows("softmax.cu", "cross_entropy", m, n, (x, weights), *given)
    if not mean:
        return cast(loss, x.dtype), top, total, full((1,), 1, wide)
    both = empty((2,), wide)
    run = kernel("softmax.cu", "weighted_mean", x.dtype)
    launch(run, 1, loss, label, weights, both, m, n, ignore, weighted, threads=1024)
    return cast(both[:1], x.dtype).reshape(()), top, total, both[1:]


def cross_entropy_grad(g: Array, x: Array, label: Array, weight: Maybe, top: Array, total: Array,
                       whole: Array, ignore: int, smoothing: float) -> Array:  # fmt: skip
    """Gradient of cross_entropy's x; g (M,), or () of the mean."""
    m, n = x.shape
    x, dx = contiguous(x), empty((m, n), x.dtype)
    weights, weighted = given_or(weight, x)
    given = (contiguous(g), g.ndim, contiguous(label), top, total, whole, ignore, float(smoothing))
    launch_rows("softmax.cu", "cross_entropy_grad", m, n, (x, weights, dx), *given, weighted)
    return dx
