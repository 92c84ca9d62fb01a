"""A network between the words of two languages: translating, by greed or beams, and judging it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import minidl as ml
import minidl.functional as F
from projects.textgen import metrics
from projects.textgen.config import Config
from projects.textgen.data import Pairs
from projects.textgen.decode import beam_search
from projects.textgen.seq2seq import Continued, Seq2Seq
from projects.textgen.translation import (
    BEGIN,
    END,
    PAD,
    Sentences,
    Translations,
    grouped,
    padded,
)


@dataclass(frozen=True)
class Translator:
    """A network between the tokens of two languages. Sentences come and go as text."""

    model: Seq2Seq
    english: Sentences
    french: Sentences
    cfg: Config

    def source(self, sentences: Sequence[str]) -> tuple[ml.Tensor, list[int]]:
        """Tokens (B, S), padded, and their lengths (B,)."""
        rows = [self.english.encode(text) for text in sentences]
        return ml.tensor(padded(rows), device=self.cfg.device), [*map(len, rows)]

    def greedy(self, sentences: Sequence[str]) -> tuple[list[list[str]], np.ndarray]:
        """The likeliest words one by one of each sentence (B), and their weights (B, n, S)."""
        source, lengths = self.source(sentences)
        made, weights = self.model.translate(source, lengths, self.most(lengths), BEGIN, END)
        return [self.french.written(row) for row in made.tolist()], weights.cpu().numpy()

    def beam(self, sentence: str, width: int) -> list[str]:
        """The words of the best of `width` beams, by the mean log-probability of its tokens."""
        source, lengths = self.source([sentence])
        prompt = ml.tensor([[BEGIN]], device=self.cfg.device)
        step = Continued(self.model, source)
        made, _ = beam_search(step, prompt, width, self.most(lengths), 1.0, END)
        return self.french.written(made.tolist()[0][1:])

    def most(self, lengths: Sequence[int]) -> int:
        """Most tokens of a translation and its end: what training had, twice a longer source."""
        most, trained = max(lengths), self.cfg.longest
        return 1 + (trained if most <= trained else 2 * most)

    def losses(self, x: np.ndarray, y: np.ndarray, reduction: str) -> tuple[ml.Tensor, ml.Tensor]:
        """Cross-entropy of y (B, T) after its first tokens in nats, given x (B, S), and the hits.

        Both padded with PAD, which does not count.
        """
        source, target = (ml.tensor(a, device=self.cfg.device) for a in (x, y))
        logits, _ = self.model(source, (x != PAD).sum(1).tolist(), target[:, :-1])
        flat, label = logits.reshape(-1, logits.shape[-1]), target[:, 1:].reshape(-1)
        hits = (flat.detach().argmax(1) == label).logical_and(label != PAD).sum()
        return F.cross_entropy(flat, label, ignore_index=PAD, reduction=reduction), hits

    @ml.no_grad()
    def judge(self, corpus: Translations, pairs: Pairs,
              check: Callable[[], None]) -> dict[str, float]:  # fmt: skip
        """What is measured on the first `judged` English sentences (0: all) of some pairs.

        loss: nats a target token, </s> too; nats_per_character: the same over the characters of
        the normal French sentences, each with a line's end; bleu: BLEU-4 of the greedy
        translations' words, <unk> a wrong one, against all translations of at most `longest` words.
        """
        self.model.eval()
        groups = grouped(pairs, self.cfg.judged)
        kept = [(english, text) for english, texts in groups.items() for text in texts]
        source, target = corpus.encode(kept)
        total, count = 0.0, 0
        for at in self.batches([*map(len, source)]):
            check()
            y = padded([target[i] for i in at])
            total += self.losses(padded([source[i] for i in at]), y, "sum")[0].item()
            count += int((y[:, 1:] != PAD).sum())
        return {
            "loss": total / count,
            "nats_per_character": total / sum(len(text) + 1 for _, text in kept),
            "bleu": scored(groups, self.translated([*groups], check)),
        }

    def translated(self, sentences: Sequence[str], check: Callable[[], None]) -> list[list[str]]:
        """The greedy translations of many sentences, as words."""
        made: dict[int, list[str]] = {}
        for at in self.batches([text.count(" ") for text in sentences]):
            check()
            made |= zip(at, self.greedy([sentences[i] for i in at])[0])
        return [made[i] for i in range(len(sentences))]

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """The numbers of the sentences of each batch, by length."""
        order, size = np.argsort(lengths, kind="stable").tolist(), self.cfg.batch
        return (order[k : k + size] for k in range(0, len(order), size))


def scored(groups: dict[str, list[str]], made: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of the words made of each English sentence against its French ones."""
    return metrics.bleu(made, [[text.split() for text in texts] for texts in groups.values()])


def build(cfg: Config, english: Sentences, french: Sentences) -> Translator:
    """The network of a configuration, with its tokens."""
    model = Seq2Seq(
        english.size, french.size, embedding_dim=cfg.embedding or cfg.hidden,
        hidden_size=cfg.hidden, attention=cfg.attention, dropout=cfg.dropout,
    )  # fmt: skip
    return Translator(model.to(cfg.device), english, french, cfg)
