"""Wide transforms and grids of pictures: against definitions and Pillow."""

import numpy as np
import pytest
from PIL import Image
from test_transforms import batch

import minidl as ml
from minidl.data import DataLoader, ImageFolder, make_grid, save_image
from minidl.data import transforms as T
from minidl.errors import CheckpointError, DataError, DTypeError, ShapeError

X = np.zeros((3, 2, 2))


def test_resized_crops_show_areas_of_the_picture():
    """Of a ramp: corners tell where the area lies; shares and ratios stay within their ranges."""
    h, w, n = 60, 80, 400
    rows, columns = np.mgrid[:h, :w].astype(np.float32)
    x = np.broadcast_to(np.stack([rows, columns, rows]), (n, 3, h, w))
    y = T.RandomResizedCrop(30, scale=(0.25, 0.5), ratio=(0.5, 2.0))(x, np.arange(n))
    assert y.shape == (n, 3, 30, 30)
    heights = (y[:, 0, -1, 0] - y[:, 0, 0, 0]) * 30 / 29
    widths = (y[:, 1, 0, -1] - y[:, 1, 0, 0]) * 30 / 29
    shares, ratios = heights * widths / (h * w), widths / heights
    assert 0.22 < shares.min() < 0.3 and 0.45 < shares.max() < 0.54
    assert 0.45 < ratios.min() < 0.7 and 1.5 < ratios.max() < 2.2
    assert abs(shares.mean() - 0.375) < 0.02
    middle = (y[:, 0].mean((1, 2)) - (h - 1) / 2).mean()
    assert abs(middle) < 1.5  # as often above as below


def test_where_no_area_fits_the_middle_is_taken():
    x = batch(2, 10, 100, dtype=np.float32)
    y = T.RandomResizedCrop((10, 13), scale=(1.0, 1.0), ratio=(1.3, 1.3))(x, np.arange(2))
    np.testing.assert_array_equal(y, x[:, :, :, 43:56])


def test_flips_greys_and_turns_happen_as_often_as_asked():
    x, many = batch(), np.arange(6)
    np.testing.assert_array_equal(T.RandomVerticalFlip(1.0)(x, many), x[:, :, ::-1])
    np.testing.assert_array_equal(T.RandomVerticalFlip(0.0)(x, many), x)
    np.testing.assert_array_equal(T.RandomGrayscale(1.0)(x, many), T.Grayscale(3)(x))
    flipped = T.RandomApply([lambda p: p.flip(-1)], p=0.5)(np.repeat(x, 100, 0))
    share = np.mean(
        [np.array_equal(a, b[:, :, ::-1]) for a, b in zip(flipped, np.repeat(x, 100, 0))]
    )
    assert 0.42 < share < 0.58
    square = batch(3, 9, 9, dtype=np.float32)
    turned = T.RandomRotation((90, 90))(square, np.arange(3))
    np.testing.assert_array_equal(turned, np.rot90(square, 3, (2, 3)))


def test_padding_has_four_sides():
    x = batch(2, 3, 4)
    for padding, sides in ((2, (2, 2, 2, 2)), ((1, 3), (1, 3, 1, 3)), ((1, 2, 3, 4),) * 2):
        left, top, right, bottom = sides
        want = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=5)
        np.testing.assert_array_equal(T.Pad(padding, fill=5)(x), want)
    want = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
    np.testing.assert_array_equal(T.Pad(1, padding_mode="reflect")(x), want)


def test_functions_get_one_picture():
    x = ml.tensor(batch(dtype=np.float32))
    assert T.Lambda(lambda p: p.flatten())(x[0]).shape == (360,)
    chain = T.Compose([T.ToTensor(), T.Lambda(lambda p: p * 2 - 1)])
    np.testing.assert_allclose(chain(x).numpy(), x.numpy() * 2 - 1)


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 5, 4), (5, 4), (4, 5, 4)])
def test_pillows_pictures_go_there_and_back(shape):
    bits = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    rows = bits if bits.ndim == 2 else bits.transpose(1, 2, 0)
    for x in (rows, rows / np.float32(255), ml.tensor(bits)):
        picture = T.ToPILImage()(x)
        assert isinstance(picture, Image.Image) and picture.size == (4, 5)
        back = np.asarray(picture)
        np.testing.assert_array_equal(back, rows.squeeze())


def test_the_usual_chain_of_finetuning(tmp_path):
    """Pictures of different sizes become one batch, the same for the same epoch and sample."""
    for k, size in enumerate(((40, 30), (25, 50), (64, 64))):
        folder = tmp_path / f"class{k}"
        folder.mkdir()
        Image.fromarray(np.full((*size, 3), 50 * k, np.uint8)).save(folder / "a.png")
    chain = T.Compose([T.RandomResizedCrop(16), T.RandomHorizontalFlip(), T.ToTensor(),
                       T.Normalize([0.5] * 3, [0.5] * 3)])  # fmt: skip
    loader = DataLoader(ImageFolder(tmp_path, chain), 3)
    (x, y), *_ = loader
    assert x.shape == (3, 3, 16, 16) and y.tolist() == [0, 1, 2]
    np.testing.assert_allclose(x[:, 0, 8, 8].numpy(), np.array([0, 50, 100]) / 127.5 - 1, atol=1e-6)


# ---- grids ---------------------------------------------------------------------------------------


def test_pictures_lie_in_a_grid():
    x = batch(5, 3, 4, dtype=np.float32)
    y = make_grid(ml.tensor(x), nrow=3, padding=1, pad_value=0.5).numpy()
    assert y.shape == (3, 2 * 4 + 1, 3 * 5 + 1)
    want = np.full(y.shape, 0.5, np.float32)
    for k in range(5):
        top, left = k // 3 * 4 + 1, k % 3 * 5 + 1
        want[:, top : top + 3, left : left + 4] = x[k]
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(make_grid(list(x), nrow=3, padding=1, pad_value=0.5).numpy(), y)
    grey = make_grid(ml.tensor(x[:, :1]))
    assert grey.shape == (3, 7, 32) and (grey[0] == grey[2]).all()
    np.testing.assert_array_equal(make_grid(x[0]).numpy(), x[0])
    assert make_grid(x[0, 0]).shape == (3, 3, 4)


def test_grids_are_normalised():
    x = np.array([0.0, 2.0, 4.0, 8.0], np.float32).reshape(2, 1, 1, 2)
    take = (0, 2, slice(2, None))
    whole = make_grid(x, normalize=True).numpy()[take]
    np.testing.assert_allclose(whole[[0, 1, 4, 5]], [0, 0.25, 0.5, 1])
    each = make_grid(x, normalize=True, scale_each=True).numpy()[take]
    np.testing.assert_allclose(each[[0, 1, 4, 5]], [0, 1, 0, 1])
    given = make_grid(x, normalize=True, value_range=(2, 4)).numpy()[take]
    np.testing.assert_allclose(given[[0, 1, 4, 5]], [0, 0, 1, 1])


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.tif"])
def test_grids_are_saved(name, tmp_path):
    x = np.zeros((4, 3, 8, 8), np.float32)
    x[1:] = 2.0  # beyond white
    save_image(ml.tensor(x), tmp_path / name, nrow=2)
    picture = np.asarray(Image.open(tmp_path / name))
    assert picture.shape == (22, 22, 3) and picture[5, 5].max() < 9 and picture[15, 15].min() > 246
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_bytes_are_saved_as_they_are(tmp_path):
    """They were taken for floats beyond white, and came out black."""
    x = batch(1, 4, 5)
    save_image(ml.tensor(x), tmp_path / "a.png")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "a.png")), x[0].transpose(1, 2, 0)
    )


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda p: make_grid(X, nrow=0), DataError, "needs nrow > 0"),
    (lambda p: T.ToPILImage()(np.zeros((3, 3), int)), DTypeError, "must be uint8 or floats"),
    (lambda p: save_image(X, p / "a.what"), DataError, "format must be one"),
    (lambda p: save_image(X, p / "no" / "a.png"), CheckpointError, "cannot write"),
    (lambda p: make_grid(np.zeros((2, 5, 2, 2))), DataError, "1 or 3 channels"),
    (lambda p: make_grid(np.zeros((0, 3, 2, 2))), DataError, "make_grid: needs pictures"),
    (lambda p: T.RandomResizedCrop(3, scale=(0.5, 0.1)), ShapeError, "scale must be a rising pair"),
    (lambda p: T.RandomVerticalFlip(1.5), ShapeError, r"p must lie in \[0, 1\]"),
    (lambda p: T.RandomApply([T.CenterCrop(2)])(batch()), ShapeError, "must keep their size"),
    (lambda p: T.Pad((1, 2, 3)), ShapeError, "padding must be 1, 2 or 4 numbers"),
    (lambda p: T.ToPILImage()(np.zeros((3, 3, 2))), ShapeError, "the picture must be"),
    (lambda p: T.Lambda(3), ShapeError, "needs a function"),
])  # fmt: skip
def test_mistakes_have_words(call, error, words, tmp_path):
    with pytest.raises(error, match=words):
        call(tmp_path)
