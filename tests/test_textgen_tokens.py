"""The text project's tokens, against naive algorithms and by hand."""

import json
import struct
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.errors import DataError, MinidlError
from projects.textgen import tokens
from projects.textgen.tokens import Bpe, Bytes, Characters, Llama, Stream, Words

ALPHABET = st.text(st.sampled_from("aabbct'srel  \n\t.,é½一😀\u0301\x1c\x85_²7٣"), max_size=30)
RHYME = "the cat sat on the mat; the rat sat on the cat\nthat's that: it's 12 o'clock\n" * 3


# ---- naive oracles -------------------------------------------------------------------------------


def letters():
    """GPT-2's letter for each byte, from the description: the unseen ones move to U+0100 on."""
    moved = [b for b in range(256) if b <= 32 or 127 <= b <= 160 or b == 173]
    return {b: chr(256 + moved.index(b)) if b in moved else chr(b) for b in range(256)}


def learn(text, count):
    """Sennrich's learner on words split at spaces, quadratic: [(a, b), …] spelt in letters."""
    spelt = letters()
    words = [[spelt[b] for b in word.encode()] for word in tokens.split(text)]
    merges = []
    for _ in range(count):
        pairs = [pair for word in words for pair in zip(word, word[1:])]
        merges.append(max(sorted(set(pairs)), key=pairs.count))
        words = [join_all(word, merges[-1]) for word in words]
    return merges


def join_all(word, pair):
    """Every occurrence of a pair joined, from left to right."""
    done = []
    for part in word:
        if done and (done[-1], part) == pair:
            done[-1] = (pair[0] + pair[1],)  # a tuple: not joined twice in one round
        else:
            done.append(part)
    return [part[0] if isinstance(part, tuple) else part for part in done]


def naive_words(text, merges):
    """GPT-2's own way: round by round all occurrences of the pair learnt first."""
    spelt, found = letters(), []
    for word in tokens.split(text):
        parts = [spelt[b] for b in word.encode()]
        while pairs := [pair for pair in merges if pair in [*zip(parts, parts[1:])]]:
            parts = join_all(parts, pairs[0])
        found += parts
    return found


def naive_split(text):
    """GPT-2's split as a scanner, without regular expressions."""
    spaces = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
    spaces += "".join(map(chr, range(0x2000, 0x200B)))

    def kind(c):
        major = unicodedata.category(c)[0]
        return "S" if c in spaces else major if major in "LN" else "P"

    words, i = [], 0
    while i < len(text):
        mark = next((m for m in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
                     if text.startswith(m, i)), "")  # fmt: skip
        start = i + 1 if text[i] == " " and i + 1 < len(text) and kind(text[i + 1]) != "S" else i
        end = start
        while end < len(text) and kind(text[end]) == kind(text[start]):
            end += 1
        if mark:
            end = i + len(mark)
        elif kind(text[start]) == "S" and end < len(text) and end - i > 1:
            end -= 1  # the last space belongs to what follows
        words.append(text[i:end])
        i = end
    return words


def naive_llama(text, texts, scores):
    """llama2.c's loop: look at all neighbours, join the best, until none makes a piece."""
    parts = []
    for c in " " + text if text else "":
        parts += [texts.index(c)] if c in texts else [b + 3 for b in c.encode()]
    while True:
        best = None
        for i, (a, b) in enumerate(zip(parts, parts[1:])):
            if (piece := texts[a] + texts[b]) in texts:
                made = texts.index(piece)
                if best is None or scores[made] > best[0]:
                    best = scores[made], i, made
        if best is None:
            return parts
        parts[best[1] : best[1] + 2] = [best[2]]


LLAMA = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{b:02X}>" for b in range(256)),
         *" abct", " a", "ab", "ba", "aba", " ab", "bb", "b a", "ct", "  "]  # fmt: skip
SCORES = [0.0] * 259 + [-float(k * 7 % 12) for k in range(len(LLAMA) - 259)]


@pytest.fixture(scope="module")
def bpe():
    merges = learn(RHYME, 20)
    return Bpe([*letters().values(), *dict.fromkeys(a + b for a, b in merges)], merges)


def write_llama(path, texts=LLAMA, scores=SCORES):
    pieces = [text.encode() for text in texts]
    parts = [struct.pack("<fi", s, len(p)) + p for s, p in zip(scores, pieces)]
    path.write_bytes(struct.pack("<i", max(map(len, pieces))) + b"".join(parts))
    return path


# ---- tokens --------------------------------------------------------------------------------------


@given(ALPHABET)
def test_gpt2s_split(text):
    assert tokens.split(text) == naive_split(text)


def test_gpt2s_split_by_hand():
    said = "I'll say  you've 3 half-words…\n\nIt'S"
    words = ["I", "'ll", " say", " ", " you", "'ve", " 3", " half", "-", "words", "…", "\n", "\n"]
    assert tokens.split(said) == [*words, "It", "'", "S"]


@given(ALPHABET)
def test_byte_pairs_are_gpt2s(bpe, text):
    found = bpe.encode(text)
    assert found.dtype == np.int64
    assert [bpe.tokens[t] for t in found] == naive_words(text, bpe.merges)
    assert bpe.decode(found) == text


def test_byte_pairs_by_hand():
    kind = Bpe([*letters().values(), "ab", "bc", "abc"], [("b", "c"), ("a", "b"), ("ab", "c")])
    assert kind.decode([256, 257, 258]) == "abbcabc"
    assert [kind.tokens[t] for t in kind.encode("abcab")] == ["a", "bc", "ab"]  # bc comes first
    assert kind.encode("é").tolist() == [0xC3, 0xA9] and kind.begin == 10 and kind.end is None


@given(ALPHABET)
def test_llamas_pieces(text):
    kind = Llama(LLAMA, SCORES)
    found = kind.encode(text)
    assert found.tolist() == naive_llama(text, LLAMA, SCORES)
    assert kind.decode(found) == kind.decode(kind.prompt(text)) == text
    assert kind.prompt(text).tolist() == [1, *found]


def test_llama2c_file(tmp_path):
    kind = tokens.load(write_llama(tmp_path / "tokenizer.bin"))
    assert (kind.kind, kind.size, kind.begin, kind.end) == ("llama2c", len(LLAMA), 1, 2)
    assert (kind.texts, kind.scores) == (LLAMA, SCORES)
    stream = Stream(kind, [1])
    assert [stream.push(t) for t in (264, 264, 0xC3 + 3, 0xA9 + 3)] == ["a", " a", "", "é"]
    assert Stream(kind, [1, 260]).push(264) == " a"  # behind a prompt the space stays


def test_stories_vocabulary(real_data):
    kind = tokens.load(real_data / "weights/stories260K_tok512.bin")
    pieces = [kind.texts[t] for t in kind.prompt("Once upon a time")]
    assert pieces == ["\n<s>\n", " Once", " upon", " a", " time"]
    said = "Lily said: “it's 5 o'clock, naïve cat”.\n" * 3
    assert kind.encode(said).tolist() == naive_llama(said, kind.texts, kind.scores)


@given(st.lists(st.integers(0, 255)), st.integers(0, 5))
def test_a_stream_says_what_decode_says(numbers, shown):
    """Also where bytes are no UTF-8."""
    stream = Stream(Bytes())
    assert "".join(map(stream.push, numbers)) + stream.close() == Bytes().decode(numbers)


def test_a_stream_holds_back_unfinished_characters():
    stream = Stream(Bytes(), "a€".encode()[:2])
    assert [*map(stream.push, "€b😀".encode()[1:])] == ["", "€", "b", "", "", "", "😀"]
    assert stream.push(0xF0) == "" and stream.close() == "\ufffd"


@given(ALPHABET)
def test_bytes_are_utf8(text):
    assert Bytes().encode(text).tolist() == [*text.encode()]
    assert Bytes().decode(Bytes().encode(text)) == text


def test_characters_are_sorted():
    kind = Characters.train("hello\nwörld")
    assert kind.characters == "\ndehlorwö" and kind.begin == 0 and kind.size == 9
    assert kind.encode("low\n").tolist() == [4, 5, 7, 0] and kind.decode([8, 2]) == "öe"
    assert kind.prompt("").tolist() == [0] and kind.encode("").shape == (0,)


def test_words_by_hand():
    kind = Words.train("a b, a b, a  c", 5)  # 5 spaces, 3 a, then b and , twice each
    assert kind.words == ["<unk>", " ", "a", ",", "b"]
    assert kind.encode("b c, a").tolist() == [4, 1, 0, 3, 1, 2]
    assert kind.decode(kind.encode("b c, a")) == "b <unk>, a"


@given(ALPHABET)
def test_words_give_back_the_text(text):
    kind = Words.train(text, 1000)
    assert kind.decode(kind.encode(text)) == text


def test_save_and_load(tmp_path, bpe):
    for kind in (
        Characters.train(RHYME),
        Bytes(),
        Words.train(RHYME, 9),
        bpe,
        Llama(LLAMA, SCORES),
    ):
        kind.save(tmp_path / "tokenizer.json")
        again = tokens.load(tmp_path / "tokenizer.json")
        assert type(again) is type(kind) and again.pieces == kind.pieces
        assert (again.begin, again.end) == (kind.begin, kind.end)
        assert again.encode(RHYME).tolist() == kind.encode(RHYME).tolist()


def test_gpt2s_files(tmp_path, bpe):
    """Numbered in another order, `kind` among the tokens, the end of text last."""
    names = [*bpe.tokens[::-1], "kind", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in bpe.merges), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    for path in (tmp_path, tmp_path / "vocab.json"):
        kind = tokens.load(path)
        assert kind.begin == kind.end == len(names) - 1
        assert kind.prompt("").tolist() == [len(names) - 1]
        assert [names[t] for t in kind.encode(RHYME)] == [bpe.tokens[t] for t in bpe.encode(RHYME)]
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nt h e\n")
    with pytest.raises(DataError, match=r"vocab.json.*merges.txt must hold two tokens.*'t', 'h', "):
        tokens.load(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*merges.txt: No such file"):
        tokens.load(tmp_path)


def test_training_pairs_needs_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        DataError, match=r"tokenizers package is missing; pip install 'minidl\[text"
    ):
        tokens.train("bpe", RHYME, 300)


def test_training_pairs():
    """The library's own encoder agrees, and the same text gives the same pairs."""
    library = pytest.importorskip("tokenizers")
    kind = tokens.train("bpe", RHYME, 290)
    assert kind.size <= 290 and kind.tokens[:256] == [*letters().values()]
    assert kind.merges == Bpe.train(RHYME, 290).merges
    theirs = library.Tokenizer(library.models.BPE({t: i for i, t in enumerate(kind.tokens)},
                                                  kind.merges))  # fmt: skip
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert theirs.encode(RHYME + "été").ids == kind.encode(RHYME + "été").tolist()


@pytest.mark.parametrize("call, message", [
    (lambda: Characters("abc").encode("abxd"),
     "encode: every character must be one of the 3 of the training text; got character 'x', "
     "index 2"),
    (lambda: Characters("abc").prompt(""), "prompt must not be empty: these characters have no"),
    (lambda: Characters("ba"), "must be sorted"),
    (lambda: Characters(""), "at least one"),
    (lambda: Characters("abc").decode([0, 3, -1]), "must lie in 0…2; got tokens [3, -1]"),
    (lambda: Characters("abc").decode([0.5]), "tokens must be integers"),
    (lambda: Stream(Bytes()).push(256), "Stream: a token must lie in 0…255; got token 256"),
    (lambda: Bytes().encode("\ud800"), "must be valid Unicode"),
    (lambda: Words.train("a b", 1), "size must be at least 2; got size 1"),
    (lambda: Words(["a"]), "must begin with <unk>"),
    (lambda: Bpe.train("a b", 255), "size must be at least 256; got size 255"),
    (lambda: Bpe(["a"], []), "tokens must have all 256 bytes"),
    (lambda: Bpe([*letters().values()], [("a", "b")]), "whose join is a token; got merge [('a', "),
    (lambda: Llama(["a"], [0.0]), "pieces 3 to 258 must be the bytes"),
    (lambda: Llama(LLAMA, [np.nan, *SCORES[1:]]), "must have a finite score"),
    (lambda: tokens.train("syllables", "a", 9), "kind must be one of ['characters', 'bytes', "),
])  # fmt: skip
def test_mistakes_with_tokens(call, message):
    with pytest.raises(MinidlError) as said:
        call()
    assert message in str(said.value)


@pytest.mark.parametrize("content", [
    b"", b"\x05", b"{", b"[1]", b'{"kind": "syllables"}', b'{"kind": "words"}',
    b'{"kind": "words", "words": ["a"]}', b'{"kind": "characters", "characters": 5}', b'{"a": 1}',
    b'{"kind": "bpe", "tokens": [], "merges": []}', b'{"a": "b"}', struct.pack("<ifi", 3, 0, -5),
    struct.pack("<ifi", 3, 0, 3) + b"ab", struct.pack("<ifi", 3, 0, 1) + b"\xff",
])  # fmt: skip
def test_damaged_vocabularies(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=r"load: \S*file is damaged or no vocabulary: "):
        tokens.load(tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot read \S*missing: No such file"):
        tokens.load(tmp_path / "missing")
