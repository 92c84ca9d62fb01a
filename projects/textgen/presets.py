"""Every experiment of the course's ladder under a name: what differs from Config's defaults."""

from __future__ import annotations

from typing import Any

from projects.settings import preset_of
from projects.textgen.config import Config

Fields = dict[str, Any]

BOOK: Fields = {"dataset": "shakespeare", "batch": 64, "context": 100, "judged": 100_000}
# nanoGPT's recipe for characters: AdamW, cosine to a tenth, gradients of norm 1.
GPT: Fields = BOOK | {"model": "gpt", "optimizer": "adamw", "lr": 1e-3, "warmup": 100}
GPT |= {"weight_decay": 0.1, "clip": 1.0}
CELL: Fields = BOOK | {"steps": 2000}  # of the table of models by tokens
PAIRS: Fields = {"dataset": "english-french", "tokens": "words", "vocabulary": 6000, "judged": 1000}
PAIRS |= {"model": "seq2seq", "hidden": 192, "steps": 2500, "warmup": 100, "dropout": 0.1}
PAIRS |= {"embedding": 128, "clip": 1.0}


def _of(text: str, base: Fields, **fields: Any) -> tuple[str, Fields]:
    """What a preset is, and its fields."""
    return text, base | fields


PRESETS: dict[str, tuple[str, Fields]] = {
    "smoke": _of("seconds on the embedded text: does everything work?", {}, steps=20, every=10,
                 hidden=32, layers=1, batch=8, context=32, judged=2000, written=200),
    "quick": _of("a 2-layer LSTM on the embedded text, two minutes", {}, steps=800, every=200,
                 hidden=192, batch=32, context=64, judged=50_000, lr=4e-3),
    # The E level.
    "e-rnn": _of("character RNN", BOOK, model="rnn", layers=1, steps=5000, lr=1e-3),
    "e-lstm1": _of("1-layer LSTM", BOOK, layers=1, steps=5000),
    "e-lstm2": _of("2-layer LSTM", BOOK, steps=5000),
    "e-lstm2-dropout": _of("2-layer LSTM with dropout, half an hour of two cores", BOOK,
                           dropout=0.25, steps=3000),
    "e-lstm2-512": _of("2 x 512 LSTM with dropout, 90 minutes of two cores", BOOK, hidden=512,
                       dropout=0.2, steps=6000),
    "e-war-and-peace": _of("2-layer LSTM on War and Peace", BOOK, dataset="war-and-peace",
                           steps=5000),
    # The C level.
    "c-gru": _of("2-layer GRU", BOOK, model="gru", steps=5000),
    "c-deep": _of("4-layer LSTM with dropout", BOOK, layers=4, dropout=0.2, steps=5000),
    "c-layer-norm": _of("layer norm within the cell", BOOK, layer_norm=True, steps=5000),
    "c-mixed": _of("two books by turns", BOOK, dataset="shakespeare+war-and-peace", steps=5000),
    "c-sequence": _of("two books one after the other", BOOK, together="sequence",
                      dataset="shakespeare+war-and-peace", steps=5000),
    # The A level.
    "a-bpe": _of("2-layer LSTM over BPE tokens", BOOK, tokens="bpe", steps=5000),
    "a-words": _of("2-layer LSTM over words", BOOK, tokens="words", vocabulary=8000, steps=5000),
    "a-words-vectors": _of("a-words that begins with skip-gram vectors of its own", BOOK,
                           tokens="words", vocabulary=8000, vectors="train", steps=5000),
    "a-augment": _of("dropped, swapped and masked inputs", BOOK, dropped=0.05, swapped=0.02,
                     masked=0.05, steps=5000),
    "a-nanogpt-cpu": _of("nanoGPT's CPU setting: 4 layers, 4 heads, 128", GPT, hidden=128, layers=4,
                         batch=12, context=64, steps=2000),
    "a-nanogpt": _of("nanoGPT's GPU setting: 6 layers, 6 heads, 384", GPT, hidden=384, layers=6,
                     heads=6, batch=64, context=256, steps=5000, dropout=0.2, keep="best"),
    "a-llama": _of("rotary positions, RMS norm, SwiGLU, grouped queries", GPT, hidden=128, layers=4,
                   kv_heads=2, positions="rotary", norm="rms", mlp="swiglu", batch=12, context=64,
                   steps=2000),
    "a-seq2seq": _of("English to French, Bahdanau's attention, 15 minutes of two cores", PAIRS),
    "a-seq2seq-dot": _of("English to French, dot-product attention", PAIRS, attention="dot"),
    # The table of models by tokens, 2,000 steps a cell. A BPE token stands for some 2.3 characters:
    # half as many sequences of them are about as much text.
    **{
        f"t-{name}-{tokens}": _of(f"{name} over {tokens}, 2,000 steps",
                                  base | {"tokens": tokens, "batch": min(base["batch"], most)})
        for tokens, most in (("characters", 64), ("bpe", 32))
        for name, base in {
            "rnn": CELL | {"model": "rnn", "layers": 1, "lr": 1e-3},
            "lstm1": CELL | {"layers": 1}, "lstm2": CELL, "gru": CELL | {"model": "gru"},
            "gpt": GPT | {"hidden": 128, "layers": 4, "batch": 12, "context": 64, "steps": 2000},
        }.items()
    },
}  # fmt: skip


def preset(name: str) -> Config:
    """The configuration called `name`; UsageError with near names when there is none."""
    return preset_of(Config, PRESETS, name)
