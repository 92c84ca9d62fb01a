"""Make models.json: names, outputs and gradients of torchvision's, timm's and the papers' models.

    python tests/golden/make_models.py      # needs torch, torchvision and timm; the tests do not

Weights and pictures come from zoo.py; everything is computed in float64. What neither library has
is written here in PyTorch, from the papers, the checkpoints' names and the Keras configuration. The
committed values were made with PyTorch 2.13, torchvision 0.28 and timm 1.0.31 on a CPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from golden.zoo import SIDES, TRAINED, VARIANTS, digest, pictures, seeded  # noqa: E402


class CifarBlock(nn.Module):
    """He et al. 2015, section 4.2: identity shortcuts, zeros for the new channels (option A)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve = inputs != outputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if self.halve else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.halve:
            quarter = y.shape[1] // 4
            zeros = torch.zeros_like(y[:, :quarter])
            x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """6n+2 layers for 32x32 pictures."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        n = (depth - 2) // 6
        self.layer1 = nn.Sequential(*(CifarBlock(16, 16) for _ in range(n)))
        self.layer2 = nn.Sequential(*(CifarBlock(16 if i < 1 else 32, 32) for i in range(n)))
        self.layer3 = nn.Sequential(*(CifarBlock(32 if i < 1 else 64, 64) for i in range(n)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class KerasBlock(nn.Module):
    """A stack of the MLPerf Tiny ResNet-8, layer by layer as its model_config lists them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve = inputs != outputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if self.halve else 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3)
        self.bn1, self.bn2 = (nn.BatchNorm2d(outputs, 1e-3, 0.01) for _ in range(2))
        if self.halve:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        before = 0 if self.halve else 1  # SAME: 32 -> 16 with 3x3 takes one row, at the end
        y = F.relu(self.bn1(self.conv1(F.pad(x, (before, 1, before, 1)))))
        y = self.bn2(self.conv2(F.pad(y, (1, 1, 1, 1))))
        return F.relu(y + (self.downsample(x) if self.halve else x))


class KerasResNet8(nn.Module):
    """Three stacks of 16, 32 and 64 filters, 8x8 average pooling, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16, 1e-3, 0.01)
        self.layer1 = nn.Sequential(KerasBlock(16, 16))
        self.layer2 = nn.Sequential(KerasBlock(16, 32))
        self.layer3 = nn.Sequential(KerasBlock(32, 64))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(F.avg_pool2d(x, 8).flatten(1))


def unit(i: int, o: int, k: int, s: int = 1, g: int = 1, act: Any = nn.ReLU6) -> nn.Sequential:
    """Convolution, norm and activation."""
    conv = nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), *([act()] if act else []))


class MobileNetV1(nn.Module):
    """Howard et al. 2017, table 1."""

    def __init__(self, width_mult: float = 1.0, num_classes: int = 1000) -> None:
        super().__init__()
        widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        widths = [int(width_mult * w) for w in widths]
        layers = [unit(3, widths[0], 3, 2)]
        for a, b, s in zip(widths, widths[1:], strides):
            layers.append(nn.Sequential(unit(a, a, 3, s, a), unit(a, b, 1)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(widths[-1], num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Shuffle(nn.Module):
    """Channel c of group g goes to place c * groups + g."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1] // self.groups
        return x[:, [g * size + c for c in range(size) for g in range(self.groups)]]


class ShuffleUnit(nn.Module):
    """Zhang et al. 2017, figure 2 (b) and (c)."""

    def __init__(self, inputs: int, outputs: int, first: int, groups: int) -> None:
        super().__init__()
        self.halve, bottleneck = inputs != outputs, outputs // 4
        made = outputs - inputs if self.halve else outputs
        self.branch2 = nn.Sequential(
            *unit(inputs, bottleneck, 1, 1, first, nn.ReLU), Shuffle(groups),
            *unit(bottleneck, bottleneck, 3, 2 if self.halve else 1, bottleneck, None),
            *unit(bottleneck, made, 1, 1, groups, None),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch2(x)
        if self.halve:
            return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1))
        return F.relu(x + y)


class ShuffleNetV1(nn.Module):
    """Zhang et al. 2017, table 1 (no groups in the first 1x1 of stage 2, section 3.2)."""

    def __init__(self, groups: int = 3, width_mult: float = 1.0, num_classes: int = 1000) -> None:
        super().__init__()
        table = {3: (24, 240, 480, 960), 8: (24, 384, 768, 1536)}[groups]
        widths = [int(width_mult * w) for w in table]
        self.conv1 = unit(3, widths[0], 3, 2, 1, nn.ReLU)
        for i, (a, b, count) in enumerate(zip(widths, widths[1:], (4, 8, 4))):
            units = [ShuffleUnit(a, b, groups if i else 1, groups)]
            units += [ShuffleUnit(b, b, groups, groups) for _ in range(count - 1)]
            setattr(self, f"stage{i + 2}", nn.Sequential(*units))
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 3, 2, 1)
        return self.fc(self.stage4(self.stage3(self.stage2(x))).mean((2, 3)))


def pad_same(conv: nn.Conv2d, inputs: tuple[Tensor, ...]) -> Tensor:
    """TensorFlow's SAME padding, as its documentation of tf.nn puts it (a hook before conv)."""
    widths: list[int] = []
    for n, k, s in zip(inputs[0].shape[:1:-1], conv.kernel_size[::-1], conv.stride[::-1]):
        along = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)
        widths += [along // 2, along - along // 2]
    return F.pad(inputs[0], widths)


def reference(name: str, num_classes: int | None = None, padding: str = "torch", **options: Any):
    """The other library's model, or this file's, for a name of minidl.models."""
    if name.startswith("cifar_resnet"):
        return CifarResNet(int(name.removeprefix("cifar_resnet")))
    if name == "resnet8":
        return KerasResNet8()
    if num_classes is not None:
        options["num_classes"] = num_classes
    hidden, ceil_mode = options.pop("hidden", None), options.pop("ceil_mode", True)
    if "drop_path" in options:
        options["stochastic_depth_prob"] = options.pop("drop_path")
    if "image_size" in options and name.startswith("deit"):
        options["img_size"] = options.pop("image_size")
    if name in ("mobilenet_v1", "shufflenet_v1"):
        model: nn.Module = {"m": MobileNetV1, "s": ShuffleNetV1}[name[0]](**options)
    elif name.startswith(("deit", "convnext")):
        model = timm.create_model(name, **options)
    else:
        model = torchvision.models.get_model(name, **options)
    if hidden is not None:
        c = model.classifier
        c[0], c[3], c[6] = nn.Linear(25088, hidden), nn.Linear(hidden, hidden), c[6]
        c[6] = nn.Linear(hidden, num_classes)
    for module in model.modules():
        if isinstance(module, nn.MaxPool2d) and not ceil_mode:
            module.ceil_mode = False
        if isinstance(module, nn.Conv2d) and padding == "same":
            module.padding = (0, 0)
            module.register_forward_pre_hook(pad_same)
    return model


def filled(model: nn.Module) -> nn.Module:
    """The model in float64 with the weights that its names stand for."""
    state = {k: torch.tensor(seeded(k, tuple(v.shape))) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    return model.double()


def case(name: str, side: int, options: dict[str, Any]) -> dict[str, Any]:
    """Hash and number of the names, the first few, and logits (2, 8)."""
    torch.manual_seed(0)
    model = filled(reference(name, **options)).eval()
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    with torch.no_grad():
        y = model(torch.tensor(pictures(2, side)).double())
    few = {k: [*shapes[k]] for k in sorted(shapes)[:3]}
    made = {"digest": digest(shapes.items()), "count": len(shapes), "few": few}
    return made | {"outputs": y[:, :8].tolist(), "spread": y.std().item()}


def step(name: str, side: int, options: dict[str, Any]) -> dict[str, Any]:
    """The loss of four pictures in training mode, the norms of gradients and of buffers."""
    model = filled(reference(name, **options)).train()
    loss = F.cross_entropy(model(torch.tensor(pictures(4, side)).double()), torch.arange(4))
    loss.backward()
    grads = {k: p.grad.norm().item() for k, p in sorted(model.named_parameters())}
    buffers = {k: b.norm().item() for k, b in model.named_buffers() if k.endswith("running_var")}
    some = [*grads][:: max(1, len(grads) // 8)]
    kept = {"loss": loss.item(), "gradients": {k: grads[k] for k in some}}
    return kept | {"variances": dict([*buffers.items()][:: max(1, len(buffers) // 3)])}


def main() -> None:
    """Write the file: one case a line."""
    table: dict[str, Any] = {}
    for name, side in SIDES.items():
        table[name] = case(name, side, {})
    for label, (name, side, options) in VARIANTS.items():
        table[label] = case(name, side, options)
    for label, off in TRAINED.items():
        name, side, options = VARIANTS.get(label, (label, SIDES.get(label), {}))
        table[label]["step"] = step(name, side, {**options, **off})
    lines = [f'"{label}": {json.dumps(made)}' for label, made in table.items()]
    (HERE / "models.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
