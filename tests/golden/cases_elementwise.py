"""Golden cases: elementwise functions, comparisons, activations and in-place forms."""

from golden.specs import c, case, f, i, lit, mask, pos, unit

SHAPE = (3, 5)
UNARY = (
    "abs neg exp tanh sigmoid erf square sin cos sign floor ceil relu "
    "expm1 tan atan sinh cosh asinh erfc round trunc exp2"
).split()
POSITIVE = "log log1p sqrt rsqrt reciprocal log2 log10".split()
UNIT = "asin acos atanh logit".split()
BINARY = "add sub mul div maximum minimum max min atan2 logaddexp remainder fmod".split()
COMPARE = "eq ne gt ge lt le".split()
ACTIVATIONS = (
    "relu leaky_relu elu selu gelu silu mish hardswish hardtanh relu6 softplus logsigmoid "
    "celu hardsigmoid softsign softshrink hardshrink tanhshrink"
).split()
# At the kinks and far out, where a careless formula overflows or loses its gradient.
KINKS = [-1e4, -100.0, -20.5, -6.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0, 20.5, 100.0, 1e4]

CASES = [case(f"ml.{name}(x)", x=f(*SHAPE)) for name in UNARY]
CASES += [case(f"x.{name}()", x=f(2, 3)) for name in "abs exp tanh sigmoid relu square neg".split()]
CASES += [case(f"ml.{name}(x)", x=pos(*SHAPE)) for name in POSITIVE]
CASES += [case(f"ml.{name}(x)", x=unit(*SHAPE)) for name in UNIT]
CASES += [case("ml.acosh(x + 1), x.arccosh()", x=pos(*SHAPE))]
for name in BINARY:
    CASES += [
        case(f"ml.{name}(x, y)", x=pos(2, 3, 5), y=pos(3, 1)),
        case(f"x.{name}(y)", x=pos(4, 1), y=pos(2, 1, 3)),
    ]
CASES += [case("ml.floor_divide(x, y)", x=c(2, 3, 5), y=c(3, 1, lo=0.2))]
for name in COMPARE:
    CASES += [
        case(f"ml.{name}(x, y)", x=f(3, 4), y=i(3, 4, low=-2)),
        case(f"x.{name}(1)", x=i(3, 3, 4)),
    ]
CASES += [
    case(f"F.{name}(x)", x=lit(KINKS, grad=True)) for name in ACTIVATIONS if name != "hardsigmoid"
]
CASES += [case(f"F.{name}(x)", x=f(*SHAPE)) for name in ACTIVATIONS if name != "hardsigmoid"]
# PyTorch rounds the slope 1/6 to float32 in every precision: no gradient to compare with.
CASES += [case("F.hardsigmoid(x)", x=c(*SHAPE)), case("F.hardsigmoid(x)", x=lit(KINKS))]
CASES += [
    case("ml.tensor(KINKS) * 1".replace("KINKS", str(KINKS[:4]))),
    # operators, reflected forms, scalars
    case("x + y * 2 - z / 4", x=f(3, 4), y=f(4), z=f(3, 1)),
    case("2 - x", x=f(3)),
    case("2 / x", x=pos(3)),
    case("3 ** x", x=f(3)),
    case("x ** 2", x=f(3)),
    case("x ** 3", x=f(3)),
    case("x ** 0", x=f(3)),
    case("x ** 0.5", x=pos(3)),
    case("x ** -1.5", x=pos(3)),
    case("x ** y", x=pos(3, 2), y=f(2)),
    case("ml.pow(x, y)", x=pos(3), y=f(3)),
    case("ml.pow(x, 2)", x=lit([0.0, -2.0, 3.0], grad=True)),
    case("ml.pow(2, x)", x=f(3)),
    case("x.pow(y)", x=lit([0.0, 2.0], grad=True), y=lit([2.0, 0.0], grad=True)),
    case("-x", x=f(3)),
    case("abs(x)", x=lit([-2.0, 0.0, 3.0], grad=True)),
    case("x // 2", x=i(9, 5, low=-9)),
    case("x % 3", x=i(9, 5, low=-9)),
    case("x % y", x=f(4), y=lit([2.0, -2.0, 0.5, -0.5])),
    case("x // y", x=c(4), y=lit([2.0, -2.0, 0.5, -0.5])),
    case("7 - x", x=i(9, 5)),
    case("x / y", x=i(9, 5), y=i(9, 5, low=1)),
    case("x > 0.5", x=f(5)),
    case("0.5 > x", x=f(5)),
    case("x == y", x=i(3, 9), y=i(3, 9)),
    case("x != 1", x=i(3, 9)),
    case("(x > 0) & (x < 2)", x=f(9)),
    case("(x > 0) | ~(x < 2)", x=f(9)),
    case("(x > 0) ^ (x < 2)", x=f(9)),
    case("~x", x=mask(5)),
    case("x & y", x=i(16, 5), y=i(16, 5)),
    case("ml.add(x, y, alpha=2)", x=f(3), y=f(3)),
    case("ml.sub(x, y, alpha=0.5)", x=f(3), y=f(3)),
    case("ml.mul(x, 3)", x=f(3)),
    case("ml.div(x, y, rounding_mode='floor')", x=f(6), y=pos(6)),
    case("ml.div(x, y, rounding_mode='trunc')", x=f(6), y=pos(6)),
    # ties and clamps
    case("ml.maximum(x, y)", x=lit([1.0, 2.0, 3.0], grad=True), y=lit([1.0, 5.0, 0.0], grad=True)),
    case("ml.minimum(x, y)", x=lit([1.0, 2.0, 3.0], grad=True), y=lit([1.0, 5.0, 0.0], grad=True)),
    case("ml.maximum(x, y)", x=i(5, 4), y=i(5, 4)),
    case("ml.clamp(x, -1, 1)", x=lit([-2.0, -1.0, 0.5, 1.0, 2.0], grad=True)),
    case("ml.clamp(x, min=0.5)", x=f(3, 3)),
    case("x.clamp(max=0.5)", x=f(3, 3)),
    case("ml.clamp(x, lo, hi)", x=f(3, 4), lo=c(4, lo=-2, hi=-1), hi=c(3, 1, lo=1, hi=2)),
    case("x.clamp(2, 5)", x=i(9, 6)),
    case("ml.where(m, x, y)", m=mask(3, 4), x=f(3, 4), y=f(4)),
    case("ml.where(m, x, 0.0)", m=mask(3, 4), x=f(3, 4)),
    case("ml.where(m, 1.0, x)", m=mask(3, 1), x=f(4)),
    case("x.where(m, y)", m=mask(3), x=f(3), y=f(3)),
    case("x.masked_fill(m, -2.5)", x=f(3, 4), m=mask(4)),
    case("ml.masked_fill(x, m, v)", x=f(3, 4), m=mask(3, 1), v=f()),
    case("x.masked_fill(m, float('-inf')).softmax(-1)", x=f(3, 4), m=lit([0, 1, 0, 1], "bool")),
    case("ml.isnan(x)", x=lit([1.0, float("nan"), float("inf")])),
    case("x.isinf()", x=lit([1.0, float("nan"), float("-inf")])),
    case("ml.isfinite(x)", x=lit([1.0, float("nan"), float("-inf")])),
    case("ml.logical_and(x, y)", x=i(2, 6), y=mask(6)),
    case("ml.logical_or(x, y)", x=mask(6), y=mask(6)),
    case("ml.logical_not(x)", x=lit([0.0, 1.0, -2.0])),
    case("ml.lerp(x, y, 0.25)", x=f(3), y=f(3)),
    case("ml.lerp(x, y, w)", x=f(3), y=f(3), w=f(3)),
    case("ml.addcmul(x, y, z, value=0.5)", x=f(3), y=f(3), z=f(3)),
    case("ml.isclose(x, y)", x=lit([1.0, 2.0]), y=lit([1.0 + 1e-9, 2.1])),
    case("ml.allclose(x, y)", x=lit([1.0, 2.0]), y=lit([1.0 + 1e-9, 2.0])),
    # not-a-number passes through
    case("ml.relu(x)", x=lit([float("nan"), -1.0, 2.0])),
    case("ml.maximum(x, y)", x=lit([float("nan"), 1.0]), y=lit([1.0, float("nan")])),
    case("ml.exp(x)", x=lit([float("-inf"), float("inf"), float("nan"), 0.0, -800.0])),
    case("ml.tanh(x)", x=lit([1e-9, -1e-4, 1e-3, 40.0, float("-inf")], grad=True)),
    case("ml.log(x)", x=lit([0.0, 1e-30, -1.0, float("inf")])),
    case("ml.log1p(x)", x=lit([1e-12, -1e-5, 0.5, 1e6], grad=True)),
    case("ml.sqrt(x)", x=lit([0.0, 4.0], grad=True)),
    case("ml.floor(x)", x=i(5, 4)),
    case("ml.round(x)", x=lit([-1.5, -0.5, 0.5, 1.5, 2.5])),
    # activations with arguments
    case("F.leaky_relu(x, 0.2)", x=f(3, 4)),
    case("F.elu(x, alpha=0.5)", x=f(3, 4)),
    case("F.celu(x, alpha=0.5)", x=f(3, 4)),
    case("F.gelu(x, approximate='tanh')", x=f(3, 4)),
    case("F.gelu(x, approximate='tanh')", x=lit(KINKS[2:-2], grad=True)),
    case("F.hardtanh(x, -0.5, 2.0)", x=f(3, 4)),
    case("F.softplus(x, beta=2, threshold=4)", x=f(3, 4)),
    case("F.softshrink(x, 0.25)", x=f(3, 4)),
    case("F.hardshrink(x, 0.75)", x=f(3, 4)),
    case("F.threshold(x, 0.5, -7.0)", x=f(3, 4)),
    case("F.glu(x)", x=f(3, 4)),
    case("F.glu(x, dim=1)", x=f(3, 4, 5)),
    case("F.prelu(x, w)", x=f(2, 3, 4), w=unit(3)),
    case("F.prelu(x, w)", x=f(2, 3), w=unit(1)),
    case("F.softmax(x, dim=-1)", x=f(3, 5)),
    case("F.softmax(x, dim=1)", x=f(2, 3, 4)),
    case("ml.softmax(x, 0)", x=f(4, 3)),
    case("F.log_softmax(x, dim=1)", x=f(2, 3, 4)),
    case("x.log_softmax(dim=-1)", x=lit([[1000.0, 0.0, -1000.0]], grad=True)),
    case("F.softmax(x, dim=-1)", x=lit([[1000.0, 0.0, -1000.0], [5.0, 5.0, 5.0]], grad=True)),
    case("F.softmin(x, dim=0)", x=f(4, 3)),
    case("F.softmax(x, dim=0)", x=f()),
    # in place
    case("y = x * 1\ny.add_(z)\ny.mul_(2.0)\ny", x=f(3, 4), z=f(4)),
    case("y = x * 1\ny[1:] = z\ny", x=f(3, 4), z=f(4)),
    case("y = x * 1\ny[:, 1] = 0.5\ny.exp()", x=f(3, 4)),
    case("y = x * 1\ny[m] = z\ny", x=f(3, 4), m=lit([[1, 0, 0, 1]] * 3, "bool"), z=f()),
    case("y = x * 1\ny[k] = z\ny", x=f(4, 3), k=lit([2, 0], "int64"), z=f(2, 3)),
    case("y = x * 1\ny[0].mul_(3.0)\ny", x=f(3, 4)),
    case("y = x * 1\ny += z\ny *= 2\ny", x=f(3), z=f(3)),
    case("y = x * 1\ny.clamp_(-1, 1)\ny", x=f(6)),
    case("y = x * 1\ny.zero_()\ny", x=f(3)),
    case("y = x * 1\ny.fill_(2.5)\ny", x=f(3)),
    case("y = x * 1\ny.copy_(z)\ny", x=f(2, 3), z=f(3)),
]
