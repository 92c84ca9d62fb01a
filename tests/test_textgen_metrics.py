"""Text generation's measures on cases computed by hand, and word vectors: training, files, use."""

import math

import numpy as np
import pytest
from directional import check_threads
from hypothesis import given
from hypothesis import strategies as st

import minidl as ml
from minidl import nn
from minidl.errors import DataError, ShapeError
from minidl.random import Generator
from projects.textgen.metrics import (
    bits_per_character,
    distinct,
    nats_per_character,
    overlap,
    perplexity,
    self_bleu,
    spelt,
    table,
    words_of,
    zipf_slope,
)
from projects.textgen.vectors import (
    _pairs,
    _subsampled,
    embedding_for,
    nearest,
    read_glove,
    sampled_loss,
    train,
)

# ---- losses --------------------------------------------------------------------------------------


def test_losses_change_their_units():
    """4 tokens of 1.5 nats spell 12 characters: 0.5 nats each; ln 2 nats are a bit."""
    assert nats_per_character(1.5, 4, 12) == 0.5
    assert bits_per_character(3 * math.log(2)) == pytest.approx(3, rel=1e-15)
    assert perplexity(0) == 1 and perplexity(math.log(65)) == pytest.approx(65, rel=1e-14)
    assert perplexity(1e4) == math.inf and math.isnan(perplexity(math.nan))


@pytest.mark.parametrize(("tokens", "characters"), [(0, 5), (5, 0), (-1, 5), (2.5, 5)])
def test_losses_need_counts(tokens, characters):
    rule = "nats_per_character: tokens and characters must be integers above 0; got tokens"
    with pytest.raises(ShapeError, match=rule):
        nats_per_character(1.0, tokens, characters)


# ---- words ---------------------------------------------------------------------------------------


def test_words_are_runs_of_letters():
    text = "Don’t STOP--2 o'clock 'tis' x1y snake_case rock''n Été, naïve\ne-mail"
    expected = "don't stop o'clock tis x y snake case rock n été naïve e mail"
    assert words_of(text) == expected.split()
    assert words_of("12 + 3 = _'_") == []


def test_spelt_counts_every_occurrence():
    words = {"the", "cat", "on", "mat"}
    assert spelt("The cat zat, zat on MAT.", words) == pytest.approx(400 / 6)
    assert spelt(["the zat", "", "cat"], words) == pytest.approx(200 / 3)
    assert math.isnan(spelt("1, 2", words)) and math.isnan(spelt([], words))


@pytest.mark.parametrize("words", [set(), "the cat"])
def test_spelt_refuses_what_is_no_dictionary(words):
    with pytest.raises(DataError, match="spelt: words must be a collection of at least one word"):
        spelt("the", words)


@pytest.mark.parametrize(("n", "share"), [(1, 5 / 6), (2, 3 / 5), (3, 1 / 4), (4, 0)])
def test_overlap(n, share):
    """Of ab bx xb bc cd, three are in training; of abx bxb xbc bcd, one."""
    assert overlap("A b x b c d", "a, b, c, d", n) == pytest.approx(share)


def test_overlap_counts_no_gram_across_texts():
    assert overlap(["a b", "c d"], "a b c", 2) == 0.5
    assert math.isnan(overlap(["a", "b"], "a b", 2)) and math.isnan(overlap("", "a", 1))
    assert overlap("a b", "a", 2) == 0
    with pytest.raises(DataError, match="overlap: the training text must have words; got char"):
        overlap("a", "1 2", 1)


def test_distinct():
    """abab and ab: a b of 6 words, ab ba of 4 pairs, aba bab of 2 triples, one of 1."""
    texts = ["a b a b", "A b"]
    assert [distinct(texts, n) for n in (1, 2, 3, 4)] == pytest.approx([2 / 6, 2 / 4, 1, 1])
    assert math.isnan(distinct(texts, 5)) and math.isnan(distinct([], 1))


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_orders_are_checked(n):
    rule = "n must be an integer of at least 1; got n"
    for measure in (distinct, self_bleu, lambda texts, n: overlap(texts, "a", n)):
        with pytest.raises(ShapeError, match=rule):
            measure(["a", "b"], n)


def test_zipf_slope():
    law = " ".join(["a"] * 12 + ["b"] * 6 + ["c"] * 4 + ["d"] * 3)
    assert zipf_slope(law) == pytest.approx(-1, rel=1e-12)
    assert zipf_slope(["b a a", "a a"]) == pytest.approx(-2, rel=1e-12)  # log(1/4) / log 2
    assert zipf_slope("a b c") == 0
    # Ranks 1, 2, 3 with frequencies 4, 1, 1: the line through (0, ln 4), (ln 2, 0), (ln 3, 0).
    x = [0, math.log(2), math.log(3)]
    mean = sum(x) / 3
    slope = -mean * math.log(4) / sum((v - mean) ** 2 for v in x)
    assert zipf_slope("a a a a b c") == pytest.approx(slope, rel=1e-12)
    assert zipf_slope("a a a a b c", ranks=2) == pytest.approx(-2, rel=1e-12)
    assert math.isnan(zipf_slope("a a")) and math.isnan(zipf_slope(""))
    with pytest.raises(ShapeError, match="zipf_slope: a slope needs at least 2 ranks; got ranks 1"):
        zipf_slope("a b", ranks=1)


# ---- self-BLEU -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "n", "value"),
    [
        # Precisions 4/5, 3/4, 2/3, 1/2 both ways: their product is 1/5.
        (["a b c d e", "a b c d f"], 4, 0.2**0.25),
        (["a b c d e", "a b c d f"], 2, 0.6**0.5),
        # Clipped to one a: 1/3; backward 1/2, and 2 words against 3.
        (["a a a", "a b"], 1, (1 / 3 + 0.5 * math.exp(-0.5)) / 2),
        # Clipped at the 2 of another text, not at 2 + 1 of both; the last has 1 word against 2.
        (["a a a", "a a", "a"], 1, (2 / 3 + 1 + math.exp(-1)) / 3),
        # 4 words between 3 and 5: the shorter is closest, no penalty; then 3 against 4, 5 of 4.
        (["a a a a", "a a a", "a a a a a"], 1, (1 + math.exp(1 - 4 / 3) + 4 / 5) / 3),
        # Orders 1 and 2 exist: 1 and 0.1 matches of 1.
        (["a b", "b a"], 4, 0.1**0.5),
        (["a b c d", "e f g h"], 4, 0),
        (["The cat", "the cat!", "", "..."], 4, 1),
    ],
)
def test_self_bleu(texts, n, value):
    assert self_bleu(texts, n) == pytest.approx(value, rel=1e-12)


def test_self_bleu_needs_two_texts():
    assert all(math.isnan(self_bleu(texts)) for texts in ([], ["a b"], ["a b", "12"], "a b"))


def bleu(sample, others, n):
    """Papineni's BLEU with Chen and Cherry's method 1, one gram at a time by slices of lists."""
    product = 1.0
    orders = min(n, len(sample))
    for k in range(1, orders + 1):
        grams = [sample[i : i + k] for i in range(len(sample) - k + 1)]
        matches = 0
        for i, gram in enumerate(grams):
            seen = grams[:i].count(gram)
            found = [sum(o[j : j + k] == gram for j in range(len(o))) for o in others]
            matches += seen < max(found)
        if k == 1 and matches == 0:
            return 0.0
        product *= (matches if matches else 0.1) / len(grams)
    lengths = sorted(len(o) for o in others)
    closest = min(lengths, key=lambda m: abs(m - len(sample)))
    short = math.exp(1 - closest / len(sample)) if len(sample) < closest else 1.0
    return short * product ** (1 / orders)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), min_size=2, max_size=4))
def test_self_bleu_is_the_mean_of_bleus(samples):
    each = [bleu(s, samples[:i] + samples[i + 1 :], 4) for i, s in enumerate(samples)]
    value = self_bleu([" ".join(s) for s in samples], 4)
    assert value == pytest.approx(sum(each) / len(each), rel=1e-9)


# ---- the table -----------------------------------------------------------------------------------


def test_table():
    found = table(["a a b", "a a c"], "b a a")
    expected = [500 / 6, 5 / 6, 2 / 4, 0, math.nan] + [3 / 6, 3 / 4, 1, math.nan]
    expected += [(2 / 3 * 1 / 2 * 0.1) ** (1 / 3), zipf_slope("a a a a b c")]
    assert [*found.values()] == pytest.approx(expected, nan_ok=True)
    names = ["spelt %", *(f"{m}-{n}" for m in ("overlap", "distinct") for n in (1, 2, 3, 4))]
    assert [*found] == [*names, "self-BLEU-4", "Zipf slope"]


def test_table_of_samples_without_words_is_nan():
    assert all(math.isnan(value) for value in table(["", "12"], "a").values())


def test_table_refuses_empty_input():
    for samples in ([], "a text"):
        with pytest.raises(DataError, match="table: samples must be a sequence of at least one"):
            table(samples, "a b")
    with pytest.raises(DataError, match="table: the training text must have words"):
        table(["a"], "")


# ---- skip-gram -----------------------------------------------------------------------------------

ANIMALS = "cat dog horse cow sheep goat pig hen".split()
METALS = "iron gold zinc lead tin silver nickel copper".split()


def two_topics(runs=120, length=20, seed=0):
    """Runs of random words of one topic, the other, and so on."""
    rng = np.random.default_rng(seed)
    return [str(w) for i in range(runs) for w in rng.choice((ANIMALS, METALS)[i % 2], length)]


def test_neighbours_are_of_the_words_topic():
    words, vectors = train(two_topics(), 8, 3, 5, 150, 0, batch=128, lr=0.05, threshold=1.0)
    assert sorted(words) == sorted(ANIMALS + METALS) and vectors.shape == (16, 8)
    assert vectors.dtype == np.float32
    for topic in (ANIMALS, METALS):
        for word in topic:
            near = nearest(word, words, vectors, 7)
            assert {w for w, _ in near} == set(topic) - {word}
            cosines = [c for _, c in near]
            assert cosines == sorted(cosines, reverse=True) and cosines[-1] > 0.5


def test_training_is_seeded_at_any_thread_count():
    def run(seed):
        return train(two_topics(20), 6, 2, 3, 12, seed, batch=64, threshold=0.1)

    check_threads(lambda: [run(1)[1]])
    (words, first), (_, other) = run(1), run(2)
    assert len(words) == len(first) and not np.array_equal(first, other)


def sampled_inputs(seed, vocabulary=7, dim=4, pairs=5, negatives=3):
    rng = np.random.default_rng(seed)
    tables = [ml.tensor(rng.normal(size=(vocabulary, dim)), requires_grad=True) for _ in range(2)]
    return *tables, *(rng.integers(0, vocabulary, s) for s in (pairs, pairs, (pairs, negatives)))


def test_sampled_loss_is_equation_4():
    v, u, a, b, others = sampled_inputs(0)
    x, y = v.detach().numpy(), u.detach().numpy()
    total = 0.0
    for i in range(5):
        total += math.log1p(math.exp(-x[a[i]] @ y[b[i]]))
        for k in others[i]:
            total += math.log1p(math.exp(x[a[i]] @ y[k]))
    assert sampled_loss(v, u, a, b, others).item() == pytest.approx(total / 5, rel=1e-12)
    # Of zeros, every sigmoid is a half.
    zero = ml.zeros(7, 4)
    assert sampled_loss(zero, zero, a, b, others).item() == pytest.approx(4 * math.log(2))


def test_sampled_loss_has_its_gradient():
    v, u, a, b, others = sampled_inputs(1)
    others[0, 0] = b[0]  # a negative may equal the pair's word
    assert ml.gradcheck(lambda v, u: sampled_loss(v, u, a, b, others), (v, u))


def test_subsampling_keeps_the_root_of_threshold_over_frequency():
    tokens = np.repeat([0, 1], [90_000, 10_000])
    kept = _subsampled(tokens, np.array([9e4, 1e4]), 0.1, 5, Generator(0, "data"))
    assert (kept == 1).sum() == 10_000
    # A third of 90,000, five deviations of the binomial on either side.
    assert abs((kept == 0).sum() - 30_000) < 5 * math.sqrt(90_000 * 2 / 9)


def test_pairs_are_nearer_more_often():
    n = 60_000
    a, b = _pairs(np.arange(1000), 3, n, Generator(0, "data"))
    for distance in (-3, -2, -1, 1, 2, 3):
        share = (4 - abs(distance)) / 12
        found = (b - a == distance).sum()
        assert abs(found - n * share) < 5 * math.sqrt(n * share * (1 - share)), distance
    assert min(a.min(), b.min()) < 3 and max(a.max(), b.max()) > 996


def test_rare_words_are_left_out():
    text = ["b", "a", "b", "rare"] * 4 + ["c"] * 5
    words, vectors = train(text, 3, 1, 1, 2, 0, batch=4, threshold=1.0)
    assert words == ["b", "c"] and vectors.shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "error", "rule"),
    [
        ({"words": ["a"] * 9}, DataError, "needs at least 2 different words that come 5 times"),
        ({"words": []}, DataError, "needs at least 2 different words .* got words 0, left 0"),
        ({"words": "a text"}, DataError, "words must be a sequence of words, not one text"),
        ({"threshold": 1e-12}, DataError, "subsampling leaves too few words for a window of 2"),
        ({"threshold": 0.0}, ShapeError, "threshold must be above 0"),
        ({"dim": 0}, ShapeError, "sizes must be integers of at least 1; got dim 0"),
        ({"steps": 1.5}, ShapeError, "sizes must be integers of at least 1; got .*steps 1.5"),
    ],
)
def test_training_refuses(change, error, rule):
    arguments = {"words": two_topics(10), "dim": 2, "window": 2, "negatives": 1, "steps": 1}
    with pytest.raises(error, match=f"train: {rule}"):
        train(**arguments | {"seed": 0} | change)


# ---- use -----------------------------------------------------------------------------------------


def test_nearest_by_cosine():
    words = ["east", "far east", "north", "west", "nowhere", "north-east"]
    vectors = np.array([[1, 0], [9, 0], [0, 2], [-3, 0], [0, 0], [1, 1]], np.float32)
    near = nearest("east", words, vectors, 4)
    assert [w for w, _ in near] == ["far east", "north-east", "north", "nowhere"]
    assert [c for _, c in near] == pytest.approx([1, math.sqrt(0.5), 0, 0])
    assert nearest("east", words, vectors)[-1] == ("west", pytest.approx(-1))
    with pytest.raises(DataError, match="word must be one of the words; got word 'south'"):
        nearest("south", words, vectors)
    with pytest.raises(ShapeError, match="nearest: vectors must have one row"):
        nearest("east", words, vectors[:3])


def test_embedding_for_a_tokenizer():
    vectors = (["the", "cat", "Cat"], np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    tokens = ["<unk>", "The", "cat", "Cat", *(f"?{i}" for i in range(2000))]
    weight = embedding_for(tokens, vectors, std=0.1, seed=3)
    values = weight.detach().numpy()
    assert values[1:4].tolist() == [[1, 2], [3, 4], [5, 6]]
    strangers = np.delete(values, [1, 2, 3], axis=0)
    # 4002 normals: their deviation is known to 0.1 / sqrt(2 * 4002).
    assert strangers.std() == pytest.approx(0.1, abs=5 * 0.1 / math.sqrt(8004))
    assert len(np.unique(strangers)) > 4000
    assert np.array_equal(embedding_for(tokens, vectors, std=0.1, seed=3).detach(), values)
    assert not np.array_equal(embedding_for(tokens, vectors, std=0.1).detach(), values)
    layer = nn.Embedding(len(tokens), 2)
    layer.weight = weight
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert layer(ml.tensor([3, 1])).tolist() == [[5, 6], [1, 2]]
    with pytest.raises(DataError, match="embedding_for: at least one token must have a vector"):
        embedding_for(["a", "b"], vectors)
    with pytest.raises(ShapeError, match="embedding_for: vectors must have one row"):
        embedding_for(["the"], (["the"], np.ones(3, np.float32)))


# ---- GloVe ---------------------------------------------------------------------------------------


def written(folder, text):
    path = folder / "glove.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_glove_files_are_read(tmp_path):
    text = "the 0.25 -1e-3 3\r\nl\u0085 1 2 3\nété 4 5 6\nthe 7 8 9"
    words, vectors = read_glove(written(tmp_path, text))
    assert words == ["the", "l\u0085", "été"] and vectors.dtype == np.float32
    expected = np.array([[0.25, -1e-3, 3], [1, 2, 3], [4, 5, 6]], np.float32)
    assert np.array_equal(vectors, expected)
    words, vectors = read_glove(written(tmp_path, ". . 1 2\nat name 3 4\nx 5 6\n"), dim=2)
    assert words == [". .", "at name", "x"] and vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("text", "dim", "line", "numbers"),
    [
        ("a 1 2\nb 1\n", None, 2, 2),
        ("a 1 2\nb 1 2\nc 1 2 3\n", None, 3, 2),
        ("a 1 2\n\nb 1 2\n", None, 2, 2),
        ("a 1 2\nb 1 x\n", None, 2, 2),
        ("a 1 2\nb 1 nan\n", None, 2, 2),
        ("a 1 2\nb 1 1e99\n", None, 2, 2),
        ("a 1 2\nb 1 1e999\n", None, 2, 2),
        ("a 1 2\nb 1  2\n", None, 2, 2),
        (" 1 2\n", None, 1, 2),
        ("word\n", None, 1, 1),
        ("2 3\na 1 2 3\nb 1 2 3\n", None, 2, 1),  # word2vec's header
        ("2 3\na 1 2 3\nb 1 2 3\n", 3, 1, 3),
        ("a 1 2 3\n1 2 3\n", 3, 2, 3),
    ],
)
def test_a_damaged_line_is_named(tmp_path, text, dim, line, numbers):
    path = written(tmp_path, text)
    rule = f"read_glove: line {line} of {path} must be a word and {numbers} finite numbers; got"
    with pytest.raises(DataError, match=rule):
        read_glove(path, dim)


def test_unreadable_glove_files(tmp_path):
    with pytest.raises(DataError, match=r"glove.txt has no vectors"):
        read_glove(written(tmp_path, ""))
    with pytest.raises(DataError, match=r"read_glove: cannot read .*glove.txt as UTF-8 text: "):
        read_glove(written(tmp_path, b"a 1 2\n\xff\xfe 1 2\n"))
    with pytest.raises(DataError, match=r"none.txt as UTF-8 text: No such file"):
        read_glove(tmp_path / "none.txt")
    with pytest.raises(ShapeError, match="read_glove: dim must be at least 1; got dim 0"):
        read_glove(tmp_path / "none.txt", 0)
