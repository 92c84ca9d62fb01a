"""Wide functions of features: bilinear maps, distances, bags of rows, Gumbel noise."""

import math
from typing import Any

import numpy as np

from minidl.errors import require, require_one_of
from minidl.ops import creation, index, join, pointwise
from minidl.ops.dropout import dropout
from minidl.ops.linalg import einsum
from minidl.ops.softmax import softmax
from minidl.wide.tensors import index_add


def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """x1 (…, I), x2 (…, J), weight (O, I, J), bias (O,) -> (…, O): x1 W_o x2 + b_o."""
    y = einsum("...i,oij,...j->...o", input1, weight, input2)
    return y if bias is None else y + bias


def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6,
                      keepdim: bool = False) -> Any:  # fmt: skip
    """The p-norm of x1 - x2 + eps along the last axis."""
    return (x1 - x2 + eps).norm(p, -1, keepdim)


def alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """Dropout that keeps the mean 0 and variance 1 of SELU's results (Klambauer et al. 2017).

    What is dropped becomes SELU's limit; inplace as in dropout.
    """
    require(0 <= p <= 1, "alpha_dropout", "p must be between 0 and 1", p=p)
    if not training or p in (0, 1):
        return input * 0 if training and p else input
    low = -pointwise.SELU_SCALE * pointwise.SELU_ALPHA
    kept = dropout(creation.ones_like(input), p) * (1 - p)
    return (((1 - p) * (1 + p * low * low)) ** -0.5) * (input * kept + low * (1 - kept) - p * low)


def gumbel(shape: tuple[int, ...], like: Any) -> Any:
    """Gumbel noise in float32 at least, on the device of `like`."""
    kind = np.float64 if like.dtype == np.float64 else np.float32
    u = creation.rand(shape, dtype=kind, device=like.device)
    return -(-(u + float(np.finfo(kind).tiny)).log()).log()


def gumbel_softmax(logits: Any, tau: float = 1, hard: bool = False, eps: float = 1e-10,
                   dim: int = -1) -> Any:  # fmt: skip
    """A softmax of (logits + Gumbel noise) / tau (Jang et al. 2017); eps is ignored, as in PyTorch.

    hard: one-hot vectors, with the gradient of the soft ones.
    """
    y = softmax((logits + gumbel(logits.shape, logits).to(logits.dtype)) / tau, dim)
    if not hard:
        return y
    return creation.zeros_like(y).scatter(dim, y.argmax(dim, keepdim=True), 1.0) - y.detach() + y


def embedding_bag(input: Any, weight: Any, offsets: Any = None, mode: str = "mean",
                  per_sample_weights: Any = None, include_last_offset: bool = False,
                  padding_idx: int | None = None) -> Any:  # fmt: skip
    """Rows of weight (V, D) at the indices of each bag, reduced by sum, mean or max: (B, D).

    input (B, N), or (N,) with offsets (B,), where each bag begins, which are read on the host. Rows
    padding_idx count for nothing, an empty bag gives zeros. per_sample_weights, of input's shape,
    are for sums. include_last_offset: offsets (B + 1,) also say where the last bag ends.
    """
    name = "embedding_bag"
    require_one_of(name, ("sum", "mean", "max"), mode=mode)
    ok, weights = per_sample_weights is None or mode == "sum", per_sample_weights
    require(ok, name, "per_sample_weights are for sums", mode=mode)
    rule = "needs input (B, N), or (N,) with offsets"
    require(input.ndim == (2 if offsets is None else 1), name, rule, input=input, offsets=offsets)
    sizes, flat = _bag_sizes(name, input, offsets, include_last_offset), input.flatten()
    rows = index.embedding(flat, weight, padding_idx)
    kept = (flat != (-1 if padding_idx is None else padding_idx % len(weight))).unsqueeze(1)
    if mode == "max":
        bags = join.split(pointwise.where(kept, rows, -math.inf), sizes)
        none = creation.full((1, rows.shape[1]), -math.inf, dtype=rows.dtype, device=rows.device)
        best = [bag.max(0, keepdim=True).values if len(bag) else none for bag in bags]
        y = join.cat([rows[:0], *best])
        return pointwise.where(y == -math.inf, 0.0, y)
    rows = pointwise.where(kept, rows if weights is None else rows * weights.reshape(-1, 1), 0.0)
    bag = creation.as_tensor(np.repeat(np.arange(len(sizes)), sizes), device=flat.device)
    start = creation.zeros(len(sizes), rows.shape[1] + 1, dtype=rows.dtype, device=flat.device)
    both = index_add(start, 0, bag, join.cat((rows, kept.to(rows.dtype)), 1))
    total, count = both[:, :-1], both[:, -1:]
    return total / count.clamp(min=1) if mode == "mean" else total


def _bag_sizes(name: str, input: Any, offsets: Any, ended: bool) -> list[int]:
    """How many indices each bag has."""
    if offsets is None:
        return [input.shape[1]] * len(input)
    places = offsets.tolist() + [len(input)] * (not ended)
    sizes = np.diff(places).tolist()
    fits = places[0] == 0 and places[-1] == len(input) and min(sizes, default=0) >= 0
    rule = "offsets must begin with 0 and rise to at most input's length"
    require(fits, name, rule, input=input, offsets=offsets.tolist())
    return sizes
