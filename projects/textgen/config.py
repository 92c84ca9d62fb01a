"""Everything that a run of the text project depends on, in one dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from projects.settings import Precision, UsageError, check_limits, check_precision


@dataclass(frozen=True)
class Config:
    """One experiment. Every field can be set by `--set field=value`; lengths are in tokens.

    The text is split by position: the first 80 % are trained on, 10 % judge in between, the last
    10 % are looked at once, in the end. (Pairs of sentences: by a checksum of the English one.)
    """

    preset: str = "quick"
    dataset: str = "embedded"  # a corpus, a text file, or several joined by +
    data: str = ""  # root of the data; empty: MINIDL_DATA
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "float32"  # of training's products; others on a GPU
    seed: int = 0
    steps: int = 2000
    every: int = 250  # steps between looks at the validation text
    keep: Literal["last", "best"] = "last"  # weights in the end; best: of least validation loss

    # text
    tokens: Literal["characters", "bytes", "words", "bpe"] = "characters"
    vocabulary: int = 1024  # most words, or BPE tokens
    together: Literal["mixed", "sequence"] = "mixed"  # how several corpora are trained on
    dropped: float = 0.0  # augmentation: share of input tokens replaced by others
    swapped: float = 0.0  # exchanged with their neighbour
    masked: float = 0.0  # replaced by one token
    judged: int = 0  # tokens of validation text that are looked at; 0: all; of seq2seq: sentences
    longest: int = 10  # most words of a sentence that is translated, on either side

    # network
    model: Literal["rnn", "lstm", "gru", "gpt", "seq2seq"] = "lstm"
    hidden: int = 256  # units of a layer; of a GPT its width
    embedding: int = 0  # width of a recurrent network's token vectors; 0: hidden
    vectors: str = ""  # what word tokens' vectors begin with: a GloVe text file, or train
    layers: int = 2
    dropout: float = 0.0
    layer_norm: bool = False  # within the recurrent cell
    heads: int = 4  # of a GPT's attention
    kv_heads: int = 0  # heads that keys and values share; 0: as many
    positions: Literal["learned", "rotary"] = "learned"
    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    attention: Literal["bahdanau", "dot"] = "bahdanau"  # of seq2seq

    # optimisation
    batch: int = 64
    context: int = 100  # tokens of a sequence: what a GPT sees, what gradients flow through
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = 2e-3
    final: float = 0.1  # share of the learning rate that a cosine ends at; 1: constant
    warmup: int = 0  # steps of linear warm-up
    weight_decay: float = 0.0
    clip: float = 5.0  # bound on the norm of the gradient; 0: none

    # what is written in the end
    written: int = 2000  # tokens of the samples that are judged
    temperature: float = 0.8
    top_k: int = 0  # 0: all
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_limits(self, LIMITS)
        check_precision(self)
        if self.steps % min(self.every, self.steps):
            got = f"steps={self.steps}, every={self.every}"
            raise UsageError(f"steps must be a multiple of every; got {got}; try --set every=…")
        if self.model == "gpt" and self.hidden % self.heads:
            got = f"hidden={self.hidden}, heads={self.heads}"
            raise UsageError(f"hidden must be a multiple of heads; got {got}")
        self._check_translation()
        if self.model == "gpt" and self.embedding:
            rule = "embedding is of recurrent networks; the width of a GPT's vectors is hidden"
            raise UsageError(f"{rule}; got embedding={self.embedding}")
        if self.vectors and self.tokens != "words":
            got = f"vectors={self.vectors}, tokens={self.tokens}"
            raise UsageError(f"vectors are of words, they need tokens=words; got {got}")

    def _check_translation(self) -> None:
        """UsageError unless the model that translates and the pairs of sentences go together."""
        wrong = [k for k, value in TRANSLATION.items() if getattr(self, k) != value]
        if self.model == "seq2seq" and wrong:
            needs = ", ".join(f"{k}={TRANSLATION[k]}" for k in wrong)
            got = ", ".join(f"{k}={getattr(self, k)}" for k in wrong)
            raise UsageError(f"model=seq2seq needs {needs}; got {got}")
        if self.model != "seq2seq" and PAIRS in self.dataset.split("+"):
            raise UsageError(f"dataset={PAIRS} needs model=seq2seq; got model={self.model}")

    @property
    def each(self) -> int:
        """Steps between two looks at the validation text."""
        return min(self.every, self.steps)


PAIRS = "english-french"  # sentences, for seq2seq alone
TRANSLATION = {"dataset": PAIRS, "tokens": "words", "dropped": 0, "swapped": 0, "masked": 0,
               "vectors": "", "keep": "last"}  # fmt: skip
LIMITS: dict[str, tuple[float, float]] = {
    "steps": (1, 10**8), "every": (1, 10**8), "vocabulary": (257, 10**6), "dropped": (0, 0.9),
    "swapped": (0, 0.9), "masked": (0, 0.9), "judged": (0, 10**9), "hidden": (1, 8192),
    "embedding": (0, 8192), "longest": (2, 1000),
    "layers": (1, 48), "dropout": (0, 0.95), "heads": (1, 128), "kv_heads": (0, 128),
    "batch": (1, 65536), "context": (2, 65536), "lr": (0, 1e6), "final": (0, 1),
    "warmup": (0, 10**8), "weight_decay": (0, 100), "clip": (0, 1e9), "written": (0, 10**7),
    "temperature": (0, 100), "top_k": (0, 10**6), "top_p": (1e-6, 1), "seed": (0, 2**63 - 1),
}  # fmt: skip
