"""exp, log, tanh, erf, sin, pow … as LLVM IR that vectorises: branch-free, 4 ulp everywhere.

float32: exp, log and tanh in native fused multiply-adds, the rarer ones in double inside and
rounded once at the end. float64: the C library's functions (accurate, not vectorised). Infinities
and NaN as in C99 Annex F. Polynomials without another source are minimax fits (Lawson's weighting),
or Taylor series where these already reach the precision. The library holds the loads and stores of
memory.ll as well.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from minidl.backend.cpu.ir import SUFFIX, Body, Value, fma, intrinsic, polynomial, select

LN2_HI = 0.693145751953125  # 16 bits: n·LN2_HI is exact
LN2_LO = math.log(2) - LN2_HI
WHOLE = {"float": "i32", "double": "i64"}  # as wide
MAGIC = {"float": 1.5 * 2.0**23, "double": 1.5 * 2.0**52}  # adding it rounds to an integer
MAGIC_BITS = {"float": 0x4B400000, "double": 0x4338000000000000}
EXPM1 = (0.5, 0.16666667, 0.04166635498, 0.008333274163, 0.00139410782, 0.000199136731)
TAYLOR = tuple(1 / math.factorial(k) for k in range(2, 13))  # (exp(r) - 1 - r) / r²
LOG1P = (0.3333331644535065, -0.2500081360340118, 0.2000230252742768, -0.1662438958883286,
         0.1418072283267975, -0.1313011497259140, 0.1288560926914215,
         -0.07860497385263443)  # fmt: skip
ATANH = tuple(1 / (2 * k + 1) for k in range(10))
SIN = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(7))
COS = tuple((-1) ** k / math.factorial(2 * k) for k in range(8))
ATAN = (0.9999999999412448, -0.33333331571216546, 0.1999991205009221, -0.14283980729501897,
        0.11093240981619118, -0.08980237674149726, 0.07245713840724868, -0.05427901838023696,
        0.034209495076768764, -0.016111591670950318, 0.004850894423155824,
        -0.0006847850143520213)  # fmt: skip
ERF = (1.128379225730896, 0.6366193890571594, 0.102777861058712, -0.019153468310832977,
       -0.00015898562560323626, 0.001664977753534913, -0.00063141348073259, 0.00011717329471139237,
       -9.197854524245486e-06)  # fmt: skip
ERFCX = (0.13699945762445803, -0.25906804874294714, 0.21871967904380796, -0.16425781817915824,
         0.10896317231994038, -0.06310778243406437, 0.03129914948102938, -0.012844224933236906,
         0.0040593912434357315, -0.000798404046981306, -1.7877140676980283e-05,
         8.061473800725891e-05, -2.8436060874187862e-05, -9.799883643095306e-06)  # fmt: skip
TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041  # 192 bits after the point

BINARY = ("atan2", "larger", "pow")


def apply(name: str, *args: Value) -> Value:
    """Write a call of ml_NAME in the precision of the arguments."""
    kind = args[0].kind
    return args[0].body.call(f"ml_{name}_{SUFFIX[kind]}", kind, args)


fabs = partial(intrinsic, "fabs")


def is_negative(x: Value) -> Value:
    """The sign bit, so that it also holds for -0."""
    return x.bits(WHOLE[x.kind]) < 0


# ---- shared cores ------------------------------------------------------------------------------


def exp_parts(x: Value) -> tuple[Value, Value]:
    """q, n with exp(x) = (1 + q)·2ⁿ and |x - n·ln 2| <= ln(2)/2; q keeps its digits near 0."""
    t = fma(x, 1 / math.log(2), MAGIC[x.kind])
    n = t - MAGIC[x.kind]
    r = fma(n, -LN2_LO, fma(n, -LN2_HI, x))
    q = fma(r * r, polynomial(r, EXPM1 if x.kind == "float" else TAYLOR), r)
    return q, t.bits(WHOLE[x.kind]) - MAGIC_BITS[x.kind]


def power_of_two(n: Value) -> Value:
    """2ⁿ for n within the exponents of normal numbers."""
    bias, shift, kind = (127, 23, "float") if n.kind == "i32" else (1023, 52, "double")
    return ((n + bias) << shift).bits(kind)


def clamp(x: Value, low: float, high: float) -> Value:
    """x within the bounds; NaN stays."""
    return select(x < low, low, select(x > high, high, x))


def size_of(x: Value, most: float) -> Value:
    """|x|, or `most` where it is larger; NaN stays."""
    a = fabs(x)
    return select(a > most, most, a)


def wide_exp(x: Value) -> Value:
    """exp of a double within ±700."""
    q, n = exp_parts(x)
    s = power_of_two(n)
    return fma(q, s, s)


def plain_expm1(x: Value) -> Value:
    """exp(x) - 1 where 2ⁿ is a normal number, exact to the last digits near 0."""
    q, n = exp_parts(x)
    s = power_of_two(n)
    return fma(q, s, s - 1.0)


def split(x: Value) -> tuple[Value, Value, Value]:
    """m - 1, e, e as a number, with x = m·2^e, sqrt(1/2) <= m < sqrt(2), for a normal x > 0."""
    shift, half = (23, 0x3F3504F3) if x.kind == "float" else (52, 0x3FE6A09E667F3BCD)
    bits = x.bits(WHOLE[x.kind]) - half
    e = bits >> shift
    return ((bits & ((1 << shift) - 1)) + half).bits(x.kind) - 1.0, e, e.to(x.kind)


def log_limits(x: Value, r: Value) -> Value:
    """Set r = log(x) right at 0, infinity, NaN and below 0."""
    r = select(x > 0.0, r, select(x.eq(0.0), x.like(-math.inf), math.nan))
    return select(x.eq(math.inf), math.inf, r)


def log_core(f: Value, e: Value) -> Value:
    """log((1 + f)·2^e) in float32."""
    square = f * f
    return fma(e, LN2_HI, f + fma(square, -0.5, fma(e, LN2_LO, square * f * polynomial(f, LOG1P))))


def wide_log(x: Value) -> Value:
    """log of a double >= 0 by 2·atanh(f / (2 + f))."""
    f, _, e = split(x)
    t = f / (f + 2.0)
    return log_limits(x, fma(e, math.log(2), t * 2.0 * polynomial(t * t, ATANH)))


def quadrant(x: Value) -> tuple[Value, Value, Value]:
    """sin(r), cos(r), n (i64) with x = n·π/2 + r, |r| <= π/4, for a float32 x of any size.

    r, its sine and its cosine are double.
    Cody and Waite's subtraction below 2²⁰, above it Payne and Hanek's multiplication by the bits
    of 2/π that matter (as in Arm's optimized routines).
    """
    wide = x.to("double")
    t = fma(wide, 2 / math.pi, MAGIC["double"])
    n = t - MAGIC["double"]
    near = fma(n, -6.123233995736766e-17, fma(n, -math.pi / 2, wide))
    bits = x.bits("i32")
    window = (bits.lshr(26) & 15).to("i64")
    mantissa = (((bits & 0xFFFFFF) | 0x800000) << (bits.lshr(23) & 7)).to("i64", signed=False)
    words = [x.body.load("i32", "@ml_two_over_pi", (window + k).name) for k in (0, 4, 8)]
    high, middle, low = (word.to("i64", signed=False) * mantissa for word in words)
    turns = ((high << 32) | low.lshr(32)) + middle
    whole = (turns + (1 << 61)).lshr(62)
    far = (turns - (whole << 62)).to("double") * (math.pi * 2.0**-63)
    far = select(bits < 0, -far, far)
    whole = select(bits < 0, -whole, whole)
    small = fabs(x) < 2.0**20
    r, n = select(small, near, far), select(small, t.bits("i64"), whole)
    square = r * r
    return r * polynomial(square, SIN), polynomial(square, COS), n


def circular(x: Value, turn: int) -> Value:
    """sin(x + turn·π/2) in float32."""
    s, c, n = quadrant(x)
    n = n + turn
    v = select((n & 1).eq(0), s, c)
    return select(fabs(x) < math.inf, select((n & 2).eq(0), v, -v).to("float"), math.nan)


# ---- float32 functions ---------------------------------------------------------------------------


def exp(x: Value) -> Value:
    q, n = exp_parts(clamp(x, -104.0, 89.0))
    half = n >> 1  # in two steps: into the subnormals, and over the largest number
    return (q + 1.0) * power_of_two(half) * power_of_two(n - half)


def expm1(x: Value) -> Value:
    q, n = exp_parts(clamp(x, -20.0, 89.0))
    half = n >> 1
    rest = n - half
    s = power_of_two(half)
    return fma(q, s, s - power_of_two(-rest)) * power_of_two(rest)


def tanh(x: Value) -> Value:
    t = plain_expm1(size_of(x, 10.0) * 2.0)
    return intrinsic("copysign", t / (t + 2.0), x)


def log(x: Value) -> Value:
    tiny = x < 2.0**-126
    f, _, e = split(select(tiny, x * 2.0**25, x))
    return log_limits(x, log_core(f, e - select(tiny, x.like(25.0), 0.0)))


def log1p(x: Value) -> Value:
    u = x + 1.0
    f, n, e = split(u)
    s = ((-(n << 23)) + 0x3F800000).bits("float")
    f = select(x > 1e9, f, fma(x, s, s - 1.0))  # (1 + x)·2^-n - 1 without the rounding of 1 + x
    return log_limits(u, log_core(f, e))


def log2(x: Value) -> Value:
    return (wide_log(x.to("double")) * (1 / math.log(2))).to("float")


def log10(x: Value) -> Value:
    return (wide_log(x.to("double")) * (1 / math.log(10))).to("float")


def asinh(x: Value) -> Value:
    a = fabs(x.to("double"))
    v = wide_log(a + intrinsic("sqrt", fma(a, a, 1.0)))
    v = select(a < 1e-3, a - a * a * a * (1 / 6), v)  # the logarithm of almost 1 is not exact
    return intrinsic("copysign", v.to("float"), x)


def acosh(x: Value) -> Value:
    wide = x.to("double")
    root = intrinsic("sqrt", wide - 1.0) * intrinsic("sqrt", wide + 1.0)  # NaN below -1, too
    return wide_log(wide + root).to("float")


def atanh(x: Value) -> Value:
    a = fabs(x.to("double"))
    v = wide_log((a + 1.0) / (1.0 - a)) * 0.5
    v = select(a < 1e-3, a + a * a * a * (1 / 3), v)
    return intrinsic("copysign", v.to("float"), x)


def erf(x: Value) -> Value:
    """1 - exp(-u) for u = -log(1 - erf|x|), a smooth function; exact to the last digits near 0."""
    t = size_of(x, 4.0)
    return intrinsic("copysign", plain_expm1(-(t * polynomial(t, ERF))), x)


def erfc(x: Value) -> Value:
    """exp(-x²)·erfcx(|x|), erfcx being smooth in (|x| - 4) / (|x| + 4)."""
    a = clamp(fabs(x).to("double"), 0.0, 10.2)
    v = wide_exp(-(a * a)) * polynomial((a - 4.0) / (a + 4.0), ERFCX)
    return select(x < 0.0, 2.0 - v, v).to("float")


def tan(x: Value) -> Value:
    s, c, n = quadrant(x)
    even = (n & 1).eq(0)
    v = select(even, s, -c) / select(even, c, s)
    return select(fabs(x) < math.inf, v.to("float"), math.nan)


def atan2(y: Value, x: Value) -> Value:
    """In double inside; the arguments may be doubles already."""
    y, x = y.to("double"), x.to("double")
    ax, ay = fabs(x), fabs(y)
    swap = ay > ax
    high, low = select(swap, ay, ax), select(swap, ax, ay)
    t = select(low.eq(high), select(high.eq(0.0), high, 1.0), low / high)
    r = t * polynomial(t * t, ATAN)
    r = select(swap, math.pi / 2 - r, r)
    r = select(is_negative(x), math.pi - r, r)
    return intrinsic("copysign", r, y).to("float")


def atan(x: Value) -> Value:
    return atan2(x, x.like(1.0))


def asin(x: Value) -> Value:
    wide = x.to("double")
    return atan2(wide, intrinsic("sqrt", (1.0 - wide) * (wide + 1.0)))


def acos(x: Value) -> Value:
    wide = x.to("double")
    return atan2(intrinsic("sqrt", (1.0 - wide) * (wide + 1.0)), wide)


def sinh(x: Value) -> Value:
    t = plain_expm1(size_of(x.to("double"), 100.0))
    return intrinsic("copysign", ((t + t / (t + 1.0)) * 0.5).to("float"), x)


def cosh(x: Value) -> Value:
    t = wide_exp(size_of(x.to("double"), 100.0))
    return ((t + 1.0 / t) * 0.5).to("float")


def pow(x: Value, y: Value) -> Value:
    base, power = fabs(x).to("double"), y.to("double")
    size = wide_exp(clamp(power * wide_log(base), -200.0, 200.0))
    size = select(base.eq(1.0) & y.eq(y), 1.0, size)
    whole, half = intrinsic("rint", y).eq(y), y * 0.5
    odd = whole & intrinsic("rint", half).ne(half)
    v = select(odd & is_negative(x), -size, size).to("float")
    v = select((x < 0.0) & (x > -math.inf) & whole.eq(0), math.nan, v)
    return select(y.eq(0.0) | x.eq(1.0), 1.0, v)


# ---- both precisions -----------------------------------------------------------------------------


def larger(x: Value, y: Value) -> Value:
    """The larger of two, any of them for NaN: so the compiler makes vectors of running ones."""
    more = x.body.emit("i1", f"fcmp nnan nsz ogt {x.kind} {x.name}, {y.name}")
    pair = f"{x.kind} {x.name}, {y.kind} {y.name}"
    return x.body.emit(x.kind, f"select nnan nsz i1 {more.name}, {pair}")


def sigmoid(x: Value) -> Value:
    e = apply("exp", -fabs(x))
    return select(x < 0.0, e, 1.0) / (e + 1.0)


def softplus(x: Value) -> Value:
    return select(x < 0.0, 0.0, x) + apply("log1p", apply("exp", -fabs(x)))


# ---- the library ---------------------------------------------------------------------------------

Emitters = dict[str, Callable[..., Value]]
# Written here; the C library has their float64 versions.
F32: Emitters = {f.__name__: f for f in (
    exp, expm1, tanh, log, log1p, log2, log10, erf, erfc, tan, atan2, atan, asin, acos, sinh, cosh,
    asinh, acosh, atanh, pow,
)}  # fmt: skip
F32 |= {"sin": partial(circular, turn=0), "cos": partial(circular, turn=1)}
# Compositions, the same text in both precisions.
BOTH: Emitters = {"sqrt": partial(intrinsic, "sqrt")}
BOTH |= {f.__name__: f for f in (larger, sigmoid, softplus)}


def symbols() -> tuple[str, ...]:
    """The names `library` defines: ml_exp_f32, ml_exp_f64, …"""
    return tuple(f"ml_{n}_{p}" for n in F32 | BOTH for p in ("f32", "f64"))


@cache
def define(symbol: str) -> tuple[str, frozenset[str]]:
    """The text of one function, and the declarations it needs."""
    name, precision = symbol.removeprefix("ml_").rsplit("_", 1)
    kind = "float" if precision == "f32" else "double"
    body = Body()
    args = [Value(body, f"%x{i}", kind) for i in range(2 if name in BINARY else 1)]
    inside = ", ".join(f"{kind} {a.name}" for a in args)
    if name in BOTH or kind == "float":
        result = (F32 | BOTH)[name](*args)
    else:
        types = ", ".join("double" for _ in args)
        body.declares.add(f"declare double @{name}({types}) memory(none) nounwind willreturn")
        result = body.emit(kind, f"call double @{name}({inside})")
    lines = [f"define linkonce_odr {kind} @{symbol}({inside}) alwaysinline nounwind {{"]
    lines += [*body.lines, f"  ret {kind} {result.name}", "}"]
    return "\n".join(lines), frozenset(body.declares)


@cache
def _memory() -> str:
    """The functions of memory.ll, in both precisions."""
    head, text = Path(__file__).with_name("memory.ll").read_text().split(";----")
    for name, real, size in (("f32", "float", 4), ("f64", "double", 8)):
        words = {"NAME": name, "REAL": real, "SIZE": str(size), "LINE": str(64 // size)}
        made = text
        for word, meaning in words.items():
            made = made.replace(word, meaning)
        head += made
    return head + "!0 = !{i32 1}\n"


def library() -> str:
    """LLVM IR of all functions, each `alwaysinline`, and of what they declare."""
    texts, declares = zip(*map(define, sorted(symbols())))
    words = (TWO_OVER_PI >> (8 * (23 - i)) & 0xFFFFFFFF for i in range(24))
    table = ", ".join(f"i32 {w}" for w in words)
    bits = f"@ml_two_over_pi = internal constant [24 x i32] [{table}], align 16"
    return "\n".join([bits, *sorted(frozenset().union(*declares)), *texts, _memory()])
