"""Every elementwise op: one table line each, traced, differentiated and compiled by minidl.fusion.

Broadcasting is NumPy's, dtypes, formulas and the gradients at ties and kinks are PyTorch's.
Integers and bools keep their dtype where PyTorch keeps it; real functions of them give float32.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import fusion as f
from minidl.autograd import parts, registry
from minidl.backend.expression import Node, binary, truth
from minidl.dtypes import is_real
from minidl.errors import DTypeError, require, require_one_of
from minidl.ops.arguments import fitted


def _op(name: str, function: Callable, doc: str, integer: Callable | None = None,
        saves: bool = False) -> f.Pointwise:  # fmt: skip
    """An op from a function of scalars; integer: NumPy's, for integers; saves: its own result."""
    op = registry[name] = f.Pointwise(function, name=name, integer=integer, save_output=saves)
    op.__name__, op.__doc__ = name, doc
    return op


# ---- arithmetic ------------------------------------------------------------------------------


def _whole_power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of integers: a negative power of all but 1 and -1 is 0."""
    return np.where((y < 0) & (np.abs(x) != 1), x.dtype.type(0), np.power(x, np.abs(y)))


_add = _op("add", lambda x, y: x + y, "x + y.", np.add)
_sub = _op("sub", lambda x, y: x - y, "x - y.", np.subtract)
mul = _op("mul", lambda x, y: x * y, "x · y.", np.multiply)
_div = _op("div", lambda x, y: x / y, "x / y; real also for integers.")
neg = _op("neg", lambda x: -x, "-x.", np.negative)
abs = _op("abs", lambda x: f.abs(x), "|x|; gradient 0 at 0.", np.abs)
square = _op("square", lambda x: x * x, "x².", lambda x: np.power(x, 2))
_cube = _op("cube", lambda x: x * x * x, "x³.")
reciprocal = _op("reciprocal", lambda x: 1 / x, "1 / x.")
_pow = _op("pow", lambda x, y: x**y, "x to the power y.", _whole_power)


def _remainder(x: Any, y: Any) -> Any:
    r = f.fmod(x, y)
    return f.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)


def _addcmul(x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    return x + value * a * b


def _lerp(x: Any, end: Any, weight: Any) -> Any:
    # from the end that is nearer, for exact ends
    return f.where(f.abs(weight) < 0.5, x + weight * (end - x), end - (end - x) * (1 - weight))


def _floor_divide(x: Any, y: Any) -> Any:
    r = f.fmod(x, y)
    whole = (x - r) / y  # an integer but for rounding
    below = f.where((r != 0) & ((r < 0) != (y < 0)), whole - 1, whole)
    return f.where(y == 0, x / y, f.rint(below))


remainder = _op("remainder", _remainder, "x - y·⌊x / y⌋, with the sign of y.", np.remainder)
fmod = _op("fmod", f.fmod, "x - y·(x / y rounded towards zero), with x's sign.", np.fmod)
floor_divide = _op("floor_divide", _floor_divide, "⌊x / y⌋; no gradient.", np.floor_divide)
addcmul = _op("addcmul", _addcmul, "x + value·a·b.", _addcmul)
lerp = _op("lerp", _lerp, "x + weight·(end - x).")


def add(x: Any, y: Any, *, alpha: float = 1) -> Any:
    """x + alpha·y."""
    return _add(x, y) if alpha == 1 else _add(x, mul(y, alpha))


def sub(x: Any, y: Any, *, alpha: float = 1) -> Any:
    """x - alpha·y; bools have none."""
    return _sub(x, y) if alpha == 1 else _sub(x, mul(y, alpha))


def div(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    """x / y, rounded down with rounding_mode "floor", towards zero with "trunc"."""
    require_one_of("div", (None, "floor", "trunc"), rounding_mode=rounding_mode)
    if rounding_mode is None:
        return _div(x, y)
    return floor_divide(x, y) if rounding_mode == "floor" else _truncated(x, y)


_truncated = _op("div_trunc", lambda x, y: f.trunc(x / y), "x / y rounded towards zero.",
                 lambda x, y: (x - np.fmod(x, y)) // y)  # fmt: skip


def pow(x: Any, y: Any) -> Any:
    """x to the power y; the gradient is 0 where y = 0. Integers have no negative powers."""
    if isinstance(y, (int, float)) and hasattr(x, "dtype"):
        if is_real(x.dtype) and y in _POWERS:
            return _POWERS[y](x)
        ok = is_real(x.dtype) or isinstance(y, float) or y >= 0
        require(ok, "pow", "integers have no negative powers", error=DTypeError, x=x, y=y)
    return _pow(x, y)


# ---- exponentials, circles, rounding ---------------------------------------------------------

exp = _op("exp", f.exp, "e to the power x.", saves=True)
expm1 = _op("expm1", f.expm1, "exp(x) - 1, exact near 0.", saves=True)
exp2 = _op("exp2", lambda x: 2.0**x, "2 to the power x.")
log = _op("log", f.log, "Natural logarithm.")
log2 = _op("log2", f.log2, "Logarithm to base 2.")
log10 = _op("log10", f.log10, "Logarithm to base 10.")
log1p = _op("log1p", f.log1p, "log(1 + x), exact near 0.")
sqrt = _op("sqrt", f.sqrt, "Square root.", saves=True)
rsqrt = _op("rsqrt", f.rsqrt, "1 / square root.")
sin = _op("sin", f.sin, "Sine of x in radians.")
cos = _op("cos", f.cos, "Cosine of x in radians.")
tan = _op("tan", f.tan, "Tangent of x in radians.", saves=True)
asin = _op("asin", f.asin, "Inverse sine, in radians.")
acos = _op("acos", f.acos, "Inverse cosine, in radians.")
atan = _op("atan", f.atan, "Inverse tangent, in radians.")
atan2 = _op("atan2", f.atan2, "Angle of the point (y, x), in radians; y first.")
sinh = _op("sinh", f.sinh, "Hyperbolic sine.")
cosh = _op("cosh", f.cosh, "Hyperbolic cosine.")
asinh = _op("asinh", f.asinh, "Inverse hyperbolic sine.")
acosh = _op("acosh", f.acosh, "Inverse hyperbolic cosine; NaN below 1.")
atanh = _op("atanh", f.atanh, "Inverse hyperbolic tangent.")
tanh = _op("tanh", f.tanh, "Hyperbolic tangent.", saves=True)
erf = _op("erf", f.erf, "Error function.")
erfc = _op("erfc", f.erfc, "1 - erf(x), exact for large x.")
sigmoid = _op("sigmoid", f.sigmoid, "1 / (1 + exp(-x)).", saves=True)
sign = _op("sign", f.sign, "-1, 0 or 1; no gradient.", np.sign)
floor = _op("floor", f.floor, "Rounded down; gradient 0.", np.copy)
ceil = _op("ceil", f.ceil, "Rounded up; gradient 0.", np.copy)
trunc = _op("trunc", f.trunc, "Rounded towards zero; gradient 0.", np.copy)
round = _op("round", f.rint, "Rounded, halves to even; gradient 0.", np.copy)
_POWERS = {2: square, 3: _cube, 0.5: sqrt, -1: reciprocal, -0.5: rsqrt}


def _logaddexp(x: Any, y: Any) -> Any:
    apart = f.maximum(x, y) + f.softplus(-f.abs(x - y))
    return f.where((x == y) & (f.abs(x) == math.inf), x, apart)


def _logit(x: Any, eps: Any = None) -> Any:
    x = x if eps is None else f.clamp(x, eps, 1 - eps)
    return f.log(x) - f.log1p(-x)


logaddexp = _op("logaddexp", _logaddexp, "log(exp(x) + exp(y)) without overflow.")
logit = _op("logit", _logit, "log(x / (1 - x)), x clamped to [eps, 1 - eps] if eps is given.")


BITWISE = {name: f.Pointwise(binary(f"bit_{name}"), name=f"bitwise_{name}",
                             integer=getattr(np, f"bitwise_{name}"))
           for name in ("and", "or", "xor")}  # of integers and bools  # fmt: skip


# ---- comparison, choice ----------------------------------------------------------------------


def _within(x: Any, min: Any = None, max: Any = None) -> Any:
    return f.clamp(x, -math.inf if min is None else min, math.inf if max is None else max)


eq = _op("eq", lambda x, y: x == y, "Whether x = y.", np.equal)
ne = _op("ne", lambda x, y: x != y, "Whether x ≠ y.", np.not_equal)
gt = _op("gt", lambda x, y: x > y, "Whether x > y.", np.greater)
ge = _op("ge", lambda x, y: x >= y, "Whether x ≥ y.", np.greater_equal)
lt = _op("lt", lambda x, y: x < y, "Whether x < y.", np.less)
le = _op("le", lambda x, y: x <= y, "Whether x ≤ y.", np.less_equal)
logical_and = _op("logical_and", lambda x, y: truth(x) & truth(y), "Both nonzero.", np.logical_and)
logical_or = _op("logical_or", lambda x, y: truth(x) | truth(y), "Either nonzero.", np.logical_or)
logical_not = _op("logical_not", lambda x: x == 0, "Whether x = 0.", np.logical_not)
isnan = _op("isnan", lambda x: x != x, "Whether x is NaN.", np.isnan)
isinf = _op("isinf", lambda x: f.abs(x) == math.inf, "Whether |x| = ∞.", np.isinf)
isfinite = _op("isfinite", lambda x: f.abs(x) < math.inf, "Whether |x| < ∞.", np.isfinite)
maximum = _op("maximum", f.maximum, "The larger; NaN wins; a tie halves the gradient.", np.maximum)
minimum = _op("minimum", f.minimum, "The smaller; NaN wins; a tie halves the gradient.", np.minimum)
_where = _op("where", f.where, "x where the condition holds, else y.", np.where)
_clamp = _op("clamp", _within, "x within [min, max].", np.clip)


def _is_bool(x: Any) -> bool:
    return isinstance(x, (bool, Node)) or getattr(x, "dtype", None) == np.dtype(bool)


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the bool condition holds, else y; the branch not taken gets gradient 0."""
    ok = _is_bool(condition)
    require(ok, "where", "the condition must be bool", error=DTypeError, condition=condition)
    for v, other in ((x, y), (y, x)):
        if isinstance(v, int) and getattr(other, "dtype", np.dtype(bool)).kind in "iu":
            fitted("where", v, other.dtype)
    return _where(condition, x, y)


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """x with `value` (a number or a 0-d tensor) where the bool mask holds, in x's dtype."""
    require(_is_bool(mask), "masked_fill", "the mask must be bool", error=DTypeError, mask=mask)
    ok = not getattr(value, "shape", ())
    require(ok, "masked_fill", "value must be a number or 0-d", value=value)
    if hasattr(value, "dtype"):
        value = parts["to_dtype"](value, x.dtype)
    elif hasattr(x, "dtype"):
        value = fitted("masked_fill", value, x.dtype)
    return _where(mask, value, x)


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """x within [min, max] (numbers, tensors or None); the gradient passes where x is inside."""
    require(min is not None or max is not None, "clamp", "needs min or max", x=x)
    if hasattr(x, "dtype") and x.dtype.kind in "iu":
        min, max = (fitted("clamp", v, x.dtype) if isinstance(v, int) else v for v in (min, max))
    return _clamp(x, min, max)


def _isclose(x: Any, y: Any, *, rtol: float, atol: float, equal_nan: float) -> Any:
    allowed = atol + f.abs(rtol * y)
    near = (f.abs(x - y) <= allowed) & (allowed < math.inf)
    return (x == y) | near | ((x != x) & (y != y) & (equal_nan != 0))


_close = _op("isclose", _isclose, "Whether |x - y| ≤ atol + rtol·|y|.")


def isclose(x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """Whether |x - y| <= atol + rtol·|y|; equal infinities are close, NaN if equal_nan."""
    return _close(x, y, rtol=rtol, atol=atol, equal_nan=float(equal_nan))


def allclose(x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8,
             equal_nan: bool = False) -> bool:  # fmt: skip
    """Whether isclose holds everywhere (waits for the result)."""
    return isclose(x, y, rtol, atol, equal_nan).all().item()


# ---- activations -----------------------------------------------------------------------------

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017


def _elu(x: Any, alpha: Any = 1.0, inplace: bool = False) -> Any:
    return f.where(x > 0, x, alpha * f.expm1(x))


def _gelu(x: Any, approximate: str = "none") -> Any:
    require_one_of("gelu", ("none", "tanh"), approximate=approximate)
    if approximate == "none":
        return 0.5 * x * (1 + f.erf(x * math.sqrt(0.5)))
    return 0.5 * x * (1 + f.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def _softplus(x: Any, beta: Any = 1.0, threshold: Any = 20.0) -> Any:
    return f.where(x * beta > threshold, x, f.softplus(x * beta) / beta)


def _hardtanh(x: Any, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False) -> Any:
    return f.where(x <= min_val, min_val, f.where(x >= max_val, max_val, x))


def _hardswish(x: Any, inplace: bool = False) -> Any:
    return f.where(x <= -3, 0.0, f.where(x >= 3, x, x * ((x + 3) / 6)))


relu = _op("relu", lambda x, inplace=False: f.relu(x), "max(x, 0); gradient 0 at 0, NaN stays.",
           lambda x, inplace=False: np.maximum(x, 0), saves=True)  # fmt: skip
relu6 = _op("relu6", lambda x, inplace=False: _hardtanh(x, 0.0, 6.0), "min(max(x, 0), 6).",
            lambda x, inplace=False: np.clip(x, 0, 6))  # fmt: skip
leaky_relu = _op("leaky_relu", lambda x, negative_slope=0.01, inplace=False: f.where(
                 x > 0, x, x * negative_slope), "x, or negative_slope·x below 0.")  # fmt: skip
elu = _op("elu", _elu, "x, or alpha·(exp(x) - 1) below 0.")
selu = _op("selu", lambda x, inplace=False: SELU_SCALE * _elu(x, SELU_ALPHA),
           "scale·elu(x, alpha) with the self-normalising constants.")  # fmt: skip
celu = _op("celu", lambda x, alpha=1.0, inplace=False: f.where(x > 0, x,
           alpha * f.expm1(x / alpha)), "x, or alpha·(exp(x / alpha) - 1) below 0.")  # fmt: skip
gelu = _op("gelu", _gelu, 'x·Φ(x); approximate "tanh" as in GPT-2.')
silu = _op("silu", lambda x, inplace=False: x * f.sigmoid(x), "x·sigmoid(x).")
mish = _op("mish", lambda x, inplace=False: x * f.tanh(f.softplus(x)), "x·tanh(softplus(x)).")
softplus = _op("softplus", _softplus, "log(1 + exp(beta·x)) / beta, x above the threshold.")
logsigmoid = _op("logsigmoid", lambda x: -f.softplus(-x), "log(sigmoid(x)).")
hardtanh = _op("hardtanh", _hardtanh, "x within [min_val, max_val]; gradient 0 at the bounds.",
               lambda x, min_val=-1, max_val=1, inplace=False:
               np.clip(x, int(min_val), int(max_val)))  # fmt: skip
hardsigmoid = _op("hardsigmoid", lambda x, inplace=False: (_hardtanh(x, -3.0, 3.0) + 3) / 6,
                  "(x + 3) / 6 within [0, 1].")  # fmt: skip
hardswish = _op("hardswish", _hardswish, "x·hardsigmoid(x).")
softsign = _op("softsign", lambda x: x / (1 + f.abs(x)), "x / (1 + |x|).")
softshrink = _op("softshrink", lambda x, lambd=0.5: x - f.clamp(x, -lambd, lambd),
                 "x moved lambd towards 0, not past it.")  # fmt: skip
hardshrink = _op("hardshrink", lambda x, lambd=0.5: f.where((x >= -lambd) & (x <= lambd), 0.0, x),
                 "x, or 0 within [-lambd, lambd].")  # fmt: skip
tanhshrink = _op("tanhshrink", lambda x: x - f.tanh(x), "x - tanh(x).")
threshold = _op("threshold", lambda x, threshold, value, inplace=False:
                f.where(x <= threshold, value, x), "x, or value where x ≤ threshold.",
                lambda x, threshold, value, inplace=False:
                np.where(x <= threshold, int(value), x))  # fmt: skip

parts["add"] = _add
