"""Text as a data set of character windows, for language models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidl.autograd import Tensor
from minidl.data.dataset import Arrays, Dataset, within
from minidl.errors import DataError, require

SPLITS = {"train": (0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1)}  # shares of the text


class Text(Dataset):
    """Windows of `length` characters of a text file: item i is (x, y), y one character further.

    x, y (length,) int64 indices into `vocabulary`, the sorted characters of the whole file, so
    that all splits agree. The first 80 % of the text are train, the next 10 % val, the last test;
    windows begin every `step` characters. Raises DataError.
    """

    def __init__(
        self, path: str | Path, length: int, split: str = "train", *, step: int = 1
    ) -> None:
        require(split in SPLITS, "Text", f"split must be one of {[*SPLITS]}", split=split)
        require(length > 0 and step > 0, "Text", "length and step must be positive", length=length)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"Text: cannot read {path} as UTF-8 text: {e}") from e
        self.vocabulary = sorted(set(text))
        self._index = {c: i for i, c in enumerate(self.vocabulary)}
        start, stop = (round(share * len(text)) for share in SPLITS[split])
        self.codes = self.encode(text[start:stop])
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
