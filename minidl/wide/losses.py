"""Wide losses: of distributions with a variance or a rate, of distances and ranks, and CTC."""

import math
from typing import Any

import numpy as np

from minidl.errors import require
from minidl.ops import creation, join, pointwise
from minidl.ops.loss import reduced
from minidl.wide.features import pairwise_distance


def gaussian_nll_loss(input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6,
                      reduction: str = "mean") -> Any:  # fmt: skip
    """(log v + (x - t)² / v) / 2 with v = var, at least eps; full adds log(2π) / 2.

    var has input's shape, with 1 in place of any size, or without its last axis; or is a number.
    """
    if not hasattr(var, "shape"):
        var = creation.full_like(input, var)
    if var.shape == input.shape[:-1] and var.shape != input.shape:
        var = var.unsqueeze(-1)
    fits = var.ndim == input.ndim and all(v in (1, n) for v, n in zip(var.shape, input.shape))
    require(fits, "gaussian_nll_loss", "var must fit input", input=input, var=var)
    var = var + (var.clamp(min=eps) - var).detach()  # the bound has no gradient
    loss = 0.5 * (var.log() + (input - target).square() / var)
    return reduced("gaussian_nll_loss", loss + 0.5 * math.log(2 * math.pi) * full, reduction)


def poisson_nll_loss(input: Any, target: Any, log_input: bool = True, full: bool = False,
                     eps: float = 1e-8, *, reduction: str = "mean") -> Any:  # fmt: skip
    """rate - t log(rate), input being the rate's logarithm or (False) the rate; full adds log t!

    by Stirling's formula, where t > 1.
    """
    loss = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        factorial = target * target.log() - target + 0.5 * (2 * math.pi * target).log()
        loss = loss + pointwise.where(target > 1, factorial, 0.0)
    return reduced("poisson_nll_loss", loss, reduction)


def cosine_embedding_loss(input1: Any, input2: Any, target: Any, margin: float = 0, *,
                          reduction: str = "mean") -> Any:  # fmt: skip
    """1 - cos of two rows where target is 1, max(0, cos - margin) where it is -1."""
    squares = [(x * x).sum(-1) + 1e-12 for x in (input1, input2)]
    cos = (input1 * input2).sum(-1) / (squares[0] * squares[1]).sqrt()
    apart = pointwise.where(target == -1, (cos - margin).clamp(min=0), 0.0)
    return reduced("cosine_embedding_loss", pointwise.where(target == 1, 1 - cos, apart), reduction)


def triplet_margin_loss(anchor: Any, positive: Any, negative: Any, margin: float = 1.0,
                        p: float = 2, eps: float = 1e-6, swap: bool = False, *,
                        reduction: str = "mean") -> Any:  # fmt: skip
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d the pairwise distance.

    swap: the negative's distance is that to anchor or positive, whichever is less.
    """
    near, far = (pairwise_distance(anchor, other, p, eps) for other in (positive, negative))
    if swap:
        far = pointwise.minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced("triplet_margin_loss", (near - far + margin).clamp(min=0), reduction)


def margin_ranking_loss(input1: Any, input2: Any, target: Any, margin: float = 0, *,
                        reduction: str = "mean") -> Any:  # fmt: skip
    """max(0, margin - t (x1 - x2)): t 1 wants the first to be larger, -1 the second."""
    loss = (margin - target * (input1 - input2)).clamp(min=0)
    return reduced("margin_ranking_loss", loss, reduction)


def soft_margin_loss(input: Any, target: Any, *, reduction: str = "mean") -> Any:
    """log(1 + exp(-t x)), the targets 1 or -1."""
    return reduced("soft_margin_loss", pointwise.softplus(-target * input), reduction)


def hinge_embedding_loss(
    input: Any, target: Any, margin: float = 1.0, *, reduction: str = "mean"
) -> Any:
    """A distance x where the target is 1, max(0, margin - x) where it is -1."""
    apart = pointwise.where(target != 1, (margin - input).clamp(min=0), 0.0)
    loss = apart + pointwise.where(target != -1, input, 0.0)
    return reduced("hinge_embedding_loss", loss, reduction)


def multi_margin_loss(input: Any, target: Any, p: int = 1, margin: float = 1.0, weight: Any = None,
                      *, reduction: str = "mean") -> Any:  # fmt: skip
    """Mean over classes j other than the target y of w_y max(0, margin - x_y + x_j)^p.

    input (N, C), target (N,), or without N.
    """
    own = target.reshape(*input.shape[:-1], 1)
    over = (margin - input.gather(-1, own) + input).clamp(min=0) ** p
    over = over if weight is None else over * weight[own]
    return reduced("multi_margin_loss", over.scatter(-1, own, 0.0).mean(-1), reduction)


def multilabel_soft_margin_loss(input: Any, target: Any, weight: Any = None, *,
                                reduction: str = "mean") -> Any:  # fmt: skip
    """Mean over classes of the binary cross entropy of logits (N, C), by weight (C,)."""
    loss = pointwise.softplus(input) - target * input
    loss = loss if weight is None else loss * weight
    return reduced("multilabel_soft_margin_loss", loss.mean(-1), reduction)


# ---- connectionist temporal classification -------------------------------------------------------

_NEVER = -1e30  # log of a probability 0 that has a gradient, 0


def ctc_loss(log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int = 0,
             reduction: str = "mean", zero_infinity: bool = False) -> Any:  # fmt: skip
    """-log of the chance that a sequence's classes, repeats and blanks removed, are its target.

    log_probs (T, N, C) or (T, C); targets (N, S), or of all sequences end to end; the lengths
    (N,), read on the host as the targets are. The mean is over losses by target length; a target
    that cannot be reached costs infinity, or (zero_infinity) nothing (Graves et al. 2006).
    """
    name, single = "ctc_loss", log_probs.ndim == 2
    x = log_probs.unsqueeze(1) if single else log_probs
    require(x.ndim == 3, name, "log_probs must be (T, N, C) or (T, C)", log_probs=log_probs)
    steps, lengths = (np.reshape(_host(a), -1) for a in (input_lengths, target_lengths))
    fits = len(steps) == len(lengths) == x.shape[1] and max(steps, default=0) <= len(x)
    require(fits, name, "needs a length of input and target for each of N sequences, up to T",
            log_probs=log_probs, input_lengths=steps, target_lengths=lengths)  # fmt: skip
    labels = _with_blanks(_host(targets), lengths, blank, x.shape[2])
    nll = -_log_chance(x, labels, blank, steps, lengths)
    loss = pointwise.where(nll > -_NEVER / 2, 0.0 if zero_infinity else math.inf, nll)
    if reduction == "mean":
        loss = loss / _as(np.maximum(lengths, 1).astype(x.dtype), x)
    return reduced(name, loss.squeeze(0) if single else loss, reduction)


def _host(x: Any) -> np.ndarray:
    return np.asarray(x.tolist() if hasattr(x, "tolist") else x, np.int64)


def _as(values: np.ndarray, like: Any) -> Any:
    return creation.as_tensor(values, device=like.device)


def _with_blanks(targets: np.ndarray, lengths: np.ndarray, blank: int, count: int) -> np.ndarray:
    """Each target with blanks before, between and behind its classes: (N, 2 S + 1)."""
    if targets.ndim < 2:  # end to end
        ends = np.cumsum(lengths)
        fits = targets.size == lengths.sum()
        require(fits, "ctc_loss", "targets end to end must have the sum of their lengths",
                targets=targets, target_lengths=lengths)  # fmt: skip
        rows = [targets.reshape(-1)[end - n : end] for n, end in zip(lengths, ends)]
    else:
        rows = [row[:n] for row, n in zip(targets, lengths)]
    fits = [len(row) for row in rows] == lengths.tolist() and 0 <= blank < count
    fits = fits and all(0 <= k < count for row in rows for k in row)
    require(fits, "ctc_loss", f"targets must have their lengths and lie, as blank, in [0, {count})",
            targets=targets, target_lengths=lengths, blank=blank)  # fmt: skip
    made = np.full((len(rows), 2 * max(lengths, default=0) + 1), blank)
    for row, to in zip(rows, made):
        to[1 : 2 * len(row) : 2] = row
    return made


def _log_chance(x: Any, labels: np.ndarray, blank: int, steps: np.ndarray,
                lengths: np.ndarray) -> Any:  # fmt: skip
    """Log of the chance of all ways to the last two labels (N,): the forward recursion."""
    (n, width), place = labels.shape, np.arange(labels.shape[1])
    skips = labels != blank  # a class may follow another one without a blank between
    skips[:, 2:] &= labels[:, 2:] != labels[:, :-2]
    may, never = _as(skips, x), creation.full((n, 2), _NEVER, dtype=x.dtype, device=x.device)
    index = _as(np.broadcast_to(labels, (len(x), n, width)).copy(), x)
    emitted, lasting = x.gather(2, index), _as(steps[:, None], x)
    alpha = pointwise.where(_as(place < 2, x), emitted[0], _NEVER)
    for t in range(1, len(x)):
        one, two = (join.cat((never[:, :k], alpha), 1)[:, :width] for k in (1, 2))
        ways = join.stack((alpha, one, pointwise.where(may, two, _NEVER)))
        alpha = pointwise.where(lasting > t, ways.logsumexp(0) + emitted[t], alpha)
    ends = (place == 2 * lengths[:, None]) | (place == 2 * lengths[:, None] - 1)
    return pointwise.where(_as(ends, x), alpha, _NEVER).logsumexp(1)
