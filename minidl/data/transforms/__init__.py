"""Batched transforms of pictures under torchvision's names."""

from minidl.data.transforms.base import (
    Compose,
    Normalize,
    RandomApply,
    ToFloat,
    ToTensor,
    Transform,
)
from minidl.data.transforms.colour import ColorJitter, GaussianBlur, Grayscale, RandomGrayscale
from minidl.data.transforms.geometry import (
    CenterCrop,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomTranslate,
    RandomVerticalFlip,
    Resize,
)
from minidl.data.transforms.mix import CutMix, Cutout, MixUp, RandomErasing
from minidl.data.transforms.policy import AutoAugment, RandAugment

__all__ = [
    "AutoAugment",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Cutout",
    "GaussianBlur",
    "Grayscale",
    "MixUp",
    "Normalize",
    "RandAugment",
    "RandomAffine",
    "RandomApply",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomTranslate",
    "RandomVerticalFlip",
    "Resize",
    "ToFloat",
    "ToTensor",
    "Transform",
]
