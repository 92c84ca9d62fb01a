"""Layer norm and RMS norm on the GPU, by rows: a block each."""

from typing import Any

from minidl.backend.cuda.memory import cast, contiguous
from minidl.backend.cuda.plans import code_of
from minidl.backend.cuda.printer import TYPES
from minidl.backend.cuda.reduce import accumulator, sum
from minidl.backend.cuda.runtime import Array, Maybe, empty, kernel, launch

_MOST = 65535  # blocks along the second axis of a grid
Three = tuple[Array, Array, Array]


def _of(name: str, x: Array) -> Any:
    return kernel("layer_norm.cu", f"{name}<{TYPES[code_of(x.dtype)]}>")


def layer_norm(x: Array, w: Maybe, b: Maybe, n: int, eps: float, centre: bool) -> Three:
    """y, mean and 1 / standard deviation of each row of n elements; RMS norm without centre."""
    rows, wide = x.size // max(n, 1), accumulator(x.dtype)
    x, y = contiguous(x), empty(x.shape, x.dtype)
    mean, rstd = empty((rows,), wide), empty((rows,), wide)
    affine = [x if a is None else contiguous(a) for a in (w, b)]
    flags = (int(centre), int(w is not None), int(b is not None))
    launch(_of("layer_norm", x), rows, x, *affine, y, mean, rstd, n, float(eps), *flags)
    return y, mean, rstd


def layer_norm_grad(
    g: Array, x: Array, w: Maybe, mean: Array, rstd: Array, n: int, centre: bool
) -> Three:
    """Gradients of layer_norm's x, w and b, the last two as (n,)."""
    g, x, rows, dx = contiguous(g), contiguous(x), mean.size, empty(x.shape, x.dtype)
    scale, flags = x if w is None else contiguous(w), (int(centre), int(w is not None))
    launch(_of("layer_norm_input_grad", x), rows, g, x, scale, mean, rstd, dx, n, *flags)
    piece = max(64, -(-rows // _MOST))
    part = empty((-(-rows // piece), 2, n), accumulator(x.dtype))
    grid = (-(-n // 32), len(part))
    launch(_of("layer_norm_weight_grad", x), grid, g, x, mean, rstd, part, rows, n, piece)
    both = cast(sum(part, (0,)), x.dtype)
    return dx, both[0], both[1]
