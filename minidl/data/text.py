"""Text as a data set of character windows, for language models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidl.autograd import Tensor
from minidl.data.dataset import Arrays, Dataset, within
from minidl.errors import DataError, require

SPLITS = ("train", "val", "test")


class Text(Dataset):
    """Windows of `length` characters of a text file: item i is (x, y), y one character further.

    x, y (length,) int64 indices into `vocabulary`, the sorted characters of the whole file, so
    that all splits agree. The text is cut into train, val and test by `fractions`; windows begin
    every `step` characters. Raises DataError.
    """

    def __init__(self, path: str | Path, length: int, split: str = "train", *, step: int = 1,
                 fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> None:  # fmt: skip
        require(split in SPLITS, "Text", f"split must be one of {SPLITS}", split=split)
        ok = len(fractions) == 3 and min(fractions) >= 0 and abs(sum(fractions) - 1) < 1e-6
        require(ok, "Text", "fractions must be three shares that add up to 1", fractions=fractions)
        require(length > 0 and step > 0, "Text", "length and step must be positive", length=length)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"Text: cannot read {path} as UTF-8 text: {e}") from e
        self.vocabulary = sorted(set(text))
        self._index = {c: i for i, c in enumerate(self.vocabulary)}
        edges = np.rint(np.cumsum([0, *fractions]) * len(text)).astype(int)
        k = SPLITS.index(split)
        self.codes = self.encode(text[edges[k] : edges[k + 1]])
        self.length, self.step = length, step
        rule = f"the {split} part of {path} is shorter than one window"
        require(len(self.codes) > length, "Text", rule, error=DataError, length=length)

    def encode(self, text: str) -> np.ndarray:
        """Indices (n,) int64 of characters. Raises DataError for one outside the vocabulary."""
        unknown = sorted(set(text) - set(self._index))
        rule = "characters are not in the vocabulary"
        require(not unknown, "Text", rule, error=DataError, unknown=unknown[:10])
        return np.array([self._index[c] for c in text], np.int64)

    def decode(self, codes: Sequence[int] | np.ndarray | Tensor) -> str:
        """The characters of indices (n,)."""
        return "".join(self.vocabulary[int(i)] for i in np.asarray(codes).ravel())

    def __len__(self) -> int:
        return (len(self.codes) - 1 - self.length) // self.step + 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.batch(np.array([within(self, index)]), 0)
        return Tensor(x[0]), Tensor(y[0])

    def batch(self, indices: np.ndarray, epoch: int) -> Arrays:
        at = (np.asarray(indices) * self.step)[:, None] + np.arange(self.length)
        return self.codes[at], self.codes[at + 1]
