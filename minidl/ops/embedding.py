"""Embeddings: rows of a table by index, bags of them, and one-hot codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import backend
from minidl.autograd import Tensor, op, raw
from minidl.errors import DTypeError, require
from minidl.ops import pointwise as pw
from minidl.ops.reduce import amax, mean, sum_axes
from minidl.ops.shape import unsqueeze


@op
def table_rows(table: Any, index: Any, *, skip: int = -1) -> Any:
    """Rows of table (V, D) at index (...): (..., D); a row `skip` receives no gradient."""
    rows = table.shape[0]

    def vjp(g: Any, need: Any, index: Any) -> Any:
        return add_rows(g, raw(index), rows=rows, skip=skip), None

    return backend.of(table).take_rows(table, index), (index,), vjp


@op
def add_rows(g: Any, index: Any, *, rows: int, skip: int = -1) -> Any:
    """Zeros (rows, D) with the rows of g (..., D) added at index, in order, but at `skip`."""

    def vjp(h: Any, need: Any, index: Any) -> Any:
        taken = table_rows(h, raw(index))
        if skip < 0:
            return taken, None
        keep = (raw(index) != skip).astype(taken.dtype)
        return pw.mul(taken, keep[..., None]), None

    return backend.of(g).add_rows(g, index, rows, skip), (index,), vjp


def embedding(input: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Rows of weight (V, D) at the indices input (...): (..., D).

    The row padding_idx (negative: from the end) gets no gradient. Raises RangeError for an index
    outside [0, V).
    """
    require(weight.ndim == 2, "embedding", "weight must have 2 axes (V, D)", weight=weight)
    require(weight.dtype.kind in "fV", "embedding", "weight must be floating point",
            error=DTypeError, weight=weight)  # fmt: skip
    rows = weight.shape[0]
    index = np.asarray(input) if isinstance(input, (int, list)) else raw(input)
    be = backend.of(raw(weight))
    be.check_indices("embedding", index, rows)
    skip = -1
    if padding_idx is not None:
        require(-rows <= padding_idx < rows, "embedding", "padding_idx must be a row of weight",
                padding_idx=padding_idx, weight=weight)  # fmt: skip
        skip = padding_idx % rows
    return table_rows(weight, be.cast(index, np.int64), skip=skip)


def embedding_bag(input: Any, weight: Any, *, mode: str = "mean") -> Any:
    """The mean, sum or max over each bag of the rows of weight (V, D): input (B, L) -> (B, D)."""
    require(mode in ("mean", "sum", "max"), "embedding_bag", "mode must be mean, sum or max",
            mode=mode)  # fmt: skip
    require(input.ndim == 2, "embedding_bag", "input must have 2 axes (B, L)", input=input)
    rows = embedding(input, weight)
    if mode == "max":
        return amax(rows, 1)
    return mean(rows, 1) if mode == "mean" else sum_axes(rows, axes=(1,))


def one_hot(tensor: Any, num_classes: int = -1) -> Any:
    """int64 (..., K) with a 1 at each index; -1: K is the largest index + 1, read on the host."""
    index = raw(tensor)
    require(index.dtype.kind in "iu", "one_hot", "indices must be integers", error=DTypeError,
            tensor=index)  # fmt: skip
    if num_classes == -1:
        require(index.size > 0, "one_hot", "needs num_classes when there is no index", tensor=index)
        num_classes = int(index.max()) + 1
    backend.of(index).check_indices("one_hot", index, num_classes)
    y = pw.eq(unsqueeze(index, -1), np.arange(num_classes))
    return Tensor(y.astype(np.int64))
