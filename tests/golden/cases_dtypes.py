"""Golden cases: the dtype that every mixture of dtypes gives."""

from golden.specs import case, lit

DTYPES = "bool uint8 int32 int64 float32 float64".split()
VALUES = {"bool": [1, 0, 1], "uint8": [1, 2, 3], "int32": [-1, 2, 3], "int64": [1, 2, -3]}
VALUES |= {"float32": [0.5, 1.0, 2.0], "float64": [1.5, 0.5, -1.0]}


def operand(dtype: str, zero_d: bool = False):
    """Three fixed values of the dtype, or the first of them as a 0-d tensor."""
    return lit(VALUES[dtype][0] if zero_d else VALUES[dtype], dtype)


CASES = [
    case(code, x=operand(a), y=operand(b))
    for code in ("x + y", "x * y", "x / y", "ml.maximum(x, y)", "ml.cat([x, y])", "x == y")
    for a in DTYPES
    for b in DTYPES
]
CASES += [
    case("ml.where(m, x, y)", m=lit([1, 0, 1], "bool"), x=operand(a), y=operand(b))
    for a, b in [
        ("float32", "float64"),
        ("int64", "float32"),
        ("bool", "int32"),
        ("int32", "int64"),
    ]
]
# A 0-d tensor decides only across kinds (bool < integer < floating).
CASES += [
    case(code, x=operand(a), y=operand(b, zero_d=True))
    for code in ("x + y", "y * x")
    for a in DTYPES
    for b in DTYPES
]
CASES += [case("x + y", x=operand(a, True), y=operand("float32", True)) for a in DTYPES]
# Python scalars are weak.
CASES += [
    case(f"x {op} {scalar}", x=operand(a))
    for op in "+*/"
    for scalar in ("True", "2", "2.5")
    for a in DTYPES
]
CASES += [case(f"{s} - x", x=operand(a)) for s in ("2", "2.5") for a in DTYPES if a != "bool"]
CASES += [case("x ** 2", x=operand(a)) for a in DTYPES if a != "bool"]
CASES += [
    case(f"ml.{name}(x)", x=operand(a))
    for name in "exp sigmoid sqrt sum prod".split()
    for a in ("bool", "uint8", "int32", "int64", "float32")
]
CASES += [case("x.cumsum(0)", x=operand(a)) for a in DTYPES]
CASES += [case("x.abs()", x=operand(a)) for a in ("uint8", "int32", "int64", "float32")]
CASES += [case("x.mean()", x=operand(a)) for a in ("float32", "float64")]
CASES += [case("x @ x", x=operand(a)) for a in ("int32", "int64", "float32", "float64")]
CASES += [case("ml.sum(x, 0, dtype=ml.float64)", x=operand(a)) for a in DTYPES]
CASES += [
    case("y = x.clone()\ny += z\ny", x=operand(a), z=operand(b))
    for a, b in [
        ("float32", "float64"),
        ("float64", "float32"),
        ("float32", "int64"),
        ("int64", "bool"),
    ]
]
CASES += [
    case("y = x.clone()\ny[1:] = 2.7\ny", x=operand(a))
    for a in ("int64", "float32", "bool", "uint8")
]
