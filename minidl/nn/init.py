"""Initial values, written into given tensors from the random stream "init".

Formulas, names and argument order are PyTorch's; every function returns its tensor.
"""

import math
from collections.abc import Iterable

import numpy as np

from minidl import random
from minidl.autograd import Tensor, no_grad, wrap
from minidl.errors import require, require_one_of

_GAINS = {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4, "linear": 1.0, "sigmoid": 1.0}
_GAINS |= {f"conv{kind}{n}d": 1.0 for kind in ("", "_transpose") for n in (1, 2, 3)}


def _write(tensor: Tensor, values: np.ndarray) -> Tensor:
    with no_grad():
        return tensor.copy_(wrap(values))


def _draw(tensor: Tensor, kind: str) -> np.ndarray:
    """Standard normals or uniforms in [0, 1) of the tensor's shape (float32 for half types)."""
    dtype = np.float64 if tensor.dtype == np.float64 else np.float32
    return getattr(random.default("init"), kind)(tuple(tensor.shape), dtype)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The gain recommended for a nonlinearity (param: the slope of leaky_relu, 0.01 by default)."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    rule = f"nonlinearity must be leaky_relu or one of {[*_GAINS]}"
    require(nonlinearity in _GAINS, "calculate_gain", rule, nonlinearity=nonlinearity)
    return _GAINS[nonlinearity]


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one unit of a weight (out, in, *kernel)."""
    require(tensor.ndim >= 2, "init", "fan in and fan out need at least 2 axes", tensor=tensor)
    field = math.prod(tensor.shape[2:])
    return max(tensor.shape[1] * field, 1), max(tensor.shape[0] * field, 1)  # 0 of an empty one


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform in [a, b)."""
    return _write(tensor, _draw(tensor, "uniform") * (b - a) + a)


def fan_in_uniform_(parameters: Iterable[Tensor], fan_in: int) -> None:
    """Each uniform in ±1/√fan_in, as PyTorch starts linear, convolutional and recurrent layers."""
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    for param in parameters:
        uniform_(param, -bound, bound)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with the given mean and standard deviation."""
    return _write(tensor, _draw(tensor, "normal") * std + mean)


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0,
                  b: float = 2.0) -> Tensor:  # fmt: skip
    """Normal cut to [a, b]: uniforms through the inverse of its distribution, tabulated."""
    require(std > 0 and a <= b, "trunc_normal_", "must have std > 0, a <= b", std=std, a=a, b=b)
    nearest = min(max(mean, a), b)
    grid = np.linspace(max(a, nearest - 9 * std), min(b, nearest + 9 * std), 100_001)
    squares = ((grid - mean) / std) ** 2
    mass = np.cumsum(np.exp((squares.min() - squares) / 2))
    uniform = _draw(tensor, "uniform")
    values = np.interp(uniform * (mass[-1] - mass[0]) + mass[0], mass, grid)
    return _write(tensor, values.astype(uniform.dtype))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One value everywhere."""
    with no_grad():
        return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1)


def dirac_(tensor: Tensor) -> Tensor:
    """Convolution weights (out, in, *kernel) that pass their input on, channel by channel."""
    require(3 <= tensor.ndim <= 5, "dirac_", "tensor must have 3 to 5 axes", tensor=tensor)
    values = np.zeros(tuple(tensor.shape), tensor.dtype)
    each = np.arange(min(tensor.shape[:2]))
    values[each, each, *(n // 2 for n in tensor.shape[2:])] = 1
    return _write(tensor, values)


def _uniform(tensor: Tensor, std: float) -> Tensor:
    """Uniform around 0 with standard deviation std."""
    bound = math.sqrt(3) * std
    return uniform_(tensor, -bound, bound)


def _kaiming(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    modes = ("fan_in", "fan_out")
    require_one_of("init.kaiming", modes, mode=mode)
    return calculate_gain(nonlinearity, a) / math.sqrt(_fans(tensor)[modes.index(mode)])


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform with standard deviation gain √(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return _uniform(tensor, gain * math.sqrt(2 / sum(_fans(tensor))))


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with standard deviation gain √(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal_(tensor, std=gain * math.sqrt(2 / sum(_fans(tensor))))


def kaiming_uniform_(tensor: Tensor, a: float = 0, mode: str = "fan_in",
                     nonlinearity: str = "leaky_relu") -> Tensor:  # fmt: skip
    """Uniform with standard deviation gain / √fan (arXiv 1502.01852)."""
    return _uniform(tensor, _kaiming(tensor, a, mode, nonlinearity))


def kaiming_normal_(tensor: Tensor, a: float = 0, mode: str = "fan_in",
                    nonlinearity: str = "leaky_relu") -> Tensor:  # fmt: skip
    """Normal with standard deviation gain / √fan (arXiv 1502.01852)."""
    return normal_(tensor, std=_kaiming(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1) -> Tensor:
    """A random matrix (first axis, all others) with orthonormal rows or columns, times gain."""
    require(tensor.ndim >= 2, "orthogonal_", "tensor must have at least 2 axes", tensor=tensor)
    flat = _draw(tensor, "normal").reshape(tensor.shape[0], math.prod(tensor.shape[1:]))
    wide = flat.shape[0] < flat.shape[1]
    q, r = np.linalg.qr(flat.T if wide else flat)
    q = q * np.sign(np.diag(r)) * gain  # uniform over the group: arXiv math-ph/0609050
    return _write(tensor, (q.T if wide else q).reshape(tensor.shape))
