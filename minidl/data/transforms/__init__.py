"""Batched transforms of pictures under torchvision's names."""

# isort: off
from minidl.data.transforms.base import Compose, Lambda, Normalize, ToFloat, ToTensor, Transform
from minidl.data.transforms.colour import ColorJitter, GaussianBlur, Grayscale
from minidl.data.transforms.geometry import CenterCrop, RandomAffine, RandomCrop
from minidl.data.transforms.geometry import RandomHorizontalFlip, RandomTranslate, Resize
from minidl.data.transforms.mix import CutMix, Cutout, MixUp, RandomErasing
from minidl.data.transforms.policy import AutoAugment, RandAugment
from minidl.data.transforms.wide import Pad, RandomApply, RandomGrayscale, RandomResizedCrop
from minidl.data.transforms.wide import RandomRotation, RandomVerticalFlip, ToPILImage
