"""Convolutions: three bilinear ops that are each other's gradients, and what is built from them."""

from typing import Any

from minidl import backend
from minidl.autograd import op, raw
from minidl.errors import require
from minidl.ops import pointwise as pw
from minidl.ops.arguments import Sizes, check_real, check_same_dtype, ints_of
from minidl.ops.autocasting import lowered
from minidl.ops.join import pad_constant
from minidl.ops.reduce import sum_axes
from minidl.ops.shape import batched, channels_last, reshape, squeeze, unsqueeze

# ---- window: pairs stride, padding, dilation, and an int groups ----------------------------------


@op(bilinear=True)
def convolve(x: Any, w: Any, b: Any, **window: Any) -> Any:
    """x (N, C, H, W) * w (K, C/groups, R, S) + b (K,) -> (N, K, OH, OW). Saves x and w."""
    sx, sw = x.shape, w.shape
    y = backend.of(x).conv2d(x, w, b, **window)

    def vjp(g: Any, need: Any, x: Any, w: Any) -> Any:
        gb = sum_axes(g, axes=(0, 2, 3)) if need[2] else None
        if need[0] and need[1] and raw(g) is g:  # nothing is recorded
            return *backend.of(g).conv2d_grads(g, x, w, **window), gb
        gx = convolve_input_grad(g, w, shape=sx, **window) if need[0] else None
        return gx, convolve_weight_grad(g, x, shape=sw, **window) if need[1] else None, gb

    return y, (x, w), vjp


@op(bilinear=True)
def convolve_input_grad(g: Any, w: Any, *, shape: Sizes, **window: Any) -> Any:
    """The adjoint of convolve in x, of the given shape: a transposed convolution."""
    sw = w.shape
    x = backend.of(g).conv2d_input_grad(g, w, shape, **window)

    def vjp(h: Any, need: Any, g: Any, w: Any) -> Any:
        gg = convolve(h, w, None, **window) if need[0] else None
        return gg, convolve_weight_grad(g, h, shape=sw, **window) if need[1] else None

    return x, (g, w), vjp


@op(bilinear=True)
def convolve_weight_grad(g: Any, x: Any, *, shape: Sizes, **window: Any) -> Any:
    """The adjoint of convolve in w, of the given shape."""
    sx = x.shape
    w = backend.of(g).conv2d_weight_grad(g, x, shape, **window)

    def vjp(h: Any, need: Any, g: Any, x: Any) -> Any:
        gg = convolve(x, h, None, **window) if need[0] else None
        return gg, convolve_input_grad(g, h, shape=sx, **window) if need[1] else None

    return w, (g, x), vjp


# ---- over sequences (n = 1, as images of one row) and images (n = 2) -----------------------------


def _check(name: str, x: Any, w: Any, b: Any, channels: int, outputs: int, groups: int) -> None:
    """Raise unless groups divide, x has the channels, b the outputs and all one dtype."""
    rule = "groups must divide weight's first axis"
    require(groups >= 1 and w.shape[0] % groups == 0, name, rule, weight=w, groups=groups)
    require(x.shape[1] == channels, name, f"input must have {channels} channels", input=x, weight=w)
    fits = b is None or tuple(b.shape) == (outputs,)
    require(fits, name, f"bias must be ({outputs},)", bias=b, weight=w)
    check_same_dtype(name, input=x, weight=w, bias=b)
    check_real(name, x)


def _window(stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> dict[str, Any]:
    """The arguments of convolve, as pairs."""
    lead = 2 - len(stride)
    pairs = {"stride": (1,) * lead + stride, "dilation": (1,) * lead + dilation}
    return {**pairs, "padding": (0,) * lead + padding, "groups": groups}


def _image(x: Any) -> Any:
    return unsqueeze(x, 2) if x.ndim == 3 else x


def _padded(name: str, x: Any, padding: Any, reach: Sizes, stride: Sizes) -> tuple[Any, Sizes]:
    """x, padded here where "same" is lopsided, and the padding left to do.

    reach: how far a window goes beyond its first place, along each axis.
    """
    if not isinstance(padding, str):
        return x, ints_of(name, "padding", padding, len(reach), 0)
    rule = "padding must be ints, 'same' or 'valid'"
    require(padding in ("same", "valid"), name, rule, padding=padding)
    if padding == "valid":
        return x, (0,) * len(reach)
    require(max(stride) == 1, name, "padding='same' needs stride 1", stride=stride)
    if any(r % 2 for r in reach):
        x = pad_constant(x, widths=((0, 0), (0, 0), *((0, r % 2) for r in reach)))
    return x, tuple(r // 2 for r in reach)


def _conv(name: str, n: int, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any,
          groups: int) -> Any:  # fmt: skip
    x, w, b = lowered(x, w, b)
    require(w.ndim == n + 2, name, f"weight must have {n + 2} axes", weight=w)
    s, d = (ints_of(name, k, v, n, 1) for k, v in (("stride", stride), ("dilation", dilation)))
    reach = tuple(a * (k - 1) for a, k in zip(d, w.shape[2:]))

    def convolved(x: Any) -> Any:
        _check(name, x, w, b, w.shape[1] * groups, w.shape[0], groups)
        x, p = _padded(name, x, padding, reach, s)
        fits = all(size + 2 * a > r for size, a, r in zip(x.shape[2:], p, reach))
        rule = "the kernel is larger than the padded input"
        require(fits, name, rule, input=x, weight=w, padding=padding)
        x = _image(x)
        if not raw(x).transpose(0, 2, 3, 1).flags.c_contiguous:
            x = channels_last(x)  # once, here: backward finds it converted
        y = convolve(x, _image(w), b, **_window(s, p, d, groups))
        return squeeze(y, 2) if n == 1 else y

    return batched(convolved, x, n + 2, name)


def _conv_transpose(name: str, n: int, x: Any, w: Any, b: Any, stride: Any, padding: Any,
                    extra: Any, groups: int, dilation: Any) -> Any:  # fmt: skip
    x, w, b = lowered(x, w, b)
    require(w.ndim == n + 2, name, f"weight must have {n + 2} axes", weight=w)
    given = ("stride", stride, 1), ("dilation", dilation, 1), ("padding", padding, 0)
    s, d, p = (ints_of(name, what, value, n, least) for what, value, least in given)
    more = ints_of(name, "output_padding", extra, n, 0)
    fits = all(e < max(a, c) for e, a, c in zip(more, s, d))
    rule = "output_padding must be smaller than stride or dilation"
    require(fits, name, rule, output_padding=extra, stride=stride)
    outputs = w.shape[1] * groups

    def convolved(x: Any) -> Any:
        _check(name, x, w, b, w.shape[0], outputs, groups)
        terms = zip(x.shape[2:], s, p, d, w.shape[2:], more)
        size = [(m - 1) * a - 2 * q + c * (k - 1) + e + 1 for m, a, q, c, k, e in terms]
        require(min(size) > 0, name, "the output would be empty", input=x, weight=w, padding=p)
        shape = (len(x), outputs, *(1,) * (2 - n), *size)
        if any(e >= a for e, a in zip(more, s)):  # as many windows as convolve has on that shape
            x = pad_constant(x, widths=((0, 0), (0, 0), *((0, e // a) for e, a in zip(more, s))))
        y = convolve_input_grad(_image(x), _image(w), shape=shape, **_window(s, p, d, groups))
        y = y if b is None else pw.add(y, reshape(b, (1, outputs, 1, 1)))
        return squeeze(y, 2) if n == 1 else y

    return batched(convolved, x, n + 2, name)


def conv1d(input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Any:  # fmt: skip
    """Cross-correlation of input (N, C, L) or (C, L) with weight (K, C/groups, S); see conv2d."""
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Any:  # fmt: skip
    """Cross-correlation of input (N, C, H, W) or (C, H, W) with weight (K, C/groups, R, S).

    stride, padding and dilation are ints or pairs, padding also "same" (for stride 1) or "valid";
    bias (K,). Raises ShapeError where the kernel does not fit into the padded input.
    """
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
                     output_padding: Any = 0, groups: int = 1,
                     dilation: Any = 1) -> Any:  # fmt: skip
    """The adjoint of conv1d: input (N, C, L), weight (C, K/groups, S) -> (N, K, OL)."""
    window = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose("conv_transpose1d", 1, input, weight, bias, *window)


def conv_transpose2d(input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
                     output_padding: Any = 0, groups: int = 1,
                     dilation: Any = 1) -> Any:  # fmt: skip
    """The adjoint of conv2d: input (N, C, H, W), weight (C, K/groups, R, S) -> (N, K, OH, OW)."""
    window = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose("conv_transpose2d", 2, input, weight, bias, *window)
