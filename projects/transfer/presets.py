"""Every experiment of the course's ladder under a name: what differs from Config's defaults."""

from __future__ import annotations

from typing import Any

from projects.settings import preset_of
from projects.transfer.config import Config

Fields = dict[str, Any]

# The project's own backbone, trained on five shapes, and few pictures of five others.
SMALL: Fields = {"model": "cifar_resnet", "width": 8, "scale": "imagenet", "dataset": "embedded"}
SHAPES: Fields = SMALL | {"weights": "embedded", "cap": 11, "draws": 1000, "batch": 50}
SHAPES |= {"strategy": "full", "lr": 3e-3, "flip": True, "crop": 3, "epochs": 12, "smoothing": 0.1}
SCRATCH: Fields = SHAPES | {"weights": ""}
# How the backbone was trained: the recipe of projects/convnet for residual networks.
BACKBONE: Fields = SMALL | {"dataset": "shapes", "strategy": "full", "optimizer": "sgd"}
BACKBONE |= {"lr": 0.1, "weight_decay": 5e-4, "batch": 128, "warmup": 1.0, "schedule": "linear"}
BACKBONE |= {"flip": True, "crop": 3}
# A Vision Transformer for pictures of 32 x 32, which has no weights of its own here.
VIT: Fields = {"model": "cifar_vit", "width": 64, "scale": "imagenet", "strategy": "full"}
VIT |= {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup": 1.0}
VIT |= {"flip": True, "crop": 3, "clip": 1.0}
FEW_VIT: Fields = VIT | {"dataset": "embedded", "cap": 11, "draws": 1000, "batch": 50}
FEW_VIT |= {"epochs": 12, "smoothing": 0.1}
TAUGHT_VIT: Fields = FEW_VIT | {"weights": "a-vit-backbone"}  # of the same table
# ImageNet's MobileNetV2 from TensorFlow Lite; a bare name is looked for in DATA/weights.
MOBILE: Fields = {"model": "mobilenet_v2", "padding": "same", "scale": "tf", "flip": True}
MOBILE |= {"weights": "mobilenet_v2_1.0_224_int8.tflite", "norm_statistics": False}
HEAD: Fields = MOBILE | {"crop": 8, "views": 4, "epochs": 30, "balance": "weighted"}
HEAD |= {"optimizer": "adamw", "weight_decay": 2.0}
TUNED: Fields = MOBILE | {"strategy": "full", "epochs": 12, "crop": 8, "backbone": 0.2}
TUNED |= {"smoothing": 0.1, "optimizer": "adamw", "weight_decay": 0.05, "warmup": 1.0}
TUNED |= {"balance": "weighted"}  # three breeds have far more training images than the others
LAST: Fields = TUNED | {"strategy": "last", "last": 3, "views": 6}
EQUAL: Fields = {"cap": 30, "balance": "none"}  # of a breed; so `align` is fair
FEW: Fields = HEAD | EQUAL | {"draws": 1000, "epochs": 20}


def _of(text: str, base: Fields, **fields: Any) -> tuple[str, Fields]:
    """What a preset is, and its fields."""
    return text, base | fields


# Runs that presets begin from or are taught by, and the tables that train both.
EARLIER = {"quick": "distilled", "a-vit-backbone": "transformers"}
PRESETS: dict[str, tuple[str, Fields]] = {
    "smoke": _of("seconds on embedded data: does everything work?",
                 SCRATCH, draws=0, epochs=2, width=4),
    "quick": _of("the own backbone finetuned on 50 pictures of five shapes", SHAPES),
    "quick-scratch": _of("the same network and budget from scratch", SCRATCH),
    "quick-head": _of("the own backbone, head only", SHAPES, strategy="head", views=8, lr=1e-2),
    # unfold: weights may come with folded norms, which batch statistics would undo.
    "own": _of("a base for data and weights of one's own", {}, flip=True, backbone=0.2,
               unfold=True),
    "backbone": _of("trains the own backbone on five other shapes", BACKBONE, epochs=8),
    "backbone-cifar": _of("the same network on CIFAR-10", BACKBONE, dataset="cifar10", epochs=30),
    "course": _of("the course's full project: e-full, on all images", TUNED, size=224, epochs=30),
    # The E level: what is tuned.
    "e-species": _of("dog vs cat, head only", HEAD, dataset="species", balance="none"),
    "e-species-224": _of("dog vs cat, head only, 224 pixels", HEAD, dataset="species",
                         balance="none", size=224),
    "e-breeds-head": _of("37 breeds, head only", HEAD),
    "e-breeds-head-224": _of("37 breeds, head only, 224 pixels", HEAD, size=224),
    "e-gradual": _of("one more section after each epoch", TUNED, strategy="gradual", last=0,
                     epochs=20),
    "e-full": _of("all sections at once", TUNED),
    "e-breeds-last4-224": _of("the last 4 sections at 224 pixels", LAST, last=4, views=4, size=224),
    # The E level: learning rates, schedules, augmentation, L2.
    "e-one-rate": _of("the last sections at the head's rate", LAST, backbone=1.0),
    "e-decay": _of("a rate of 0.7 of the next section's", LAST, backbone=1.0, decay=0.7),
    "e-constant": _of("a constant learning rate", LAST, schedule="constant", warmup=0.0),
    "e-step": _of("a learning rate by steps", LAST, schedule="step"),
    "e-two-schedules": _of("the head's rate constant, the others' a cosine", LAST,
                           schedule="constant", backbone_schedule="cosine"),
    "e-nesterov": _of("Nesterov's gradient", LAST, optimizer="sgd", lr=0.02, weight_decay=1e-4),
    "e-no-augment": _of("the pictures as they are", LAST, flip=False, views=1),
    "e-no-decay": _of("without weight decay", LAST, weight_decay=0.0),
    # The E level: batch norms, which came folded.
    "e-norm-frozen": _of("norms neither tuned nor updated", LAST, norm_affine=False),
    "e-norm-affine": _of("norms tuned, statistics measured once", LAST, unfold=True),
    "e-norm-statistics": _of("statistics updated, norms not tuned", LAST, unfold=True,
                             norm_affine=False, norm_statistics=True),
    "e-norm-both": _of("norms tuned and updated", LAST, unfold=True, norm_statistics=True),
    "c-norms": _of("only the norms and the head", TUNED, strategy="norms", unfold=True),
    # The C level: mixing and erasing; new pictures in every epoch.
    "c-erasing": _of("random erasing", LAST, erasing=0.5),
    "c-policy": _of("RandAugment", LAST, policy="randaugment"),
    "c-cutmix": _of("CutMix", LAST, views=0, cutmix=1.0),
    "c-mixup": _of("MixUp", LAST, views=0, mixup=0.2),
    # The A level.
    "a-masked": _of("masked finetuning, 5 % of the entries", TUNED, strategy="masked",
                    sparsity=0.95),
    "a-prune": _of("a fifth of the weights pruned after training", LAST, prune=0.2),
    "a-sparse": _of("a fifth pruned before training", LAST, sparse=0.2),
    "a-sparse-full": _of("a fifth pruned before training of all sections", TUNED, sparse=0.2),
    "a-quantize": _of("int8 after training", LAST, quantize=True),
    "a-student": _of("half the width on shapes, to be compared", SCRATCH, width=4),
    "a-distill": _of("the same, told by the finetuned network", SCRATCH, width=4, teacher="quick"),
    "a-vit-backbone": _of("a small ViT trained on five shapes", VIT, dataset="shapes", batch=128,
                          epochs=12),
    "a-vit-scratch": _of("the ViT on few pictures of five others, from scratch", FEW_VIT),
    "a-vit-head": _of("from a-vit-backbone, head only", TAUGHT_VIT, strategy="head"),
    "a-vit": _of("from a-vit-backbone, all sections", TAUGHT_VIT, backbone=0.2),
    "a-vit-lora": _of("from a-vit-backbone, LoRA of attention", TAUGHT_VIT, strategy="lora",
                      pattern=r"blocks\..*attn.*", lr=3e-3),
}  # fmt: skip
for _last in (1, 2, 3, 4, 6, 8, 12):
    PRESETS[f"e-breeds-last{_last}"] = _of(f"the last {_last} sections at once", LAST, last=_last)
# LoRA of all layers of the sections that e-breeds-last3 tunes.
LORA: Fields = {"strategy": "lora", "pattern": r"features\.1[678]\..*", "lr": 3e-3, "backbone": 1.0}
for _rank in (1, 4, 16):
    PRESETS[f"a-lora-{_rank}"] = _of(f"LoRA of rank {_rank} on the last 3 sections", LAST | LORA,
                                     rank=_rank, alpha=2.0 * _rank)  # fmt: skip
TENTH: Fields = LAST | EQUAL | {"labels": 0.1, "draws": 1000}
PRESETS["a-labels-10-last3"] = _of("10 % of the labels, the last 3 sections", TENTH)
PRESETS["a-labels-10-lora"] = _of("10 % of the labels, LoRA of rank 4", TENTH | LORA)
for _size in (64, 96, 160, 192):
    PRESETS[f"e-size-{_size}"] = _of(f"{_size} pixels, head only", HEAD, size=_size)
for _name, _balance in (("plain", "none"), ("weighted", "weighted"), ("oversample", "oversample")):
    PRESETS[f"e-imbalance-{_name}"] = _of(
        f"a fifth of each cat breed, {_name}", HEAD | EQUAL, rare=0.2, balance=_balance
    )
PRESETS["e-balanced"] = _of("30 images of each breed", HEAD | EQUAL)
for _name, _share in (("100", 1.0), ("50", 0.5), ("10", 0.1), ("one", 0.0)):
    _what = f"{_name} % of the labels" if _share else "one label a class"
    PRESETS[f"a-labels-{_name}"] = _of(_what, FEW, labels=_share)
    for _semi in ("pseudo", "fixmatch"):
        PRESETS[f"a-labels-{_name}-{_semi}"] = _of(
            f"{_what}, {_semi}", FEW, labels=_share, semi=_semi, draws=0, epochs=80,
            align=True, threshold=0.4 if _semi == "fixmatch" else 0.5,
        )  # fmt: skip


def preset(name: str) -> Config:
    """The configuration called `name`; UsageError with near names when there is none."""
    return preset_of(Config, PRESETS, name)
