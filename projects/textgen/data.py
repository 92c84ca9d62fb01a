"""The project's texts: found, read, split by position and cut into batches of sequences."""

import gzip
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl.data.download import Resource, data_root, locate
from minidl.errors import CheckpointError, DataError, require, reworded
from minidl.random import Generator

FILES = {
    "shakespeare": "tinyshakespeare.txt",
    "war-and-peace": "war_and_peace.txt",
    "names": "names.txt",
}
PAIRS = "fra.txt"  # English-French sentences of tatoeba.org, as manythings.org packs them
DOWNLOADS = {
    "tinyshakespeare.txt": Resource(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "text/tinyshakespeare.txt",
        "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    )
}
SHARES = (0.8, 0.1, 0.1)  # of a text: training, validation, test

Batch = tuple[np.ndarray, np.ndarray]


# ---- texts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """A text and what it is called."""

    name: str
    text: str

    def parts(self) -> tuple[str, str, str]:
        """Training, validation and test text: SHARES of the characters, one after the other.

        Raises DataError where a part would be empty.
        """
        n = len(self.text)
        first, second = round(SHARES[0] * n), round((SHARES[0] + SHARES[1]) * n)
        train, val, test = self.text[:first], self.text[first:second], self.text[second:]
        rule = f"{self.name} is too short to be split {SHARES}"
        require(bool(train and val and test), "split", rule, error=DataError, characters=n)
        return train, val, test


def corpora(names: str, root: str | Path | None = None) -> list[Corpus]:
    """The corpora of a list joined by `+`; each is a known name or the path of a text file.

    Known are embedded and FILES' (found under ROOT/text, as `find` does). Raises DataError.
    """
    alone = Path(names).is_file()  # a path may have a + in its name
    return [read(name, root) for name in ([names] if alone else names.split("+"))]


def read(name: str, root: str | Path | None = None) -> Corpus:
    """One corpus: `embedded`, a name in FILES or the path of a UTF-8 text file."""
    if name == "embedded":
        return embedded()
    if name in FILES:
        return Corpus(name, read_text(find(FILES[name], root)))
    rule = "english-french is pairs of sentences, which only model=seq2seq trains on"
    require(name != "english-french", "read", rule, error=DataError)
    rule = f"a corpus must be one of embedded, {', '.join(FILES)}, or the path of a text file"
    require(Path(name).is_file(), "read", rule, error=DataError, name=name)
    return Corpus(Path(name).name, read_text(Path(name)))


def embedded() -> Corpus:
    """The language reference within every Python, by topic; its name tells Python's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    name = f"the language reference of Python {version}"
    with reworded(DataError, f"embedded: {name} is not installed (pydoc_data)", ImportError):
        from pydoc_data.topics import topics
    return Corpus(name, "\n".join(topics[topic] for topic in sorted(topics)))


def find(file: str, root: str | Path | None = None) -> Path:
    """Where ROOT/text/FILE lies; without a root under MINIDL_DATA, or in the cache.

    Without a root a file in DOWNLOADS is fetched into the cache. Raises DataError.
    """
    fetched = [DOWNLOADS[file]] if file in DOWNLOADS else []
    if not root and not fetched:
        root = data_root()
    return locate(root or None, "text", [file], fetched)[0]


def read_text(path: Path) -> str:
    """A UTF-8 text file, gzipped or not, without byte order mark, lines ended by one line feed.

    Raises DataError for a file that cannot be read, is empty, is no text, or unpacks to far more
    than texts do.
    """
    with reworded(DataError, f"read_text: cannot read {path}", OSError, EOFError, zlib.error):
        content = unzipped(path) if path.suffix == ".gz" else path.read_bytes()
    place = content.find(b"\0")
    rule = f"{path} must be UTF-8 text, not a binary file"
    got = {"a NUL at byte": place}
    require(place < 0, "read_text", rule, error=DataError, **got)  # type: ignore[arg-type]
    with reworded(DataError, f"read_text: {path} must be UTF-8 text", UnicodeDecodeError):
        text = content.decode("utf-8-sig")
    require(text != "", "read_text", f"{path} must hold text", error=DataError, bytes=len(content))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def unzipped(path: Path) -> bytes:
    """The bytes of a gzipped file; DataError where they are more than `most_unpacked`."""
    most = most_unpacked(path)
    with gzip.open(path) as file:
        content = file.read(most + 1)
    rule = f"{path} must unpack to {most:,} bytes at most"
    require(len(content) <= most, "read_text", rule, error=DataError)
    return content


def most_unpacked(path: Path) -> int:
    """The bytes that a packed text may have: a few for each of its own are usual."""
    return 100 * path.stat().st_size + 2**26


# ---- sentence pairs ------------------------------------------------------------------------------

Pairs = list[tuple[str, str]]


def pairs(path: Path, longest: int = 10) -> tuple[Pairs, Pairs, Pairs]:
    """English and French sentences of a tab-separated file (PAIRS): training, validation, test.

    Lower-cased, white space made single spaces, at most `longest` words on either side, each pair
    once. An English sentence falls, with all its translations, by its checksum into one of ten
    heaps: eight are trained on, one is each of the others'. Raises DataError.
    """
    found: dict[tuple[str, str], None] = {}
    for number, line in enumerate(read_text(path).rstrip("\n").split("\n"), 1):
        sides = [" ".join(side.lower().split()) for side in line.split("\t")[:2]]
        rule = f"line {number} of {path} must be two sentences with a tab between"
        require(len(sides) == 2 and all(sides), "pairs", rule, error=DataError, line=line)
        if max(len(side.split()) for side in sides) <= longest:
            found[sides[0], sides[1]] = None
    rule = f"{path} must hold pairs of at most {longest} words"
    require(bool(found), "pairs", rule, error=DataError, found=len(found))
    parts: tuple[Pairs, Pairs, Pairs] = [], [], []
    for pair in found:
        parts[max(zlib.crc32(pair[0].encode()) % 10 - 7, 0)].append(pair)
    return parts


# ---- batches -------------------------------------------------------------------------------------


class Batches:
    """Base of endless rows of batches x, y (B, T) int64, y one token further; each by its number.

    An iteration gives `every` batches (by default a pass over the text) and the next goes on from
    there; one that was left, or a state of `state_dict`, is gone on with where it was.
    source: which corpus the last batch came from; fresh: whether its rows go on from nothing, so
    that carried states must begin anew, else from the rows of that source's batch before.
    """

    def __init__(self, whole: int, every: int | None) -> None:
        rule = "every must be at least 1"
        require(every is None or every >= 1, type(self).__name__, rule, every=every)
        self.whole, self.every = whole, every or whole
        self.epoch = self.index = self.source = 0
        self.fresh = True

    def batch(self, number: int) -> Batch:
        """Batch `number` (0, 1, …) of all."""
        raise NotImplementedError

    def origin(self, number: int) -> tuple[int, bool]:
        """The source of a batch, and whether it is fresh: unless told, of one, and always."""
        return 0, True

    def __len__(self) -> int:
        return self.every

    def __iter__(self) -> Iterator[Batch]:
        while self.index < self.every:
            number = self.epoch * self.every + self.index
            self.index += 1
            self.source, self.fresh = self.origin(number)
            yield self.batch(number)
        self.epoch, self.index = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """{epoch, batch}: iterations done, batches given of the one in hand."""
        return {"epoch": self.epoch, "batch": self.index}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batches of a state_dict. Raises CheckpointError."""
        epoch, index = (state.get(key) for key in ("epoch", "batch"))
        ok = type(epoch) is int and type(index) is int and epoch >= 0 and 0 <= index <= self.every
        rule = f"the state must hold an epoch and a batch of {self.every}"
        name = type(self).__name__
        require(ok, name, rule, error=CheckpointError, epoch=epoch, batch=index)
        self.epoch, self.index = epoch, index  # type: ignore[assignment]


class Streams(Batches):
    """Sequences that go on from batch to batch: row b walks through the b-th of `batch` parts.

    tokens (n,): what is left at the end of a part, less than `steps` tokens, is not used. Every
    token but a part's first is predicted once in a pass, after all before it in that part. name:
    of the text, for errors. Raises DataError for a text too short.
    """

    def __init__(self, tokens: np.ndarray, batch: int, steps: int, *, every: int | None = None,
                 name: str = "the text") -> None:  # fmt: skip
        check(tokens, batch, steps, batch * steps + 1, "Streams", name)
        self.steps, n = steps, (len(tokens) - 1) // batch
        self.x = tokens[: batch * n].reshape(batch, n)
        self.y = tokens[1 : batch * n + 1].reshape(batch, n)
        super().__init__(n // steps, every)

    def batch(self, number: int) -> Batch:
        first = number % self.whole * self.steps
        at = slice(first, first + self.steps)
        return self.x[:, at].copy(), self.y[:, at].copy()

    def origin(self, number: int) -> tuple[int, bool]:
        return 0, number % self.whole == 0


class Crops(Batches):
    """Sequences from anywhere in tokens (n,), uniformly; each batch drawn by its number alone.

    A pass is as many batches as hold n tokens. The generator's draws 0, 1, … are used, its state
    stays as it is: give each use a seed or stream of its own. Raises DataError for a text too
    short.
    """

    def __init__(self, tokens: np.ndarray, batch: int, steps: int, generator: Generator, *,
                 every: int | None = None, name: str = "the text") -> None:  # fmt: skip
        check(tokens, batch, steps, steps + 1, "Crops", name)
        self.tokens, self.steps, self.generator = tokens, steps, generator
        self.rows, self.places = np.arange(batch), np.arange(steps)
        super().__init__(max((len(tokens) - 1) // (batch * steps), 1), every)

    def batch(self, number: int) -> Batch:
        words = self.generator.keyed_bits(self.rows, 2, number).astype(np.uint64)
        starts = (words[:, 0] << np.uint64(32) | words[:, 1]) % (len(self.tokens) - self.steps)
        at = starts.astype(np.int64)[:, None] + self.places
        return self.tokens[at], self.tokens[at + 1]


class Turns(Batches):
    """Batches of several corpora, `turn` of the first, of the second, …, then the first again.

    turn 1 mixes them; a turn of a run's steps / corpora (rounded up) trains on one after the other.
    A pass is as many batches as the corpora's passes together.
    """

    def __init__(self, parts: Sequence[Batches], turn: int = 1, *,
                 every: int | None = None) -> None:  # fmt: skip
        require(len(parts) > 0, "Turns", "there must be a corpus", corpora=len(parts))
        require(turn >= 1, "Turns", "a turn must have at least 1 batch", turn=turn)
        self.parts, self.turn = [*parts], turn
        super().__init__(sum(part.whole for part in parts), every)

    def batch(self, number: int) -> Batch:
        part, own = self._place(number)
        return self.parts[part].batch(own)

    def origin(self, number: int) -> tuple[int, bool]:
        part, own = self._place(number)
        return part, self.parts[part].origin(own)[1]

    def _place(self, number: int) -> tuple[int, int]:
        """The corpus that a batch is of, and its number there."""
        turn, within = divmod(number, self.turn)
        rounds, part = divmod(turn, len(self.parts))
        return part, rounds * self.turn + within


def windows(tokens: np.ndarray, steps: int, batch: int = 1, *,
            name: str = "the text") -> Iterator[Batch]:  # fmt: skip
    """x, y (b, t) that predict every token of tokens (n,) but the first, each once, in order.

    Windows of `steps` tokens, up to `batch` of them at once; the last may be shorter, alone.
    Raises DataError, at once, for a text of less than two tokens.
    """
    check(tokens, batch, steps, 2, "windows", name)
    return _windows(tokens, steps, batch)


def _windows(tokens: np.ndarray, steps: int, batch: int) -> Iterator[Batch]:
    whole = (len(tokens) - 1) // steps * steps
    edges = [*range(0, whole, batch * steps), whole]
    for lo, hi in zip(edges, edges[1:]):
        yield tokens[lo:hi].reshape(-1, steps), tokens[lo + 1 : hi + 1].reshape(-1, steps)
    if whole < len(tokens) - 1:
        yield tokens[None, whole:-1], tokens[None, whole + 1 :]


def check(tokens: np.ndarray, batch: int, steps: int, need: int, op: str, name: str) -> None:
    """Refuse batches of no size, and a text of fewer than `need` tokens."""
    require(batch >= 1 and steps >= 1, op, "batch and steps must be >= 1", batch=batch, steps=steps)
    require(tokens.ndim == 1, op, "tokens must have one axis", tokens=tokens)
    rule = f"{name} must have at least {need} tokens for {batch} x {steps} of them"
    require(len(tokens) >= need, op, rule, error=DataError, tokens=len(tokens))
