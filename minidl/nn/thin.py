"""Modules that only hold a function's keyword arguments: activations, losses, pools, resampling."""

from collections.abc import Callable
from types import new_class
from typing import Any

from minidl import functional as F
from minidl.nn.fields import Fields
from minidl.ops.arguments import ints_of

REQUIRED: Any = object()


def thin(
    name: str, of: Callable[..., Any], show: str | None = None, base: type = Fields, **fields: Any
) -> Any:
    """The class `name` whose forward calls `of` with the fields (names and defaults) given here."""

    def fill(space: dict[str, Any]) -> None:
        space |= {k: v for k, v in fields.items() if v is not REQUIRED}
        space |= {"__module__": __name__, "__annotations__": dict.fromkeys(fields, Any)}

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


ReLU = thin("ReLU", F.relu, inplace=False)
ReLU6 = thin("ReLU6", F.relu6, inplace=False)
LeakyReLU = thin("LeakyReLU", F.leaky_relu, negative_slope=0.01, inplace=False)
ELU = thin("ELU", F.elu, alpha=1.0, inplace=False)
CELU = thin("CELU", F.celu, alpha=1.0, inplace=False)
SELU = thin("SELU", F.selu, inplace=False)
GELU = thin("GELU", F.gelu, approximate="none")
SiLU = thin("SiLU", F.silu, inplace=False)
Mish = thin("Mish", F.mish, inplace=False)
Hardswish = thin("Hardswish", F.hardswish, inplace=False)
Hardsigmoid = thin("Hardsigmoid", F.hardsigmoid, inplace=False)
Hardtanh = thin("Hardtanh", F.hardtanh, min_val=-1.0, max_val=1.0, inplace=False)
Threshold = thin("Threshold", F.threshold, threshold=REQUIRED, value=REQUIRED, inplace=False)
Softplus = thin("Softplus", F.softplus, beta=1.0, threshold=20.0)
Softshrink = thin("Softshrink", F.softshrink, "{lambd}", lambd=0.5)
Hardshrink = thin("Hardshrink", F.hardshrink, "{lambd}", lambd=0.5)
Tanhshrink = thin("Tanhshrink", F.tanhshrink)
Softsign = thin("Softsign", F.softsign)
Sigmoid = thin("Sigmoid", F.sigmoid)
LogSigmoid = thin("LogSigmoid", F.logsigmoid)
Tanh = thin("Tanh", F.tanh)
Softmax = thin("Softmax", F.softmax, dim=None)
Softmin = thin("Softmin", F.softmin, dim=None)
LogSoftmax = thin("LogSoftmax", F.log_softmax, dim=None)
GLU = thin("GLU", F.glu, dim=-1)

_LABELS: dict[str, Any] = {"weight": None, "ignore_index": -100, "reduction": "mean"}
_MEAN: dict[str, Any] = {"reduction": "mean"}
CrossEntropyLoss = thin("CrossEntropyLoss", F.cross_entropy, "", **_LABELS, label_smoothing=0.0)
NLLLoss = thin("NLLLoss", F.nll_loss, "", **_LABELS)
BCELoss = thin("BCELoss", F.binary_cross_entropy, "", weight=None, **_MEAN)
BCEWithLogitsLoss = thin(
    "BCEWithLogitsLoss", F.binary_cross_entropy_with_logits, "", weight=None, **_MEAN,
    pos_weight=None,
)  # fmt: skip
MSELoss = thin("MSELoss", F.mse_loss, "", **_MEAN)
L1Loss = thin("L1Loss", F.l1_loss, "", **_MEAN)
SmoothL1Loss = thin("SmoothL1Loss", F.smooth_l1_loss, "", **_MEAN, beta=1.0)
HuberLoss = thin("HuberLoss", F.huber_loss, "", **_MEAN, delta=1.0)
KLDivLoss = thin("KLDivLoss", F.kl_div, "", **_MEAN, log_target=False)

_AVG = "kernel_size={kernel_size}, stride={stride}, padding={padding}"
_MAX = _AVG + ", dilation={dilation}, ceil_mode={ceil_mode}"
_WINDOW: dict[str, Any] = {"base": _Pool, "kernel_size": REQUIRED, "stride": None, "padding": 0}
_BEST: dict[str, Any] = {**_WINDOW, "dilation": 1, "return_indices": False, "ceil_mode": False}
_MEANS: dict[str, Any] = {**_WINDOW, "ceil_mode": False, "count_include_pad": True}
MaxPool1d = thin("MaxPool1d", F.max_pool1d, _MAX, **_BEST)
MaxPool2d = thin("MaxPool2d", F.max_pool2d, _MAX, **_BEST)
AvgPool1d = thin("AvgPool1d", F.avg_pool1d, _AVG, **_MEANS)
AvgPool2d = thin("AvgPool2d", F.avg_pool2d, _AVG, **_MEANS, divisor_override=None)
AvgPool1d._axes = 1
_TO: dict[str, Any] = {"output_size": REQUIRED}
AdaptiveAvgPool1d = thin("AdaptiveAvgPool1d", F.adaptive_avg_pool1d, **_TO)
AdaptiveAvgPool2d = thin("AdaptiveAvgPool2d", F.adaptive_avg_pool2d, **_TO)
Upsample = thin(
    "Upsample", F.interpolate, base=_Upsample, size=None, scale_factor=None, mode="nearest",
    align_corners=None,
)  # fmt: skip
PixelShuffle = thin("PixelShuffle", F.pixel_shuffle, upscale_factor=REQUIRED)
_SLIDE: dict[str, Any] = {"kernel_size": REQUIRED, "dilation": 1, "padding": 0, "stride": 1}
Unfold = thin("Unfold", F.unfold, **_SLIDE)
Fold = thin("Fold", F.fold, **_TO, **_SLIDE)
CosineSimilarity = thin("CosineSimilarity", F.cosine_similarity, "", dim=1, eps=1e-8)
