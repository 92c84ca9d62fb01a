"""How the next token is chosen: filters by hand, draws that each row owns, refusals."""

import math

import numpy as np
import pytest
from chi_square import chi_square
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
from minidl.errors import RangeError, ShapeError
from minidl.models.gpt import GPT
from minidl.models.sampling import Sampler, draw

HALVES = np.log([[0.125, 0.5, 0.125, 0.25]])


def law(logits, history=None, **options):
    """The probabilities of one row of logits."""
    x = np.asarray(logits, np.float64).reshape(1, -1)
    past = None if history is None else np.array([history], np.int64)
    return Sampler(**options).probabilities(x, past)[0]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"temperature": 0.5}, [1 / 22, 16 / 22, 1 / 22, 4 / 22]),  # squares, normalised
        ({"temperature": 0}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 2 / 3, 0, 1 / 3]),
        ({"top_k": 3}, [1 / 7, 4 / 7, 0, 2 / 7]),  # of two that tie, the lower number
        ({"top_k": 9}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"top_p": 0.4}, [0, 1, 0, 0]),
        ({"top_p": 0.5}, [0, 1, 0, 0]),  # reached
        ({"top_p": 0.51}, [0, 2 / 3, 0, 1 / 3]),
        ({"top_p": 0.8}, [1 / 7, 4 / 7, 0, 2 / 7]),
        ({"top_p": 1e-9}, [0, 1, 0, 0]),  # at least one
        ({"min_p": 0.5}, [0, 2 / 3, 0, 1 / 3]),  # relative to the largest: 0.5 × 0.5
        ({"min_p": 0.51}, [0, 1, 0, 0]),
        ({"min_p": 0.25}, [1 / 8, 1 / 2, 1 / 8, 1 / 4]),
        ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0]),  # 2/3 of what top_k left, 1/2 of all
        ({"temperature": 0.5, "top_p": 0.7}, [0, 1, 0, 0]),  # 16/22, after the temperature
    ],
)
def test_filters_by_hand(options, expected):
    """Probabilities 1/8, 1/2, 1/8, 1/4 and what each filter leaves of them."""
    np.testing.assert_allclose(law(HALVES, **options), expected, rtol=1e-12)


def test_penalty_lowers_logits_of_either_sign():
    """Positive ones are divided, negative ones multiplied, each once, before the temperature."""
    logits, e = [2.0, -1.0, 0.0, 1.0], np.exp([1.0, -2.0, 0.0, 1.0])
    got = law(logits, [0, 1, 2, 0, 0], repetition_penalty=2.0)
    np.testing.assert_allclose(got, e / e.sum(), rtol=1e-12)
    halved = law(logits, [0, 1, 2], repetition_penalty=2.0, temperature=2.0)
    np.testing.assert_allclose(halved, np.sqrt(e) / np.sqrt(e).sum(), rtol=1e-12)
    assert law(logits, [0], repetition_penalty=4.0, temperature=0).argmax() == 3
    np.testing.assert_allclose(law(logits, [], repetition_penalty=2.0), law(logits))
    banned = law([1.0, -math.inf], [1], repetition_penalty=2.0)
    np.testing.assert_array_equal(banned, [1, 0])


def test_penalty_is_each_rows_own():
    got = Sampler(repetition_penalty=2.0).probabilities(np.ones((2, 2)), ml.tensor([[0], [1]]))
    np.testing.assert_array_equal(got[0], got[1][::-1])
    assert got[0, 0] < got[0, 1]


@pytest.mark.parametrize("options", [
    {"temperature": 5e-324}, {"temperature": 1e-300, "top_p": 0.5}, {"temperature": 0},
    {"top_k": 1}, {"top_p": 1e-300}, {"min_p": 1.0, "temperature": 1e-9},
])  # fmt: skip
def test_ways_to_be_greedy(options):
    """Each leaves the largest logit alone, without a warning."""
    np.testing.assert_array_equal(law([3.0, 1e30, -math.inf, -1e30], **options), [0, 1, 0, 0])


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 1}, {"top_p": 0.1}])
def test_ties_go_to_the_lower_number(options):
    np.testing.assert_array_equal(law([0.0, 2.0, 2.0, 2.0], **options), [0, 1, 0, 0])


def test_min_p_keeps_all_that_tie():
    np.testing.assert_allclose(law([0.0, 2.0, 2.0], min_p=1.0), [0, 0.5, 0.5])


def test_a_huge_temperature_is_uniform_but_keeps_the_order():
    logits = [1.0, 5.0, -math.inf, 3.0]
    np.testing.assert_allclose(law(logits, temperature=1e300), [1 / 3, 1 / 3, 0, 1 / 3])
    np.testing.assert_allclose(law(logits, temperature=1e300, top_k=2), [0, 0.5, 0, 0.5])


@pytest.mark.parametrize("options", [
    {}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.3}, {"repetition_penalty": 1.5},
])  # fmt: skip
def test_one_token_that_can_be(options):
    """All but one logit -inf."""
    x = [-math.inf, -math.inf, -700.0]
    np.testing.assert_array_equal(law(x, [0, 2], **options), [0, 0, 1])


def by_definition(logits, history, s):
    """What the sampler should draw from, token by token in Python's floats."""
    x = list(logits)
    for t in set(history):
        x[t] = x[t] / s.repetition_penalty if x[t] > 0 else x[t] * s.repetition_penalty
    top = max(x)
    w = [math.exp((v - top) / s.temperature) for v in x]
    ranked = sorted(range(len(x)), key=lambda t: (-x[t], t))[: s.top_k]
    total, mass, kept = sum(w[t] for t in ranked), 0.0, []
    for t in ranked:
        if mass < s.top_p * total or s.top_p == 1:
            kept.append(t)
        mass += w[t]
    kept = [t for t in kept if w[t] >= s.min_p * max(w)]
    total = sum(w[t] for t in kept)
    return [w[t] / total if t in kept else 0.0 for t in range(len(x))]


@given(st.data())
def test_filters_by_definition(data):
    """Drawn logits, with ties, and drawn options together."""
    size = data.draw(st.integers(1, 12))
    logits = data.draw(st.lists(st.integers(-6, 6), min_size=size, max_size=size))
    history = data.draw(st.lists(st.integers(0, size - 1), max_size=5))
    s = Sampler(
        temperature=data.draw(st.sampled_from([0.3, 1.0, 2.0])),
        top_k=data.draw(st.none() | st.integers(1, 14)),
        top_p=data.draw(st.sampled_from([0.123, 0.77, 0.991, 1.0])),
        min_p=data.draw(st.sampled_from([0.0, 0.0123, 0.77])),
        repetition_penalty=data.draw(st.sampled_from([0.7, 1.0, 1.3])),
    )
    logits = [v / 3 for v in logits]
    got = law(logits, history, **vars(s))
    np.testing.assert_allclose(got, by_definition(logits, history, s), rtol=1e-9, atol=1e-15)


def test_draw_by_hand():
    """A token owns its share of [0, 1) in order; one without probability is never drawn."""
    p = np.array([[0.0, 0.25, 0.0, 0.75, 0.0]]).repeat(4, 0)
    u = np.array([0.0, 0.2499, 0.25, 1 - 2.0**-53])
    assert draw(p, u).tolist() == [1, 1, 3, 3]
    assert draw(p * 3e-320, u).tolist() == [1, 1, 3, 3]  # products of denormals are rounded


def test_draws_follow_the_probabilities_independently():
    """Pairs of draws at two places, for 40,000 rows: chi-square of the joint distribution."""
    p, n = np.array([0.1, 0.2, 0.3, 0.4]), 40_000
    logits, s = ml.tensor(np.tile(np.log(p), (n, 1))), Sampler(seed=5)
    a, b = (s(logits, None, place).numpy()[:, 0] for place in (3, 4))
    assert chi_square(np.bincount(4 * a + b, minlength=16), np.outer(p, p)) < 4
    across = 4 * a[:-1] + a[1:]
    assert chi_square(np.bincount(across, minlength=16), np.outer(p, p)) < 4
    other = Sampler(seed=6)(logits, None, 3).numpy()[:, 0]
    assert chi_square(np.bincount(4 * a + other, minlength=16), np.outer(p, p)) < 4


@pytest.mark.parametrize("options", [
    {}, {"temperature": 0.7, "top_p": 0.8}, {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2},
])  # fmt: skip
def test_a_row_does_not_depend_on_its_batch(options):
    """Rows alone, in any order and at any thread count are drawn as in the whole batch."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(8, 33)).astype(np.float32)
    past, s = rng.integers(0, 33, (8, 5)), Sampler(**options, seed=11)
    whole = s(ml.tensor(logits), ml.tensor(past), 5).numpy()
    before = ml.get_num_threads()
    try:
        for threads in (1, 3):
            ml.set_num_threads(threads)
            for k in range(8):
                alone = s(ml.tensor(logits[[k]]), ml.tensor(past[[k]]), 5, rows=[k]).numpy()
                assert alone == whole[k]
            order = rng.permutation(8)
            again = s(ml.tensor(logits[order]), ml.tensor(past[order]), 5, rows=order).numpy()
            np.testing.assert_array_equal(again, whole[order])
    finally:
        ml.set_num_threads(before)


def test_draws_are_of_seed_row_and_place():
    """The same three give the same, any other differ; a global seed has no part in it."""
    s = Sampler(seed=3)
    first = s.uniforms([0, 7], 4, 3)
    assert first.shape == (2, 3) and first.dtype == np.float64
    ml.manual_seed(99)
    np.testing.assert_array_equal(s.uniforms([7], 4, 1)[0], first[1, :1])
    others = [s.uniforms([1], 4), s.uniforms([0], 5), Sampler(seed=4).uniforms([0], 4)]
    assert len({first[0, 0], *[float(u[0, 0]) for u in others]}) == 4


def test_form_of_the_tokens():
    got = Sampler()(ml.zeros(3, 5), None, 0)
    assert got.shape == (3, 1) and got.dtype == np.int64
    greedy = Sampler(temperature=0)(ml.tensor([[0.0, 2.0, 2.0]]), None, 0)
    assert greedy.tolist() == [[1]] and greedy.dtype == np.int64


@pytest.mark.parametrize("options, rule", [
    ({"temperature": -0.1}, r"temperature must be finite and >= 0; got temperature -0\.1"),
    ({"temperature": math.nan}, "temperature must be finite"),
    ({"temperature": math.inf}, "temperature must be finite"),
    ({"top_k": 0}, "top_k must be an integer >= 1, or None; got top_k 0"),
    ({"top_k": 1.5}, "top_k must be an integer"),
    ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]; got top_p 0\.0"),
    ({"top_p": 1.1}, "top_p must lie in"),
    ({"top_p": math.nan}, "top_p must lie in"),
    ({"min_p": -0.1}, r"min_p must lie in \[0, 1\]"),
    ({"min_p": 1.1}, "min_p must lie in"),
    ({"repetition_penalty": 0}, "repetition_penalty must be finite and > 0"),
    ({"repetition_penalty": math.inf}, "repetition_penalty must be finite"),
    ({"seed": 0.5}, "seed must be an integer"),
])  # fmt: skip
def test_options_out_of_range(options, rule):
    with pytest.raises(ShapeError, match="^Sampler: " + rule):
        Sampler(**options)


@pytest.mark.parametrize("logits", [
    [[math.nan, 1.0]], [[1.0, 2.0], [math.inf, 1.0]], [[-math.inf, -math.inf]],
])  # fmt: skip
def test_logits_that_cannot_be_drawn_from(logits):
    with pytest.raises(ShapeError, match="^Sampler: logits must be finite or -inf"):
        Sampler()(ml.tensor(logits), None, 0)


def test_arguments_that_do_not_fit():
    s, x = Sampler(repetition_penalty=1.1), ml.zeros(2, 3)
    with pytest.raises(ShapeError, match="logits must be"):
        s.probabilities(np.zeros(3))
    for history in (None, ml.tensor([[0]]), ml.tensor([0, 1])):
        with pytest.raises(ShapeError, match="needs the texts so far"):
            s(x, history, 0)
    for token in (-1, 3):
        with pytest.raises(RangeError, match="tokens of history must lie in 0 … 2"):
            s(x, ml.tensor([[0], [token]]), 0)
    with pytest.raises(ShapeError, match="one number a text"):
        Sampler()(x, None, 0, rows=[1])
    with pytest.raises(RangeError, match="rows must be numbers"):
        Sampler()(x, None, 0, rows=[0, -1])
    with pytest.raises(RangeError, match="position must be >= 0"):
        Sampler()(x, None, -1)


def small(seed, layers=2):
    """A GPT far from uniform."""
    ml.manual_seed(seed)
    model = GPT(13, block_size=32, n_layer=layers, n_head=2, n_embd=16).eval()
    for parameter in model.parameters():
        parameter.array[...] *= 3
    return model


def continued(model, prompt, s, rows, cached):
    """20 tokens more, drawn by a sampler, with or without a cache."""
    text, cache = prompt, model.new_cache() if cached else None
    with ml.no_grad():
        for _ in range(20):
            logits = model(text[:, cache.length :], cache) if cached else model(text)
            text = ml.cat([text, s(logits[:, -1], text, text.shape[1], rows)], 1)
    return text.numpy()


def test_samples_with_a_cache_or_without_alone_or_together():
    """A GPT's eight texts, drawn with a cache, without, one by one and with three threads."""
    model, prompt = small(4), ml.randint(0, 13, (8, 3))
    s = Sampler(temperature=0.8, top_p=0.95, repetition_penalty=1.1, seed=1)
    whole = continued(model, prompt, s, range(8), False)
    assert len({*map(tuple, whole[:, 3:].tolist())}) == 8
    before = ml.get_num_threads()
    try:
        for threads in (1, 3):
            ml.set_num_threads(threads)
            np.testing.assert_array_equal(continued(model, prompt, s, range(8), True), whole)
    finally:
        ml.set_num_threads(before)
    for k in range(8):
        alone = continued(model, prompt[k : k + 1], s, [k], True)
        np.testing.assert_array_equal(alone, whole[k : k + 1])
