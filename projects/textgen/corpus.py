"""What a run is trained and judged on: texts as tokens, split, and fed in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl as ml
from minidl.random import Generator
from projects.textgen import data, metrics, tokens
from projects.textgen.augment import Augment
from projects.textgen.config import Config
from projects.textgen.model import Carried


@dataclass(frozen=True)
class Corpus:
    """One or several texts as tokens (n,): train has one array a text, the others are joined."""

    name: str
    tokenizer: tokens.Tokenizer
    text: str  # that is trained on
    train: list[np.ndarray]
    validation: np.ndarray
    test: np.ndarray
    characters: dict[str, int]  # of validation and test text

    def splits(self) -> dict[str, np.ndarray]:
        """All tokens by split."""
        joined = np.concatenate(self.train)
        return {"to train on": joined, "to validate": self.validation, "to test": self.test}

    def per_character(self, nats: float, split: str = "validation") -> float:
        """Nats a character from nats a token, by the share of both in a split."""
        count = len(self.validation if split == "validation" else self.test)
        return metrics.nats_per_character(nats, count, self.characters[split])

    def opening(self) -> np.ndarray:
        """Tokens (n,) that samples go on from: what begins a text, if anything does."""
        known = self.tokenizer.begin is not None
        return self.tokenizer.prompt("" if known else self.text[0])


def rows(cfg: Config, tokenizer: tokens.Tokenizer) -> int:
    """Rows of a network's table: a token each, and one for what is masked."""
    return tokenizer.size + bool(cfg.masked)


def load_corpus(cfg: Config) -> Corpus:
    """Read, split and tokenize the texts of a configuration; DataError for what is no text."""
    texts = data.corpora(cfg.dataset, cfg.data or None)
    parts = list(zip(*(text.parts() for text in texts)))
    whole = ["".join(part) for part in parts]
    tokenizer = tokens.train(cfg.tokens, whole[0], cfg.vocabulary)
    if cfg.tokens == "characters":  # a character may be in the last tenth alone
        tokenizer = tokens.train(cfg.tokens, "".join(whole), cfg.vocabulary)
    train = [tokenizer.encode(text) for text in parts[0]]
    validation, test = (tokenizer.encode(text) for text in whole[1:])
    characters = {"validation": len(whole[1]), "test": len(whole[2])}
    name = " + ".join(text.name for text in texts)
    return Corpus(name, tokenizer, whole[0], train, validation, test, characters)


class Feed:
    """The batches of a run, x, y (B, T) on its device, `every` of them an iteration.

    `carried` has the states that each batch goes on from.
    """

    def __init__(self, cfg: Config, corpus: Corpus) -> None:
        self.carried = Carried()
        self.cfg, self.dataset = cfg, range(cfg.each * cfg.batch * cfg.context)
        size, draws = corpus.tokenizer.size, Generator(cfg.seed, "augmentation")
        shares = {"swapped": cfg.swapped, "dropped": cfg.dropped, "masked": cfg.masked}
        unknown = 0 if cfg.tokens == "words" else None  # <unk>
        mask = size if cfg.masked else None  # a row of its own: see `rows`
        self.augment = Augment(size, draws, **shares, unknown=unknown, mask=mask)
        many = len(corpus.train)
        turn = 1 if cfg.together == "mixed" else -(-cfg.steps // many)
        parts = [
            self._batches(part, k, f"training text {k + 1} of {corpus.name}")
            for k, part in enumerate(corpus.train)
        ]
        self.batches: data.Batches = data.Turns(parts, turn, every=cfg.each)

    def _batches(self, part: np.ndarray, number: int, name: str) -> data.Batches:
        """Crops for a GPT, else sequences that go on."""
        size = self.cfg.batch, self.cfg.context
        if self.cfg.model == "gpt":
            return data.Crops(part, *size, Generator(self.cfg.seed + number, "data"), name=name)
        return data.Streams(part, *size, name=name)

    def __len__(self) -> int:
        return self.cfg.each

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for x, y in self.batches:
            number = self.batches.epoch * self.cfg.each + self.batches.index
            if self.cfg.swapped or self.cfg.dropped or self.cfg.masked:
                x = self.augment(x, number)
            self.carried.turn(self.batches.source, self.batches.fresh)
            yield tuple(ml.tensor(a, device=self.cfg.device) for a in (x, y))

    def state_dict(self) -> dict[str, int]:
        """Where the batches are."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict."""
        self.batches.load_state_dict(state)
