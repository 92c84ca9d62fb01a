"""How good generated text is: losses in several units, and measures of the words of samples.

A word is a run of letters with single apostrophes inside it, in lower case, with a typographic
apostrophe written as a straight one: `words_of`. Every measure of texts counts such words (`bleu`
alone those that it is given), so it means the same for character, BPE and word models. A sample
that is cut off inside a word ends in that stump. Lengths matter: compare the samples of two models
only at equal number and length.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from numbers import Integral

from minidl.errors import DataError, require

ORDERS = (1, 2, 3, 4)  # the n of the n-grams in a table
RANKS = 5000  # most ranks of a Zipf slope, as in Holtzman et al. 2020
SMOOTHING = 0.1  # counted where a sample shares no n-gram with the others

Texts = str | Sequence[str]
Gram = tuple[str, ...]

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


# ---- losses --------------------------------------------------------------------------------------


def nats_per_character(nats_per_token: float, tokens: int, characters: int) -> float:
    """A mean loss in nats/token over `tokens` tokens, spread over the `characters` they spell.

    The cross-entropy of the text does not depend on how it is cut, so models with different
    tokens compare in this unit alone. Raises ShapeError for counts below 1.
    """
    ok = all(isinstance(n, Integral) and n > 0 for n in (tokens, characters))
    rule = "tokens and characters must be integers above 0"
    require(ok, "nats_per_character", rule, tokens=tokens, characters=characters)
    return nats_per_token * tokens / characters


def bits_per_character(nats_per_character: float) -> float:
    """The same loss in bits: nats / ln 2."""
    return nats_per_character / math.log(2)


def perplexity(nats_per_token: float) -> float:
    """exp of the mean loss in nats/token: as uncertain as a fair choice among so many tokens.

    Of tokens, so it compares models with the same tokens only. inf above the largest float.
    """
    try:
        return math.exp(nats_per_token)
    except OverflowError:
        return math.inf


# ---- words of samples ----------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """The words of a text in order: runs of letters with single apostrophes inside, lower case.

    "Don’t stop--2 o'clock 'tis" has don't, stop, o'clock and tis: digits, hyphens and outer
    apostrophes separate.
    """
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def spelt(text: Texts, words: Collection[str]) -> float:
    """Percentage of the words of one or more texts, each time they occur, that are in `words`.

    words: `set(words_of(training text))`, so a true word that training never showed counts as
    wrong. nan for a text without words. Raises DataError for no words, or a str in their place.
    """
    rule = "words must be a collection of at least one word: set(words_of(training))"
    ok = not isinstance(words, str) and len(words) > 0
    require(ok, "spelt", rule, error=DataError, words=type(words).__name__, count=len(words))
    known = set(words)
    found = [word in known for sample in _listed(text) for word in words_of(sample)]
    return 100 * _share(sum(found), len(found))


def overlap(text: Texts, training: str, n: int) -> float:
    """Share of the n-grams of words of one or more texts, each time, that `training` holds too.

    0 at large n: nothing is copied; 1: every run of n words is. No n-gram spans two texts. nan
    for texts without one. Raises DataError for training text without words, ShapeError for
    n < 1.
    """
    _check_order("overlap", n)
    known = words_of(training)
    rule = "the training text must have words"
    require(bool(known), "overlap", rule, error=DataError, characters=len(training))
    generated = Counter(_grams_of(text, n))
    shared = generated.keys() & _grams(known, n)
    return _share(sum(generated[gram] for gram in shared), generated.total())


def distinct(texts: Texts, n: int) -> float:
    """Different n-grams of words over all n-grams of the texts: 1 if none comes twice.

    Distinct-n of Li et al. 2016 (arXiv 1510.03055), who divide by the number of words; by that of
    n-grams, as is usual since, 1 is the maximum at every n. No n-gram spans two texts. nan for
    texts without one. Raises ShapeError for n < 1.
    """
    _check_order("distinct", n)
    grams = Counter(_grams_of(texts, n))
    return _share(len(grams), grams.total())


def zipf_slope(text: Texts, ranks: int = RANKS) -> float:
    """Slope of log frequency on log rank of a text's words, about -1 in natural language.

    Least squares over ranks 1 ... min(ranks, number of different words), every rank counting
    once; words of equal frequency take consecutive ranks. (Zipf 1949; as in Holtzman et al. 2020,
    arXiv 1904.09751, with the sign kept.) nan for fewer than two different words. Raises
    ShapeError for fewer than two ranks.
    """
    require(ranks >= 2, "zipf_slope", "a slope needs at least 2 ranks", ranks=ranks)
    counts = Counter(_grams_of(text, 1)).most_common(ranks)
    if len(counts) < 2:
        return math.nan
    x = [math.log(rank) for rank in range(1, len(counts) + 1)]
    return statistics.linear_regression(x, [math.log(count) for _, count in counts]).slope


# ---- BLEU ----------------------------------------------------------------------------------------


def bleu(
    texts: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], n: int = 4
) -> float:
    """BLEU-n of translations, each a list of words, each against one or more references, in [0, 1].

    Papineni et al. 2002: geometric mean, weights equal, of the precisions of orders 1 to n, which
    are matches over n-grams, both summed over all texts; an n-gram matches as often as it comes in
    the reference that has it most. Times the brevity penalty exp(1 - r / c) where c, the words of
    all texts, are fewer than r, those of each text's reference of the closest length (the shorter
    of two). No smoothing: 0 where an order has no match. Raises ShapeError for n < 1 and unless
    every text has a reference, DataError for no texts.
    """
    _check_order("bleu", n)
    require(len(texts) > 0, "bleu", "there must be a text", error=DataError, texts=len(texts))
    fits = len(texts) == len(references) and all(references)
    rule = "every text must have at least one reference"
    require(fits, "bleu", rule, texts=len(texts), references=len(references))
    sums = [[0, 0] for _ in range(n)]
    for text, others in zip(texts, references):
        for total, found in zip(sums, _matches(_counts(text, n), [_counts(o, n) for o in others])):
            total[0], total[1] = total[0] + found[0], total[1] + found[1]
    if not all(matches for matches, _ in sums):
        return 0.0
    closest = (_closest(len(text), [*map(len, o)]) for text, o in zip(texts, references))
    return _combined(sums, sum(map(len, texts)), sum(closest))


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Mean BLEU-n of each text against all others: 1 if all are alike, near 0 if none are.

    Zhu et al. 2018 (arXiv 1802.01886), by the BLEU of Papineni et al. 2002 (see `bleu`) for one
    sentence. Orders above a text's number of words are left out. Smoothing: an order without a
    match counts 0.1 matches (method 1 of Chen and Cherry 2014), and a text that shares no word
    scores 0. Texts without words are left out; nan for fewer than two others. Raises ShapeError
    for n < 1.
    """
    _check_order("self_bleu", n)
    samples = [words for words in map(words_of, _listed(texts)) if words]
    if len(samples) < 2:
        return math.nan
    counts = [_counts(words, n) for words in samples]
    lengths = [len(words) for words in samples]
    each = []
    for i, own in enumerate(counts):
        found = _matches(own, counts[:i] + counts[i + 1 :])
        smoothed = [(matches or SMOOTHING, total) for matches, total in found if total]
        closest = _closest(lengths[i], lengths[:i] + lengths[i + 1 :])
        each.append(_combined(smoothed, lengths[i], closest) if found[0][0] else 0.0)
    return statistics.fmean(each)


def _counts(words: Sequence[str], n: int) -> list[Counter[Gram]]:
    """How often each n-gram comes; item k is of order k + 1."""
    return [Counter(_grams(words, k)) for k in range(1, n + 1)]


def _matches(text: list[Counter[Gram]], others: list[list[Counter[Gram]]]) -> list[tuple[int, int]]:
    """Clipped matches and n-grams of a text, by order."""
    found = []
    for k, grams in enumerate(text):
        most = {g: max(other[k].get(g, 0) for other in others) for g in grams}
        found.append((sum(min(count, most[g]) for g, count in grams.items()), grams.total()))
    return found


def _closest(length: int, references: Sequence[int]) -> int:
    """The reference's length that is closest, the shorter of two."""
    return min(references, key=lambda r: (abs(r - length), r))


def _combined(found: Iterable[Sequence[float]], length: int, closest: int) -> float:
    """Geometric mean of matches / n-grams over the orders, times the brevity penalty."""
    mean = statistics.fmean(math.log(matches / total) for matches, total in found)
    return math.exp(mean) * min(1.0, math.exp(1 - closest / length))


# ---- all together --------------------------------------------------------------------------------


def table(samples: Sequence[str], training: str) -> dict[str, float]:
    """Every measure of some samples by name; percent for `spelt`, shares for overlap, distinct-n.

    training: the text whose words and n-grams count as known. Raises DataError for no samples or
    training text without words; a measure of samples that are too short is nan.
    """
    ok = not isinstance(samples, str) and len(samples) > 0
    rule = "samples must be a sequence of at least one text"
    require(ok, "table", rule, error=DataError, samples=type(samples).__name__, count=len(samples))
    words = set(words_of(training))
    rule = "the training text must have words"
    require(bool(words), "table", rule, error=DataError, characters=len(training))
    return {
        "spelt %": spelt(samples, words),
        **{f"overlap-{n}": overlap(samples, training, n) for n in ORDERS},
        **{f"distinct-{n}": distinct(samples, n) for n in ORDERS},
        f"self-BLEU-{ORDERS[-1]}": self_bleu(samples, ORDERS[-1]),
        "Zipf slope": zipf_slope(samples),
    }


def _listed(texts: Texts) -> Sequence[str]:
    """One text or several, as several."""
    return [texts] if isinstance(texts, str) else texts


def _grams(words: Sequence[str], n: int) -> Iterator[Gram]:
    """The n-grams of words in order: none for fewer than n words."""
    return zip(*(words[i:] for i in range(n)))


def _grams_of(texts: Texts, n: int) -> Iterator[Gram]:
    """The n-grams of words of every text, none across two."""
    return (gram for text in _listed(texts) for gram in _grams(words_of(text), n))


def _share(part: int, whole: int) -> float:
    """part / whole; nan of nothing."""
    return part / whole if whole else math.nan


def _check_order(name: str, n: int) -> None:
    require(isinstance(n, Integral) and n >= 1, name, "n must be an integer of at least 1", n=n)
