"""Convolutions: three bilinear ops that are each other's gradients, and what is built from them."""

from __future__ import annotations

from typing import Any

from minidl import backend
from minidl.autograd import op, raw
from minidl.errors import require
from minidl.ops.join import pad_constant
from minidl.ops.reduce import sum_axes
from minidl.ops.shape import channels_last, check_same_dtype, reshape

Pair = tuple[int, int]


@op
def convolve(
    x: Any, w: Any, b: Any, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Any:
    """x (N, C, H, W) * w (K, C/groups, R, S) + b (K,) -> (N, K, OH, OW). Saves x and w."""
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    sx, sw = x.shape, w.shape
    y = backend.of(x).conv2d(x, w, b, stride, padding, dilation, groups)

    def vjp(g: Any, need: Any, x: Any, w: Any) -> Any:
        gx = convolve_input_grad(g, w, shape=sx, **how) if need[0] else None
        gw = convolve_weight_grad(g, x, shape=sw, **how) if need[1] else None
        gb = sum_axes(g, axes=(0, 2, 3)) if need[2] else None
        return gx, gw, gb

    return y, (x, w), vjp


@op
def convolve_input_grad(
    g: Any, w: Any, *, shape: tuple, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Any:
    """The adjoint of convolve in x, of the given shape: a transposed convolution."""
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    sw = w.shape
    x = backend.of(g).conv2d_input_grad(g, w, shape, stride, padding, dilation, groups)

    def vjp(h: Any, need: Any, g: Any, w: Any) -> Any:
        gg = convolve(h, w, None, **how) if need[0] else None
        gw = convolve_weight_grad(g, h, shape=sw, **how) if need[1] else None
        return gg, gw

    return x, (g, w), vjp


@op
def convolve_weight_grad(
    g: Any, x: Any, *, shape: tuple, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Any:
    """The adjoint of convolve in w, of the given shape."""
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    sx = x.shape
    w = backend.of(g).conv2d_weight_grad(g, x, shape, stride, padding, dilation, groups)

    def vjp(h: Any, need: Any, g: Any, x: Any) -> Any:
        gg = convolve(x, h, None, **how) if need[0] else None
        gx = convolve_input_grad(g, h, shape=sx, **how) if need[1] else None
        return gg, gx

    return w, (g, x), vjp


def _tuple(value: Any, n: int, name: str, what: str, least: int) -> tuple[int, ...]:
    given = (value,) * n if isinstance(value, int) else tuple(value)
    if len(given) == 1:
        given = given * n
    require(
        len(given) == n and all(isinstance(v, int) and v >= least for v in given),
        name, f"{what} must be {n} ints >= {least}", **{what: value},
    )  # fmt: skip
    return given


def _padding(x: Any, w: Any, padding: Any, dilation: tuple, stride: tuple, name: str) -> Any:
    """x (padded by hand where "same" is lopsided) and the padding left to do."""
    n = len(dilation)
    if not isinstance(padding, str):
        return x, _tuple(padding, n, name, "padding", 0)
    require(padding in ("same", "valid"), name, "padding must be ints, 'same' or 'valid'",
            padding=padding)  # fmt: skip
    if padding == "valid":
        return x, (0,) * n
    require(all(s == 1 for s in stride), name, "padding='same' needs stride 1", stride=stride)
    totals = [d * (k - 1) for d, k in zip(dilation, w.shape[2:])]
    if any(t % 2 for t in totals):
        extra = tuple((0, t % 2) for t in totals)
        x = pad_constant(x, widths=((0, 0), (0, 0), *extra))
    return x, tuple(t // 2 for t in totals)


def _check(x: Any, w: Any, b: Any, groups: int, name: str, n: int) -> None:
    require(w.ndim == n + 2, name, f"weight must have {n + 2} axes", weight=w)
    require(x.ndim == n + 2, name, f"x must have {n + 1} or {n + 2} axes", x=x)
    require(groups >= 1 and w.shape[0] % groups == 0, name,
            "groups must divide the output channels", weight=w, groups=groups)  # fmt: skip
    require(
        x.shape[1] == w.shape[1] * groups, name,
        f"x must have {w.shape[1] * groups} channels (weight.shape[1] x groups)", x=x, weight=w,
    )  # fmt: skip
    require(b is None or tuple(b.shape) == (w.shape[0],), name, "bias must be (K,)", bias=b)
    check_same_dtype(name, x=x, weight=w, bias=b)


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Any:  # fmt: skip
    """Cross-correlation of x (N, C, H, W) or (C, H, W) with weight (K, C/groups, R, S)."""
    x = input
    if x.ndim == 3:
        y = conv2d(reshape(x, (1, *x.shape)), weight, bias, stride, padding, dilation, groups)
        return reshape(y, tuple(y.shape[1:]))
    _check(x, weight, bias, groups, "conv2d", 2)
    stride = _tuple(stride, 2, "conv2d", "stride", 1)
    dilation = _tuple(dilation, 2, "conv2d", "dilation", 1)
    x, padding = _padding(x, weight, padding, dilation, stride, "conv2d")
    for axis, p, d, k in zip((2, 3), padding, dilation, weight.shape[2:]):
        require(
            x.shape[axis] + 2 * p >= d * (k - 1) + 1, "conv2d",
            "the kernel is larger than the padded x", x=x, weight=weight, padding=padding,
        )  # fmt: skip
    if not raw(x).transpose(0, 2, 3, 1).flags.c_contiguous:
        x = channels_last(x)  # once, here: backward finds it converted
    return convolve(
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Any:  # fmt: skip
    """Cross-correlation of x (N, C, L) or (C, L) with weight (K, C/groups, S)."""
    x = input
    if x.ndim == 2:
        y = conv1d(reshape(x, (1, *x.shape)), weight, bias, stride, padding, dilation, groups)
        return reshape(y, tuple(y.shape[1:]))
    _check(x, weight, bias, groups, "conv1d", 1)
    (s,) = _tuple(stride, 1, "conv1d", "stride", 1)
    (d,) = _tuple(dilation, 1, "conv1d", "dilation", 1)
    x, (p,) = _padding(x, weight, padding, (d,), (s,), "conv1d")
    x4 = reshape(x, (*x.shape[:2], 1, x.shape[2]))
    w4 = reshape(weight, (*weight.shape[:2], 1, weight.shape[2]))
    y = conv2d(x4, w4, bias, (1, s), (0, p), (1, d), groups)
    return reshape(y, (y.shape[0], y.shape[1], y.shape[3]))


def conv_transpose2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    """The adjoint of conv2d: x (N, C, H, W), weight (C, K/groups, R, S) -> (N, K, OH, OW)."""
    x = input
    name = "conv_transpose2d"
    if x.ndim == 3:
        y = conv_transpose2d(reshape(x, (1, *x.shape)), weight, bias, stride, padding,
                             output_padding, groups, dilation)  # fmt: skip
        return reshape(y, tuple(y.shape[1:]))
    require(x.ndim == weight.ndim == 4, name, "x and weight must have 4 axes", x=x, weight=weight)
    require(x.shape[1] == weight.shape[0], name, "x must have weight.shape[0] channels",
            x=x, weight=weight)  # fmt: skip
    require(groups >= 1 and weight.shape[0] % groups == 0, name,
            "groups must divide the input channels", weight=weight, groups=groups)  # fmt: skip
    check_same_dtype(name, x=x, weight=weight, bias=bias)
    stride = _tuple(stride, 2, name, "stride", 1)
    dilation = _tuple(dilation, 2, name, "dilation", 1)
    padding = _tuple(padding, 2, name, "padding", 0)
    extra = _tuple(output_padding, 2, name, "output_padding", 0)
    for e, s, d in zip(extra, stride, dilation):
        require(e < max(s, d), name, "output_padding must be smaller than stride or dilation",
                output_padding=output_padding, stride=stride)  # fmt: skip
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x.shape[2:], stride, padding, dilation, weight.shape[2:], extra)
    )
    require(min(size) > 0, name, "the output would be empty", x=x, weight=weight, padding=padding)
    channels = weight.shape[1] * groups
    y = convolve_input_grad(
        x, weight, shape=(x.shape[0], channels, *size), stride=stride, padding=padding,
        dilation=dilation, groups=groups,
    )  # fmt: skip
    if bias is None:
        return y
    require(tuple(bias.shape) == (channels,), name, "bias must be (K,)", bias=bias)
    return y + reshape(bias, (1, channels, 1, 1))


def conv_transpose1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    """The adjoint of conv1d: x (N, C, L), weight (C, K/groups, S) -> (N, K, OL)."""
    x = input
    ints = [
        _tuple(v, 1, "conv_transpose1d", what, least)[0]
        for v, what, least in ((stride, "stride", 1), (padding, "padding", 0),
                               (output_padding, "output_padding", 0), (dilation, "dilation", 1))
    ]  # fmt: skip
    s, p, e, d = ints
    x4 = reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    w4 = reshape(weight, (*weight.shape[:2], 1, weight.shape[2]))
    y = conv_transpose2d(x4, w4, bias, (1, s), (0, p), (0, e), groups, (1, d))
    return reshape(y, (*y.shape[:-2], y.shape[-1]))
