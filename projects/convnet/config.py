"""Everything that a run of the ConvNet project depends on, in one dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from projects.settings import Precision, UsageError, check_limits, check_precision

Dataset = Literal["cifar10", "cifar100", "mnist", "fashion", "folder", "embedded"]


@dataclass(frozen=True)
class Config:
    """One experiment. Every field can be set by `--set field=value`; sizes are in pixels.

    The held-out images are the last `heldout` training images (of an image folder at most a tenth,
    after shuffling); they are never trained on.
    """

    preset: str = "quick"
    dataset: Dataset = "cifar10"
    data: str = ""  # root of the official layouts; empty: MINIDL_DATA, else a download
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "float32"  # of training's products; others on a GPU
    seed: int = 0
    epochs: int = 20

    # images
    heldout: int = 5000
    train_images: int = 0  # 0: all that are not held out
    size: int = 32  # side to which an image folder's pictures are scaled
    normalise: bool = True  # subtract the mean, divide by the deviation of each channel
    noise: float = 0.0  # share of training labels replaced by another class

    # augmentation, each per image
    flip: bool = False  # left-right, half of the time
    crop: int = 0  # zero padding from which a random crop is taken
    shift: float = 0.0  # largest shift as a share of the side, both axes
    erasing: float = 0.0  # probability of a random erased rectangle
    cutmix: float = 0.0  # alpha of the beta distribution; 0: off
    mixup: float = 0.0  # the same
    policy: Literal["none", "randaugment", "autoaugment"] = "none"

    # network
    model: Literal["vgg", "resnet", "resnet18", "convnext", "convmixer", "speedrun"] = "vgg"
    width: int = 32  # channels of the first stage
    depth: int = 20  # layers of a resnet: 6n + 2
    blocks: int = 3  # stages of the vgg
    dense: int = 128  # hidden units of the vgg's head; 0: global average pooling
    norm: Literal["none", "batch", "layer", "instance", "group"] = "none"
    dropout: float = 0.0
    rising: float = 0.0  # added to the dropout from one block to the next
    order: Literal["norm-dropout", "dropout-norm"] = "norm-dropout"
    stride: bool = False  # strided convolutions in place of pooling
    skip: bool = False  # residual connections
    se: bool = False  # squeeze-and-excitation
    patch: int = 1  # side of the stem's patches
    kernel: int = 3  # of the blocks' convolutions
    depthwise: bool = False  # depthwise-separable convolutions

    # objective
    loss: Literal["ce", "sce", "supcon"] = "ce"
    smoothing: float = 0.0  # label smoothing
    pretrain: int = 0  # epochs of contrastive pre-training, out of `epochs`
    temperature: float = 0.1  # of the contrastive loss

    # optimisation
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    batch: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "onecycle", "step", "restarts"] = "constant"
    warmup: float = 0.0  # epochs of linear warm-up
    clip: float = 0.0  # bound on the norm of the gradient; 0: none
    accumulate: int = 1  # batches per update
    ema: float = 0.0  # decay of the averaged weights, per update; 0: off
    patience: int = 0  # epochs without a better held-out accuracy before stopping; 0: never
    tta: bool = False  # test-time augmentation: average with the mirrored image

    def __post_init__(self) -> None:
        check_limits(self, LIMITS)
        check_precision(self)
        if self.kernel % 2 == 0:
            raise UsageError(f"kernel must be odd: pictures keep their size; got {self.kernel}")
        if self.loss == "supcon" and not 0 < self.pretrain < self.epochs:
            got = f"pretrain={self.pretrain}, epochs={self.epochs}"
            raise UsageError(f"loss=supcon needs 0 < pretrain < epochs; got {got}")


LIMITS: dict[str, tuple[float, float]] = {
    "epochs": (1, 10**5), "heldout": (1, 10**6), "train_images": (0, 10**7), "size": (8, 512),
    "noise": (0, 0.95), "crop": (0, 16), "shift": (0, 0.9), "erasing": (0, 1), "cutmix": (0, 100),
    "mixup": (0, 100), "width": (1, 2048), "depth": (8, 1202), "blocks": (1, 6),
    "dense": (0, 65536), "dropout": (0, 0.95), "rising": (0, 0.5), "patch": (1, 16),
    "kernel": (1, 15), "smoothing": (0, 0.9), "temperature": (1e-3, 10),
    "batch": (1, 65536), "lr": (0, 1e6),
    "momentum": (0, 1), "weight_decay": (0, 100), "warmup": (0, 10**5), "clip": (0, 1e9),
    "accumulate": (1, 4096), "ema": (0, 1), "patience": (0, 10**5), "seed": (0, 2**63 - 1),
}  # fmt: skip
