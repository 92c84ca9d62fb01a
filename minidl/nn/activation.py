"""Activations as modules."""

from __future__ import annotations

from minidl import functional as F
from minidl.autograd import Tensor
from minidl.nn import init
from minidl.nn.fields import Fields, Layer, variant
from minidl.nn.parameter import new_parameter


class _InPlace(Fields, of=F.relu):
    inplace: bool = False


class _Plain(Fields, show=""):
    pass


class _AlongAxis(Fields, of=F.softmax):
    dim: int | None = None


ReLU = variant("ReLU", _InPlace, of=F.relu)
ReLU6 = variant("ReLU6", _InPlace, of=F.relu6)
SELU = variant("SELU", _InPlace, of=F.selu)
SiLU = variant("SiLU", _InPlace, of=F.silu)
Mish = variant("Mish", _InPlace, of=F.mish)
Hardswish = variant("Hardswish", _InPlace, of=F.hardswish)
Hardsigmoid = variant("Hardsigmoid", _InPlace, of=F.hardsigmoid)
Sigmoid = variant("Sigmoid", _Plain, of=F.sigmoid)
LogSigmoid = variant("LogSigmoid", _Plain, of=F.logsigmoid)
Tanh = variant("Tanh", _Plain, of=F.tanh)
Softsign = variant("Softsign", _Plain, of=F.softsign)
Tanhshrink = variant("Tanhshrink", _Plain, of=F.tanhshrink)
Softmax = variant("Softmax", _AlongAxis, of=F.softmax)
Softmin = variant("Softmin", _AlongAxis, of=F.softmin)
LogSoftmax = variant("LogSoftmax", _AlongAxis, of=F.log_softmax)


class LeakyReLU(Fields, of=F.leaky_relu):
    negative_slope: float = 0.01
    inplace: bool = False


class ELU(Fields, of=F.elu):
    alpha: float = 1.0
    inplace: bool = False


class CELU(Fields, of=F.celu):
    alpha: float = 1.0
    inplace: bool = False


class GELU(Fields, of=F.gelu):
    approximate: str = "none"


class Hardtanh(Fields, of=F.hardtanh):
    min_val: float = -1.0
    max_val: float = 1.0
    inplace: bool = False


class Threshold(Fields, of=F.threshold):
    threshold: float
    value: float
    inplace: bool = False


class Softplus(Fields, of=F.softplus):
    beta: float = 1.0
    threshold: float = 20.0


class Softshrink(Fields, of=F.softshrink, show="{lambd}"):
    lambd: float = 0.5


class Hardshrink(Fields, of=F.hardshrink, show="{lambd}"):
    lambd: float = 0.5


class GLU(Fields, of=F.glu):
    dim: int = -1


class PReLU(Layer, show="num_parameters={num_parameters}"):
    """`F.prelu` with a slope, one for all or one a channel (axis 1), that is learnt."""

    num_parameters: int = 1
    init: float = 0.25

    def _build(self, *where: object) -> None:
        self.weight = new_parameter((self.num_parameters,), *where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.weight, self.init)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, …) -> the same shape."""
        return F.prelu(x, self.weight)
