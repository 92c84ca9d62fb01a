"""Embeddings: rows of a table by index, and one-hot codes."""

from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, raw
from minidl.errors import require
from minidl.ops import pointwise as pw
from minidl.ops.arguments import check_real
from minidl.ops.index import table_rows
from minidl.ops.shape import unsqueeze


def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Rows of weight (V, D) at the indices input (...): (..., D).

    The row padding_idx (negative: from the end) gets no gradient. Raises RangeError for an index
    outside [0, V).
    """
    require(weight.ndim == 2, "embedding", "weight must have 2 axes (V, D)", weight=weight)
    check_real("embedding", weight)
    rows = weight.shape[0]
    index = np.asarray(input) if isinstance(input, (int, list)) else raw(input)
    be = backend.of(raw(weight))
    be.check_indices("embedding", index, rows)
    fits = padding_idx is None or -rows <= padding_idx < rows
    rule = "padding_idx must be a row of weight"
    require(fits, "embedding", rule, padding_idx=padding_idx, weight=weight)
    skip = -1 if padding_idx is None else padding_idx % rows
    return table_rows(weight, be.cast(index, np.int64), skip=skip)


def one_hot(tensor: Any, num_classes: int = -1) -> Any:
    """int64 (..., K) with a 1 at each index; -1: K is the largest index + 1, read on the host."""
    index = raw(tensor)
    if num_classes == -1:
        require(index.size > 0, "one_hot", "needs num_classes when there is no index", tensor=index)
        num_classes = int(index.max()) + 1
    backend.of(index).check_indices("one_hot", index, num_classes)
    y = pw.eq(unsqueeze(index, -1), np.arange(num_classes))
    return Tensor(y.astype(np.int64))
