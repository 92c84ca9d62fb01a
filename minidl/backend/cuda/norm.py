"""Layer norm and RMS norm on the GPU, by rows (src/layer_norm.cu)."""

from minidl.backend.cuda.memory import cast, contiguous
from minidl.backend.cuda.plans import accumulator
from minidl.backend.cuda.reduce import sum
from minidl.backend.cuda.rows import cut_of, launch_rows
from minidl.backend.cuda.runtime import MOST, THREADS, Array, Maybe, empty, kernel, launch

_BLOCKS = 396  # of the gradient: three on each multiprocessor of an H100 or H200
_CUTS = ((32, 8), (64, 8), (128, 8), (256, 8), (256, 16))  # of the gradient, as in rows.py
Three = tuple[Array, Array, Array]


def layer_norm(x: Array, w: Maybe, b: Maybe, n: int, eps: float, centre: bool) -> Three:
    """y, mean and 1 / standard deviation of each row of n elements; RMS norm without centre."""
    rows, wide = x.size // max(n, 1), accumulator(x.dtype)
    x, y = contiguous(x), empty(x.shape, x.dtype)
    mean, rstd = empty((rows,), wide), empty((rows,), wide)
    affine = [x if a is None else cast(contiguous(a), x.dtype) for a in (w, b)]
    more = (mean, rstd, float(eps), int(centre), int(w is not None), int(b is not None))
    launch_rows("layer_norm.cu", "layer_norm", rows, n, (x, *affine, y), *more)
    return y, mean, rstd


def layer_norm_grad(
    g: Array, x: Array, w: Maybe, mean: Array, rstd: Array, n: int, centre: bool
) -> Three:
    """Gradients of layer_norm's x, w and b, the last two as (n,)."""
    g, x, rows, dx = contiguous(g), contiguous(x), mean.size, empty(x.shape, x.dtype)
    scale = x if w is None else cast(contiguous(w), x.dtype)
    flags = int(centre), int(w is not None)
    arrays, wide = (g, x, scale, dx), accumulator(x.dtype)
    cut = cut_of(n, arrays, _CUTS)
    if cut.held:
        blocks = min(_BLOCKS, -(-rows * cut.team // THREADS))
        part = empty((blocks * THREADS // cut.team, 2, n), wide)
        run = kernel("layer_norm.cu", "layer_norm_grad", x.dtype, cut)
        launch(run, blocks, *arrays, rows, n, mean, rstd, part, *flags)
    else:
        launch_rows("layer_norm.cu", "layer_norm_input_grad", rows, n, arrays, mean, rstd, *flags)
        piece = max(64, -(-rows // MOST))
        part = empty((-(-rows // piece), 2, n), wide)
        run = kernel("layer_norm.cu", "layer_norm_weight_grad", x.dtype)
        launch(run, (-(-n // 32), len(part)), g, x, mean, rstd, part, rows, n, piece)
    both = cast(sum(part, (0,)), x.dtype if w is None else w.dtype)
    return dx, both[0], both[1]
