"""What several image models share: the chain of sections, convolutions, norms, excitation."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import minidl.functional as F
from minidl import nn
from minidl.autograd import Tensor
from minidl.errors import CheckpointError, require, require_one_of
from minidl.ops.creation import ones_like

Activation = Callable[[], nn.Module]
NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)


class Section(NamedTuple):
    """A link of a classifier's chain: names of its modules and parameters, and what it computes."""

    names: tuple[str, ...]
    run: Callable[[Tensor], Tensor]


class Classifier(nn.Module):
    """A chain from the image to the logits that can be cut anywhere.

    The output is the last of `sections` of … of the first of them. So a frozen beginning's outputs
    can be kept and the rest trained on them (`run`), sections can be frozen or given learning
    rates of their own (`parameters_of`), and the last layer, `head_name`, replaced. A model whose
    children come in the order of its forward pass needs to say nothing more. `run` and `embed` pass
    by the Sequentials that hold a section's modules, and their hooks.
    """

    head_name = "fc"

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> logits (N, num_classes): one child after the other."""
        return nn.Sequential(self._modules)(x)

    def sections(self) -> list[Section]:
        """The sections, from the image to the head, which is the last.

        A layer or block begins one, as does a dropout before it; norms and other modules without
        parameters belong to the section before them.
        """
        groups: list[dict[str, nn.Module]] = []
        full = True  # the section at hand has its layer
        for name, module in self._links(self, ""):
            begins = name == self.head_name or _is_layer(module)
            if not groups or (full and (begins or isinstance(module, nn.Dropout))):
                groups.append({})
                full = False
            full = full or begins
            groups[-1][name] = module
        return [Section((*links,), nn.Sequential(*links.values())) for links in groups]

    def _links(self, module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        """What runs one after the other, with plain Sequentials taken apart (but not the head)."""
        for name, child in module._modules.items():
            path = prefix + name
            if type(child) is nn.Sequential and path != self.head_name:
                yield from self._links(child, f"{path}.")
            else:
                yield path, child

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """What sections start … stop - 1 make of x, the output of the section before start."""
        for section in self.sections()[start:stop]:
            x = section.run(x)
        return x

    def embed(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> what the head's section sees."""
        return self.run(x, 0, -1)

    def parameters_of(self, section: Section) -> dict[str, nn.Parameter]:
        """The section's parameters by their names in this model."""
        owned = tuple(f"{name}." for name in section.names)
        return {k: p for k, p in self.named_parameters() if f"{k}.".startswith(owned)}

    def replace_head(self, num_classes: int) -> nn.Module:
        """Put a fresh layer for num_classes in the head's place -> that layer.

        Raises ShapeError where the head is neither a Linear nor a Conv2d.
        """
        old = self.get_submodule(self.head_name)
        fits, rule = isinstance(old, nn.Linear | nn.Conv2d), "the head must be a Linear or a Conv2d"
        require(fits, type(self).__name__, rule, head=type(old).__name__)
        if isinstance(old, nn.Linear):
            new: nn.Module = nn.Linear(old.in_features, num_classes)
        else:
            new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size)
        put_module(self, self.head_name, new.to(old.weight.device, old.weight.dtype))
        return new


def refuse_weights(weights: Any, pretrained: Any) -> None:
    """Raise where a script of torchvision's asks for trained weights; None and False are fine."""
    rule, fix = "no weights are downloaded", "minidl.io.load_weights(path, model) takes a file's"
    require(not (weights or pretrained), "models", rule, error=CheckpointError, fix=fix)


def put_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the model's that has a dotted name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _is_layer(module: nn.Module) -> bool:
    """Whether it has parameters and is no norm."""
    return not isinstance(module, NORMS) and next(module.parameters(), None) is not None


class GlobalPool(nn.Module):
    """Each channel's mean."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, C)."""
        return x.mean((2, 3))


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: ceil(n / stride) outputs along each axis.

    The padding is as small as it can be; where it is odd the end gets one more than the beginning.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, K, ceil(H / stride), ceil(W / stride))."""
        sizes = zip(x.shape[2:], self.kernel_size, self.stride)
        pads = [max((-(n // -s) - 1) * s + k - n, 0) for n, k, s in sizes]
        if any(n % 2 for n in pads):
            x = F.pad(x, (0, pads[1] % 2, 0, pads[0] % 2))
        half = (pads[0] // 2, pads[1] // 2)
        return F.conv2d(x, self.weight, self.bias, self.stride, half, self.dilation, self.groups)


def conv2d(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *,
           bias: bool = False, padding: str = "torch") -> nn.Conv2d:  # fmt: skip
    """A convolution with (kernel - 1) // 2 zeros around ("torch") or TensorFlow's ("same")."""
    require_one_of("conv2d", ("torch", "same"), padding=padding)
    kind = SameConv2d if padding == "same" else nn.Conv2d
    around = (kernel - 1) // 2 if padding == "torch" else 0
    return kind(inputs, outputs, kernel, stride, around, groups=groups, bias=bias)


class ConvNorm(nn.Sequential):
    """A convolution, batch norm, and an activation unless it is None: children 0, 1 and 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1,
                 groups: int = 1, *, act: Activation | None = nn.ReLU,
                 padding: str = "torch") -> None:  # fmt: skip
        conv = conv2d(inputs, outputs, kernel, stride, groups, padding=padding)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([act()] if act else []))


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels at every pixel of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> the same; free views where memory is channels-last."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm2d(kind: str, channels: int) -> nn.Module:
    """batch, layer (over channels), group (of 8 channels or fewer), instance, or none."""
    require_one_of("norm2d", ("batch", "layer", "group", "instance", "none"), kind=kind)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "layer":
        return LayerNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(max(n for n in range(1, 9) if channels % n == 0), channels)
    return nn.InstanceNorm2d(channels, affine=True) if kind == "instance" else nn.Identity()


def relu_of(norm: nn.Module, x: Tensor, more: Tensor | None = None,
            excite: nn.Module | None = None) -> Tensor:  # fmt: skip
    """relu(excite(norm(x)) + more); batch norm without excitation does it in one pass."""
    if isinstance(norm, nn.BatchNorm2d) and excite is None:
        return norm.activated(x, "relu", more)
    y = norm(x) if excite is None else excite(norm(x))
    return F.relu(y if more is None else y + more)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means (arXiv 1709.01507).

    inner: channels between the two 1x1 convolutions; a sixteenth, and 4 at least, unless told.
    """

    def __init__(self, channels: int, inner: int | None = None, act: Activation = nn.ReLU) -> None:
        super().__init__()
        inner = inner or max(channels // 16, 4)
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.act = act()
        self.fc2 = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> the same shape."""
        return x * F.sigmoid(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))


class Perceptron(nn.Module):
    """Two dense layers with GELU between, over the last axis."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, dim) -> the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class InvertedResidual(nn.Module):
    """Widen by a 1x1, filter each channel, (excite,) narrow by a 1x1; add the input if it fits.

    unit makes the convolutions; widen: by how much; excite: the gate's inner channels per input,
    with which the names are EfficientNet's ("block"), else MobileNetV2's ("conv"); drop: how
    likely an image's residual is left out in training (arXiv 1603.09382).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, widen: int,
                 unit: Callable[..., ConvNorm], *, kernel: int = 3, excite: float = 0.0,
                 drop: float = 0.0) -> None:  # fmt: skip
        super().__init__()
        width = inputs * widen
        layers: list[nn.Module] = [unit(inputs, width, 1)] if widen > 1 else []
        layers.append(unit(width, width, kernel, stride, width))
        narrow = unit(width, outputs, 1, act=None)
        if excite:
            gate = SqueezeExcite(width, max(1, int(inputs * excite)), nn.SiLU)
            self.block = nn.Sequential(*layers, gate, narrow)
        else:
            self.conv = nn.Sequential(*layers, *narrow)
        self.adds, self.drop = stride == 1 and inputs == outputs, drop

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        (body,) = self.children()
        y = body(x)
        if not self.adds:
            return y
        if self.training and self.drop:
            y = y * F.dropout(ones_like(y.detach()[:, :1, :1, :1]), self.drop)
        return x + y


class FeatureNet(Classifier):
    """`features`, global pooling, and a `classifier` of dropout and a Linear."""

    head_name = "classifier.1"

    def __init__(self, features: list[nn.Module], width: int, num_classes: int,
                 dropout: float) -> None:  # fmt: skip
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = GlobalPool()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, num_classes))
        he_init(self)


def he_init(model: nn.Module) -> None:
    """Convolutions by their outputs' fans (arXiv 1502.01852), Linear N(0, 0.01), biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
