"""Word vectors: skip-gram with negative sampling, GloVe's text files, and embeddings made of them.

Vectors of words are a pair (words, array): V different words and their (V, D) float32 rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

import minidl as ml
import minidl.functional as F
from minidl import nn, optim
from minidl.errors import DataError, require, reworded
from minidl.io import write_bytes
from minidl.random import Generator
from minidl.train import StopSignal
from projects.command import Parser
from projects.settings import UsageError
from projects.textgen import data
from projects.textgen.tokens import Words

Vectors = tuple[Sequence[str], np.ndarray]
DIM, WINDOW, NEGATIVES, STEPS = 100, 5, 5, 20_000  # of skip-gram where nothing else is said


# ---- skip-gram with negative sampling ------------------------------------------------------------


def train(words: Sequence[str], dim: int, window: int, negatives: int, steps: int, seed: int, *,
          batch: int = 512, lr: float = 0.01, min_count: int = 5, threshold: float = 1e-3,
          after: Callable[[int, float], None] | None = None,
          ) -> tuple[list[str], np.ndarray]:  # fmt: skip
    """Skip-gram with negative sampling (Mikolov et al. 2013, arXiv 1310.4546) of a text's words.

    words: the text in order. Those rarer than `min_count` are left out; a word of relative
    frequency f is kept with probability sqrt(threshold / f), drawn anew for every pass over the
    text. Each step takes `batch` pairs of kept words at most `window` apart, and for each pair
    `negatives` words by unigram^0.75. Adam, its rate falling from lr to 0 in a straight line.
    after(steps done, loss in nats a pair): called after every step.

    Returns the vocabulary, most frequent first, and the vectors (V, dim) of words as centres. The
    same arguments give the same bits. Raises DataError where too few words are left, ShapeError
    for sizes below 1.
    """
    sizes = {"dim": dim, "window": window, "negatives": negatives, "steps": steps, "batch": batch}
    ok = all(isinstance(size, Integral) and size >= 1 for size in sizes.values())
    require(ok, "train", "sizes must be integers of at least 1", **sizes)
    require(threshold > 0, "train", "threshold must be above 0", threshold=threshold)
    vocabulary, counts, tokens = _counted(words, min_count)
    draws = Generator(seed, "data")
    start = (Generator(seed, "init").uniform((len(counts), dim)) - np.float32(0.5)) / dim
    centre = ml.tensor(start, requires_grad=True)
    context = ml.zeros(len(counts), dim, requires_grad=True)
    optimizer = optim.Adam([centre, context], lr=lr)
    schedule = optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    noise = counts**0.75
    pass_steps = math.ceil(len(tokens) / batch)
    for step in range(steps):
        if step % pass_steps == 0:
            kept = _subsampled(tokens, counts, threshold, window, draws)
        a, b = _pairs(kept, window, batch, draws)
        others = draws.choice(noise, batch * negatives).reshape(batch, negatives)
        optimizer.zero_grad()
        loss = sampled_loss(centre, context, a, b, others)
        loss.backward()
        optimizer.step()
        schedule.step()
        if after is not None:
            after(step + 1, loss.item())
    return vocabulary, centre.detach().numpy()


def sampled_loss(centre: ml.Tensor, context: ml.Tensor, a: np.ndarray, b: np.ndarray,
                 others: np.ndarray) -> ml.Tensor:  # fmt: skip
    """Mean over pairs of -log s(v_a . u_b) - sum_k log s(-v_a . u_k), s the sigmoid (equation 4).

    centre, context (V, D): the rows v and u. a, b (B,) int64: the pairs; others (B, K) int64:
    the negatives k. Scalar, in nats. A negative equal to b counts as any other.
    """
    v = F.embedding(a, centre)  # (B, D)
    u = F.embedding(np.concatenate([b[:, None], others], axis=1), context)  # (B, 1 + K, D)
    scores = ml.bmm(u, v.unsqueeze(-1)).squeeze(-1)
    signs = np.ones(others.shape[1] + 1, scores.dtype)
    signs[0] = -1
    return F.softplus(scores * ml.tensor(signs)).sum(1).mean()


def _counted(words: Sequence[str], min_count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Vocabulary (V), its counts (V,) float64, most frequent first, and the text as indices."""
    rule = "words must be a sequence of words, not one text"
    require(not isinstance(words, str), "train", rule, error=DataError, characters=len(words))
    found = [(w, c) for w, c in Counter(words).most_common() if c >= min_count]
    rule = f"needs at least 2 different words that come {min_count} times or more"
    require(len(found) >= 2, "train", rule, error=DataError, words=len(words), left=len(found))
    index = {word: i for i, (word, _) in enumerate(found)}
    tokens = np.array([index[w] for w in words if w in index], np.int64)
    return list(index), np.array([c for _, c in found], np.float64), tokens


def _subsampled(tokens: np.ndarray, counts: np.ndarray, threshold: float, window: int,
                draws: Generator) -> np.ndarray:  # fmt: skip
    """The text without most of its frequent words (equation 5)."""
    keep = np.sqrt(threshold * counts.sum() / counts)
    kept = tokens[draws.uniform(len(tokens), np.float64) < keep[tokens]]
    rule = f"subsampling leaves too few words for a window of {window}"
    fix = "give more text, a smaller window or a larger threshold"
    require(len(kept) > window, "train", rule, error=DataError, fix=fix, words=len(tokens),
            left=len(kept), threshold=threshold)  # fmt: skip
    return kept


def _pairs(kept: np.ndarray, window: int, batch: int,
           draws: Generator) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """batch pairs (centre, context) of words, d <= window apart with weight window + 1 - d.

    That is the share of each distance when every word draws its own window from 1 ... window.
    """
    apart = 1 + draws.choice(np.arange(window, 0, -1), batch)
    left = (draws.uniform(batch, np.float64) * (len(kept) - apart)).astype(np.int64)
    swap = draws.bernoulli(0.5, batch)
    first, second = kept[left], kept[left + apart]
    return np.where(swap, second, first), np.where(swap, first, second)


def spoken(text: str) -> list[str]:
    """The words and signs of a text in order, as the word tokens have them, without white space."""
    return [word for word in Words.split(text) if not word.isspace()]


def progress(steps: int) -> Callable[[int, float], None]:
    """What prints, for `after` of train, the mean loss of every tenth of its steps."""
    each, losses = max(steps // 10, 1), list[float]()

    def after(step: int, loss: float) -> None:
        losses.append(loss)
        if step % each == 0:
            mean = sum(losses) / len(losses)
            print(f"word vectors: step {step:,} of {steps:,}, loss {mean:.3f}", flush=True)
            losses.clear()

    return after


# ---- use -----------------------------------------------------------------------------------------


def nearest(word: str, words: Sequence[str], vectors: np.ndarray,
            count: int = 10) -> list[tuple[str, float]]:  # fmt: skip
    """The `count` other words whose vectors (V, D) have the largest cosines with that of `word`.

    (word, cosine) pairs, largest first, ties in the order of words; a vector of zeros has cosine
    0. Raises DataError for an unknown word, ShapeError unless vectors have a row for every word.
    """
    _check_rows("nearest", words, vectors)
    require(word in words, "nearest", "word must be one of the words", error=DataError, word=word)
    own = words.index(word)
    norms = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[own] / np.maximum(norms * norms[own], np.finfo(np.float32).tiny)
    order = [i for i in np.argsort(-cosines, kind="stable") if i != own]
    return [(words[i], float(cosines[i])) for i in order[:count]]


def embedding_for(tokens: Sequence[str], vectors: Vectors, *, std: float = 0.02,
                  seed: int = 0) -> nn.Parameter:  # fmt: skip
    """The weight (len(tokens), D) of an nn.Embedding for the words of a tokenizer.

    A token takes the vector of the word of its spelling, else of that in lower case; every other
    token is drawn from N(0, std²), seeded. Raises DataError if no token has a vector.
    """
    words, table = vectors
    _check_rows("embedding_for", words, table)
    found = _found(tokens, words)
    known = found >= 0
    rule = "at least one token must have a vector"
    require(bool(known.any()), "embedding_for", rule, error=DataError, tokens=len(tokens),
            vectors=len(words))  # fmt: skip
    weight = Generator(seed, "init").normal((len(tokens), table.shape[1])) * np.float32(std)
    weight[known] = table[found[known]]
    return nn.Parameter(weight)


def put(weight: ml.Tensor, tokens: Sequence[str], vectors: Vectors, seed: int = 0) -> int:
    """Fill the first rows of an embedding's weight (V, D) as embedding_for does, in place.

    What has no vector is drawn with the standard deviation of all the vectors' numbers. Returns
    how many tokens have one. Raises as embedding_for, and ShapeError for vectors of another width.
    """
    rule = "vectors must be as wide as the weight"
    fits = weight.shape[1:] == vectors[1].shape[1:]
    require(fits, "put", rule, weight=weight, vectors=vectors[1])
    rows = embedding_for(tokens, vectors, std=float(vectors[1].std()), seed=seed)
    with ml.no_grad():
        weight[: len(tokens)] = rows.detach().to(weight.device)
    return int((_found(tokens, vectors[0]) >= 0).sum())


def _found(tokens: Sequence[str], words: Sequence[str]) -> np.ndarray:
    """The word (n,) of each token's spelling, else of that in lower case, else -1."""
    index = {word: i for i, word in enumerate(words)}
    rows = [index.get(token, index.get(token.lower(), -1)) for token in tokens]
    return np.array(rows, np.int64)


def _check_rows(name: str, words: Sequence[str], vectors: np.ndarray) -> None:
    ok = vectors.ndim == 2 and len(vectors) == len(words)
    require(ok, name, "vectors must have one row (D,) a word", words=len(words), vectors=vectors)


# ---- GloVe ---------------------------------------------------------------------------------------


def read_glove(path: str | Path, dim: int | None = None) -> tuple[list[str], np.ndarray]:
    """Words and vectors (V, D) float32 of a GloVe text file (Pennington et al. 2014).

    A line is a word and its D numbers with single spaces between, in UTF-8. dim: D, where the file
    has words with spaces in them (glove.840B); None: what the first line has. Of a word that comes
    twice the first counts. Raises DataError that names the file and the line of any damage.
    """
    require(dim is None or dim >= 1, "read_glove", "dim must be at least 1", dim=dim)
    found: dict[str, np.ndarray] = {}
    text = f"read_glove: cannot read {path} as UTF-8 text"
    # Only "\n" ends a line: words hold other characters that Python takes for line ends.
    with (
        reworded(DataError, text, OSError, UnicodeDecodeError),
        open(path, encoding="utf-8", newline="\n") as lines,
    ):
        for word, vector in _glove_lines(path, lines, dim):
            found.setdefault(word, vector)
    require(bool(found), "read_glove", f"{path} has no vectors", error=DataError)
    return list(found), np.stack(list(found.values()))


def _glove_lines(path: str | Path, lines: Iterator[str],
                 dim: int | None) -> Iterator[tuple[str, np.ndarray]]:  # fmt: skip
    """Word and vector (D,) of each line; without dim, words have no spaces."""
    spaces = dim is not None
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r\n").split(" ")
        dim = len(fields) - 1 if dim is None else dim
        word, numbers = " ".join(fields[:-dim]), fields[-dim:]
        fits = dim >= 1 and (len(fields) > dim if spaces else len(fields) == dim + 1)
        vector = _numbers(numbers) if fits and word else None
        rule = f"line {number} of {path} must be a word and {max(dim, 1)} finite numbers"
        fix = "" if spaces else "give dim where words hold spaces"
        require(vector is not None, "read_glove", rule, error=DataError, fix=fix, line=line[:60])
        yield word, vector


def _numbers(fields: Sequence[str]) -> np.ndarray | None:
    """The fields as float32 (D,), or None where one is not a finite number."""
    try:
        with np.errstate(over="ignore"):  # too large for float32 is not finite
            vector = np.array(fields, np.float32)
    except ValueError:
        return None
    return vector if np.isfinite(vector).all() else None


def write_glove(path: str | Path, words: Sequence[str], vectors: np.ndarray) -> None:
    """Write words and vectors (V, D) float32 as read_glove reads them, bit by bit; all or nothing.

    Raises DataError for a word that is empty or holds a space or a line feed, ShapeError unless
    vectors have a row for every word, CheckpointError where the file cannot be written.
    """
    _check_rows("write_glove", words, vectors)
    wrong = [word for word in words if not word or " " in word or "\n" in word][:1]
    rule = "a word must not be empty nor hold a space or a line feed"
    require(not wrong, "write_glove", rule, error=DataError, word=wrong)
    lines = (f"{word} {' '.join(map(str, row))}\n".encode() for word, row in zip(words, vectors))
    write_bytes(path, lines)


# ---- command -------------------------------------------------------------------------------------

TRAINED = {"window": WINDOW, "negatives": NEGATIVES, "steps": STEPS, "seed": 0, "min_count": 5}


def verb(argv: Sequence[str], stop: StopSignal) -> int:
    """Train word vectors on a corpus and write them, or print the neighbours of words in a file."""
    parser = Parser("textgen vectors")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="train on the first 80 %% of this corpus")
    source.add_argument("--file", metavar="FILE", help="read these, in GloVe's text format")
    parser.add_argument("--data", help="root of the data; default: MINIDL_DATA")
    parser.add_argument("--dim", type=int, help=f"numbers of a vector (default: {DIM}, or FILE's)")
    for name, value in TRAINED.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, metavar="N", help=f"of training (default: {value})")
    parser.add_argument("--out", metavar="FILE", help="that the trained vectors are written to")
    parser.add_argument("--nearest", nargs="+", default=[], metavar="WORD", help="print neighbours")
    args = parser.parse_args(argv)
    if args.file:
        given = [name for name in ("data", "out", *TRAINED) if getattr(args, name) is not None]
        if given or not args.nearest:
            got = ", ".join(given) or "no --nearest"
            raise UsageError(f"--file is read alone, for --nearest WORD...; got {got}")
        found = read_glove(args.file, args.dim)
    else:
        found = _trained(args, stop)
    for word in args.nearest:
        near = ", ".join(f"{other} {cosine:.2f}" for other, cosine in nearest(word, *found))
        print(f"{word}: {near}")
    return 0


def _trained(args: Any, stop: StopSignal) -> tuple[list[str], np.ndarray]:
    """Train and write by the command's arguments."""
    there = bool(args.out) and Path(args.out).parent.is_dir() and not Path(args.out).is_dir()
    if not there:
        raise UsageError(f"--out must be a file in a folder that exists; got {args.out!r}")
    texts = [text.parts()[0] for text in data.corpora(args.dataset, args.data)]
    options = {name: value if getattr(args, name) is None else getattr(args, name)
               for name, value in TRAINED.items()}  # fmt: skip
    shown = progress(options["steps"])

    def after(step: int, loss: float) -> None:
        stop.check()
        shown(step, loss)

    dim = DIM if args.dim is None else args.dim
    found = train(spoken("\n".join(texts)), dim, **options, after=after)
    write_glove(args.out, *found)
    print(f"{len(found[0]):,} vectors: {args.out}")
    return found
