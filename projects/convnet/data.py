"""The project's images: read, split, corrupted where asked, augmented, batched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minidl as ml
from minidl.data import (
    CIFAR10,
    CIFAR100,
    MNIST,
    DataLoader,
    FashionMNIST,
    ImageArrays,
    ImageFolder,
    transforms,
)
from minidl.data.dataset import check
from minidl.random import Generator
from projects.convnet.config import Config
from projects.recipe import last_steps, mixing
from projects.settings import UsageError, readable
from projects.shapes import Shapes

OFFICIAL = {"cifar10": CIFAR10, "cifar100": CIFAR100, "mnist": MNIST, "fashion": FashionMNIST}


@dataclass
class Split:
    """Images x (N, C, H, W) uint8 over channels-last memory and their labels y (N,) int64."""

    x: np.ndarray
    y: np.ndarray


@dataclass
class Images:
    """The three parts of a data set; mean and std of each channel, as shares of full intensity."""

    train: Split
    heldout: Split
    test: Split
    classes: list[str]
    mean: list[float]
    std: list[float]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image."""
        return self.train.x.shape[1:]


def load_images(cfg: Config) -> Images:
    """Read the data set of `cfg` and split off its last training images as held-out."""
    folder = cfg.dataset == "folder"
    train, test, classes = read_folder(cfg) if folder else read(cfg)
    check(len(classes) > 1, cfg.dataset, f"there must be 2 classes or more; got {classes[0]} alone")
    heldout_count = min(cfg.heldout, len(train.y) // 10) if folder else cfg.heldout
    left = len(train.y) - heldout_count
    if left < 1:
        raise UsageError(f"heldout={cfg.heldout} leaves nothing of {len(train.y)} training images")
    kept = min(cfg.train_images or left, left)
    heldout = Split(train.x[left:], train.y[left:])
    train = Split(train.x[:kept], train.y[:kept])
    if cfg.noise:
        train.y = with_wrong_labels(train.y, cfg.noise, len(classes), cfg.seed)
    mean, std = [0.0] * train.x.shape[1], [1.0] * train.x.shape[1]
    if cfg.normalise:
        mean, std = channel_statistics(train.x)
    return Images(train, heldout, test, [*map(readable, classes)], mean, std)


def read(cfg: Config) -> tuple[Split, Split, Sequence[str]]:
    """Training and test images of an official data set, or of the generator."""
    if cfg.dataset == "embedded":
        count = cfg.train_images + cfg.heldout if cfg.train_images else None
        parts = [Shapes(True, count), Shapes(False, 1000)]
    else:
        parts = [OFFICIAL[cfg.dataset](cfg.data or None, train=train) for train in (True, False)]
    train, test = (Split(part.images, part.targets) for part in parts)
    return train, test, parts[0].classes


def read_folder(cfg: Config) -> tuple[Split, Split, Sequence[str]]:
    """Images of any size in ROOT/train/CLASS and ROOT/test/CLASS, or in ROOT/CLASS.

    The training images are shuffled by the seed; without a test folder a fifth of them is taken.
    """
    root = folder_of(cfg)
    apart = (root / "train").is_dir()
    train, classes = scaled(root / "train" if apart else root, cfg.size)
    order = Generator(cfg.seed, "data").permutation(len(train.y))
    if apart:
        test, _ = scaled(root / "test", cfg.size, classes)
    else:
        cut = len(order) - max(len(order) // 5, 1)
        test, order = Split(train.x[order[cut:]], train.y[order[cut:]]), order[:cut]
    return Split(train.x[order], train.y[order]), test, classes


def folder_of(cfg: Any) -> Path:
    """The folder that holds the classes', of settings with `data`."""
    root = cfg.data or os.environ.get("MINIDL_DATA")
    if not root:
        raise UsageError("--dataset folder needs --data DIR, the folder that holds the classes")
    return Path(root)


def scaled(
    folder: Path, size: int, classes: Sequence[str] | None = None
) -> tuple[Split, Sequence[str]]:
    """All images of FOLDER/CLASS as squares of `size` pixels: shorter side scaled, middle cut."""
    square = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])
    pictures = ImageFolder(folder, transform=square, classes=classes)
    return Split(*pictures.batch(np.arange(len(pictures)), 0)), pictures.classes


def with_wrong_labels(y: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Labels of which each, with probability `share`, is replaced by another class at random."""
    source = Generator(seed, "data")
    wrong = source.uniform(len(y)) < share
    other = (y + source.integers(1, classes, len(y))) % classes
    return np.where(wrong, other, y)


def channel_statistics(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel of x (N, C, H, W) uint8, from its histogram (exact)."""
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in x.transpose(1, 0, 2, 3):
        parts = np.array_split(channel, -(-len(channel) // 250))  # bincount makes each an int64
        share = sum(np.bincount(p.reshape(-1), minlength=256) for p in parts) / channel.size
        mean.append(float(share @ levels))
        std.append(max(float(share @ (levels - mean[-1]) ** 2) ** 0.5, 1e-3))
    return mean, std


def augmentation(cfg: Config, images: Images) -> transforms.Compose:
    """What happens to training images: geometry, policy, normalisation, erasing."""
    height, width = images.shape[1:]
    steps: list[Any] = []
    if cfg.flip:
        steps.append(transforms.RandomHorizontalFlip())
    if cfg.crop:
        steps.append(transforms.RandomCrop((height, width), padding=cfg.crop))
    if cfg.shift:
        steps.append(transforms.RandomTranslate(cfg.shift))
    steps += last_steps(cfg, transforms.Normalize(images.mean, images.std))
    return transforms.Compose(steps)


def loader_for(cfg: Config, images: Images) -> DataLoader:
    """Shuffled, augmented batches [x, y] (contrastive runs: [x, y, another view of x])."""
    transform, contrast = augmentation(cfg, images), cfg.loss == "supcon"

    def views(x: Any, y: Any, rows: np.ndarray, epoch: int) -> tuple[Any, ...]:
        return transform(x, rows, 2 * epoch), y, transform(x, rows, 2 * epoch + 1)

    pixels, own = images.train.x.transpose(0, 2, 3, 1), None if contrast else transform
    data = ImageArrays(pixels, images.train.y, images.classes, own)
    mix = views if contrast else mixing(cfg, len(images.classes))
    if cfg.policy == "none":  # a batch takes 1 ms, the cores have work; a GPU holds all pictures
        data.to(cfg.device)
        return DataLoader(data, cfg.batch, shuffle=True, mix=mix)
    return DataLoader(data, cfg.batch, shuffle=True, num_workers=2, mix=mix, device=cfg.device)


def batches(split: Split, images: Images, device: str) -> Iterator[tuple[ml.Tensor, ml.Tensor]]:
    """A split in order, normalised, 250 images at a time, on a GPU 1,000."""
    normalise = transforms.Normalize(images.mean, images.std)
    count = 250 if device == "cpu" else 1000
    for lo in range(0, len(split.y), count):
        part = slice(lo, lo + count)
        x, y = ml.as_tensor(split.x[part]).to(device), ml.as_tensor(split.y[part]).to(device)
        yield normalise(x), y
