"""Everything that a run of the transfer project depends on, in one dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from projects.settings import Precision, UsageError, check_limits, check_precision

Dataset = Literal["pets", "species", "flowers", "folder", "cifar10", "cifar100",
                  "shapes", "embedded"]  # fmt: skip
Scale = Literal["tf", "imagenet", "raw", "own"]
Schedule = Literal["constant", "cosine", "linear", "step"]


@dataclass(frozen=True)
class Config:
    """One experiment. Every field can be set by `--set field=value`; sizes are in pixels.

    A tenth of each class's training images is held out, by the seed, and never trained on.
    """

    preset: str = "quick"
    dataset: Dataset = "pets"  # species: as cats and dogs; shapes, embedded: five shapes each
    data: str = ""  # root of the official layouts; empty: MINIDL_DATA, else a download
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "float32"  # of training's products; others on a GPU
    cache: str = ""  # a folder that keeps decoded pictures and features between runs; empty: none
    seed: int = 0
    epochs: int = 20

    # images
    size: int = 128  # shorter side scaled to it, middle cut; arrays of pictures keep their size
    scale: Scale = "imagenet"  # what the weights expect: tf (-1…1), ImageNet's, raw (0…255), own
    cap: int = 0  # most training images a class, held-out ones among them; 0: all
    labels: float = 1.0  # share of each class's training images whose labels are used; 0: one image
    rare: float = 1.0  # share of each cat breed's training images that is kept
    balance: Literal["none", "weighted", "oversample"] = "none"
    draws: int = 0  # training images an epoch, drawn with replacement; 0: each of them once

    # the network and where it begins
    model: str = "mobilenet_v2"  # a name in minidl.models
    width: int = 0  # channels of its first stage; 0: its own number
    padding: Literal["torch", "same"] = "torch"  # same: TensorFlow's
    weights: str = ""  # a file of any framework or a run; embedded: the own; empty: from scratch
    unfold: bool = False  # give folded batch norms the training images' statistics

    # what is tuned
    strategy: Literal["head", "last", "gradual", "full", "norms", "lora", "masked"] = "head"
    last: int = 1  # sections tuned beside the head (last); the most of them (gradual; 0: all)
    every: int = 1  # epochs until the next section is tuned (gradual)
    norm_affine: bool = True  # whether the tuned sections' norms are tuned
    norm_statistics: bool = True  # whether their running statistics are updated, and not used
    rank: int = 4  # of LoRA's updates
    alpha: float = 8.0  # their scale is alpha / rank
    pattern: str = ".*"  # a regular expression: names of the layers that get one
    sparsity: float = 0.95  # share of the entries that masked finetuning leaves alone
    sparse: float = 0.0  # share of the weights below the head that are zero from the start on

    # augmentation, each per image
    flip: bool = False  # left-right, half of the time
    crop: int = 0  # largest shift, up, down and sideways
    policy: Literal["none", "randaugment", "autoaugment"] = "none"
    erasing: float = 0.0  # probability of a random erased rectangle
    cutmix: float = 0.0  # alpha of the beta distribution; 0: off
    mixup: float = 0.0  # the same
    views: int = 0  # augmented views whose features are kept; 0: new ones in every epoch

    # objective
    smoothing: float = 0.0  # label smoothing
    semi: Literal["none", "pseudo", "fixmatch"] = "none"
    threshold: float = 0.95  # least probability of a label that is taken for true
    align: bool = False  # answers to unlabelled images are made to name all classes equally often
    ratio: int = 4  # unlabelled images to a labelled one
    weight: float = 1.0  # of the unlabelled images' loss
    teacher: str = ""  # a run whose model is distilled into this one
    temperature: float = 4.0  # of the distillation
    soften: float = 0.9  # share of the teacher in the loss

    # optimisation
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    batch: int = 32
    lr: float = 1e-3  # of the head
    backbone: float = 1.0  # the other sections' rate, as a share of the head's
    decay: float = 1.0  # factor of the rate from each section to the one before it
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    backbone_schedule: Literal[Schedule, "same"] = "same"  # of the other sections' rates
    warmup: float = 0.0  # epochs of linear warm-up
    clip: float = 0.0  # bound on the norm of the gradient; 0: none

    # after training
    prune: float = 0.0  # share of the weights set to zero
    quantize: bool = False  # int8 weights and activations

    def __post_init__(self) -> None:
        check_limits(self, LIMITS)
        check_precision(self)
        if self.views and (self.cutmix or self.mixup or self.teacher):
            rule = "cutmix, mixup and a teacher need the pictures themselves in every epoch"
            raise UsageError(f"{rule}: views=0; got views={self.views}")
        if self.views > 2 and not (self.crop or self.erasing or self.policy != "none"):
            raise UsageError(f"views={self.views} need crop, erasing or a policy to differ by")
        extra = self.cutmix or self.mixup or self.teacher or self.draws
        if self.semi != "none" and (extra or self.balance == "oversample"):
            rule = f"semi={self.semi} is offered without cutmix, mixup, teacher, draws, oversample"
            raise UsageError(rule)
        if self.sparse and self.strategy == "lora":
            raise UsageError(f"LoRA is merged into all weights: sparse=0; got {self.sparse}")
        if self.rare < 1 and self.dataset not in ("pets", "species"):
            raise UsageError(f"rare is for the pets; got dataset={self.dataset}")


LIMITS: dict[str, tuple[float, float]] = {
    "epochs": (1, 10**5), "size": (8, 1024), "cap": (0, 10**7), "labels": (0, 1), "rare": (0, 1),
    "draws": (0, 10**7), "width": (0, 2048), "last": (0, 10**4), "every": (1, 10**4),
    "rank": (1, 4096), "alpha": (0, 10**6), "sparsity": (0, 0.9999), "crop": (0, 64),
    "erasing": (0, 1), "cutmix": (0, 100), "mixup": (0, 100), "views": (0, 256),
    "smoothing": (0, 0.9), "threshold": (0, 1), "ratio": (1, 64), "weight": (0, 1000),
    "temperature": (0.1, 100), "soften": (0, 1), "batch": (1, 65536), "lr": (0, 1e6),
    "backbone": (0, 1000), "decay": (0.01, 1), "momentum": (0, 1), "weight_decay": (0, 100),
    "warmup": (0, 10**5), "clip": (0, 1e9), "prune": (0, 0.999), "sparse": (0, 0.999),
    "seed": (0, 2**63 - 1),
}  # fmt: skip
