"""Tokens of text: characters, bytes, words, byte pairs; GPT-2's and llama2.c's vocabularies."""

import codecs
import functools
import heapq
import json
import math
import re
import struct
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from minidl.errors import DataError, DTypeError, RangeError, require, reworded
from minidl.io import write_bytes

_DAMAGED = (AttributeError, KeyError, RecursionError, TypeError, ValueError, struct.error)


class Tokenizer:
    """Text to tokens and back; `pieces[t]` holds the bytes of token t.

    begin, end: the tokens before and after a text, or None. Where nothing else is there for it, a
    line's break is what a text begins with.
    """

    kind: ClassVar[str]
    saved: ClassVar[tuple[str, ...]] = ()  # what the constructor needs to make the same tokens
    begin: int | None = None
    end: int | None = None
    pieces: list[bytes]

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.pieces)

    def encode(self, text: str) -> np.ndarray:
        """Tokens (n,) int64 of a text, without begin and end. Raises DataError."""
        raise NotImplementedError

    def prompt(self, text: str) -> np.ndarray:
        """The tokens (n,) to continue a text from: its own, begin if it is empty. DataError."""
        rule = f"a prompt must not be empty: these {self.kind} have no token to begin with"
        require(text != "" or self.begin is not None, "prompt", rule, error=DataError, text=text)
        return self.encode(text) if text else np.array([self.begin], np.int64)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens (n,); bytes that are no UTF-8 become U+FFFD. Raises RangeError."""
        ids = np.asarray(tokens).ravel()
        ok = ids.dtype.kind in "iu" or not ids.size
        require(ok, "decode", "tokens must be integers", error=DTypeError, tokens=ids)
        wrong = ids[(ids < 0) | (ids >= self.size)]
        rule = f"tokens must lie in 0…{self.size - 1}"
        require(not wrong.size, "decode", rule, error=RangeError, tokens=wrong[:5].tolist())
        numbers = ids.tolist()
        pieces = (self.piece(t, before) for t, before in zip(numbers, [None, *numbers]))
        return b"".join(pieces).decode("utf-8", "replace")

    def piece(self, token: int, before: int | None) -> bytes:
        """The bytes of a token that follows another (None: of the text's first)."""
        return self.pieces[token]

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON, all or nothing. Raises CheckpointError."""
        saved = {"kind": self.kind} | {name: getattr(self, name) for name in self.saved}
        write_bytes(path, [json.dumps(saved, indent=0).encode()])


class Stream:
    """The text of tokens that come one by one; bytes of an unfinished character wait for the rest.

    before: tokens of a text that is already shown, a prompt's, say.
    """

    def __init__(self, tokenizer: Tokenizer, before: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self._before: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in before:
            self.push(token)

    def push(self, token: int) -> str:
        """The characters that are whole with this token; often one, sometimes none. RangeError."""
        size, token = self.tokenizer.size, int(token)
        rule = f"a token must lie in 0…{size - 1}"
        require(0 <= token < size, "Stream", rule, error=RangeError, token=token)
        piece, self._before = self.tokenizer.piece(token, self._before), token
        return self._decoder.decode(piece)

    def close(self) -> str:
        """What is left: U+FFFD for a character that was never finished."""
        return self._decoder.decode(b"", True)


class Characters(Tokenizer):
    """Unicode characters; `train` takes those of a text, sorted. An unknown one is refused."""

    kind, saved = "characters", ("characters",)

    def __init__(self, characters: str) -> None:
        ok = characters != "" and list(characters) == sorted(set(characters))
        rule = "characters must be sorted, each once, at least one"
        require(ok, "Characters", rule, error=DataError, characters=characters[:20])
        self.characters, self._codes = characters, _code_points(characters)
        self.pieces = [_utf8(c) for c in characters]
        self.begin = characters.index("\n") if "\n" in characters else None

    @classmethod
    def train(cls, text: str) -> Self:
        """The characters of a text: of the whole corpus, so that no part of it has others."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> np.ndarray:
        codes = _code_points(text)
        found = np.minimum(np.searchsorted(self._codes, codes), self.size - 1).astype(np.int64)
        at = int(np.append(np.flatnonzero(self._codes[found] != codes), len(text))[0])
        rule = f"every character must be one of the {self.size} of the training text"
        require(at == len(text), "encode", rule, error=DataError, character=text[at:][:1], index=at)
        return found


class Bytes(Tokenizer):
    """The 256 bytes of UTF-8: every text can be told in them."""

    kind, begin = "bytes", 10  # a line's break

    def __init__(self) -> None:
        self.pieces = [bytes([b]) for b in range(256)]

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(_utf8(text), np.uint8).astype(np.int64)


class Words(Tokenizer):
    """Words (runs of letters, digits and _); any other character, white space too, is its own.

    So decoding gives back the text but for unknown words, which all become <unk>, token 0.
    """

    kind, saved, unknown = "words", ("words",), "<unk>"

    def __init__(self, words: Sequence[str]) -> None:
        ok = [*words[:1]] == [self.unknown] and len(set(words)) == len(words)
        rule = f"words must begin with {self.unknown} and have each but once"
        require(ok, "Words", rule, error=DataError, words=[*words[:5]])
        self.words, self._index = [*words], {word: i for i, word in enumerate(words)}
        self.pieces = [_utf8(word) for word in words]
        self.begin = self._index.get("\n")

    @classmethod
    def train(cls, text: str, size: int) -> Self:
        """The most frequent words of a text, <unk> among `size` in all; ties by the alphabet."""
        require(size > 1, "Words.train", "size must be at least 2", error=DataError, size=size)
        return cls([cls.unknown, *cls.frequent(text, size - 1)])

    @classmethod
    def frequent(cls, text: str, count: int) -> list[str]:
        """The `count` most frequent words of a text; ties by the alphabet."""
        counts = Counter(cls.split(text))
        return sorted(counts, key=lambda word: (-counts[word], word))[:count]

    @staticmethod
    def split(text: str) -> list[str]:
        """The words and the characters between them, in order; joined they are the text."""
        return re.findall(r"\w+|\W", text)

    def encode(self, text: str) -> np.ndarray:
        return np.array([self._index.get(word, 0) for word in self.split(text)], np.int64)


class Bpe(Tokenizer):
    """Byte pairs joined within words (Sennrich et al. 2016), bytes at the bottom, as in GPT-2.

    tokens and merges (pairs of tokens, first ones first) are spelt with GPT-2's letter for each
    byte. Where there is a token <|endoftext|> texts begin and end with it. Text is split as GPT-2
    does (Radford et al. 2019) by the letters and numbers of this Python's Unicode.
    """

    kind, saved = "bpe", ("tokens", "merges")
    ending = "<|endoftext|>"

    def __init__(self, tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> None:
        self.tokens, self.merges = [*tokens], [(a, b) for a, b in merges]
        self._index = {token: i for i, token in enumerate(tokens)}
        ok = len(self._index) == len(tokens) and {*_letters()} <= self._index.keys()
        rule = "tokens must have all 256 bytes and each token but once"
        require(ok, "Bpe", rule, error=DataError, count=len(tokens))
        wrong = [p for p in self.merges if not {*p, "".join(p)} <= self._index.keys()][:1]
        rule = "merges must be of two tokens whose join is a token"
        require(not wrong, "Bpe", rule, error=DataError, merge=wrong)
        values = {letter: value for value, letter in enumerate(_letters())}
        self.pieces = [bytes(values[letter] for letter in token) for token in tokens]
        self.end = self._index.get(self.ending)
        self.begin = self._index[_letters()[10]] if self.end is None else self.end
        ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._rank = lambda a, b: ranks.get((a, b))
        self._word = functools.lru_cache(1 << 16)(self._tokens_of_word)

    @classmethod
    def train(cls, text: str, size: int) -> Self:
        """At most `size` tokens (fewer if no pair is left that occurs twice) learnt from a text.

        Needs the tokenizers package, the extra `text`.
        """
        require(size >= 256, "Bpe.train", "size must be at least 256", error=DataError, size=size)
        lacking = "Bpe.train: the tokenizers package is missing; pip install 'minidl[text]'"
        with reworded(DataError, lacking, ImportError):
            import tokenizers
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=[*_letters()]
        )
        learner.train_from_iterator([text], trainer)
        merges = json.loads(learner.to_str())["model"]["merges"]
        return cls([*dict.fromkeys([*_letters(), *map("".join, merges)])], merges)

    @classmethod
    def read(cls, path: Path, ids: dict[str, int]) -> Self:
        """GPT-2's vocabulary: `ids` of its vocab.json at `path`, merges.txt in the same folder."""
        whole = sorted(ids.values()) == [*range(len(ids))]
        rule = "tokens must be numbered from 0 on, each but once"
        require(whole, "Bpe", rule, error=DataError, count=len(ids))
        beside = path.with_name("merges.txt")
        lines = _content(beside).decode().split("\n")
        lines = lines[1:] if lines[0].startswith("#version") else lines
        merges = [line.rstrip("\r").split(" ") for line in lines if line.strip("\r")]
        wrong = [pair for pair in merges if len(pair) != 2][:1]
        rule = f"every line of {beside} must hold two tokens and a space between"
        require(not wrong, "Bpe", rule, error=DataError, line=wrong)
        return cls(sorted(ids, key=lambda token: ids[token]), merges)

    def encode(self, text: str) -> np.ndarray:
        _utf8(text)
        return np.array([t for word in split(text) for t in self._word(word)], np.int64)

    def _tokens_of_word(self, word: str) -> list[int]:
        letters = _letters()
        return [self._index[p] for p in merge([letters[b] for b in word.encode()], self._rank)]


class Llama(Tokenizer):
    """The vocabulary of llama2.c's tokenizer.bin: sentencepiece's byte pairs over a whole text.

    texts (of the pieces) and scores: neighbours are joined that make the piece of the best score;
    a character that is no piece becomes its bytes, pieces 3 to 258. A text gets a space in front.
    Token 1 begins a text (llama2.c stops where it is drawn), 2 ends it; neither is shown.
    """

    kind, saved, begin, end = "llama2c", ("texts", "scores"), 1, 2

    def __init__(self, texts: Sequence[str], scores: Sequence[float]) -> None:
        ok = [*texts[3:259]] == [f"<0x{b:02X}>" for b in range(256)]
        rule = "pieces 3 to 258 must be the bytes <0x00> to <0xFF>"
        require(ok, "Llama", rule, error=DataError, count=len(texts), pieces=[*texts[3:5]])
        finite = sum(map(math.isfinite, scores))
        rule = f"each of the {len(texts)} pieces must have a finite score"
        require(finite == len(texts), "Llama", rule, error=DataError, finite=finite)
        self.texts, self.scores = [*texts], [*scores]
        self._index = {text: i for i, text in reversed([*enumerate(texts)])}
        shown = [b"", b"", *(bytes([b]) for b in range(256)), *map(_utf8, texts[259:])]
        self.pieces = [_utf8(texts[0]), *shown]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Of a file: the longest piece's bytes (int32), then (float32 score, int32 n, n bytes)s."""
        content, at = _content(path), 4
        texts, scores = list[str](), list[float]()
        (longest,) = struct.unpack_from("<i", content)
        while at < len(content):
            score, n = struct.unpack_from("<fi", content, at)
            at += 8 + n
            ok = 0 <= n <= longest and at <= len(content)
            rule = f"a piece must have 0 to {longest} bytes and end within the file"
            require(ok, "Llama", rule, error=DataError, piece=len(texts), bytes=n)
            texts.append(content[at - n : at].decode())
            scores.append(score)
        return cls(texts, scores)

    def encode(self, text: str) -> np.ndarray:
        _utf8(text)
        parts: list[str] = []
        for c in f" {text}" if text else "":
            parts += [c] if c in self._index else [f"<0x{b:02X}>" for b in c.encode()]
        return np.array([self._index[part] for part in merge(parts, self._rank)], np.int64)

    def prompt(self, text: str) -> np.ndarray:
        return np.concatenate([[self.begin], self.encode(text)])

    def piece(self, token: int, before: int | None) -> bytes:
        piece = self.pieces[token]
        return piece.removeprefix(b" ") if before in (None, self.begin) else piece

    def _rank(self, a: str, b: str) -> float | None:
        joined = self._index.get(a + b)
        return None if joined is None else -self.scores[joined]


KINDS: dict = {cls.kind: cls for cls in (Characters, Bytes, Words, Bpe, Llama)}


def train(kind: str, text: str, size: int) -> Tokenizer:
    """The tokens of a kind for a text; words and bpe: at most `size` of them."""
    kinds: dict[str, Callable[[], Tokenizer]] = {
        "characters": lambda: Characters.train(text), "bytes": Bytes,
        "words": lambda: Words.train(text, size), "bpe": lambda: Bpe.train(text, size),
    }  # fmt: skip
    require(kind in kinds, "train", f"kind must be one of {[*kinds]}", error=DataError, kind=kind)
    return kinds[kind]()


def load(path: str | Path) -> Tokenizer:
    """The vocabulary in a file; its content says of which kind it is.

    One of `save`; GPT-2's vocab.json beside merges.txt, or the folder of both; llama2.c's
    tokenizer.bin. Raises DataError that names the file.
    """
    file = Path(path) / "vocab.json" if Path(path).is_dir() else Path(path)
    content = _content(file)
    with reworded(DataError, f"load: {file} is damaged or no vocabulary", *_DAMAGED):
        if not content.lstrip().startswith(b"{"):
            return Llama.read(file)
        saved = json.loads(content)
        if not isinstance(saved.get("kind"), str):  # in GPT-2's file it is a token like others
            return Bpe.read(file, saved)
        kind, rule = saved.pop("kind"), f"kind must be one of {[*KINDS]}"
        require(kind in KINDS, "load", rule, error=DataError, kind=kind)
        return KINDS[kind](**saved)


def merge(parts: list[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Join neighbours until no pair has a rank: the lowest first, among equals the leftmost.

    With a heap and a linked list: O(n log n) of n parts.
    """
    n, now = len(parts), [*parts]
    heap: list[tuple[float, int, int, str, str]] = []
    left, right = [*range(-1, n - 1)], [*range(1, n + 1)]

    def offer(i: int, j: int) -> None:
        if i >= 0 and j < n and (place := rank(now[i], now[j])) is not None:
            heapq.heappush(heap, (place, i, j, now[i], now[j]))

    for i in range(n - 1):
        offer(i, i + 1)
    while heap:
        _, i, j, a, b = heapq.heappop(heap)
        if now[i] == a and now[j] == b:  # else one of them was joined to another since
            now[i], now[j], right[i] = a + b, "", right[j]
            if right[i] < n:
                left[right[i]] = i
            offer(left[i], i)
            offer(i, right[i])
    return [part for part in now if part]


def split(text: str) -> list[str]:
    """GPT-2's words of a text: contractions, and runs of letters, numbers, others, white space.

    A word takes the space before it; joined they are the text.
    """
    return _splitter().findall(text)


@functools.cache
def _splitter() -> re.Pattern[str]:
    kinds = "".join(unicodedata.category(chr(i))[0] for i in range(sys.maxunicode + 1))
    runs = {kind: [m.span() for m in re.finditer(f"{kind}+", kinds)] for kind in "LN"}
    L, N = ("".join(rf"\U{a:08x}-\U{b - 1:08x}" for a, b in runs[kind]) for kind in "LN")
    S = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # White_Space
    words = rf" ?[{L}]+| ?[{N}]+| ?[^{S}{L}{N}]+"
    return re.compile(rf"'(?:[stmd]|re|ve|ll)|{words}|[{S}]+(?![^{S}])|[{S}]+")


@functools.cache
def _letters() -> tuple[str, ...]:
    """GPT-2's letter for each byte: itself if it can be seen, else one from U+0100 on."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    unseen = iter(range(256, 512))
    return tuple(chr(b if b in seen else next(unseen)) for b in range(256))


def _utf8(text: str) -> bytes:
    with reworded(DataError, "encode: the text must be valid Unicode", UnicodeEncodeError):
        return text.encode()


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _content(path: Path) -> bytes:
    with reworded(DataError, f"load: cannot read {path}", OSError):
        return path.read_bytes()
