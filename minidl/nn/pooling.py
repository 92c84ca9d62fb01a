"""Pooling and resampling as modules."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.nn.fields import Fields, Size, variant

Partial = int | None | tuple[int | None, ...]
_MAX = (
    "kernel_size={kernel_size}, stride={stride}, padding={padding}, "
    "dilation={dilation}, ceil_mode={ceil_mode}"
)
_AVG = "kernel_size={kernel_size}, stride={stride}, padding={padding}"


class _Pool(Fields):
    """A window whose stride is the window's size unless given."""

    _axes = 0  # where not 0, sizes are kept as tuples of this length

    def _build(self) -> None:
        stride = self.stride
        self.stride: Any = self.kernel_size if stride is None else stride
        for name in ("kernel_size", "stride", "padding") if self._axes else ():
            size = getattr(self, name)
            setattr(self, name, (size,) * self._axes if isinstance(size, int) else tuple(size))


class MaxPool2d(_Pool, of=F.max_pool2d, show=_MAX):
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    return_indices: bool = False
    ceil_mode: bool = False


class AvgPool1d(_Pool, of=F.avg_pool1d, show=_AVG):
    _axes = 1
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True


class AvgPool2d(_Pool, of=F.avg_pool2d, show=_AVG):
    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None


class AdaptiveAvgPool2d(Fields, of=F.adaptive_avg_pool2d):
    output_size: Partial


class AdaptiveMaxPool2d(Fields, of=F.adaptive_max_pool2d, show="output_size={output_size}"):
    output_size: Partial
    return_indices: bool = False


MaxPool1d = variant("MaxPool1d", MaxPool2d, of=F.max_pool1d)
AdaptiveAvgPool1d = variant("AdaptiveAvgPool1d", AdaptiveAvgPool2d, of=F.adaptive_avg_pool1d)
AdaptiveMaxPool1d = variant("AdaptiveMaxPool1d", AdaptiveMaxPool2d, of=F.adaptive_max_pool1d)


class Upsample(Fields, of=F.interpolate):
    size: Size | None = None
    scale_factor: float | tuple[float, ...] | None = None
    mode: str = "nearest"
    align_corners: bool | None = None

    def _build(self) -> None:
        if isinstance(self.scale_factor, int | float):
            self.scale_factor = float(self.scale_factor)

    def extra_repr(self) -> str:
        name = "size" if self.scale_factor is None else "scale_factor"
        return f"{name}={getattr(self, name)}, mode={self.mode!r}"


class PixelShuffle(Fields, of=F.pixel_shuffle):
    upscale_factor: int


class PixelUnshuffle(Fields, of=F.pixel_unshuffle):
    downscale_factor: int


class Unfold(Fields, of=F.unfold):
    kernel_size: Size
    dilation: Size = 1
    padding: Size = 0
    stride: Size = 1


class Fold(Fields, of=F.fold):
    output_size: Size
    kernel_size: Size
    dilation: Size = 1
    padding: Size = 0
    stride: Size = 1
