"""Connectionist temporal classification: the loss of a sequence whose alignment is unknown."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import raw
from minidl.errors import require
from minidl.fusion import exp, log, maximum, pointwise
from minidl.ops import pointwise as pw
from minidl.ops.index import gather
from minidl.ops.join import pad_constant, unbind
from minidl.ops.reduce import mean
from minidl.ops.reduce import sum as sum_over
from minidl.ops.shape import reshape, unsqueeze

NEVER = -1e30  # logarithm of an impossible path: finite, so that differences stay defined


@pointwise
def _advance(stay, step, skip, emission, allowed, running):
    """log(e^stay + e^step + e^skip where allowed) + emission; stay where the input has ended."""
    jump = skip * allowed + NEVER * (1 - allowed)
    m = maximum(maximum(stay, step), jump)
    total = m + log(exp(stay - m) + exp(step - m) + exp(jump - m)) + emission
    return total * running + stay * (1 - running)


def ctc_loss(
    log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, blank: int = 0,
    reduction: str = "mean", zero_infinity: bool = False,
) -> Any:  # fmt: skip
    """-log of the probability of targets summed over alignments (Graves et al. 2006, equation 6).

    log_probs (T, N, C) or (T, C); targets (N, S) or all one after the other; lengths (N,). The
    mean is of losses divided by their target's length. An impossible target gives inf, or 0.
    """
    x = unsqueeze(log_probs, 1) if log_probs.ndim == 2 else log_probs
    steps, n, _ = x.shape
    inputs, lengths = (np.asarray(raw(a)).reshape(-1) for a in (input_lengths, target_lengths))
    require(len(inputs) == len(lengths) == n, "ctc_loss", "needs a length for each of N", x=x)
    require(int(inputs.max()) <= steps, "ctc_loss", "input_lengths exceed T", x=x)
    require(reduction in ("none", "mean", "sum"), "ctc_loss", "unknown reduction", got=reduction)
    given, width = raw(targets), int(lengths.max())
    labels = np.full((n, 2 * width + 1), blank, np.int64)  # a blank before, between and after
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for i, k in enumerate(lengths):
        flat = given[starts[i] : starts[i] + k] if given.ndim == 1 and n > 1 else None
        labels[i, 1 : 2 * k : 2] = given.reshape(n, -1)[i, :k] if flat is None else flat
    before = np.pad(labels, ((0, 0), (2, 0)), constant_values=blank)[:, :-2]
    allowed = ((labels != blank) & (labels != before)).astype(x.dtype)
    emissions = unbind(gather(x, 2, np.broadcast_to(labels, (steps, *labels.shape))), 0)
    start = np.where(np.arange(labels.shape[1]) < 2, 0.0, NEVER).astype(x.dtype)
    alpha = pw.add(emissions[0], start)
    for t in range(1, steps):
        one, two = (pad_constant(alpha, widths=((0, 0), (k, -k)), value=NEVER) for k in (1, 2))
        running = (inputs > t).astype(x.dtype)[:, None]
        alpha = _advance(alpha, one, two, emissions[t], allowed, running)
    ends = np.stack([2 * lengths, np.maximum(2 * lengths - 1, 0)], 1)
    last, label = unbind(gather(alpha, 1, ends), 1)
    empty = (lengths == 0).astype(x.dtype)  # then both are the same path
    loss = pw.neg(_advance(last, label, last, np.zeros_like(empty), 0 * empty, 1 - empty))
    loss = pw.where(pw.gt(loss, -0.5 * NEVER), 0.0 if zero_infinity else np.inf, loss)
    if log_probs.ndim == 2:
        loss = reshape(loss, ())
    if reduction == "mean":
        scale = 1 / np.maximum(lengths, 1).astype(x.dtype)
        return mean(pw.mul(loss, scale.reshape(loss.shape)))
    return sum_over(loss) if reduction == "sum" else loss
