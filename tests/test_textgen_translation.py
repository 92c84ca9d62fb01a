"""Sentences as words, English-French pairs and their batches, and BLEU, by hand and by drawing."""

import gzip
import itertools
import json
import math
import unicodedata
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from translating import KIND, toy, written

from minidl.errors import CheckpointError, DataError, ShapeError
from minidl.random import Generator
from projects.textgen.config import Config
from projects.textgen.metrics import bleu, self_bleu
from projects.textgen.translation import (
    BEGIN,
    END,
    PAD,
    Buckets,
    Sentences,
    grouped,
    joined,
    load_translations,
    normal,
    padded,
)

# ---- words ---------------------------------------------------------------------------------------


def test_words_of_sentences_by_hand():
    told = {
        "I don't know.": "i don' t know .",
        "Qu’est-ce que c'est\u202f?": "qu' est -ce que c' est ?",
        "«\u00a0L'E\u0301cole - 3,5\u00a0»": "« l' école - 3 , 5 »",
        "'Tis (so) well-known…": "' tis ( so ) well -known …",
    }
    assert [normal(text) for text in told] == [*told.values()]
    shown = [joined(words.split()) for words in told.values()]
    assert shown == ["i don't know.", "qu'est-ce que c'est ?", "« l'école - 3, 5 »",
                     "' tis (so) well-known…"]  # fmt: skip


PARTS = st.text(st.sampled_from("aBé3'’-.,!?()… \u202f\u0301€_"), max_size=30)


@given(PARTS)
def test_joined_words_are_split_again(text):
    words = Sentences.split(text)
    assert Sentences.split(joined(words)) == words == normal(text).split(" ")[: len(words)]
    assert Sentences.split(normal(text)) == words
    assert all(unicodedata.is_normalized("NFC", word) for word in words)


def test_tokens_are_the_most_frequent_words():
    made = Sentences.train("b a c. b a b", 3)
    assert made.words == ["<unk>", "<s>", "</s>", "<pad>", "b", "a", "."]
    assert made.encode("C, b.").tolist() == [0, 0, 4, 6]
    assert made.decode([4, 5, 6]) == "b a." and made.written([4, 0, END, 5]) == ["b", "<unk>"]
    assert (made.begin, made.end) == (BEGIN, END) and made.written([5]) == ["a"]
    with pytest.raises(DataError, match="words must begin with <unk> <s> </s> <pad>; got words"):
        Sentences(["<unk>", "a"])


# ---- pairs ---------------------------------------------------------------------------------------


def test_an_english_sentence_is_in_one_split(tmp_path):
    """With all its French ones; what differs in form alone is one; long ones are left out."""
    lines = [f"It is number {k}.\tC\u2019est le {k}\u202f!" for k in range(300)]
    lines += [f"It’s {k}.\tC'est {k}." for k in range(100)] + [f"It's {k}.\tE\u0301h {k}."
                                                               for k in range(100)]  # fmt: skip
    lines += ["It is number 7.\tC'est le 7 !", "It is number 7.\tVoici le 7.", "A b c d e f.\tA."]
    written(tmp_path, "\n".join(lines))
    corpus = load_translations(Config(**KIND, data=str(tmp_path), longest=6))
    parts = [corpus.train, corpus.validation, corpus.test]
    everything = sum(parts, [])
    assert len({*everything}) == len(everything)
    assert {pair for pair in everything if "number" in pair[0]} == {
        *((f"it is number {k} .", f"c' est le {k} !") for k in range(300)),
        ("it is number 7 .", "voici le 7 ."),
    }
    english = [{a for a, _ in part} for part in parts]
    assert not (english[0] & english[1] or english[0] & english[2] or english[1] & english[2])
    counted = sum(len(part) for part in english)
    # Binomial shares, five deviations on either side.
    for part, share in zip(english, (0.8, 0.1, 0.1)):
        assert abs(len(part) - share * counted) < 5 * math.sqrt(counted * share * (1 - share))
    assert "éh" in corpus.french.words and "a" not in corpus.english.words
    assert [part.dtype for part in corpus.splits().values()] == [np.uint8] * 3


def test_the_archive_will_do(tmp_path, monkeypatch):
    """fra.txt, its gzipped form and the archive hold the same pairs; MINIDL_DATA is looked at."""
    found = []
    for name in ("fra.txt", "fra.txt.gz", "fra-eng.zip"):
        root = tmp_path / name
        root.mkdir()
        content = gzip.compress(toy().encode()) if name.endswith("gz") else toy()
        path = written(root, content, name)
        if name.endswith("zip"):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("fra.txt", toy())
        monkeypatch.setenv("MINIDL_DATA", str(root))
        found.append(load_translations(Config(**KIND)))
    for corpus in found[1:]:
        assert corpus.train == found[0].train and corpus.test == found[0].test


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("other", "", r"english-french: neither fra.txt nor fra-eng.zip is in \S*text; put https"),
        ("fra.txt", "", r"\S*fra.txt must hold text; got bytes 0"),
        ("fra.txt", b"Go.\tVa\0", "fra.txt must be UTF-8 text, not a binary file; got a NUL"),
        ("fra.txt", "Go.\tVa !\nRun!\n", r"line 2 of \S*fra.txt must be two sentences .*'Run!'"),
        ("fra.txt", "Go.\tVa !\n\tVa.\n", r"line 2 of \S*fra.txt must be two sentences"),
        ("fra.txt", "Go.\tVa !\n", r"fra.txt must hold \w+ sentences of at most 10 words"),
        ("fra-eng.zip", b"no archive", r"cannot read \S*fra-eng.zip: File is not a zip file"),
    ],
)
def test_what_holds_no_pairs(tmp_path, name, content, message):
    written(tmp_path, content, name)
    with pytest.raises(DataError, match=message):
        load_translations(Config(**KIND, data=str(tmp_path)))


def test_archives_are_damaged_or_hold_something_else(tmp_path, monkeypatch):
    path = written(tmp_path, "", "fra-eng.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("deu.txt", toy())
    with pytest.raises(DataError, match=r"cannot read \S*fra-eng.zip/fra.txt"):
        load_translations(Config(**KIND, data=str(tmp_path)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fra.txt", toy())
    monkeypatch.setattr("projects.textgen.data.most_unpacked", lambda path: 10)
    with pytest.raises(DataError, match=r"fra.txt in \S*fra-eng.zip is too large; got bytes"):
        load_translations(Config(**KIND, data=str(tmp_path)))
    monkeypatch.undo()
    path.write_bytes(path.read_bytes().replace(b"The big cat", b"The bag cat"))
    with pytest.raises(DataError, match=r"cannot read \S*fra-eng.zip/fra.txt: Bad CRC-32"):
        load_translations(Config(**KIND, data=str(tmp_path)))
    content = bytearray(path.read_bytes())
    content[6] |= 1  # encrypted, by both of its headers
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read \S*fra-eng.zip/fra.txt: .*encrypted"):
        load_translations(Config(**KIND, data=str(tmp_path)))


def test_sentences_are_judged_in_no_order_of_length():
    pairs = [(f"{k} " * (1 + k // 10) + ".", f"f{k}") for k in range(100)] + [("0 .", "again")]
    whole = grouped(pairs)
    assert len(whole) == 100 and whole["0 ."] == ["f0", "again"]
    some = grouped(pairs, 30)
    assert [*some] == [*whole][:30] == [*grouped(pairs[::-1], 30)]
    assert 3 < np.mean([text.count(" ") for text in some]) < 8  # of 1 to 10


# ---- batches -------------------------------------------------------------------------------------


def buckets(every: int = 8, seed: int = 0) -> Buckets:
    """30 pairs in 8 batches of 4; a source begins with its number."""
    source = [np.full(1 + k % 5, 10 + k) for k in range(30)]
    target = [np.array([BEGIN, *[10 + k] * (k % 3), END]) for k in range(30)]
    return Buckets(source, target, 4, Generator(seed, "data"), every=every)


def given_by(loader: Buckets) -> list[tuple[list, list]]:
    return [(x.tolist(), y.tolist()) for x, y in loader]


def test_a_pass_has_every_pair_once_among_its_like():
    assert padded([np.array([5, 6]), np.array([7])]).tolist() == [[5, 6], [7, PAD]]
    loader = buckets()
    orders = []
    for _ in range(2):
        batches = given_by(loader)
        rows = [(row, other) for x, y in batches for row, other in zip(x, y)]
        assert sorted(row[0] for row, _ in rows) == [*range(10, 40)]
        for row, other in rows:
            k = row[0] - 10
            assert [t for t in row if t != PAD] == [10 + k] * (1 + k % 5)
            assert [t for t in other if t != PAD] == [BEGIN, *[10 + k] * (k % 3), END]
        spans = [{len(row) - row.count(PAD) for row in x} for x, _ in batches]
        assert all(max(span) - min(span) <= 1 for span in spans)
        orders.append([x[0][0] for x, _ in batches])
    assert orders[0] != orders[1]
    assert len(buckets().dataset) == sum(1 + k % 3 for k in range(30))
    assert given_by(buckets(seed=1)) != given_by(buckets()) == given_by(buckets())


@pytest.mark.parametrize("left", [0, 3, 8, 13])
def test_batches_are_resumed(left):
    """Whatever iterations are made of them, and wherever they are left."""
    loader = buckets()
    whole = given_by(loader) + given_by(loader)
    first, again = buckets(5), buckets(5)
    for _ in itertools.islice(itertools.chain.from_iterable(first for _ in range(4)), left):
        pass
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = given_by(again)
    assert rest == whole[left : left + 5 - left % 5]


def test_batches_refuse_what_is_no_pair():
    with pytest.raises(ShapeError, match="Buckets: source and target must be as many"):
        Buckets([np.array([4])], [], 4, Generator(0, "data"), every=1)
    with pytest.raises(CheckpointError, match="Buckets: the state must hold"):
        buckets().load_state_dict({"epoch": 0, "batch": 99})


# ---- BLEU ----------------------------------------------------------------------------------------

CAT = ["the cat is on the mat", "there is a cat on the mat"]  # Papineni et al. 2002, section 2.1


@pytest.mark.parametrize(
    ("texts", "references", "n", "value"),
    [
        (["the the the the the the the"], [CAT], 1, 2 / 7),
        (["the the the the the the the"], [CAT], 2, 0),
        # 6 words, of which `the cat` comes in one reference and `on the mat` in both.
        (["the cat sat on the mat"], [CAT], 2, math.sqrt(5 / 6 * 3 / 5)),
        # Sums over texts: 4 + 1 of 5 + 2 words, 2 + 0 of 4 + 1 pairs. Lengths 7 against 5 + 4.
        (["a b c x d", "e y"], [["a b c d e"], ["e f g h"]], 2,
         math.exp(1 - 9 / 7) * math.sqrt(5 / 7 * 2 / 5)),
        # 3 words: the closest of 2 and 4 is the shorter, no penalty.
        (["a b c"], [["a b", "a b c d"]], 1, 1),
        (["a b c d", "e"], [["a b c d"], ["e"]], 4, 1),
        (["a b c", "e"], [["a b c"], ["e"]], 4, 0),
        (["", "a b"], [["a"], ["a b"]], 2, math.exp(1 - 3 / 2)),
        ([""], [["a"]], 1, 0),
    ],
)  # fmt: skip
def test_bleu_by_hand(texts, references, n, value):
    words = [text.split() for text in texts]
    others = [[text.split() for text in some] for some in references]
    assert bleu(words, others, n) == pytest.approx(value, rel=1e-12)


WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=8)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_bleu_sums_over_texts(pairs):
    """Against counting one gram at a time by slices of lists."""
    product, c, r = 1.0, 0, 0
    for k in (1, 2):
        hits = total = 0
        for text, others in pairs:
            grams = [text[i : i + k] for i in range(len(text) - k + 1)]
            total += len(grams)
            for i, gram in enumerate(grams):
                found = [sum(o[j : j + k] == gram for j in range(len(o))) for o in others]
                hits += grams[:i].count(gram) < max(found)
        product *= hits / total if total else 0
    for text, others in pairs:
        c += len(text)
        r += min(sorted(map(len, others)), key=lambda m: abs(m - len(text)))
    expected = min(1.0, math.exp(1 - r / c)) * math.sqrt(product)
    texts, references = zip(*pairs)
    assert bleu(texts, references, 2) == pytest.approx(expected, rel=1e-9)


def test_bleu_of_one_sentence_is_self_bleus():
    """Where no order lacks a match, smoothing does nothing."""
    a, b = "a b c d e".split(), "a b c d f g".split()
    both = self_bleu(["a b c d e", "a b c d f g"])
    assert (bleu([a], [[b]]) + bleu([b], [[a]])) / 2 == pytest.approx(both, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], []), DataError, "bleu: there must be a text; got texts 0"),
        (([["a"]], [[]]), ShapeError, "bleu: every text must have at least one reference"),
        (([["a"]], []), ShapeError, "bleu: every text must .* got texts 1, references 0"),
        (([["a"]], [[["a"]]], 0), ShapeError, "bleu: n must be an integer of at least 1; got n 0"),
    ],
)
def test_bleu_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        bleu(*arguments)
