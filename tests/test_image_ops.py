"""Padding, resizing, pixel shuffles, unfold and dropout against naive formulas."""

import numpy as np
import pytest
from directional import backward_of, check_gradients, check_threads, layouts, tensor
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
import minidl.functional as F
from minidl.errors import ShapeError

rng = np.random.default_rng(5)
SEEDS = st.integers(0, 999)


def drawn(seed, *shape):
    """Values in one of several layouts."""
    values = np.random.default_rng(seed)
    found = layouts(values.normal(size=shape))
    return found[seed % len(found)]


@given(SEEDS, st.sampled_from(["reflect", "replicate", "circular"]), *[st.integers(0, 2)] * 4)
def test_pad(seed, mode, left, right, top, bottom):
    x = drawn(seed, 2, 3, 3, 4)
    kind = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    got = F.pad(tensor(x, False), (left, right, top, bottom), mode).numpy()
    want = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), kind)
    np.testing.assert_array_equal(got, want)
    got = F.pad(tensor(x[0, 0], False), (left, right), mode).numpy()
    np.testing.assert_array_equal(got, np.pad(x[0, 0], ((0, 0), (left, right)), kind))
    got = F.pad(tensor(x, False), (left, right, -1, bottom), value=2.5).numpy()
    want = np.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, bottom), (left, right)), constant_values=2.5)
    np.testing.assert_array_equal(got, want)


def naive_resize(x, size, step, aligned):
    """Bilinear by the formula, one output at a time."""
    n, c, h, w = x.shape
    y = np.empty((n, c, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            at = []
            for k, old, new, s in ((i, h, size[0], step[0]), (j, w, size[1], step[1])):
                if aligned:
                    at.append(k * (old - 1) / (new - 1) if new > 1 else 0.0)
                else:
                    at.append(max((k + 0.5) * s - 0.5, 0.0))
            (r, q), (fr, fq) = (int(a) for a in at), (a - int(a) for a in at)
            r1, q1 = min(r + 1, h - 1), min(q + 1, w - 1)
            top = x[:, :, r, q] * (1 - fq) + x[:, :, r, q1] * fq
            low = x[:, :, r1, q] * (1 - fq) + x[:, :, r1, q1] * fq
            y[:, :, i, j] = top * (1 - fr) + low * fr
    return y


@given(SEEDS, st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_bilinear(seed, h, w, aligned):
    x = drawn(seed, 2, 3, 4, 5)
    want = naive_resize(x, (h, w), (4 / h, 5 / w), aligned)
    got = F.interpolate(tensor(x, False), (h, w), mode="bilinear", align_corners=aligned)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-12)
    line = F.interpolate(tensor(x[:, :, 0], False), w, mode="linear", align_corners=aligned)
    want = naive_resize(x[:, :, :1], (1, w), (1, 5 / w), aligned)
    np.testing.assert_allclose(line.numpy(), want[:, :, 0], atol=1e-12)


@given(SEEDS, st.sampled_from([0.5, 0.8, 1.0, 1.7, 2.0, 2.5]))
def test_scale_factors(seed, scale):
    """The size is rounded down, and the given scale, not the sizes' ratio, spaces the samples."""
    x = drawn(seed, 2, 3, 4, 5)
    size = int(4 * scale), int(5 * scale)
    got = F.interpolate(tensor(x, False), scale_factor=scale, mode="bilinear").numpy()
    np.testing.assert_allclose(got, naive_resize(x, size, (1 / scale,) * 2, False), atol=1e-12)
    got = F.interpolate(
        tensor(x, False), scale_factor=scale, mode="bilinear", recompute_scale_factor=True
    ).numpy()
    step = (4 / size[0], 5 / size[1])
    np.testing.assert_allclose(got, naive_resize(x, size, step, False), atol=1e-12)
    got = F.interpolate(tensor(x, False), scale_factor=scale).numpy()
    rows, columns = ((np.arange(n) * np.float32(1 / scale)).astype(int) for n in size)
    np.testing.assert_array_equal(got, x[:, :, np.minimum(rows, 3)][..., np.minimum(columns, 4)])


def test_other_resizes():
    """Area means, and the nearest in a sequence."""
    x = rng.normal(size=(1, 2, 6, 4))
    got = F.interpolate(tensor(x, False), (3, 2), mode="area").numpy()
    np.testing.assert_allclose(got, x.reshape(1, 2, 3, 2, 2, 2).mean((3, 5)), atol=1e-12)
    line = F.interpolate(tensor(x[:, :, 0], False), 8).numpy()
    np.testing.assert_array_equal(line, x[:, :, 0].repeat(2, 2))


def test_a_scale_that_keeps_the_size_spaces_cubic_samples():
    """Regression: it was passed over, which PyTorch does in linear resizing alone."""
    x = ml.tensor([[[[0.0, 1.0, 4.0]]]])
    for mode, want in (("bicubic", [-0.06075, 0.39025, 2.59375]), ("bilinear", [0, 1, 4])):
        got = F.interpolate(x, scale_factor=(1.0, 1.25), mode=mode).numpy().ravel()
        np.testing.assert_allclose(got, want, atol=1e-6)


@given(SEEDS, *[st.integers(1, 3)] * 4, st.integers(0, 2), st.integers(1, 2))
def test_unfold_and_fold(seed, kh, kw, sh, sw, padding, dilation):
    x = drawn(seed, 2, 3, 6, 5)
    kwargs = {"padding": padding, "stride": (sh, sw), "dilation": dilation}
    got = F.unfold(tensor(x, False), (kh, kw), **kwargs).numpy()
    wide = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    rows = range(0, wide.shape[2] - dilation * (kh - 1), sh)
    columns = range(0, wide.shape[3] - dilation * (kw - 1), sw)
    want = [
        wide[:, :, r : r + dilation * (kh - 1) + 1 : dilation,
             c : c + dilation * (kw - 1) + 1 : dilation].reshape(2, -1)
        for r in rows for c in columns
    ]  # fmt: skip
    np.testing.assert_array_equal(got, np.stack(want, 2))
    g = rng.normal(size=got.shape)
    back = F.fold(tensor(g, False), (6, 5), (kh, kw), **kwargs).numpy()
    np.testing.assert_allclose((back * x).sum(), (got * g).sum(), atol=1e-9)


def test_pixel_shuffle():
    x = rng.normal(size=(2, 8, 3, 5))
    want = x.reshape(2, 2, 2, 2, 3, 5).transpose(0, 1, 4, 2, 5, 3).reshape(2, 2, 6, 10)
    y = F.pixel_shuffle(tensor(x, False), 2)
    np.testing.assert_array_equal(y.numpy(), want)
    assert F.pixel_shuffle(tensor(x[0], False), 2).shape == (2, 6, 10)


X = rng.normal(size=(2, 4, 4, 5))
GRADIENTS = {
    "reflect": lambda x: F.pad(x, (1, 2, 0, 1), "reflect") ** 2,
    "replicate": lambda x: F.pad(x, (1, 0, 2, 1), "replicate") ** 2,
    "nearest": lambda x: F.interpolate(x, (3, 8)) ** 2,
    "bilinear": lambda x: F.interpolate(x, (3, 8), mode="bilinear") ** 2,
    "area": lambda x: F.interpolate(x, (3, 2), mode="area") ** 2,
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2) ** 2,
    "unfold": lambda x: F.unfold(x, 3, 1, 1, 2) ** 2,
    "fold": lambda x: F.fold(x.reshape(2, 4, 20), (5, 6), 2) ** 2,
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    check_gradients(GRADIENTS[name], X)


def test_dropout():
    """Kept elements are scaled, the mask is drawn once and does not depend on layout or threads."""
    x = rng.normal(3, 1, (4, 16, 20, 20)).astype(np.float32)

    def run(x, f=F.dropout, p=0.3):
        ml.manual_seed(3)
        return backward_of(lambda x: f(x, p), x)

    y, dx = run(x)
    kept = y != 0
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.21 / x.size)
    np.testing.assert_allclose(y, np.where(kept, x / np.float32(0.7), 0), rtol=1e-6)
    np.testing.assert_array_equal(dx != 0, kept)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    np.testing.assert_array_equal(run(last)[0], y)
    check_threads(lambda: run(x))
    y, _ = run(x, F.dropout2d, 0.5)
    whole = (y != 0).mean((2, 3))
    assert set(np.unique(whole)) == {0.0, 1.0}
    assert not run(x, p=1.0)[0].any()
    t = tensor(x)
    assert F.dropout(t, 0.9, training=False) is t

    def again(x):
        ml.manual_seed(5)
        return F.dropout(x, 0.4) ** 3

    check_gradients(again, x[0, 0].astype(np.float64))


def test_mistakes():
    x = tensor(X)
    with pytest.raises(ShapeError, match="pad: reflect needs widths up to 4"):
        F.pad(x, (5, 0, 0, 0), "reflect")
    with pytest.raises(ShapeError, match="pad: mode must be constant or one of"):
        F.pad(x, (1, 1), "mirror")
    with pytest.raises(ShapeError, match="interpolate: needs either size or scale_factor"):
        F.interpolate(x)
    with pytest.raises(ShapeError, match="interpolate: mode linear resizes"):
        F.interpolate(x, 3, mode="linear")
    with pytest.raises(ShapeError, match="pixel_shuffle: C must be divisible"):
        F.pixel_shuffle(x, 3)
    with pytest.raises(ShapeError, match="unfold: the window must fit"):
        F.unfold(x, 6)
    with pytest.raises(ShapeError, match=r"dropout: p must lie in \[0, 1\]"):
        F.dropout(x, 1.5)


@pytest.mark.parametrize("size", [(2, 3), (), [2, 2, 2]])
def test_pooling_takes_one_size_an_axis(size):
    """Regression: only the first counted, and none was an IndexError."""
    x = ml.zeros(1, 2, 6)
    for pool in (F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d):
        with pytest.raises(ShapeError, match="must be one or two ints"):
            pool(x, size)
    for name in ("stride", "padding"):
        with pytest.raises(ShapeError, match=f"{name} must be one or two ints"):
            F.max_pool1d(x, 2, **{name: size})
    with pytest.raises(ShapeError, match="output_size must be one or two ints"):
        F.adaptive_avg_pool2d(x, (1, 2, 3))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_integers_are_padded_and_resized(mode):
    """Regression: only floats were."""
    x = np.arange(24).reshape(1, 2, 3, 4)
    y = F.pad(ml.tensor(x), (1, 2, 1, 0), mode)
    name = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    np.testing.assert_array_equal(y.numpy(), np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 2)), name))
    large = F.interpolate(ml.tensor(x.astype(np.uint8)), scale_factor=2)
    assert large.dtype == np.uint8
    np.testing.assert_array_equal(large.numpy(), x.repeat(2, 2).repeat(2, 3))


@pytest.mark.parametrize("widths", [(-4, 2), (5, -4), (-2, -2)])
@pytest.mark.parametrize("mode", ["constant", "circular"])
def test_widths_that_cut_more_than_there_is_are_refused(mode, widths):
    """Regression: NumPy's errors, or other values."""
    with pytest.raises(ShapeError, match="pad: "):
        F.pad(ml.ones(1, 2, 3), widths, mode)
