"""What the network is trained on: augmented images, or what its frozen beginning makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl as ml
from minidl.data import DataLoader, transforms
from minidl.data.dataset import Dataset, take
from minidl.data.transforms.base import Draws
from minidl.data.wide import shuffled
from minidl.models import Classifier
from minidl.nn.module import kept_modes
from minidl.random import Generator
from minidl.train import fingerprint
from projects.recipe import mixing
from projects.transfer.config import Config
from projects.transfer.data import PART, Images, augmentation, normalise, plain, remembered
from projects.transfer.methods.balance import oversampling_weights
from projects.transfer.methods.semi import MixedBatches, Views, strong_transform

# rows (n,) of the images, places (n,) in the epoch, epoch -> what the network is given (n, …)
Look = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def features(model: Classifier, cut: int, x: np.ndarray, transform: Any, epoch: int,
             device: str) -> np.ndarray:  # fmt: skip
    """What the first `cut` sections, in eval mode, make of images x (N, C, H, W) uint8.

    Random transforms draw the numbers of (seed, epoch, row).
    """
    parts = []
    with kept_modes(model), ml.no_grad():
        model.eval()
        for lo in range(0, len(x), PART):
            rows = np.arange(lo, min(lo + PART, len(x)))
            given = ml.as_tensor(transform(x[rows], rows, epoch)).to(device)
            parts.append(model.run(given, 0, cut).numpy())
    return np.concatenate(parts)


def kept(cfg: Config, model: Classifier, cut: int, x: np.ndarray, transform: Any,
         epoch: int = 0) -> np.ndarray:  # fmt: skip
    """`features`, which are remembered under a fingerprint of all that they depend on."""

    def make() -> np.ndarray:
        return features(model, cut, x, transform, epoch, cfg.device)

    if not cfg.cache:
        return remembered("", "", make)
    names = tuple(f"{n}." for section in model.sections()[:cut] for n in section.names)
    state = {k: v.cpu().numpy() for k, v in model.state_dict().items() if k.startswith(names)}
    seed = Draws(np.arange(1), 0).uniform(2).tolist()
    about = f"{cfg.model} {cfg.padding} {cut} {transform!r} {epoch} {seed}"
    key = hashlib.sha256(f"{about} {fingerprint([*state.values(), x])}".encode()).hexdigest()[:24]
    return remembered(cfg.cache, f"features-{key}", make)


# ---- looks at training images --------------------------------------------------------------------


def fresh(x: np.ndarray, transform: transforms.Transform) -> Look:
    """Images augmented anew at every place of every epoch."""
    return lambda rows, places, epoch: transform(take(x, rows), places, epoch)


def stored(views: list[np.ndarray]) -> Look:
    """One of the views' features, each (N, …), at random."""
    count = len(views)

    def look(rows: np.ndarray, places: np.ndarray, epoch: int) -> np.ndarray:
        chosen = (Draws(places, epoch).uniform(1)[:, 0] * count).astype(np.int64)
        out = take(views[0], rows)
        for v in range(1, count):
            at = np.flatnonzero(chosen == v)
            out[at] = take(views[v], rows[at])
        return out

    return look


def views_of(cfg: Config, images: Images) -> list[tuple[Any, int]]:
    """Transforms of the kept views and their epochs: as they are, mirrored, then augmented."""
    crop, norm = transforms.CenterCrop(images.size), normalise(images)
    mirrored = transforms.Compose([crop, transforms.RandomHorizontalFlip(1.0), norm])
    views: list[tuple[Any, int]] = [(plain(images), 0)]
    views += [(mirrored, 0)] if cfg.flip else []
    more = augmentation(cfg, images)
    return [*views, *((more, v) for v in range(len(views), cfg.views))][: cfg.views]


# ---- batches -------------------------------------------------------------------------------------


class Feed(Dataset):
    """The labelled images of an epoch in their order: `draws` of them, or each once.

    Places in the epoch, not images, key the random numbers, so that an image that comes again looks
    different.
    """

    def __init__(self, cfg: Config, images: Images, look: Look) -> None:
        self.seed, self.look, self.rows = cfg.seed, look, images.labelled
        self.y = images.train.y[self.rows]
        self.count, self.weights = cfg.draws or len(self.y), None
        if cfg.balance == "oversample":
            self.weights = oversampling_weights(self.y)
        self._order: tuple[int, np.ndarray] = (-1, self.rows)

    def __len__(self) -> int:
        return self.count

    def order(self, epoch: int) -> np.ndarray:
        """The images at all places of an epoch, as rows of y."""
        if self._order[0] != epoch:
            generator = Generator(self.seed, "loader", draw=epoch << 32)  # room for its own draws
            if self.weights is not None:
                order = generator.choice(self.weights, self.count)
            else:
                order = shuffled(generator, len(self.y), self.count)
            self._order = epoch, order
        return self._order[1]

    def batch(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, ...]:
        places = np.asarray(indices)
        chosen = self.order(epoch)[places]
        return self.look(self.rows[chosen], places, epoch), self.y[chosen]


class Rows(Dataset):
    """Numbers of images and their labels, for MixedBatches; Views then looks at them."""

    def __init__(self, y: np.ndarray) -> None:
        self.y = y

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, ...]:
        return indices, self.y[indices]


@dataclass
class Prepared:
    """What training and evaluation are given: outputs of the sections before `cut`, or images."""

    cut: int
    loader: DataLoader
    train: np.ndarray  # as they are, without augmentation
    heldout: np.ndarray
    test: np.ndarray
    transform: Any  # what evaluation does to the three


def prepare(cfg: Config, model: Classifier, cut: int, images: Images) -> Prepared:
    """The loader over augmented images, or over features of `views` views of each, made once."""
    x, middle = images.train.x, transforms.CenterCrop(images.size)
    strong_of = transforms.Compose([middle, strong_transform(images.size, normalise(images))])
    if not (cfg.views and cut):
        looks = [fresh(x, augmentation(cfg, images)), fresh(x, strong_of)]
        parts = [x, images.heldout.x, images.test.x]
        return Prepared(0, loader_for(cfg, images, *looks), *parts, plain(images))
    kinds = [views_of(cfg, images)]
    if cfg.semi == "fixmatch":
        kinds.append([(strong_of, epoch) for epoch in range(cfg.views)])
    made = [[kept(cfg, model, cut, x, t, epoch) for t, epoch in kind] for kind in kinds]
    tests = [kept(cfg, model, cut, s.x, plain(images)) for s in (images.heldout, images.test)]
    loader = loader_for(cfg, images, stored(made[0]), stored(made[-1]))
    return Prepared(cut, loader, made[0][0], *tests, None)


def loader_for(cfg: Config, images: Images, weak: Look, strong: Look) -> DataLoader:
    """Batches [x, y] of labelled images, and weak and strong views of others if `semi` is on."""
    if cfg.semi != "none":
        whole = np.arange(len(images.train.y))
        mixed = MixedBatches(images.labelled, whole, cfg.batch, cfg.ratio, seed=cfg.seed)
        looks = Views(cfg.batch, weak, strong)
        return DataLoader(Rows(images.train.y), batch_sampler=mixed, mix=looks, device=cfg.device)
    mix = mixing(cfg, len(images.classes))
    return DataLoader(Feed(cfg, images, weak), cfg.batch, mix=mix, device=cfg.device)
