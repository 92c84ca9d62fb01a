"""Distributions: draws have their moments, gradients reach parameters, mistakes have words.

Densities, entropies and divergences are compared with PyTorch's in the golden cases.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
from minidl import distributions as D
from minidl.errors import ShapeError

MATRIX = ml.tensor([[2.0, 0.5], [0.5, 1.0]])
DRAWN = [
    D.Normal(ml.tensor([0.0, 3.0]), ml.tensor([1.0, 0.5])),
    D.Uniform(-1.0, ml.tensor([2.0, 4.0])),
    D.Bernoulli(ml.tensor([0.0, 0.3, 1.0])),
    D.Bernoulli(logits=ml.tensor([-1.0, 2.0])),
    D.Independent(D.Normal(ml.zeros(3), 2.0), 1),
    D.MultivariateNormal(ml.tensor([1.0, -1.0]), MATRIX),
    D.MultivariateNormal(ml.zeros(3, 2), scale_tril=ml.linalg.cholesky(MATRIX)),
]


@pytest.mark.parametrize("p", DRAWN, ids=repr)
def test_draws_have_the_mean_and_variance(p):
    ml.manual_seed(0)
    x = p.sample((20000,))
    assert x.shape == (20000, *p.batch_shape, *p.event_shape) and not x.requires_grad
    np.testing.assert_allclose(x.mean(0).numpy(), p.mean.numpy(), atol=0.06)
    np.testing.assert_allclose(x.var(0).numpy(), p.variance.numpy(), rtol=0.06, atol=1e-6)
    assert p.log_prob(x).shape == (20000, *p.batch_shape) and p.entropy().shape == p.batch_shape
    # the entropy is the mean of -log p
    got = -p.log_prob(x).mean(0).numpy()
    np.testing.assert_allclose(got, p.entropy().numpy(), atol=0.03)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=5).filter(any))
def test_classes_are_drawn_as_often_as_they_are_probable(weights):
    ml.manual_seed(1)
    p = D.Categorical(ml.tensor(weights))
    drawn = np.bincount(p.sample((4000,)).numpy(), minlength=len(weights)) / 4000
    want = np.array(weights) / sum(weights)
    np.testing.assert_allclose(drawn, want, atol=0.05)
    assert not drawn[want == 0].any()


def test_classes_of_a_batch():
    ml.manual_seed(2)
    p = D.Categorical(logits=ml.randn(3, 4, 5))
    x = p.sample((2,))
    assert x.shape == (2, 3, 4) and x.dtype == ml.int64 and p.log_prob(x).shape == (2, 3, 4)
    assert p.sample().shape == (3, 4)


@pytest.mark.parametrize("half", [ml.float16, ml.bfloat16, ml.int64])
def test_choices_are_made_in_float32(half):
    x = ml.tensor([[1, 2, 3]], dtype=half)
    for p in (D.Categorical(x), D.Categorical(logits=x), D.Bernoulli(logits=x)):
        assert p.entropy().dtype == ml.float32 and p.sample().shape == p.batch_shape


def test_a_policy_gradient():
    """REINFORCE: of the classes, the one that pays becomes probable."""
    ml.manual_seed(3)
    logits = ml.zeros(4, requires_grad=True)
    for _ in range(60):
        p = D.Categorical(logits=logits)
        action = p.sample((64,))
        loss = -(p.log_prob(action) * (action == 2).float()).mean()
        (slope,) = ml.grad(loss, logits)
        with ml.no_grad():
            logits -= slope
    assert D.Categorical(logits=logits).probs[2].item() > 0.8


@pytest.mark.parametrize("make", [
    lambda m, s: D.Normal(m, s), lambda m, s: D.Uniform(m, m + s),
    lambda m, s: D.Independent(D.Normal(m, s), 1),
    lambda m, s: D.MultivariateNormal(m, ml.diag(s)),
])  # fmt: skip
def test_gradients_go_through_draws(make):
    """A draw is a smooth function of the parameters and of noise that does not depend on them."""

    def drawn(m, s):
        ml.manual_seed(4)
        return make(m, s).rsample((3,))

    m = ml.tensor([0.3, -1.0], dtype=ml.float64, requires_grad=True)
    s = ml.tensor([0.5, 2.0], dtype=ml.float64, requires_grad=True)
    assert make(m, s).has_rsample and ml.gradcheck(drawn, (m, s))
    assert not make(m, s).sample().requires_grad


def test_reprs_are_pytorchs():
    assert repr(D.Normal(0, 1)) == "Normal(loc: 0.0, scale: 1.0)"
    assert repr(D.Normal(ml.zeros(2), 1)) == "Normal(loc: (2,), scale: (2,))"
    assert repr(D.Independent(D.Normal(ml.zeros(2), 1), 1)).startswith("Independent(Normal(")


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: D.Normal(0.0, 0.0), ShapeError, "Normal: scale must be positive; got scale 0.0"),
    (lambda: D.Normal(ml.zeros(2), ml.ones(3)), ShapeError, "broadcast"),
    (lambda: D.Uniform(1.0, 1.0), ShapeError, "Uniform: high must be above low"),
    (lambda: D.Bernoulli(), ShapeError, "Bernoulli: give either probs or logits"),
    (lambda: D.Bernoulli(1.5), ShapeError, "probs must not be above 1"),
    (lambda: D.Categorical([0.5, -0.5]), ShapeError, "probs must not be negative"),
    (lambda: D.Categorical(1.0), ShapeError, "needs at least one axis"),
    (lambda: D.MultivariateNormal(ml.zeros(3), MATRIX), ShapeError, r"loc must be \(…, N\)"),
    (lambda: D.MultivariateNormal(ml.zeros(2)), ShapeError, "give one of covariance_matrix"),
    (lambda: D.Independent(D.Normal(0, 1), 1), ShapeError, "the distribution has 0 batch axes"),
    (lambda: D.kl_divergence(D.Normal(0, 1), D.Uniform(0, 1)), NotImplementedError, "of one kind"),
    (lambda: D.Bernoulli(0.5).rsample(), NotImplementedError, "Bernoulli has no rsample"),
])  # fmt: skip
def test_mistakes_have_words(call, error, words):
    with pytest.raises(error, match=words):
        call()
