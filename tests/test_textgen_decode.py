"""Beam search and speculative decoding: fixed tables by the last token as models, and a GPT."""

import itertools
import math

import numpy as np
import pytest
from chi_square import chi_square

import minidl as ml
from minidl.errors import RangeError, ShapeError
from minidl.models import CharRNN
from minidl.models.gpt import GPT
from minidl.models.sampling import Sampler
from projects.textgen.decode import Cached, beam_search, rounds, speculative


def table(seed, size=4, scale=1.0):
    """A model (1, T) -> (T, V) whose logits follow from the last token alone, and its table."""
    logits = np.random.default_rng(seed).normal(0, scale, (size, size))
    return (lambda tokens: logits[tokens.numpy()[0]]), logits


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def best_of_all(logits, first, tokens, penalty, end):
    """(score, tokens) of the best hypothesis among every one there is."""
    logp, found = log_softmax(logits), []
    for n in range(1, tokens + 1):
        for made in itertools.product(range(len(logits)), repeat=n):
            whole = n == tokens if end is None else (end in made or n == tokens)
            if whole and (end is None or end not in made[:-1]):
                total = sum(logp[a, b] for a, b in zip((first, *made), made))
                found.append((total / n**penalty, made))
    return max(found)


@pytest.mark.parametrize("end", [None, 0, 2])
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best(seed, penalty, end):
    """A beam as wide as all texts is exhaustive search."""
    step, logits = table(seed)
    got, score = beam_search(step, ml.tensor([[3, 1]]), 4**4, 4, penalty, end)
    best, made = best_of_all(logits, 1, 4, penalty, end)
    assert got.tolist() == [[3, 1, *made]]
    assert score == pytest.approx(best, rel=1e-12)


def test_a_beam_by_hand():
    """Greed takes 1 (0.6), then at best 0.5: 0.3; two beams find 2 (0.4), then 1.0: 0.4."""
    rows = np.log([[1e-9, 0.6, 0.4], [0.5, 0.3, 0.2], [1e-9, 1e-9, 1.0]])
    step, prompt = (lambda tokens: rows[tokens.numpy()[0]]), ml.tensor([[0]])
    assert beam_search(step, prompt, 1, 2)[0].tolist() == [[0, 1, 0]]
    text, score = beam_search(step, prompt, 2, 2)
    assert text.tolist() == [[0, 2, 2]]
    assert score == pytest.approx(math.log(0.4), abs=1e-8)
    # With 1 as the end, [1] ends at 0.6; per token [2, 2, 2] is better: 0.4 ** (1/3).
    assert beam_search(step, prompt, 2, 3, 0.0, 1)[0].tolist() == [[0, 1]]
    assert beam_search(step, prompt, 2, 3, 1.0, 1)[0].tolist() == [[0, 2, 2, 2]]


def test_a_beam_of_one_is_greedy_and_ties_go_to_the_lower_token():
    step, logits = table(9, 6)
    text, last = [2], 2
    for _ in range(7):
        text.append(last := int(logits[last].argmax()))
    assert beam_search(step, ml.tensor([[2]]), 1, 7)[0].tolist() == [text]
    flat = np.zeros((3, 3))
    got = beam_search(lambda tokens: flat[tokens.numpy()[0]], ml.tensor([[2]]), 2, 3)[0]
    assert got.tolist() == [[2, 0, 0, 0]]


def test_a_beam_passes_over_impossible_tokens():
    only = np.full((3, 3), -math.inf)
    only[:, 1] = 0
    step = lambda tokens: only[tokens.numpy()[0]]  # noqa: E731
    assert beam_search(step, ml.tensor([[0]]), 5, 3)[0].tolist() == [[0, 1, 1, 1]]
    text, score = beam_search(step, ml.tensor([[0]]), 5, 3, 0.0, 1)
    assert text.tolist() == [[0, 1]] and score == 0


def joint(logits, options, first, tokens):
    """Probabilities (V,) * tokens of all texts that a sampler draws from a table."""
    p = np.array([Sampler(**options).probabilities([row])[0] for row in logits])
    whole = p[first]
    for _ in range(tokens - 1):
        whole = whole[..., None] * p
    return whole


@pytest.mark.parametrize("options, lookahead", [
    ({}, 1), ({"temperature": 0.7, "top_k": 3, "top_p": 0.9}, 3),
])  # fmt: skip
def test_speculative_texts_are_distributed_as_the_targets(options, lookahead):
    """Chi-square of whole texts of 3 tokens, for a target; the draft's own would be far off."""
    target, logits = table(1)
    draft, other = table(2)
    s, n, prompt = Sampler(**options, seed=8), 1200, ml.tensor([[2]])
    counts, kept = np.zeros((4, 4, 4)), 0.0
    for row in range(n):
        text, share = speculative(target, draft, prompt, 3, s, lookahead, row=row)
        counts[tuple(text.tolist()[0][1:])] += 1
        kept += share / n
    expected = joint(logits, options, 2, 3)
    big = expected >= 5 / n  # rarer texts go into one bin
    merged = np.append(expected[big], expected[~big].sum())
    assert chi_square(np.append(counts[big], counts[~big].sum()), merged) < 4
    assert counts[expected == 0].sum() == 0
    wrong = np.maximum(joint(other, options, 2, 3), 1e-9)
    assert chi_square(counts, wrong / wrong.sum()) > 50
    assert 0.2 < kept < 0.95


def test_the_share_kept_is_the_overlap():
    """Of one drafted token, sum over tokens of min(p, q) is kept (Leviathan et al., 3.6)."""
    target, p = table(3)
    draft, q = table(4)
    p, q = np.exp(log_softmax(p))[1], np.exp(log_softmax(q))[1]
    rows = range(1200)
    kept = [speculative(target, draft, ml.tensor([[1]]), 2, Sampler(), 1, row=r)[1] for r in rows]
    overlap = np.minimum(p, q).sum()
    assert abs(np.mean(kept) - overlap) < 4 * math.sqrt(overlap * (1 - overlap) / len(rows))


def plainly(step, prompt, tokens, s, row=0):
    """Token by token, the whole text every time."""
    text = [*prompt]
    for _ in range(tokens):
        logits = ml.tensor(step(ml.tensor([text]))[-1:])
        text.append(s(logits, ml.tensor([text]), len(text), rows=[row]).item())
    return text


@pytest.mark.parametrize("lookahead", [1, 2, 5, 30])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_speculative_greedy_is_the_targets(lookahead, penalty):
    """At temperature 0 the tokens are exactly the target's, whatever the draft says."""
    target, _ = table(5, 9)
    draft, _ = table(6, 9)
    s = Sampler(temperature=0, repetition_penalty=penalty)
    for first in range(9):
        got, share = speculative(target, draft, ml.tensor([[first]]), 20, s, lookahead)
        assert got.tolist()[0] == plainly(target, [first], 20, s)
        assert 0 <= share <= 1


@pytest.mark.parametrize("lookahead", [1, 3])
def test_a_draft_like_its_target_changes_nothing(lookahead):
    """All is kept, and the texts are those of plain sampling, with history's penalty too."""
    target, _ = table(7, 8)
    s = Sampler(temperature=0.9, top_p=0.95, repetition_penalty=3.0, seed=2)
    for row in range(20):
        got, share = speculative(target, target, ml.tensor([[1, 4]]), 11, s, lookahead, row=row)
        assert got.tolist()[0] == plainly(target, [1, 4], 11, s, row)
        assert share == 1


def test_a_round_is_one_call_of_the_target():
    target, _ = table(7, 8)
    lengths = []

    def counted(tokens):
        lengths.append(tokens.shape[1])
        return target(tokens)

    assert speculative(counted, target, ml.tensor([[0]]), 10, Sampler(), 4)[0].shape == (1, 11)
    assert lengths == [5, 10]
    assert speculative(counted, target, ml.tensor([[0]]), 1, Sampler(), 4)[1] == 0
    found = [*rounds(counted, target, ml.tensor([[0]]), 10, Sampler(), 4)]
    assert [(len(new), guessed) for new, guessed in found] == [(5, 4), (5, 4)]


def small(seed, layers=2):
    """A GPT far from uniform."""
    ml.manual_seed(seed)
    model = GPT(13, block_size=32, n_layer=layers, n_head=2, n_embd=16).eval()
    for parameter in model.parameters():
        parameter.array[...] *= 3
    return model


def recurrent(kind, layer_norm=False):
    """A network with a state, far from uniform."""
    ml.manual_seed(1)
    model = CharRNN(13, kind=kind, hidden_size=12, layer_norm=layer_norm).eval()
    for parameter in model.parameters():
        parameter.array[...] *= 2
    return model


MODELS = {
    "gpt": lambda: small(1), "rnn": lambda: recurrent("rnn"), "lstm": lambda: recurrent("lstm"),
    "normed gru": lambda: recurrent("gru", True),
}  # fmt: skip


def logits_of(model, text):
    """Of every place of a text (1, T), by one run."""
    with ml.no_grad():
        found = model(ml.tensor(text))
    return (found[0] if isinstance(found, tuple) else found)[0].numpy()


@pytest.mark.parametrize("name", MODELS)
def test_a_cached_model_gives_the_logits_of_the_whole(name):
    """After going on, going back, another branch, a shorter text and the same one again."""
    model = MODELS[name]()
    step = Cached(model)
    a = np.random.default_rng(0).integers(0, 13, (1, 20))
    b = a.copy()
    b[0, 7] = (b[0, 7] + 1) % 13
    for text in (a[:, :5], a[:, :6], a, b, b[:, :9], b[:, :9], a[:, :12], b):
        want = logits_of(model, text)
        np.testing.assert_allclose(step(ml.tensor(text)), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "lstm"])
def test_a_cached_model_runs_new_tokens_alone(name):
    """One more token is a run of one; a draft that was refused costs what came after it."""
    model, lengths = MODELS[name](), []
    step, forward = Cached(model), model.forward
    model.forward = lambda x, *state: lengths.append(x.shape[1]) or forward(x, *state)
    text = np.random.default_rng(1).integers(0, 13, (1, 12))
    for n in (5, 6, 7, 10):
        step(ml.tensor(text[:, :n]))
    other = text[:, :9].copy()
    other[0, 8] = (other[0, 8] + 1) % 13
    step(ml.tensor(other))
    assert lengths == [5, 1, 1, 3, 1 if name == "gpt" else 2]  # states are kept after 5, 6, 7, 10


def test_what_a_model_must_not_write_is_cut_off():
    model = recurrent("gru")
    whole = logits_of(model, np.array([[1, 2]]))
    model.writable = 11
    assert Cached(model)(ml.tensor([[1, 2]])).shape == (2, 11)
    np.testing.assert_allclose(Cached(model)(ml.tensor([[1, 2]])), whole[:, :11], rtol=1e-5)


def test_gpt_decodes_the_same_by_every_way():
    """Beam of one, speculation with a smaller GPT and `generate` agree on the greedy text."""
    model, draft, prompt = small(2), Cached(small(3, 1)), ml.tensor([[1, 5, 3]])
    want = model.generate(prompt, 24, temperature=0).tolist()
    assert beam_search(Cached(model), prompt, 1, 24)[0].tolist() == want
    s = Sampler(temperature=0)
    assert speculative(Cached(model), draft, prompt, 24, s, 4)[0].tolist() == want
    plain = lambda tokens: model(tokens)[0]  # noqa: E731
    cached, whole = (beam_search(f, prompt, 3, 12, 1.0) for f in (Cached(model), plain))
    assert cached[0].tolist() == whole[0].tolist()
    assert cached[1] == pytest.approx(whole[1], rel=1e-4)
    s = Sampler(temperature=0.8, seed=4)
    got = [speculative(f, draft, prompt, 20, s, 3) for f in (Cached(model), plain)]
    assert got[0][0].tolist() == got[1][0].tolist()


def test_decoding_refuses_what_it_cannot_do():
    step, _ = table(1)
    prompt, s = ml.tensor([[0]]), Sampler()
    for wrong in (ml.zeros(1, 0, dtype=np.int64), ml.tensor([0]), ml.tensor([[0], [1]])):
        with pytest.raises(ShapeError, match=r"^beam_search: prompt must be \(1, T\)"):
            beam_search(step, wrong, 2, 3)
    with pytest.raises(ShapeError, match="^beam_search: tokens must be >= 1; got tokens 0"):
        beam_search(step, prompt, 2, 0)
    with pytest.raises(ShapeError, match="^beam_search: width must be >= 1"):
        beam_search(step, prompt, 0, 3)
    with pytest.raises(ShapeError, match="^beam_search: length_penalty must be finite and >= 0"):
        beam_search(step, prompt, 2, 3, -1.0)
    with pytest.raises(RangeError, match="^beam_search: end must be a token, 0 … 3; got end 4"):
        beam_search(step, prompt, 2, 3, end=4)
    with pytest.raises(ShapeError, match="^beam_search: logits must be finite"):
        beam_search(lambda tokens: np.full((1, 3), math.nan), prompt, 2, 3)
    with pytest.raises(ShapeError, match="^beam_search: a step must give logits"):
        beam_search(lambda tokens: np.zeros((1, 1, 3)), prompt, 2, 3)
    with pytest.raises(ShapeError, match="^speculative: lookahead must be >= 1"):
        speculative(step, step, prompt, 3, s, 0)
    with pytest.raises(ShapeError, match="share a vocabulary; got target 4, draft 3"):
        speculative(step, table(1, 3)[0], prompt, 3, Sampler(temperature=0), 1)
    with pytest.raises(ShapeError, match=r"^Cached: the model must be in evaluation mode"):
        Cached(small(1).train())
    with pytest.raises(ShapeError, match="at most block_size = 32 tokens"):
        beam_search(Cached(small(1)), prompt, 2, 40)
