"""Softmax, cross entropy, the other losses and embeddings against naive float64 formulas."""

import numpy as np
import pytest
from directional import backward_of, check_gradients, check_threads, layouts, tensor
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
import minidl.functional as F
from minidl.errors import DTypeError, RangeError, ShapeError

rng = np.random.default_rng(11)


def log_softmax(x, axis):
    x = x.astype(np.float64)
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


@st.composite
def scores(draw, least=1):
    """x of 1 to 4 axes in some layout."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=least, max_size=4)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    x = np.random.default_rng(draw(st.integers(0, 999))).normal(0, 4, shape).astype(dtype)
    return draw(st.sampled_from(layouts(x)))


@given(scores(), st.integers(-4, 3))
def test_softmax(x, dim):
    if not -x.ndim <= dim < x.ndim:
        with pytest.raises(ShapeError, match="softmax: dim must be in"):
            F.softmax(tensor(x), dim)
        return
    want = log_softmax(x, dim)
    tol = 20 * np.finfo(x.dtype).eps
    y = F.softmax(tensor(x, False), dim).numpy()
    np.testing.assert_allclose(y, np.exp(want), rtol=tol * (1 + np.abs(x).max()), atol=tol)
    assert y.dtype == x.dtype
    y = F.log_softmax(tensor(x, False), dim).numpy()
    np.testing.assert_allclose(y, want, rtol=tol, atol=tol * (1 + np.abs(x).max()))


@pytest.mark.parametrize("n", [1, 2, 63, 64, 67, 3000])
def test_rows_of_any_length(n):
    """The unrolled search for the largest value, and sums longer than a block."""
    x = rng.normal(size=(3, n)).astype(np.float32)
    x[np.arange(3), rng.integers(0, n, 3)] += 30
    np.testing.assert_allclose(F.softmax(tensor(x, False), 1).numpy(), np.exp(log_softmax(x, 1)),
                               rtol=1e-5, atol=1e-12)  # fmt: skip
    label = rng.integers(0, n, 3)
    got = F.cross_entropy(tensor(x, False), tensor(label, False), reduction="none").numpy()
    np.testing.assert_allclose(got, -log_softmax(x, 1)[np.arange(3), label], rtol=1e-5, atol=1e-6)


def test_softmax_of_infinities():
    """Masked scores count as nothing; a row that is masked throughout gives NaN."""
    x = np.array([[0, -np.inf, 0], [-np.inf] * 3, [np.inf, 0, 0], [np.nan, 0, 1], [88, 89, -88]])
    y = F.softmax(tensor(x.astype(np.float32), False), 1).numpy()
    np.testing.assert_array_equal(y[0], [0.5, 0, 0.5])
    assert np.isnan(y[1:4]).all() and np.isfinite(y[4]).all()
    y = F.log_softmax(tensor(x, False), 1).numpy()
    assert y[0, 1] == -np.inf and np.isnan(y[1:4]).all()


@pytest.mark.parametrize("n", [1, 2, 15, 64, 65, 131])
@pytest.mark.parametrize("dtype", "fd")
def test_the_largest_score_and_a_nan_are_found_wherever_they_are(n, dtype):
    """One far above all others takes all; one that is NaN makes its row NaN, as in PyTorch."""
    x = np.where(np.eye(n), 900, -900).astype(dtype)
    label = ml.arange(n)
    np.testing.assert_array_equal(F.softmax(tensor(x, False), 1), np.eye(n))
    assert F.cross_entropy(tensor(x, False), label, reduction="sum").item() == 0
    np.fill_diagonal(x, np.nan)
    for f in (F.softmax, F.log_softmax):
        assert np.isnan(f(tensor(x, False), 1)).all()
    assert np.isnan(F.cross_entropy(tensor(x, False), label.flip(0), reduction="none")).all()


def naive_cross_entropy(x, label, weight, ignore, smoothing, reduction):
    c = x.shape[1]
    w = np.ones(c) if weight is None else weight.astype(np.float64)
    nll = -np.moveaxis(log_softmax(x, 1), 1, -1)
    loss, total = np.zeros(label.shape), 0.0
    for place in np.ndindex(label.shape):
        t = label[place]
        if t != ignore:
            loss[place] = (1 - smoothing) * w[t] * nll[place][t] + smoothing / c * (
                w * nll[place]
            ).sum()
            total += w[t]
    return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / total if total else np.nan}[
        reduction
    ]


@given(
    scores(2), st.booleans(), st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from(["none", "sum", "mean"]), st.sampled_from([-100, 0]),
)  # fmt: skip
def test_cross_entropy(x, weighted, smoothing, reduction, ignore):
    values = np.random.default_rng(x.size)
    c = x.shape[1]
    label = values.integers(0, c, x.shape[:1] + x.shape[2:])
    label = np.where(values.random(label.shape) < 0.2, ignore, label)
    weight = values.uniform(0.1, 2, c).astype(x.dtype) if weighted else None
    want = naive_cross_entropy(x, label, weight, ignore, smoothing, reduction)
    w = None if weight is None else tensor(weight, False)
    options = {"ignore_index": ignore, "reduction": reduction}
    got = F.cross_entropy(
        tensor(x, False), tensor(label, False), w, label_smoothing=smoothing, **options
    )
    tol = 50 * np.finfo(x.dtype).eps
    assert got.dtype == x.dtype
    np.testing.assert_allclose(got.numpy(), want, rtol=tol, atol=tol * (1 + np.abs(x).max()))
    if not smoothing:
        logs = F.log_softmax(tensor(x, False), 1)
        got = F.nll_loss(logs, tensor(label, False), w, **options)
        np.testing.assert_allclose(got.numpy(), want, rtol=tol, atol=tol * (1 + np.abs(x).max()))


LABEL = np.array([[2, 0, -100], [1, 4, 4]])
X = rng.normal(size=(2, 5, 3))
WEIGHT = rng.uniform(0.2, 2, 5)
P = rng.dirichlet(np.ones(5), (2, 3)).transpose(0, 2, 1)
U, V = rng.uniform(0.1, 0.9, (2, 3, 4))
S, T = rng.normal(size=(2, 3, 4))
labels, weights = tensor(LABEL, False), tensor(WEIGHT, False)
GRADIENTS = {
    "softmax": (lambda x: F.softmax(x, 1) ** 2, X),
    "log_softmax": (lambda x: F.log_softmax(x, 0) ** 2, X),
    "softmin": (lambda x: F.softmin(x, -1) ** 2, X),
    "cross_entropy": (lambda x: F.cross_entropy(x, labels), X),
    "weighted": (lambda x: F.cross_entropy(x, labels, weights, label_smoothing=0.2), X),
    "each": (lambda x: F.cross_entropy(x, labels, reduction="none", label_smoothing=0.1), X),
    "probabilities": (lambda x, p: F.cross_entropy(x, p, weights, label_smoothing=0.1), X, P),
    "nll_loss": (lambda x: F.nll_loss(x, labels, weights), X),
    "mse_loss": (F.mse_loss, S, T),
    "l1_loss": (F.l1_loss, S, T),
    "smooth_l1_loss": (lambda x, y: F.smooth_l1_loss(x, y, beta=0.7), S, T),
    "huber_loss": (lambda x, y: F.huber_loss(x, y, delta=0.7), S, T),
    "bce": (F.binary_cross_entropy, U, V),
    "bce with logits": (F.binary_cross_entropy_with_logits, S, V),
    "pos_weight": (
        lambda x, y: F.binary_cross_entropy_with_logits(
            x, y, pos_weight=tensor(WEIGHT[:4], False)
        ),
        S,
        V,
    ),
    "kl_div": (F.kl_div, S, V),
    "kl_div of logs": (lambda x, y: F.kl_div(x, y, log_target=True), S, T),
    "cosine_similarity": (F.cosine_similarity, S, T),
    "glu": (lambda x: F.glu(x, 1), S),
    "prelu": (F.prelu, S, WEIGHT[:4]),
    "embedding": (lambda w: F.embedding(tensor(LABEL[1], False), w) ** 2, X[0]),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    """First and second derivatives of every loss."""
    f, *arrays = GRADIENTS[name]
    check_gradients(f, *arrays)


def test_values():
    """One formula each, written out."""
    d, t = S - T, lambda x: tensor(x, False)
    small = np.abs(d) < 0.7
    y, log = V, np.log
    s = 1 / (1 + np.exp(-S))
    pairs = [
        (F.mse_loss(t(S), t(T), reduction="none"), d**2),
        (F.l1_loss(t(S), t(T)), np.abs(d).mean()),
        (F.smooth_l1_loss(t(S), t(T), reduction="none", beta=0.7),
         np.where(small, d**2 / 1.4, np.abs(d) - 0.35)),
        (F.smooth_l1_loss(t(S), t(T), beta=0.0), np.abs(d).mean()),
        (F.huber_loss(t(S), t(T), "sum", 0.7),
         np.where(small, d**2 / 2, 0.7 * (np.abs(d) - 0.35)).sum()),
        (F.binary_cross_entropy(t(U), t(V)), -(y * log(U) + (1 - y) * log(1 - U)).mean()),
        (F.binary_cross_entropy_with_logits(t(S), t(V), pos_weight=t(WEIGHT[:4])),
         -(WEIGHT[:4] * y * log(s) + (1 - y) * log(1 - s)).mean()),
        (F.kl_div(t(S), t(V), reduction="batchmean"), (y * (log(y) - S)).sum() / 3),
        (F.kl_div(t(S), t(T), log_target=True), (np.exp(T) * (T - S)).mean()),
        (F.cosine_similarity(t(S), t(T), -1),
         (S * T).sum(1) / np.linalg.norm(S, axis=1) / np.linalg.norm(T, axis=1)),
        (F.glu(t(S), 1), S[:, :2] / (1 + np.exp(-S[:, 2:]))),
    ]  # fmt: skip
    for got, want in pairs:
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)


def test_extremes():
    """Saturated probabilities and logits keep PyTorch's finite values and gradients."""
    x, y = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])
    loss = lambda a: F.binary_cross_entropy(a, tensor(y, False), reduction="none")  # noqa: E731
    value, _ = backward_of(loss, x)
    np.testing.assert_array_equal(value, [0, 0, 100, 100])
    logits = lambda a: F.binary_cross_entropy_with_logits(a, tensor(y, False), reduction="none")  # noqa: E731
    value, grad = backward_of(logits, np.array([-500.0, 500.0, -500.0, 500.0]))
    np.testing.assert_allclose(value, [0, 0, 500, 500], atol=1e-200)
    assert np.isfinite(grad).all()
    got = F.cross_entropy(
        tensor(np.array([[1e4, 0, -1e4]], np.float32)), tensor(np.array([2]), False)
    )
    assert got.item() == 2e4
    assert np.isnan(F.cross_entropy(tensor(X), tensor(np.full((2, 3), -100), False)).item())
    assert F.kl_div(tensor(np.zeros(2)), tensor(np.array([0.0, 1.0]), False)).item() == 0


def test_embedding():
    """Rows by index; repeated indices add up in order; padding_idx gets nothing."""
    w = rng.normal(size=(9, 37)).astype(np.float32)
    index = rng.integers(0, 9, (5, 70))
    y, dw = backward_of(lambda w: F.embedding(tensor(index, False), w, -3), w)
    np.testing.assert_array_equal(y, w[index])
    g = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    want = np.zeros_like(w)
    np.add.at(want, index, g)
    want[6] = 0
    np.testing.assert_array_equal(dw, want)
    check_gradients(
        lambda w: (F.embedding(tensor(index, False), w)[:2] ** 3).sum(), w[:, :2].astype(float)
    )
    one = F.one_hot(tensor(np.array([[0, 2], [1, 1]]), False)).numpy()
    np.testing.assert_array_equal(one, np.eye(3, dtype=np.int64)[[[0, 2], [1, 1]]])
    empty = backward_of(lambda w: F.embedding(tensor(index[:0], False), w), w)
    assert empty[0].shape == (0, 70, 37) and not empty[1].any()


def test_threads():
    x, label = rng.normal(size=(500, 70)).astype(np.float32), rng.integers(0, 70, 500)
    t = tensor(label, False)
    check_threads(lambda: backward_of(lambda x: F.cross_entropy(x, t, label_smoothing=0.1), x))
    check_threads(lambda: backward_of(lambda x: F.softmax(x, 1), x))
    check_threads(lambda: backward_of(lambda x: F.embedding(t, x), x))


def test_mistakes():
    x = tensor(X)
    with pytest.raises(
        RangeError, match=r"cross_entropy: every index must lie in \[0, 5\); got index 5"
    ):
        F.cross_entropy(x, tensor(LABEL + 1, False), ignore_index=-99)
    with pytest.raises(RangeError, match=r"nll_loss: .*got index -1"):
        F.nll_loss(x, tensor(np.minimum(LABEL, -1), False))
    with pytest.raises(
        RangeError, match=r"embedding: every index must lie in \[0, 3\); got index 4"
    ):
        F.embedding(tensor(LABEL[1], False), tensor(np.ones((3, 2))))
    with pytest.raises(ShapeError, match=r"cross_entropy: target must have shape \(2, 3\)"):
        F.cross_entropy(x, tensor(LABEL[:1], False))
    with pytest.raises(ShapeError, match="or probabilities of x's shape"):
        F.cross_entropy(x, tensor(P[:1]))
    with pytest.raises(ShapeError, match="reduction must be one of"):
        F.mse_loss(x, x, reduction="average")
    with pytest.raises(DTypeError, match="indices must be integers"):
        F.embedding(tensor(np.ones(2)), tensor(np.ones((3, 2))))
    with pytest.raises(DTypeError, match="softmax: x must be floating point"):
        F.softmax(tensor(LABEL, False), 0)
    with pytest.warns(UserWarning, match="mse_loss: shapes .* are broadcast"):
        F.mse_loss(tensor(np.ones((3, 1))), tensor(np.ones(3)))


@pytest.mark.parametrize("n", [5, 100])
@pytest.mark.parametrize("offset", [-(2.0**20), 2.0**23])
def test_an_offset_of_the_scores_changes_nothing(offset, n):
    """Regression: sums taken in another order lost the difference from the largest score."""
    x = rng.integers(-8, 8, (4, n)).astype(np.float32)
    moved, label = tensor(x + np.float32(offset)), tensor(np.arange(4), False)
    given = F.log_softmax(moved, 1).detach()
    np.testing.assert_allclose(given, log_softmax(x, 1), rtol=1e-6, atol=2**-22)  # log of 1 + eps
    for smoothing in (0.0, 0.1):
        ours, plain = (F.cross_entropy(t, label, label_smoothing=smoothing)
                       for t in (moved, tensor(x)))  # fmt: skip
        assert ours.item() == plain.item()


@pytest.mark.parametrize(("x", "y"), [([0.5, 1.5], [0, 1]), ([-1e-7], [1]), ([float("nan")], [1]),
                                      ([0.5], [2]), ([0.5], [-0.1])])  # fmt: skip
def test_binary_cross_entropy_of_no_probabilities_is_refused(x, y):
    """Regression: a loss of NaN, or one that made no sense."""
    loss = ml.nn.BCELoss()
    x, y = ml.tensor(x), ml.tensor(y).float()
    with pytest.raises(RangeError, match=r"entropy: probabilities must lie in \[0, 1\]"):
        loss(x, y)
    replayed = ml.capture(F.binary_cross_entropy)
    replayed(ml.full_like(x, 0.25), ml.ones_like(y))
    with pytest.raises(RangeError, match="probabilities must lie"):
        replayed(x, y)
    assert np.isfinite(loss(ml.tensor([0.0, 1.0]), ml.tensor([1.0, 1.0])).item())
    assert np.isnan(loss(ml.ones(0), ml.ones(0)).item())


@pytest.mark.parametrize("n", [0, 5])
def test_the_mean_of_no_rows(n):
    """0 / 0, as in PyTorch, also where memory held another number before."""
    for _ in range(3):
        F.cross_entropy(ml.randn(2, 5), ml.tensor([0, 1]))
        x = ml.zeros(0, n, requires_grad=True)
        loss = F.cross_entropy(x, ml.zeros(0, dtype=ml.int64))
        loss.backward()
        assert np.isnan(loss.item()) and x.grad.shape == (0, n)
