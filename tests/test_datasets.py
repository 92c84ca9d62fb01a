"""Data sets in their official layouts, pictures and text in files: contents, damage, mistakes."""

import gzip
import io
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minidl.data import (
    CIFAR10,
    CIFAR100,
    MNIST,
    DataLoader,
    FashionMNIST,
    ImageArrays,
    ImageFolder,
    OxfordIIITPet,
    Subset,
    TensorDataset,
    Text,
    read_image,
    transforms,
)
from minidl.data.official import read_idx
from minidl.errors import DataError, DTypeError, ShapeError
from projects.shapes import Shapes


def write_cifar10(root, **changes):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(exist_ok=True)
    pixels = np.arange(4 * 3072).reshape(4, 3072).astype(np.uint8)
    batch = {b"data": pixels, b"labels": [0, 9, 3, 3], b"filenames": [b"a"] * 4} | changes
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    names = {b"label_names": [b"c%d" % i for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, 2))
    return folder, pixels


def test_cifar_is_read(tmp_path, monkeypatch):
    _, pixels = write_cifar10(tmp_path)
    train, test = CIFAR10(tmp_path), CIFAR10(tmp_path, train=False)
    assert len(train) == 20 and len(test) == 4 and train.classes[9] == "c9"
    assert np.array_equal(test.images, pixels.reshape(4, 3, 32, 32))
    assert test.targets.tolist() == [0, 9, 3, 3]
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    assert len(CIFAR10(train=False)) == 4
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    batch = {"data": pixels, "fine_labels": [99, 0, 1, 2], "coarse_labels": [0] * 4}
    (folder / "train").write_bytes(pickle.dumps(batch, 2))
    names = {"fine_label_names": [f"c{i}" for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names, 2))
    assert CIFAR100(tmp_path).targets.tolist() == [99, 0, 1, 2]


class Attack:
    def __reduce__(self):
        return (print, ("executed",))


MISTAKES = [
    ({b"labels": [0, 1, 2, 10]}, DataError, "0..9; label 3 is 10"),
    ({b"labels": [0.5, 1, 2, 3]}, DTypeError, "integers"),
    ({b"labels": [0, 1]}, DataError, "one label"),
    ({b"data": np.zeros((4, 3072))}, DataError, "not uint8"),
    ({b"data": np.zeros((4, 12), np.uint8)}, DataError, "3072"),
    ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, DataError, "damaged"),
    ({b"data": [1, 2]}, DataError, "3072"),
    ({b"data": Attack()}, DataError, "refused"),
]


@pytest.mark.parametrize("changes, error, message", MISTAKES)
def test_wrong_cifar_batches_are_named(tmp_path, capsys, changes, error, message):
    folder, _ = write_cifar10(tmp_path)
    batch = pickle.loads((folder / "test_batch").read_bytes()) | changes
    (folder / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(error, match=message) as caught:
        CIFAR10(tmp_path, train=False)
    assert "test_batch" in str(caught.value) and "executed" not in capsys.readouterr().out


@given(st.integers(0, 12_000), st.integers(1, 255))
def test_damaged_pickles_never_crash(tmp_path_factory, place, change):
    root = tmp_path_factory.mktemp("cifar")
    folder, _ = write_cifar10(root)
    content = bytearray((folder / "test_batch").read_bytes())
    path = folder / "test_batch"
    path.write_bytes(content[: place % len(content)])
    with pytest.raises(DataError, match="test_batch"):
        CIFAR10(root, train=False)
    place = place % 200 if place % 2 else len(content) - 1 - place % 200
    content[place] ^= change
    path.write_bytes(content)
    try:
        CIFAR10(root, train=False)
    except (DataError, DTypeError):
        pass


def test_missing_data_says_what_and_where(tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match="data_batch_1 .*not found in .*cifar-10-batches-py.*embedded"
    ):
        CIFAR10(tmp_path)
    with pytest.raises(DataError, match="there is no folder /nowhere"):
        CIFAR10("/nowhere")
    with pytest.raises(DataError, match="train-images-idx3-ubyte and train-labels"):
        MNIST(tmp_path)
    folder, _ = write_cifar10(tmp_path)
    (folder / "batches.meta").write_bytes(pickle.dumps({b"other": 1}, 2))
    with pytest.raises(DataError, match="batches.meta lacks label_names"):
        CIFAR10(tmp_path)


def idx(x):
    return (
        struct.pack(">BBBB", 0, 0, 8, x.ndim) + struct.pack(f">{x.ndim}I", *x.shape) + x.tobytes()
    )


def test_idx_files(tmp_path):
    x, y = np.arange(3 * 28 * 28).reshape(3, 28, 28).astype(np.uint8), np.array([9, 0, 4], np.uint8)
    for name in ("MNIST", "FashionMNIST"):
        (tmp_path / name / "raw").mkdir(parents=True)
    raw = tmp_path / "MNIST" / "raw"
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x)))
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(y))
    data = MNIST(tmp_path)
    assert data.images.shape == (3, 1, 28, 28) and np.array_equal(data.images[:, 0], x)
    assert data.targets.tolist() == [9, 0, 4] and data[1][1] == 0
    fashion = tmp_path / "FashionMNIST" / "raw"
    (fashion / "t10k-images-idx3-ubyte").write_bytes(idx(x))
    (fashion / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y)))
    assert FashionMNIST(tmp_path, train=False).classes[9] == "Ankle boot"
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(y)[:-1])
    with pytest.raises(DataError, match="must hold 3 bytes"):
        MNIST(tmp_path)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x))[:-9])
    with pytest.raises(DataError, match="cannot read"):
        MNIST(tmp_path)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match="no IDX file"):
        MNIST(tmp_path)


def test_of_a_gzipped_file_no_more_is_unpacked_than_honest_ones_hold(tmp_path, monkeypatch):
    """A small file that unpacks to very much filled the memory."""
    asked = []

    class Endless(io.BytesIO):
        def read(self, size=-1):
            asked.append(size)
            return bytes(100)

    (tmp_path / "x.gz").write_bytes(bytes(10))
    monkeypatch.setattr("gzip.open", lambda *given: Endless())
    with pytest.raises(DataError, match="no IDX file"):
        read_idx(tmp_path / "x.gz")
    assert asked == [1000 + 2**29]


# ---- pictures in files ---------------------------------------------------------------------------


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)


def test_every_kind_of_picture_becomes_rgb(tmp_path):
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:, :3] = 255
    save(tmp_path / "grey.png", rgb[..., 0])
    save(tmp_path / "palette.png", rgb, "P")
    save(tmp_path / "clear.png", rgb, "P", transparency=b"\x00\xff")
    save(tmp_path / "alpha.png", rgb, "RGBA")
    save(tmp_path / "cmyk.tiff", rgb, "CMYK")
    save(tmp_path / "deep.png", rgb[..., 0].astype(np.uint16) * 256)
    save(tmp_path / "bits.png", rgb[..., 0], "1")
    for path in sorted(tmp_path.iterdir()):
        got = read_image(path)
        assert got.shape == (4, 6, 3) and got.dtype == np.uint8, path
        assert np.array_equal(got, rgb), path
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    save(tmp_path / "turned.png", rgb, exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(rgb, -1))


def test_damaged_tags_of_a_tiff(tmp_path):
    """Pillow raises TypeError for a tag of another type."""
    save(tmp_path / "a.tiff", np.zeros((4, 6, 3), np.uint8))
    content = (tmp_path / "a.tiff").read_bytes()
    strips, text = struct.pack("<HH", 273, 4), struct.pack("<HH", 273, 2)
    assert strips in content
    (tmp_path / "a.tiff").write_bytes(content.replace(strips, text))
    with pytest.raises(DataError, match="a.tiff cannot be read"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError])
def test_every_way_in_which_a_decoder_gives_up(tmp_path, monkeypatch, kind):
    """AVIF's raises RuntimeError for a damaged file, PNG's asks for the memory that it declares."""

    def fail(path):
        raise kind("no image item")

    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(DataError, match="a.avif cannot be read as a picture: no image item"):
        read_image(tmp_path / "a.avif")


def test_image_folder(tmp_path):
    for name, value in (("b", 10), ("a", 20), ("c", 30)):
        for i in range(2):
            save(tmp_path / name / f"{i}.png", np.full((4, 4 + i, 3), value, np.uint8))
    data = ImageFolder(tmp_path, transforms.Resize((3, 3)))
    assert data.classes == ["a", "b", "c"] and data.targets.tolist() == [0, 0, 1, 1, 2, 2]
    images, labels = next(iter(DataLoader(data, 6, num_workers=2)))
    assert (
        images.shape == (6, 3, 3, 3)
        and images.array[:, 0, 0, 0].tolist() == [20] * 2 + [10] * 2 + [30] * 2
    )
    assert labels.array.tolist() == data.targets.tolist() and data[-1][1] == 2
    assert ImageFolder(tmp_path, classes=["c", "a", "b"]).targets.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(DataError, match=r"missing \['d'\], unexpected \['a', 'b'\]"):
        ImageFolder(tmp_path, classes=["c", "d"])
    with pytest.raises(DataError, match="one shape"):
        next(iter(DataLoader(ImageFolder(tmp_path), 6)))
    (tmp_path / "a" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="a/0.png cannot be read"):
        data[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no pictures"):
        ImageFolder(tmp_path)
    with pytest.raises(DataError, match="no class folders"):
        ImageFolder(tmp_path / "empty")
    with pytest.raises(DataError, match="there is no folder"):
        ImageFolder(tmp_path / "none")


def test_pets(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    for name in ("Maine_Coon_1", "pug_2", "pug_3"):
        save(folder / "images" / f"{name}.jpg", np.full((5, 5, 3), 99, np.uint8))
    (folder / "annotations").mkdir()
    (folder / "annotations/test.txt").write_text("Maine_Coon_1 1 1 1\npug_2 2 2 1\npug_3 2 2 1\n")
    data = OxfordIIITPet(tmp_path, "test")
    assert data.classes == ["Maine Coon", "Pug"] and data.targets.tolist() == [0, 1, 1]
    assert data[0][0].shape == (3, 5, 5)
    binary = OxfordIIITPet(tmp_path, "test", "binary-category")
    assert binary.classes == ["Cat", "Dog"] and binary.targets.tolist() == [0, 1, 1]
    for line in ("pug_2 2", "pug_2 ² 2 1", "pug_2 999999999999 2 1"):
        (folder / "annotations/test.txt").write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(DataError, match="line 1 of"):
            OxfordIIITPet(tmp_path, "test")
    (folder / "annotations/test.txt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match=r"cannot read \S*test.txt: 'utf-8' codec"):
        OxfordIIITPet(tmp_path, "test")
    with pytest.raises(DataError, match="trainval.txt not found"):
        OxfordIIITPet(tmp_path)


def test_labels_are_checked():
    pixels = np.zeros((3, 2, 2, 3), np.uint8)
    with pytest.raises(DTypeError, match="integers; got labels .* float64"):
        ImageArrays(pixels, np.zeros(3), ["a"])
    with pytest.raises(DataError, match="0..1; label 2 is 7"):
        ImageArrays(pixels, [0, 1, 7], ["a", "b"])
    with pytest.raises(DataError, match="one label"):
        ImageArrays(pixels, [0, 1], ["a", "b"])
    with pytest.raises(DataError, match="none of them empty"):
        ImageArrays(np.zeros((3, 0, 2, 3), np.uint8), [0] * 3, ["a"])
    with pytest.raises(ShapeError, match="first length"):
        TensorDataset(np.zeros(2), np.zeros(3))


def test_shapes_are_seeded_and_disjoint():
    a, b = Shapes(True, 60), Shapes(True, 300)
    assert np.array_equal(a.images, b.images[:60]) and a.images.dtype == np.uint8
    assert not np.array_equal(a.images, Shapes(False, 60).images)
    assert not np.array_equal(a.images, Shapes(True, 60, seed=1).images)
    assert np.bincount(b.targets, minlength=10).min() > 10 and len(a.classes) == 10


def test_a_linear_model_cannot_tell_shapes():
    train, test = Shapes(True, 4000), Shapes(False, 1000)

    def features(data):
        x = data.images.reshape(len(data), -1).astype(np.float32) / 255 - 0.5
        return np.concatenate([x, np.ones((len(x), 1), np.float32)], 1)

    x, y = features(train), np.eye(10, dtype=np.float32)[train.targets]
    penalty = 100 * np.eye(x.shape[1], dtype=np.float32)
    w = np.linalg.solve(x.T @ x + penalty, x.T @ y)
    accuracy = (np.argmax(features(test) @ w, 1) == test.targets).mean()
    assert 0.1 < accuracy < 0.6


def test_text(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("abcde" * 20, encoding="utf-8")
    data = Text(path, 8, step=3)
    x, y = data[1]
    assert data.decode(x) == "deabcdea" and data.decode(y) == "eabcdeab"
    assert len(data) == (80 - 9) // 3 + 1
    xs, ys = next(iter(DataLoader(data, 4)))
    assert xs.shape == ys.shape == (4, 8) and xs.dtype == np.int64
    assert Text(path, 8, "test").vocabulary == data.vocabulary == list("abcde")
    with pytest.raises(IndexError, match="24 items"):
        data.batch(np.array([0, 24]), 0)
    assert [len(Text(path, length)) for length in (1, 78, 79)] == [79, 2, 1]
    for length, split in ((80, "train"), (30, "val")):
        with pytest.raises(DataError, match="shorter"):
            Text(path, length, split)
    for length, step in ((0, 1), (1, 0)):
        with pytest.raises(ShapeError, match="must be positive"):
            Text(path, length, step=step)
    with pytest.raises(DataError, match=r"vocabulary; got unknown \['z'\]"):
        data.encode("az")
    with pytest.raises(DataError, match="cannot read"):
        Text(tmp_path / "none.txt", 3)


def test_indices_from_the_end_of_a_text(tmp_path):
    """Their windows were the text's end joined to its beginning."""
    path = tmp_path / "book.txt"
    path.write_text("".join(map(chr, range(256, 356))), encoding="utf-8")
    data = Text(path, 8, step=3)
    xs, ys = next(iter(DataLoader(Subset(data, [-1, -2]), 2)))
    for i in (1, 2):
        x, y = data[len(data) - i]
        assert np.array_equal(xs[i - 1], x) and np.array_equal(ys[i - 1], y)
