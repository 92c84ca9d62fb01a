"""English-French sentence pairs: found, read, split, as tokens, and in batches of like lengths."""

from __future__ import annotations

import lzma
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from minidl.data.download import data_root
from minidl.errors import DataError, require, reworded
from minidl.random import Generator
from projects.textgen import data, tokens
from projects.textgen.config import Config
from projects.textgen.data import Pairs

ARCHIVE = "fra-eng.zip"
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
BEGIN, END, PAD = 1, 2, 3

DAMAGE = (zipfile.BadZipFile, RuntimeError, lzma.LZMAError)  # or encrypted, or packed otherwise


# ---- words ---------------------------------------------------------------------------------------


class Sentences(tokens.Words):
    """Tokens of sentences in lower case: words, and every other character but white space.

    A word keeps the hyphen before it and the apostrophe after it: l', école, est, -ce, don', t; so
    that decoding can put the spaces back. Unknown words become <unk>, token 0; <s> begins, </s>
    ends and <pad> fills up a sentence.
    """

    kind = "sentences"

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(words)
        rule = f"words must begin with {' '.join(SPECIAL)}"
        ok = (*words[: len(SPECIAL)],) == SPECIAL
        require(ok, "Sentences", rule, error=DataError, words=[*words[:5]])
        self.begin, self.end = BEGIN, END

    @classmethod
    def train(cls, text: str, size: int) -> Self:
        """The `size` most frequent words of a text behind the special tokens; ties by alphabet."""
        return cls([*SPECIAL, *cls.frequent(text, size)])

    @staticmethod
    def split(text: str) -> list[str]:
        """The tokens' texts in order; NFC, and an apostrophe is always the straight one."""
        text = unicodedata.normalize("NFC", text.lower()).replace("\u2019", "'")
        return re.findall(r"-?\w+'?|[^\w\s]", text)

    def piece(self, token: int, before: int | None) -> bytes:
        """A token's text, after a space where it needs one."""
        if before is None or not spaced(self.words[before], self.words[token]):
            return self.pieces[token]
        return b" " + self.pieces[token]

    def written(self, row: Iterable[int]) -> list[str]:
        """The words of tokens up to the first </s>."""
        ids = [*map(int, row)]
        return [self.words[t] for t in ids[: ids.index(END) if END in ids else None]]


def spaced(before: str, word: str) -> bool:
    """Whether a space belongs between two words; without it `split` still tells them apart."""
    opens = before == "(" or re.fullmatch(r"-?\w+'", before)
    closes = word in {".", ",", ")", "…"} or re.fullmatch(r"-\w+'?", word)
    return not (opens or closes)


def joined(words: Sequence[str]) -> str:
    """The sentence of some words."""
    gaps = (" " if spaced(a, b) else "" for a, b in zip(words, words[1:]))
    return "".join(f"{word}{gap}" for word, gap in zip(words, [*gaps, ""]))


def normal(sentence: str) -> str:
    """A sentence as its words with single spaces between."""
    return " ".join(Sentences.split(sentence))


# ---- pairs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Translations:
    """Pairs of normal sentences, English first, by split; and the tokens of both sides."""

    name: str
    english: Sentences
    french: Sentences
    train: Pairs
    validation: Pairs
    test: Pairs

    def encode(self, pairs: Pairs) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Both sides as tokens (n,) int64, each French one between BEGIN and END."""
        french = (self.french.encode(b) for _, b in pairs)
        return (
            [self.english.encode(a) for a, _ in pairs],
            [np.array([BEGIN, *ids, END], np.int64) for ids in french],
        )

    def splits(self) -> dict[str, np.ndarray]:
        """The text of the pairs by split, as bytes (n,)."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        texts = {name: "\n".join("\t".join(pair) for pair in part) for name, part in parts.items()}
        return {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}


def load_translations(cfg: Config) -> Translations:
    """Read, split and count the pairs of at most `longest` tokens a side. Raises DataError."""
    path = find(cfg.data or None)
    with reworded(DataError, f"pairs: cannot read {path}", *DAMAGE):
        parts = data.pairs(path, longest=cfg.longest)
    kept: list[Pairs] = []
    before: set[str] = set()
    for name, part in zip(("training", "validation", "test"), parts):
        both = dict.fromkeys((normal(a), normal(b)) for a, b in part)
        fits = [p for p in both if max(side.count(" ") for side in p) < cfg.longest]
        kept.append([p for p in fits if all(p) and p[0] not in before])
        before |= {english for english, _ in kept[-1]}
        rule = f"{path} must hold {name} sentences of at most {cfg.longest} words"
        require(bool(kept[-1]), "pairs", rule, error=DataError, pairs=len(part))
    english, french = (" ".join(side) for side in zip(*kept[0]))
    sides = (Sentences.train(text, cfg.vocabulary) for text in (english, french))
    return Translations(f"English-French, at most {cfg.longest} words", *sides, *kept)


def find(root: str | None = None) -> Path:
    """Where the pairs lie under ROOT/text: fra.txt, gzipped, or in manythings.org's archive.

    ROOT is `root`, else MINIDL_DATA, else the cache. Raises DataError.
    """
    folder = data_root(root) / "text"
    for path in (folder / data.PAIRS, folder / f"{data.PAIRS}.gz"):
        if path.exists():
            return path
    archive = folder / ARCHIVE
    rule = f"neither {data.PAIRS} nor {ARCHIVE} is in {folder}"
    fix = f"put https://www.manythings.org/anki/{ARCHIVE} there"
    require(archive.exists(), "english-french", rule, error=DataError, fix=fix)
    with reworded(DataError, f"english-french: cannot read {archive}", OSError, *DAMAGE):
        inside: Any = zipfile.Path(archive, data.PAIRS)  # reads its bytes as a Path does
        size = inside.root.getinfo(data.PAIRS).file_size if inside.exists() else 0
    most, rule = data.most_unpacked(archive), f"{data.PAIRS} in {archive} is too large"
    require(size <= most, "english-french", rule, error=DataError, bytes=size, most=most)
    return inside


def grouped(pairs: Pairs, most: int = 0) -> dict[str, list[str]]:
    """English sentences, each with all its French ones; the first `most` by checksum (0: all).

    The file is sorted by length: its first sentences would be the shortest.
    """
    found: dict[str, list[str]] = {}
    for english, french in pairs:
        found.setdefault(english, []).append(french)
    order = sorted(found, key=lambda text: (zlib.crc32(text.encode()), text))
    return {english: found[english] for english in order[: most or None]}


# ---- batches -------------------------------------------------------------------------------------


def padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens (n,) each -> (B, longest n) int64, filled up with PAD."""
    full = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for row, ids in zip(full, rows):
        row[: len(ids)] = ids
    return full


class Buckets(data.Batches):
    """Batches x (B, S), y (B, T) of pairs with sources of like lengths, in a new order every pass.

    Source and target tokens (n,) each. A pass sorts the pairs by both lengths, equal ones by the
    generator's draw of the pass's number, cuts them into batches, the last one smaller, and
    shuffles these. The generator's own state stays as it is. dataset: as long as the target
    tokens to predict in an iteration, about.
    """

    def __init__(self, source: list[np.ndarray], target: list[np.ndarray], batch: int,
                 generator: Generator, *, every: int) -> None:  # fmt: skip
        require(batch >= 1, "Buckets", "batch must be at least 1", batch=batch)
        rule = "source and target must be as many sentences, at least one"
        fits = len(source) == len(target) > 0
        require(fits, "Buckets", rule, source=len(source), target=len(target))
        super().__init__(-(-len(source) // batch), every)
        self.x, self.y, self.size, self.generator = source, target, batch, generator
        self.lengths = [np.array([*map(len, side)]) for side in (target, source)]
        self.dataset = range(round(every / self.whole * int((self.lengths[0] - 1).sum())))
        self._order: tuple[int, list[np.ndarray]] = (-1, [])

    def batch(self, number: int) -> data.Batch:
        turn, k = divmod(number, self.whole)
        if turn != self._order[0]:
            self._order = turn, self._shuffled(turn)
        rows = self._order[1][k]
        return padded([self.x[i] for i in rows]), padded([self.y[i] for i in rows])

    def _shuffled(self, turn: int) -> list[np.ndarray]:
        """The pairs' numbers of each batch of a pass."""
        words = self.generator.keyed_bits(np.arange(len(self.x)), 2, turn)
        order = np.lexsort((words[:, 0], *self.lengths))
        places = np.argsort(words[: self.whole, 1], kind="stable")
        return [order[k * self.size : (k + 1) * self.size] for k in places]
