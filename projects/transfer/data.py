"""The project's images: read, chosen by the seed, scaled, augmented."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minidl as ml
from minidl.data import CIFAR10, CIFAR100, ImageArrays, ImageFolder, OxfordIIITPet, transforms
from minidl.data.dataset import check, take
from minidl.data.download import data_root
from minidl.data.images import ImageFiles, LabelledImages
from minidl.errors import DataError, reworded
from minidl.io import load_safetensors, save_safetensors
from minidl.io.foreign import DAMAGE
from minidl.random import Generator
from projects.convnet.data import Split, channel_statistics, folder_of
from projects.recipe import last_steps
from projects.settings import readable
from projects.shapes import Shapes
from projects.transfer.config import Config

THREADS = 2  # that decode pictures
PART = 64  # images that go through a network at a time where nothing is learnt
SHAPES = (10_000, 2000)  # training and test pictures of the generator, for two data sets
FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
OFFICIAL = {"cifar10": CIFAR10, "cifar100": CIFAR100}
MEANS = {  # and deviations of the channels, as shares of full intensity
    "tf": ((0.5,) * 3, (0.5,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "raw": ((0.0,) * 3, (1 / 255,) * 3),
}


@dataclass
class Images:
    """The three parts of a data set, perhaps with a margin around the `size` pixels that count.

    labelled: rows of train whose labels are used; the others' y are -1. mean and std of each
    channel, as shares of full intensity: how the network wants its input.
    """

    train: Split
    labelled: np.ndarray
    heldout: Split
    test: Split
    classes: list[str]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


# ---- reading -------------------------------------------------------------------------------------


@dataclass
class Source:
    """Training and test pictures; groups (N,): what of the training ones is chosen alike."""

    train: LabelledImages
    test: LabelledImages
    groups: np.ndarray
    thin: frozenset[int] = frozenset()  # groups of which a share is kept


def load_images(cfg: Config) -> Images:
    """Read the data set of `cfg`, choose its parts by the seed, decode what is kept.

    Raises DataError for pictures that are missing or damaged, naming them.
    """
    source = read(cfg)
    classes = [*map(readable, source.train.classes)]
    check(len(classes) > 1, cfg.dataset, f"there must be 2 classes or more; got {classes[0]} alone")
    kept, heldout, used = choose(cfg, source)
    side = cfg.size + 2 * cfg.crop
    train, held, test = (
        Split(decoded(pictures, rows, side, cfg.cache), pictures.targets[rows])
        for pictures, rows in ((source.train, kept), (source.train, heldout),
                               (source.test, np.arange(len(source.test))))
    )  # fmt: skip
    labelled = np.flatnonzero(np.isin(kept, used))
    mean, std = MEANS[cfg.scale] if cfg.scale in MEANS else channel_statistics(train.x)
    train.y = np.where(np.isin(kept, used), train.y, -1)
    size = train.x.shape[2] if isinstance(source.train, ImageArrays) else cfg.size
    return Images(train, labelled, held, test, classes, size, tuple(mean), tuple(std))


def read(cfg: Config) -> Source:
    """The pictures of the data set of `cfg`, those in files not decoded yet."""
    root = cfg.data or None
    if cfg.dataset in ("pets", "species"):
        return read_pets(root, cfg.dataset == "species")
    if cfg.dataset == "folder":
        return read_folder(cfg)
    train: LabelledImages
    if cfg.dataset in ("shapes", "embedded"):
        train, test = (half_of(Shapes(i == 0, count), cfg.dataset == "embedded")
                       for i, count in enumerate(SHAPES))  # fmt: skip
    elif cfg.dataset == "flowers":
        train, test = read_flowers(root)
    else:
        train, test = (OFFICIAL[cfg.dataset](root, train=part) for part in (True, False))
    return Source(train, test, train.targets)


def read_pets(root: str | None, species: bool) -> Source:
    """Oxford-IIIT Pet; the groups are the breeds, and those of cats are thinned."""
    kind = "binary-category" if species else "category"
    train, test = (OxfordIIITPet(root, split, kind) for split in ("trainval", "test"))
    breeds, kinds = (OxfordIIITPet(root, "trainval", k).targets
                     for k in ("category", "binary-category"))  # fmt: skip
    return Source(train, test, breeds, frozenset(breeds[kinds == 0].tolist()))


def half_of(shapes: ImageArrays, second: bool) -> ImageArrays:
    """The pictures of the first or the second half of the classes."""
    count = len(shapes.classes) // 2
    start = count if second else 0
    rows = np.flatnonzero((shapes.targets >= start) & (shapes.targets < start + count))
    pixels = shapes.images.transpose(0, 2, 3, 1)[rows]
    return ImageArrays(pixels, shapes.targets[rows] - start, shapes.classes[start : start + count])


def read_folder(cfg: Config) -> Source:
    """ROOT/train/CLASS and ROOT/test/CLASS, or ROOT/CLASS, of which a fifth becomes the test."""
    root = folder_of(cfg)
    if (root / "train").is_dir():
        train = ImageFolder(root / "train")
        return Source(train, ImageFolder(root / "test", classes=train.classes), train.targets)
    whole, generator = ImageFolder(root), Generator(cfg.seed, "data")
    tested = np.zeros(len(whole), bool)
    for k, name in enumerate(whole.classes):
        rows = np.flatnonzero(whole.targets == k)
        check(len(rows) > 1, "folder", f"{root / name} must hold 2 pictures or more")
        tested[rows[generator.permutation(len(rows))[: max(len(rows) // 5, 1)]]] = True
    train, test = (ImageFiles([whole.images[i] for i in rows], whole.targets[rows], whole.classes)
                   for rows in map(np.flatnonzero, (~tested, tested)))  # fmt: skip
    return Source(train, test, train.targets)


def read_flowers(root: str | None) -> tuple[ImageFiles, ImageFiles]:
    """102 Flowers (Nilsback 2008): jpg/, imagelabels.mat and setid.mat in flowers-102."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        fix = "pip install 'minidl[flowers]', or sort them into folders and use --dataset folder"
        raise DataError(f"flowers: the lists of Flowers-102 are MATLAB files; {fix}") from error
    folder = data_root(root) / "flowers-102"
    rule = f"there is no folder {folder}, and Flowers-102 is not downloaded: put into it "
    rule += "imagelabels.mat, setid.mat and the jpg/ of 102flowers.tgz"
    check(folder.is_dir(), "flowers", f"{rule} ({FLOWERS})")
    damage = f"flowers: cannot read the lists in {folder}"
    with reworded(DataError, damage, MatReadError, *DAMAGE):
        labels = loadmat(folder / "imagelabels.mat")
        parts = loadmat(folder / "setid.mat")
    missing = f"flowers: the lists in {folder} lack"
    with reworded(DataError, damage, ValueError), reworded(DataError, missing, KeyError):
        y = labels["labels"].ravel().astype(np.int64) - 1
        numbers = [np.concatenate([parts[k].ravel() for k in keys]).astype(np.int64)
                   for keys in (("trnid", "valid"), ("tstid",))]  # fmt: skip
    for part in numbers:
        rule = f"the lists in {folder} must number pictures from 1 to {len(y)}"
        check(((part >= 1) & (part <= len(y))).all(), "flowers", rule, numbers=part)
    names = [str(k + 1) for k in range(int(y.max()) + 1)]
    train, test = (
        ImageFiles([folder / f"jpg/image_{i:05d}.jpg" for i in part], y[part - 1], names)
        for part in numbers
    )
    return train, test


# ---- choosing and decoding -----------------------------------------------------------------------


def choose(cfg: Config, source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the source that are trained on, held out, and of the first those with a label.

    Each group is shuffled by the seed and cut to `cap`; a tenth is held out; of the rest of a thin
    group the share `rare` is kept, and the share `labels` of what is left keeps its labels.
    """
    generator = Generator(cfg.seed, "data")
    kept, heldout, used = [], [], []
    for k in np.unique(source.groups):
        rows = np.flatnonzero(source.groups == k)
        rows = rows[generator.permutation(len(rows))][: cfg.cap or None]
        held = max(1, round(len(rows) / 10)) if len(rows) > 1 else 0
        heldout.append(rows[:held])
        rows = rows[held:]
        if int(k) in source.thin:
            rows = rows[: max(1, round(cfg.rare * len(rows)))]
        kept.append(rows)
        used.append(rows[: max(1, round(cfg.labels * len(rows)))])
    parts = [np.sort(np.concatenate(part)) for part in (kept, heldout, used)]
    there = np.isin(np.arange(len(source.train.classes)), source.train.targets[parts[2]])
    none = [name for name, ok in zip(source.train.classes, there) if not ok]
    check(not none, cfg.dataset, f"no training image is left of {', '.join(none)}")
    check(len(parts[1]) > 0, cfg.dataset, "no class has 2 training images, one of them to hold out")
    return parts[0], parts[1], parts[2]


def decoded(pictures: LabelledImages, rows: np.ndarray, side: int, folder: str) -> np.ndarray:
    """Pictures (n, 3, side, side) uint8: shorter side scaled, middle cut; arrays as they are.

    folder: where all pictures of the set are kept once they are decoded, if one is given.
    """
    if isinstance(pictures, ImageArrays):
        return take(pictures.images, rows)
    if not folder:
        return opened(pictures, rows, side)
    with reworded(DataError, f"cannot read pictures of {pictures.classes[0]}", OSError):
        files = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in pictures.images]
    everything = np.arange(len(pictures))
    name = f"pictures-{side}-{hashlib.sha256(repr(files).encode()).hexdigest()[:16]}"
    return take(remembered(folder, name, lambda: opened(pictures, everything, side)), rows)


def opened(pictures: LabelledImages, rows: np.ndarray, side: int) -> np.ndarray:
    """The pictures of the rows, decoded by threads."""
    square = transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])
    files = ImageFiles(pictures.images, pictures.targets, pictures.classes, square)
    x = np.empty((len(rows), side, side, 3), np.uint8).transpose(0, 3, 1, 2)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="decode") as pool:
        made = pool.map(lambda i: files.batch(np.array([i]), None)[0][0], rows.tolist())
        for i, picture in enumerate(made):
            x[i] = picture
    return x


def remembered(folder: str, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` gave when NAME was first asked for, from `folder`; maps in channels-last memory.

    Nothing is kept if `folder` is empty.
    """
    path = Path(folder) / f"{name}.safetensors"
    if folder and path.exists():
        (array,) = load_safetensors(path).values()
    else:
        array = make()
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)
        if folder:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_safetensors({"array": array}, path)
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


# ---- what a network is given ---------------------------------------------------------------------


def plain(images: Images) -> transforms.Compose:
    """The middle of a picture as the network wants it."""
    return transforms.Compose([transforms.CenterCrop(images.size), normalise(images)])


def normalise(images: Images) -> transforms.Normalize:
    """uint8 pixels as the network wants them."""
    return transforms.Normalize(images.mean, images.std)


def augmentation(cfg: Config, images: Images) -> transforms.Compose:
    """What happens to training images: geometry, policy, normalisation, erasing."""
    margin = images.train.x.shape[2] > images.size
    shift = transforms.RandomCrop(images.size, padding=None if margin else cfg.crop)
    steps: list[Any] = [shift if cfg.crop else transforms.CenterCrop(images.size)]
    if cfg.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, *last_steps(cfg, normalise(images))])


def batches(
    x: np.ndarray, y: np.ndarray, device: str, transform: transforms.Transform | None = None
) -> Iterator[tuple[ml.Tensor, ml.Tensor]]:
    """Images or features in order, PART at a time, transformed."""
    for lo in range(0, len(y), PART):
        part = ml.as_tensor(x[lo : lo + PART]).to(device)
        yield transform(part) if transform else part, ml.as_tensor(y[lo : lo + PART]).to(device)
