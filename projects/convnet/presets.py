"""Every experiment of the course's ladder under a name: what differs from Config's defaults."""

from __future__ import annotations

from typing import Any

from projects.convnet.config import Config
from projects.settings import preset_of

Fields = dict[str, Any]

# The course's baseline: 3 blocks of two 3x3 convolutions (32-64-128), dense 128, SGD + momentum.
E: Fields = {"epochs": 100, "batch": 64, "lr": 0.001}
AUGMENT: Fields = {"flip": True, "shift": 0.1}
REGULAR: Fields = {"norm": "batch", "dropout": 0.2, "rising": 0.1, "weight_decay": 5e-4}
# All regularisers of the E level together; dropout 0.2, 0.3, 0.4 and 0.5 before the output.
ALL: Fields = AUGMENT | REGULAR | {"epochs": 400, "lr": 0.05, "schedule": "cosine"}
C: Fields = ALL | {"epochs": 100, "warmup": 1.0}
STRONG: Fields = C | {"shift": 0.0, "crop": 4}
# The recipe of He et al. for CIFAR with Nesterov's momentum and a cosine in place of two steps.
SGD: Fields = {"lr": 0.1, "nesterov": True, "weight_decay": 5e-4, "flip": True, "crop": 4}
SGD |= {"norm": "batch", "schedule": "cosine", "warmup": 1.0}
RESNET: Fields = SGD | {"model": "resnet", "width": 16, "epochs": 200, "smoothing": 0.1}
CIFAR100: Fields = RESNET | {"dataset": "cifar100"}
ADAMW: Fields = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05, "warmup": 5.0}
EMBEDDED: Fields = SGD | {"dataset": "embedded", "heldout": 1000, "warmup": 0.0, "crop": 2}


def _of(text: str, base: Fields, **fields: Any) -> tuple[str, Fields]:
    """What a preset is, and its fields."""
    return text, base | fields


PRESETS: dict[str, tuple[str, Fields]] = {
    "smoke": _of(
        "seconds on embedded data: does everything work?",
        EMBEDDED,
        train_images=512,
        heldout=256,
        epochs=2,
        width=8,
        dense=32,
        batch=64,
        lr=0.05,
    ),
    "quick": _of(
        "a small batch-norm VGG on embedded data, about a minute",
        EMBEDDED,
        train_images=5000,
        epochs=8,
        width=16,
        dense=64,
        lr=0.03,
        smoothing=0.1,
        schedule="onecycle",
        warmup=1.0,
    ),
    "course": _of("the course's full project: e-all, on real images", ALL),
    "vgg-bn": _of(
        "batch-norm VGG 32-64-128, dense 128, in 20 epochs",
        SGD,
        epochs=20,
        lr=0.2,
        schedule="onecycle",
        warmup=4.0,
        smoothing=0.1,
    ),
    "resnet20": _of("ResNet-20 in 30 epochs", RESNET, epochs=30),
    # The E level.
    "e-baseline": _of("3-block VGG, SGD + momentum, no regularisation", E),
    "e-dropout": _of("baseline + dropout 0.2", E, dropout=0.2),
    "e-weight-decay": _of("baseline + weight decay 1e-3", E, weight_decay=1e-3),
    "e-augment": _of("baseline + flips and shifts of up to 10 %", E | AUGMENT),
    "e-all": _of("all of them + batch norm and rising dropout", ALL),
    "e-raw-input": _of("baseline without input normalisation", E, normalise=False),
    "e-adam": _of("e-all with Adam", ALL, optimizer="adam", lr=1e-3, weight_decay=0.0),
    "e-adamw": _of("e-all with AdamW", ALL, optimizer="adamw", lr=1e-3, weight_decay=0.01),
    "e-sgd": _of("e-all at a constant learning rate", ALL, schedule="constant", lr=0.01),
    "e-warmup-cosine": _of("e-all with warm-up and cosine", ALL, warmup=5.0),
    "e-step": _of("e-all with step decay", ALL, schedule="step"),
    "e-restarts": _of("e-all with cosine restarts", ALL, schedule="restarts"),
    "e-dropout-bn": _of("e-all with dropout before batch norm", ALL, order="dropout-norm"),
    # The C level.
    "c-gap": _of("global average pooling head", C, dense=0),
    "c-stride": _of("strided convolutions in place of pooling", C, stride=True),
    "c-skip": _of("residual connections", C, skip=True),
    "c-block4": _of("a fourth block", C, blocks=4),
    "c-resnet-like": _of("these four together", C, dense=0, stride=True, skip=True, blocks=4),
    "c-augment": _of("RandAugment beside flips and crops", STRONG, policy="randaugment"),
    "c-autoaugment": _of("AutoAugment's policy for CIFAR", STRONG, policy="autoaugment"),
    "c-erasing": _of("random erasing", C, erasing=0.5),
    "c-cutmix": _of("CutMix", C, cutmix=1.0),
    "c-mixup": _of("MixUp", C, mixup=0.2),
    "c-layer-norm": _of("layer norm for batch norm", C, norm="layer"),
    "c-instance-norm": _of("instance norm for batch norm", C, norm="instance"),
    "c-group-norm": _of("group norm for batch norm", C, norm="group"),
    # The A level.
    "a-resnet20": _of("ResNet-20", RESNET),
    "a-resnet56": _of("ResNet-56", RESNET, depth=56),
    "a-resnet110": _of("ResNet-110", RESNET, depth=110),
    "a-cifar100-resnet20": _of("ResNet-20 on CIFAR-100", CIFAR100),
    "a-cifar100-resnet56": _of("ResNet-56 on CIFAR-100", CIFAR100, depth=56),
    "a-cifar100-resnet110": _of("ResNet-110 on CIFAR-100", CIFAR100, depth=110),
    "a-resnet18": _of("ResNet-18 for 32x32 images", RESNET, model="resnet18", width=64),
    "a-se": _of("ResNet-20 with squeeze-and-excitation", RESNET, se=True),
    "a-patchify": _of("ResNet-20 behind a stem of 2x2 patches", RESNET, patch=2),
    "a-mixes": _of(
        "ResNet-20 with CutMix, MixUp and erasing, 400 epochs",
        RESNET,
        epochs=400,
        cutmix=1.0,
        mixup=0.2,
        erasing=0.25,
    ),
    "a-convnext": _of(
        "ConvNeXt-style blocks", RESNET | ADAMW, model="convnext", width=64, kernel=7, patch=2
    ),
    "a-convmixer": _of(
        "ConvMixer",
        RESNET | ADAMW,
        model="convmixer",
        width=256,
        depth=8,
        kernel=5,
        patch=2,
    ),
    "a-depthwise": _of("VGG of depthwise-separable convolutions", C, depthwise=True, width=64),
    "a-kernel5": _of("VGG of 5x5 convolutions", C, kernel=5),
    "a-width64": _of("VGG of twice the width", C, width=64),
    "a-supcon": _of(
        "supervised contrastive pre-training, then an MLP head",
        RESNET,
        loss="supcon",
        epochs=250,
        pretrain=200,
        smoothing=0.0,
        batch=256,
    ),
    "a-supcon-ce": _of("the same by cross-entropy, to compare", RESNET, epochs=250, batch=256),
    "speedrun": _of(
        "whitened stem, GELU, label smoothing, Nesterov, EMA, mirrored test images",
        SGD,
        model="speedrun",
        width=64,
        epochs=10,
        batch=512,
        lr=0.75,
        weight_decay=1.3e-3,
        smoothing=0.2,
        momentum=0.85,
        ema=0.99,
        crop=2,
        tta=True,
        schedule="onecycle",
        warmup=2.0,
    ),
}
for _share in (0, 20, 40, 60, 80):
    for _loss, _name in (("ce", "cross-entropy"), ("sce", "symmetric cross-entropy")):
        PRESETS[f"a-noise{_share}-{_loss}"] = _of(
            f"{_share} % wrong labels, {_name}",
            RESNET,
            epochs=120,
            smoothing=0.0,
            noise=_share / 100,
            loss=_loss,
        )


def preset(name: str) -> Config:
    """The configuration called `name`; UsageError with near names when there is none."""
    return preset_of(Config, PRESETS, name)
