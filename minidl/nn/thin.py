"""Modules that only hold a function's keyword arguments: activations, losses, pools, resampling."""

import inspect
from collections.abc import Callable
from types import new_class
from typing import Any

from minidl import functional as F
from minidl.nn.fields import Fields
from minidl.ops.arguments import ints_of


def thin(
    name: str, of: Callable[..., Any] | None = None, show: str | None = None, *,
    fields: str = "", inputs: int = 1, base: type = Fields,
) -> Any:  # fmt: skip
    """The class `name` whose forward calls `of` (F's function of that name in lower case).

    Its fields are those parameters of `of`, with their defaults, that come after the inputs.
    """
    of = of or getattr(F, name.lower())
    known = inspect.signature(of).parameters
    names = fields.split() or [*known][inputs:]

    def fill(space: dict[str, Any]) -> None:
        defaults = {k: known[k].default for k in names}
        space |= {k: v for k, v in defaults.items() if v is not inspect.Parameter.empty}
        space |= {"__module__": __name__, "__annotations__": dict.fromkeys(names, Any)}

    return new_class(name, (base,), {"of": of, "show": show}, fill)


class _Pool(Fields):
    """A window whose stride is the window's size unless given."""

    _axes = 0  # where not 0, sizes are kept as tuples of this length

    def _build(self) -> None:
        stride = self.stride
        self.stride: Any = self.kernel_size if stride is None else stride
        for name in ("kernel_size", "stride", "padding") if self._axes else ():
            setattr(self, name, ints_of("AvgPool1d", name, getattr(self, name), self._axes, 0))


class _Upsample(Fields):
    def _build(self) -> None:
        scale = self.scale_factor
        self.scale_factor: Any = float(scale) if isinstance(scale, int) else scale

    def extra_repr(self) -> str:
        name = "size" if self.scale_factor is None else "scale_factor"
        return f"{name}={getattr(self, name)}, mode={self.mode!r}"


ReLU, ReLU6, ELU, CELU, SELU, GELU, SiLU, Mish, GLU = map(
    thin, "ReLU ReLU6 ELU CELU SELU GELU SiLU Mish GLU".split()
)
Sigmoid, LogSigmoid, Hardsigmoid, Hardswish, Softsign, Softplus = map(
    thin, "Sigmoid LogSigmoid Hardsigmoid Hardswish Softsign Softplus".split()
)
Tanh, Tanhshrink, Hardtanh, Threshold = map(thin, "Tanh Tanhshrink Hardtanh Threshold".split())
LeakyReLU = thin("LeakyReLU", F.leaky_relu)
Softshrink = thin("Softshrink", show="{lambd}")
Hardshrink = thin("Hardshrink", show="{lambd}")
Softmax = thin("Softmax", fields="dim")
Softmin = thin("Softmin", fields="dim")
LogSoftmax = thin("LogSoftmax", F.log_softmax, fields="dim")

CrossEntropyLoss = thin("CrossEntropyLoss", F.cross_entropy, "", inputs=2)
NLLLoss = thin("NLLLoss", F.nll_loss, "", inputs=2)
BCELoss = thin("BCELoss", F.binary_cross_entropy, "", inputs=2)
BCEWithLogitsLoss = thin("BCEWithLogitsLoss", F.binary_cross_entropy_with_logits, "", inputs=2)
MSELoss = thin("MSELoss", F.mse_loss, "", inputs=2)
L1Loss = thin("L1Loss", F.l1_loss, "", inputs=2)
SmoothL1Loss = thin("SmoothL1Loss", F.smooth_l1_loss, "", inputs=2)
HuberLoss = thin("HuberLoss", F.huber_loss, "", inputs=2)
KLDivLoss = thin("KLDivLoss", F.kl_div, "", inputs=2)
CosineSimilarity = thin("CosineSimilarity", F.cosine_similarity, "", inputs=2)

_AVG = "kernel_size={kernel_size}, stride={stride}, padding={padding}"
_MAX = _AVG + ", dilation={dilation}, ceil_mode={ceil_mode}"
_BEST = "kernel_size stride padding dilation return_indices ceil_mode"
MaxPool1d = thin("MaxPool1d", F.max_pool1d, _MAX, fields=_BEST, base=_Pool)
MaxPool2d = thin("MaxPool2d", F.max_pool2d, _MAX, fields=_BEST, base=_Pool)
AvgPool1d = thin("AvgPool1d", F.avg_pool1d, _AVG, base=_Pool)
AvgPool2d = thin("AvgPool2d", F.avg_pool2d, _AVG, base=_Pool)
AvgPool1d._axes = 1
AdaptiveAvgPool1d = thin("AdaptiveAvgPool1d", F.adaptive_avg_pool1d)
AdaptiveAvgPool2d = thin("AdaptiveAvgPool2d", F.adaptive_avg_pool2d)
_SIZES = "size scale_factor mode align_corners"
Upsample = thin("Upsample", F.interpolate, fields=_SIZES, base=_Upsample)
PixelShuffle = thin("PixelShuffle", F.pixel_shuffle)
Unfold, Fold = thin("Unfold"), thin("Fold")
