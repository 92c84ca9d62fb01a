"""Lazy layers: the size of their input is that of the first input, or of loaded state."""

from collections.abc import Callable
from functools import partial
from types import new_class
from typing import Any, ClassVar

from minidl.autograd import Tensor
from minidl.errors import require
from minidl.nn.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from minidl.nn.fields import Layer
from minidl.nn.linear import Linear
from minidl.nn.module import Shapes
from minidl.nn.norm import BatchNorm1d, BatchNorm2d
from minidl.nn.parameter import assign, new_tensor
from minidl.nn.wide import BatchNorm3d, Conv3d


class _Lazy(Layer):
    """A layer whose parameters have size 0 where it is not known; they stay the same objects."""

    _of: ClassVar[Any]
    _field: ClassVar[str]  # the size that is not known
    _axis: ClassVar[int]  # of the weight, which has that size
    _place: ClassVar[int]  # the axis of the input that tells it
    _ndims: ClassVar[tuple[int, ...]]  # that an input may have; empty: any but 0

    def _told(self, weight: tuple[int, ...]) -> tuple[Shapes, Callable[[], None]] | None:
        size = weight[self._axis] if len(weight) > self._axis else 0
        size *= getattr(self, "groups", 1) if self._axis else 1
        return (self._shapes(size), partial(self._materialise, size)) if size else None

    def _shapes(self, size: int) -> Shapes:
        own = size // getattr(self, "groups", 1) if self._axis else size
        state = {**self._parameters, **self._buffers}
        return {name: tuple([n or own for n in t.shape])
                for name, t in state.items() if t is not None}  # fmt: skip

    def _materialise(self, size: int) -> None:
        for name, shape in self._shapes(size).items():
            old = getattr(self, name)
            assign(old, new_tensor(shape, old.device, old.dtype))
        setattr(self, self._field, size)
        self.__class__ = self._of
        self.reset_parameters()

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """As the layer that it becomes."""
        fits = x.ndim in self._ndims if self._ndims else x.ndim > 0
        rule = f"x must have {' or '.join(map(str, self._ndims)) or 'some'} axes"
        require(fits, type(self).__name__, rule, x=x)
        self._materialise(x.shape[self._place])
        return self.forward(x, *more)


def _lazy(of: Any, field: str, axis: int, place: int, *ndims: int) -> Any:
    """The class of `of` without the field."""
    known = {"_of": of, "_field": field, "_axis": axis, "_place": place, "_ndims": ndims, field: 0}
    known |= {"__module__": __name__, "__doc__": f"{of.__name__} of any {field}."}
    options = {"show": of._show.replace(f"{{{field}}}", "0"), "without": field}
    return new_class(f"Lazy{of.__name__}", (_Lazy, of), options, lambda space: space.update(known))


LazyLinear = _lazy(Linear, "in_features", 1, -1)
LazyConv1d, LazyConv2d, LazyConv3d = (
    _lazy(of, "in_channels", 1, -1 - n, n + 1, n + 2)
    for n, of in enumerate((Conv1d, Conv2d, Conv3d), 1)
)
LazyConvTranspose1d, LazyConvTranspose2d = (
    _lazy(of, "in_channels", 0, -1 - n, n + 1, n + 2)
    for n, of in enumerate((ConvTranspose1d, ConvTranspose2d), 1)
)
LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d = (
    _lazy(of, "num_features", 0, 1, *of._dims) for of in (BatchNorm1d, BatchNorm2d, BatchNorm3d)
)
