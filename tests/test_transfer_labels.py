"""Few or unequal labels, and what embeddings and maps show: FixMatch, F1, k-NN, Grad-CAM."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transfer_models import fill, noise, resnet, softmax

import minidl as ml
import minidl.functional as F
from minidl import models, nn
from minidl.data import DataLoader, ImageArrays, WeightedRandomSampler, transforms
from minidl.errors import DataError, ShapeError
from projects.transfer.methods import embeddings, semi
from projects.transfer.methods.balance import class_weights, oversampling_weights, scores
from projects.transfer.methods.gradcam import gradcam

# ---- labels --------------------------------------------------------------------------------------


def test_fixmatch_by_hand():
    weak = np.log(
        np.array([[0.96, 0.02, 0.02], [0.5, 0.3, 0.2], [0.01, 0.01, 0.98], [0.1, 0.8, 0.1]])
    )
    strong = np.log(
        np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.7, 0.1, 0.2], [0.2, 0.2, 0.6]])
    )
    w, s = (ml.tensor(z, requires_grad=True) for z in (weak, strong))
    loss = semi.fixmatch_loss(w, s, 0.95)
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 4)
    labels, counts = semi.confident(w, 0.95)
    assert labels.tolist() == [0, 0, 2, 1] and counts.tolist() == [1, 0, 1, 0]
    loss.backward()
    assert w.grad is None
    assert (s.grad.numpy()[[1, 3]] == 0).all() and (s.grad.numpy()[[0, 2]] != 0).all()
    every = -(math.log(0.96) + math.log(0.5) + math.log(0.98) + math.log(0.8)) / 4
    assert semi.pseudo_label_loss(w).item() == pytest.approx(every)
    assert [semi.ramp(s, 10, 20, 2.0) for s in (0, 10, 15, 20, 99)] == [0, 0, 1, 2, 2]
    with pytest.raises(ShapeError, match="threshold"):
        semi.fixmatch_loss(w, s, 1.5)
    with pytest.raises(ShapeError, match="both must be"):
        semi.fixmatch_loss(w, s[:3])
    with pytest.raises(ShapeError, match="start must lie"):
        semi.ramp(1, 2, 2)


@given(known=st.integers(1, 30), others=st.integers(12, 80), batch=st.integers(1, 4),
       mu=st.integers(1, 3), seed=st.integers(0, 9))  # fmt: skip
def test_batches_of_labelled_and_unlabelled(known, others, batch, mu, seed):
    rows = np.random.default_rng(seed).permutation(200)
    labelled, unlabelled = rows[:known], rows[known : known + others]
    sampler = semi.MixedBatches(labelled, unlabelled, batch, mu, seed=seed)
    sampler.set_epoch(3)
    first = list(sampler)
    assert len(first) == len(sampler) == others // (batch * mu)
    assert all(len(b) == batch * (1 + mu) for b in first)
    own = [i for b in first for i in b[:batch]]
    free = [i for b in first for i in b[batch:]]
    assert set(own) <= set(labelled) and set(free) <= set(unlabelled)
    assert len(set(free)) == len(free)
    counts = np.bincount(own, minlength=200)[labelled]
    assert counts.max() - counts.min() <= 1
    sampler.set_epoch(3)
    assert list(sampler) == first
    assert sampler.epoch == 4
    if others > 20 and batch * mu > 1:
        assert list(sampler) != first


def test_views_of_a_loader():
    ml.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    data = ImageArrays(pixels, np.arange(30) % 3, ["a", "b", "c"])
    norm = transforms.Normalize([0.5] * 3, [0.25] * 3)
    weak, strong = semi.weak_transform(norm), semi.strong_transform(16, norm)
    sampler = semi.MixedBatches(np.array([1, 5]), np.arange(30), 3, 2)
    loader = DataLoader(data, batch_sampler=sampler, mix=semi.Views(3, weak, strong))
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    own, y, soft, hard = batches[0]
    assert own.shape == (3, 3, 16, 16) and soft.shape == hard.shape == (6, 3, 16, 16)
    assert set(y.tolist()) <= {1, 2} and own.dtype == hard.dtype == np.float32
    assert np.abs(soft.numpy() - hard.numpy()).max() > 0.1
    grey = (127 / 255 - 0.5) / 0.25
    cut = np.isclose(hard.numpy(), grey, atol=1e-5).all(1)  # every channel
    assert (cut.sum((1, 2)) >= 16).all()  # a quarter of the square at least
    # the few labelled pictures come again and again, each time otherwise
    views = np.concatenate([b[0].numpy() for b in batches])
    assert len({v.tobytes() for v in views}) > 10
    half = DataLoader(data, batch_sampler=sampler, mix=semi.Views(3, weak, strong))
    half.load_state_dict({"epoch": 0, "batch": 3, "seed": loader.state_dict()["seed"]})
    for ours, theirs in zip(half, batches[3:], strict=True):
        assert all((a.numpy() == b.numpy()).all() for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(ShapeError, match="unlabelled ones for a batch"):
        semi.MixedBatches(np.array([1]), np.arange(5), 3, 2)


# ---- balance -------------------------------------------------------------------------------------


def test_weights_of_classes():
    y = np.array([0, 0, 0, 0, 1, 1, 2])
    weights = class_weights(y, 3)
    np.testing.assert_allclose(weights, np.array([1, 2, 4]) * 3 / 7, rtol=1e-6)
    logits = noise(7, 3)
    ours = F.cross_entropy(logits, ml.tensor(y), weight=ml.tensor(weights)).item()
    each = -np.log(softmax(logits.numpy().astype(float))[np.arange(7), y])
    assert ours == pytest.approx(np.mean([each[y == k].mean() for k in range(3)]), rel=1e-5)
    ml.manual_seed(1)
    drawn = y[list(WeightedRandomSampler(oversampling_weights(y), 30_000))]
    np.testing.assert_allclose(np.bincount(drawn) / 30_000, 1 / 3, atol=0.015)
    for labels, classes in ((y, 4), (y, 2)):
        with pytest.raises(DataError, match="class_weights: each of"):
            class_weights(labels, classes)


@given(seed=st.integers(0, 999), classes=st.integers(2, 6), count=st.integers(1, 60))
def test_scores_by_their_definitions(seed, classes, count):
    rng = np.random.default_rng(seed)
    y, said = rng.integers(0, classes, (2, count))
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (y, said), 1)
    found = scores(confusion)
    f1s, shares = [], []
    for k in range(classes):
        true, hit = (y == k).sum(), ((y == k) & (said == k)).sum()
        recall = hit / true if true else math.nan
        precision = hit / (said == k).sum() if (said == k).any() else math.nan
        both = 0.0 if hit == 0 else 2 * precision * recall / (precision + recall)
        f1 = math.nan if not true and not (said == k).any() else both
        np.testing.assert_allclose(found["class_accuracy"][k], recall)
        np.testing.assert_allclose(found["class_f1"][k], f1)
        shares += [recall] * bool(true)
        f1s += [f1] * (not math.isnan(f1))
    assert found["macro_f1"] == pytest.approx(np.mean(f1s))
    assert found["macro_accuracy"] == pytest.approx(np.mean(shares))


def test_scores_need_counts():
    for bad in (np.zeros((2, 2), int), np.ones((2, 3), int)):
        with pytest.raises(ShapeError, match="square of counts"):
            scores(bad)


# ---- Grad-CAM ------------------------------------------------------------------------------------


class Tiny(models.Classifier):
    """Features that are the picture's channels, their means, and a head."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(2, 2, 1, bias=False), models.blocks.GlobalPool()
        self.fc = nn.Linear(2, 2)
        fill(self.conv.weight, np.eye(2)[:, :, None, None])
        fill(self.fc.weight, [[1.0, -1.0], [-2.0, 3.0]])


def test_maps_by_hand():
    x = np.zeros((3, 2, 4, 4), np.float32)
    x[0, 0, 1, 2], x[0, 0, 3, 3] = 2.0, 1.0  # channel 0 speaks for class 0
    x[1, 1, 0, 0], x[1, 0, 0, 1] = 1.0, 5.0
    model = Tiny()
    for section in (0, None):
        maps = gradcam(model, ml.tensor(x), section, [0, 1, 1])
        expected = np.zeros((3, 4, 4))
        expected[0, 1, 2], expected[0, 3, 3], expected[1, 0, 0] = 1.0, 0.5, 1.0
        np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert all(p.grad is None for p in model.parameters())
    opposite = gradcam(model, ml.tensor(x[:1]), 0, np.array([1]))
    assert (opposite == 0).all()


def test_maps_at_every_section():
    model, x = resnet().train(), noise(2, 3, 16, 16)
    for section in range(len(model.sections()) - 1):
        maps = gradcam(model, x, section, [0, 3])
        assert maps.shape == (2, 16, 16) and 0 <= maps.min() and maps.max() <= 1
        assert maps.max((1, 2)).tolist() in ([1, 1], [0, 1], [1, 0], [0, 0])
    assert model.training and not any(m.has_hooks for m in model.modules())
    last = gradcam(model, x, len(model.sections()) - 2, [0, 3])
    np.testing.assert_array_equal(gradcam(model, x, None, [0, 3]), last)
    # by its definition: features before the pooling, gradients of the logits there
    a = model.eval().run(x, 0, -2).detach()
    a = model.layer3[0](a).detach().requires_grad_()
    logits = model.fc(a.mean((2, 3)))
    (g,) = ml.grad(logits[0, 0] + logits[1, 3], [a])
    small = np.maximum((g.numpy().mean((2, 3), keepdims=True) * a.detach().numpy()).sum(1), 0)
    large = F.interpolate(ml.tensor(small[:, None]), (16, 16), mode="bilinear")[:, 0].numpy()
    np.testing.assert_allclose(last, large / large.max((1, 2), keepdims=True), atol=1e-5)
    with pytest.raises(ShapeError, match="gives"):
        gradcam(model, x, -1, [0, 3])
    with pytest.raises(ShapeError, match="sections"):
        gradcam(model, x, 99, [0, 3])
    with pytest.raises(ShapeError, match="a class for each"):
        gradcam(model, x, 0, [0])


# ---- embeddings ----------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), k=st.integers(1, 8), temperature=st.sampled_from([None, 0.07]))
def test_nearest_neighbours_by_loops(seed, k, temperature):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((12, 3)), rng.integers(0, 3, 12)
    test, labels = rng.standard_normal((9, 3)), rng.integers(0, 3, 9)
    right = 0
    for point, label in zip(test, labels):
        cosine = [point @ q / np.linalg.norm(point) / np.linalg.norm(q) for q in x]
        near = sorted(range(12), key=lambda i: -cosine[i])[:k]
        votes = dict.fromkeys(range(3), 0.0)
        for i in near:
            votes[y[i]] += 1 if temperature is None else math.exp(cosine[i] / temperature)
        right += max(votes, key=lambda c: (votes[c], -c)) == label
    found = embeddings.knn_accuracy(x, y, test, labels, k, temperature=temperature)
    assert found == pytest.approx(right / 9)


def test_ties_go_to_the_lower_class():
    x, y = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), np.array([2, 1, 0])
    point = np.array([[2.0, 0.0]], np.float32)
    assert embeddings.knn_accuracy(x, y, point, np.array([1]), 2) == 1.0
    assert embeddings.knn_accuracy(x, y, point, np.array([2]), 1) == 1.0  # the first of two
    for bad in ((x, y, point, np.array([1]), 4), (x, y, point, np.array([1]), 0),
                (x, y[:2], point, np.array([1]), 1)):  # fmt: skip
        with pytest.raises(ShapeError, match="knn_accuracy"):
            embeddings.knn_accuracy(*bad)


def only(monkeypatch, *packages):
    """Let these packages alone count as installed."""
    monkeypatch.setattr(embeddings, "find_spec", lambda name: name in packages)


def test_principal_components(monkeypatch):
    only(monkeypatch)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 4)) * [1, 9, 3, 0.1] + 5
    ((method, places),) = embeddings.maps2d(x).items()
    values, vectors = np.linalg.eigh(np.cov(x.T))
    assert method == "PCA"
    np.testing.assert_allclose(places.var(0, ddof=1), values[:-3:-1], rtol=1e-9)
    for i in (0, 1):
        along = (x - x.mean(0)) @ vectors[:, -1 - i]
        assert abs(np.corrcoef(along, places[:, i])[0, 1]) == pytest.approx(1)
    assert np.corrcoef(places[:, 0], x[:, 1])[0, 1] > 0  # the largest loading is positive
    with pytest.raises(ShapeError, match="maps2d"):
        embeddings.maps2d(x[:1])


def test_what_is_not_installed_is_named(monkeypatch):
    only(monkeypatch)
    t_sne, umap = "For t-SNE: pip install 'minidl[report]'.", "For UMAP: pip install umap-learn."
    assert embeddings.lacking() == f" {t_sne} {umap}"
    only(monkeypatch, "sklearn")
    assert embeddings.lacking() == f" {umap}"
    only(monkeypatch, "sklearn", "umap")
    assert embeddings.lacking() == ""


@pytest.mark.parametrize("method, package", [("t-SNE", "sklearn"), ("UMAP", "umap")])
def test_maps_keep_clusters_apart(method, package, monkeypatch):
    pytest.importorskip(package, exc_type=ImportError)
    only(monkeypatch, package)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((15, 5)), rng.standard_normal((15, 5)) + 20])
    places, again = (embeddings.maps2d(x, 3)[method] for _ in range(2))
    assert places.shape == (30, 2)
    np.testing.assert_array_equal(places, again)
    labels = np.repeat([0, 1], 15)
    near = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(30) * 1e9
    assert (labels[near.argmin(1)] == labels).all()
