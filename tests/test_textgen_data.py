"""The text project's texts, batches and augmentation, against naive ones and by hand."""

import gzip
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.errors import CheckpointError, DataError, MinidlError
from minidl.random import Generator
from projects.textgen import data
from projects.textgen.augment import Augment, swap_neighbours

# ---- texts ---------------------------------------------------------------------------------------


def test_the_embedded_text():
    corpus = data.read("embedded")
    assert corpus.name.endswith(".".join(map(str, sys.version_info[:3])))
    assert corpus.text.startswith('The "assert" statement') and len(corpus.text) > 300_000
    assert "".join(corpus.parts()) == corpus.text


def test_parts_by_position():
    assert data.Corpus("", "abcdefghij").parts() == ("abcdefgh", "i", "j")
    with pytest.raises(DataError, match=r"split: short is too short .*; got characters 3"):
        data.Corpus("short", "abc").parts()


def test_found_under_the_root(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    (tmp_path / "text/names.txt").write_bytes(b"\xef\xbb\xbfann\r\nbo\rcy\n")
    (tmp_path / "text/tinyshakespeare.txt.gz").write_bytes(gzip.compress("né".encode()))
    (tmp_path / "a+b.txt").write_text("own")
    assert data.read("names", tmp_path) == data.Corpus("names", "ann\nbo\ncy\n")
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path))
    both = data.corpora("shakespeare+names")
    assert [c.name for c in both] == ["shakespeare", "names"] and both[0].text == "né"
    assert data.corpora(f"{tmp_path}/a+b.txt") == [data.Corpus("a+b.txt", "own")]
    with pytest.raises(DataError, match=r"war_and_peace.txt not found in \S*text; the root must"):
        data.read("war-and-peace", tmp_path)
    with pytest.raises(DataError, match=r"one of embedded, .* text file; got name 'novel'"):
        data.corpora("names+novel", tmp_path)


def test_a_text_that_unpacks_to_very_much(tmp_path):
    """All of it was unpacked, which could fill the memory."""
    (tmp_path / "book.gz").write_bytes(gzip.compress(bytes(80 << 20)))
    with pytest.raises(DataError, match=r"book.gz must unpack to 7\d,\d{3},\d{3} bytes at most"):
        data.read_text(tmp_path / "book.gz")


@pytest.mark.parametrize("content, message", [
    (b"", "must hold text; got bytes 0"),
    (b"text\0more", "must be UTF-8 text, not a binary file; got a NUL at byte 4"),
    (b"text\xff", "must be UTF-8 text: 'utf-8' codec can't decode byte 0xff in position 4"),
])  # fmt: skip
def test_what_is_no_text(tmp_path, content, message):
    (tmp_path / "book").write_bytes(content)
    with pytest.raises(DataError) as said:
        data.read(str(tmp_path / "book"))
    assert str(said.value).startswith(f"read_text: {tmp_path / 'book'} {message}")


def test_pairs(tmp_path):
    """Every English sentence is in one part with all its translations."""
    lines = [f"Word {k}.\tMot\u202f{k} !\tsource" for k in range(200)] + ["Word 7.\tPARole 7."]
    lines += ["Word 7.\tMot 7 !", "One two three four.\tUn."]
    (tmp_path / "fra.txt").write_text("\n".join(lines), encoding="utf-8")
    parts = data.pairs(tmp_path / "fra.txt", longest=3)
    assert sorted(sum(parts, [])) == sorted(
        [(f"word {k}.", f"mot {k} !") for k in range(200)] + [("word 7.", "parole 7.")]
    )
    english = [{pair[0] for pair in part} for part in parts]
    assert not (english[0] & english[1] or english[0] & english[2] or english[1] & english[2])
    assert 140 <= len(parts[0]) <= 180 and min(map(len, parts)) >= 8
    with pytest.raises(DataError, match="must hold pairs of at most 1 words; got found 0"):
        data.pairs(tmp_path / "fra.txt", longest=1)
    (tmp_path / "fra.txt").write_text("Go.\tVa !\nRun!\n")
    with pytest.raises(DataError, match=r"line 2 of \S*fra.txt must be two sentences .*'Run!'"):
        data.pairs(tmp_path / "fra.txt")


# ---- batches -------------------------------------------------------------------------------------


def test_streams_by_hand():
    loader = data.Streams(np.arange(23), 2, 3)  # two parts of 11, three batches of each
    given = [(x.tolist(), y.tolist(), loader.fresh) for x, y in loader]
    assert given == [
        ([[0, 1, 2], [11, 12, 13]], [[1, 2, 3], [12, 13, 14]], True),
        ([[3, 4, 5], [14, 15, 16]], [[4, 5, 6], [15, 16, 17]], False),
        ([[6, 7, 8], [17, 18, 19]], [[7, 8, 9], [18, 19, 20]], False),
    ]
    assert len(loader) == 3 and [x.tolist() for x, _ in loader] == [x for x, _, _ in given]


def made(kind, every=None):
    ids = np.arange(100)
    if kind == "streams":
        return data.Streams(ids, 4, 5, every=every)
    if kind == "crops":
        return data.Crops(ids, 4, 5, Generator(3, "data"), every=every)
    return data.Turns([made("streams"), made("crops"), made("streams")], 2, every=every)


@pytest.mark.parametrize("kind", ["streams", "crops", "turns"])
def test_batches_are_resumed(kind):
    """Whatever iterations are made of them, and wherever they are left."""
    one = made(kind, 30)
    whole = [(x.tolist(), y.tolist(), one.source, one.fresh) for x, y in one]
    first = made(kind, 7)
    for k, (x, y) in enumerate(x for _ in range(3) for x in first):
        assert (x.tolist(), y.tolist(), first.source, first.fresh) == whole[k]
        second = made(kind, 7)
        second.load_state_dict(first.state_dict())
        x, y = next(b for _ in range(2) for b in second)  # the iteration in hand may be over
        assert (x.tolist(), y.tolist()) == whole[k + 1][:2]
    done = made(kind, 7)
    done.load_state_dict({"epoch": 1, "batch": 7})
    assert [*done] == [] and done.state_dict() == {"epoch": 2, "batch": 0}
    for bad in (
        {},
        {"epoch": 0, "batch": 8},
        {"epoch": -1, "batch": 0},
        {"epoch": "0", "batch": 0},
    ):
        with pytest.raises(CheckpointError, match="must hold an epoch and a batch of 7"):
            first.load_state_dict(bad)


def test_crops_come_from_everywhere():
    loader = data.Crops(np.arange(12), 50, 4, Generator(0, "data"), every=40)
    starts = np.concatenate([x[:, 0] for x, _ in loader])
    for x, y in loader:
        assert (np.diff(x) == 1).all() and (y == x + 1).all()
    counts = np.bincount(starts)  # 2,000 draws of 8 starts
    assert len(counts) == 8 and (((counts - 250) ** 2) / 250).sum() < 30  # p < 1e-4
    assert len(data.Crops(np.arange(101), 2, 5, Generator())) == 10


def test_turns_by_hand():
    parts = [data.Streams(np.arange(0, 9), 1, 2), data.Streams(np.arange(100, 105), 1, 2)]
    for turn, firsts in ((1, [0, 100, 2, 102, 4, 100]), (3, [0, 2, 4, 100, 102, 100])):
        loader = data.Turns(parts, turn)
        assert [int(x[0, 0]) for x, _ in loader] == firsts and len(loader) == 6
        loader = data.Turns(parts, turn)
        assert [loader.source for _ in loader] == [int(f >= 100) for f in firsts]
        loader = data.Turns(parts, turn)
        assert [loader.fresh for _ in loader] == [f in (0, 100) for f in firsts]


@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 4))
def test_windows_predict_every_token_once(n, steps, batch):
    seen = []
    for x, y in data.windows(np.arange(n), steps, batch):
        assert x.shape == y.shape and x.shape[0] <= batch and x.shape[1] <= steps
        assert (y == x + 1).all()
        seen += y.ravel().tolist()
    assert seen == [*range(1, n)]


@pytest.mark.parametrize("call, message", [
    (lambda ids: data.Streams(ids, 4, 3, name="novel"), "Streams: novel must have at least 13 "),
    (lambda ids: data.Crops(ids, 1, 12, Generator()), "Crops: the text must have at least 13 "),
    (lambda ids: data.windows(ids[:1], 5), "windows: the text must have at least 2 tokens"),
    (lambda ids: data.Streams(ids, 0, 3), "batch and steps must be >= 1; got batch 0"),
    (lambda ids: data.Streams(ids, 1, 3, every=0), "every must be at least 1; got every 0"),
    (lambda ids: data.Turns([]), "there must be a corpus"),
    (lambda ids: data.Turns([data.Streams(ids, 1, 1)], 0), "a turn must have at least 1 batch"),
    (lambda ids: Augment(9, Generator(), dropped=1.5), "dropped must lie in [0, 1]; got dropped"),
    (lambda ids: Augment(9, Generator(), masked=0.1), "masked needs a token to mask with"),
    (lambda ids: Augment(9, Generator(), unknown=9), "unknown must be one of the 9 tokens; got"),
])  # fmt: skip
def test_mistakes_with_batches(call, message):
    with pytest.raises(MinidlError) as said:
        call(np.arange(12))
    assert message in str(said.value)


# ---- augmentation --------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_swaps(chosen):
    """Against a scan from left to right."""
    expected, i = [*range(len(chosen))], 0
    while i < len(chosen) - 1:
        if chosen[i]:
            expected[i : i + 2] = i + 1, i
        i += 1 + chosen[i]
    assert swap_neighbours(np.arange(len(chosen))[None], np.array([chosen]))[0].tolist() == expected


def test_augmentation_is_keyed_and_has_its_shares():
    x = np.tile(np.arange(1000), (50, 1)) % 700
    kept, source = x.copy(), Generator(1, "augmentation")
    both = Augment(700, source, dropped=0.2, masked=0.1, unknown=0, mask=700)
    y = both(x, 5)
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(y, both(x, 5))
    assert (y != both(x, 6)).any() and (y[0] != y[1]).any() and y.dtype == np.int64
    assert ((y == x) | (y == 0) | (y == 700)).all()
    assert abs((y == 700).mean() - 0.1) < 0.008  # 5 deviations of 50,000
    assert abs((y[x > 0] == 0).mean() - 0.2 * 0.9) < 0.009
    z = Augment(700, source, dropped=1.0)(x, 0)  # any token, uniformly
    assert z.min() == 0 and z.max() == 699 and abs(z.mean() - 349.5) < 5
    np.testing.assert_array_equal(Augment(700, source)(x, 0), x)
    swapped = Augment(700, source, swapped=0.1)(x, 0)
    np.testing.assert_array_equal(np.sort(swapped), np.sort(x))
    assert abs((swapped != x).mean() - 2 * 0.1 / 1.1) < 0.015  # one in 1/p + 1 tokens
