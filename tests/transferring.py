"""Tiny data and configurations for the tests of projects/transfer."""

import numpy as np
from PIL import Image

import minidl as ml
from projects.transfer.config import Config

NAMES = ("ant", "bee", "cow")
TINY = Config(dataset="folder", model="resnet8", size=16, epochs=2, batch=8, scale="own")


def write_picture(path, size=(20, 24), seed=0):
    """A picture of noise."""
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def write_folder(root):
    """Three classes of ten pictures each."""
    for k, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for i in range(10):
            write_picture(root / name / f"{i}.png", seed=100 * k + i)
    return root


def write_pets(root):
    """A tiny Oxford-IIIT Pet in the official layout: two breeds of cats, one of dogs."""
    folder = root / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, first, count in (("trainval", 0, 10), ("test", 20, 2)):
        lines = []
        for k, (breed, species) in enumerate((("Abyssinian", 1), ("beagle", 2), ("Birman", 1)), 1):
            for i in range(first, first + count):
                write_picture(folder / f"images/{breed}_{i}.jpg", (20 + i, 30), 100 * k + i)
                lines.append(f"{breed}_{i} {k} {species} 1\n")
        (folder / f"annotations/{split}.txt").write_text("".join(lines))
    return root


def batch_of(count=6):
    """Images and labels of three classes."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, 3, 16, 16)).astype(np.float32)
    return ml.tensor(x), ml.tensor(np.arange(count) % 3)
