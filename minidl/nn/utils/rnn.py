"""Sequences of different lengths: packing, padding, and running a recurrence over packed rows."""

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import numpy as np

from minidl.autograd import Tensor, wrap
from minidl.errors import require
from minidl.functional import pad
from minidl.ops.join import cat, stack


class PackedSequence(NamedTuple):
    """Time steps one after the other, each with the sequences still running, longest first."""

    data: Tensor  # (sum of lengths, …)
    batch_sizes: Tensor  # (T,) int64: how many sequences have a step t
    sorted_indices: Tensor | None = None  # which sequence stands at each place
    unsorted_indices: Tensor | None = None


def _rows(batch_sizes: np.ndarray, batch: int) -> np.ndarray:
    """For each packed row, its row in the (T · batch) flattened padded batch."""
    return np.concatenate([t * batch + np.arange(n) for t, n in enumerate(batch_sizes)])


def pack_padded_sequence(input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False,
                         enforce_sorted: bool = True) -> PackedSequence:  # fmt: skip
    """Drop the padding of a batch (T, B, …), or (B, T, …) with batch_first.

    enforce_sorted=False sorts the sequences by length, longest first, and remembers the order.
    """
    padded = input.transpose(0, 1) if batch_first else input
    n = np.asarray(lengths.tolist() if isinstance(lengths, Tensor) else lengths, np.int64)
    steps, batch = padded.shape[:2]
    fits = n.shape == (batch,) and batch > 0 and n.min() > 0 and n.max() <= steps
    rule = f"each sequence, and there must be one, has a length between 1 and {steps}"
    require(fits, "pack_padded_sequence", rule, lengths=n.tolist())
    order = back = None
    if not enforce_sorted:
        places = np.argsort(-n, kind="stable")
        order, back = wrap(places), wrap(np.argsort(places))
        padded, n = padded[:, order], n[places]
    rule = "lengths must fall unless enforce_sorted=False"
    require(bool((np.diff(n) <= 0).all()), "pack_padded_sequence", rule, lengths=n.tolist())
    sizes = (n[None] > np.arange(n[0])[:, None]).sum(1)
    data = padded.reshape(steps * batch, *padded.shape[2:])[wrap(_rows(sizes, batch))]
    return PackedSequence(data, wrap(sizes), order, back)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The padded batch (T or total_length, B, …) in its first order, and the lengths (B,)."""
    data, batch_sizes, _, back = sequence
    sizes = np.asarray(batch_sizes.tolist())
    steps, batch = total_length or len(sizes), int(sizes[0])
    rule = f"total_length must be at least {len(sizes)}, the longest sequence's"
    require(steps >= len(sizes), "pad_packed_sequence", rule, total_length=total_length)
    places = np.full(steps * batch, len(data))  # the row after the last holds the padding
    places[_rows(sizes, batch)] = np.arange(len(data))
    blank = wrap(np.full((1, *data.shape[1:]), padding_value, data.dtype)).to(data.device)
    padded = cat([data, blank], 0)[wrap(places)].reshape(steps, batch, *data.shape[1:])
    lengths = wrap((sizes[None] > np.arange(batch)[:, None]).sum(1))
    if back is not None:
        padded, lengths = padded[:, back], lengths[back]
    return (padded.transpose(0, 1) if batch_first else padded), lengths


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0
) -> Tensor:
    """Put sequences (length, …) into one batch (T, B, …), filling up to the longest."""
    longest = max(len(s) for s in sequences)
    widths = [(0, 0) * (s.ndim - 1) + (0, longest - len(s)) for s in sequences]
    rows = [pad(s, w, value=padding_value) for s, w in zip(sequences, widths)]
    return stack(rows, 0 if batch_first else 1)


def run_packed(step: Callable[[Tensor, tuple[Tensor, ...]], tuple[Any, ...]], sizes: list[int],
               backwards: bool, data: Tensor,
               states: tuple[Tensor, ...]) -> tuple[Any, ...]:  # fmt: skip
    """Run step over each stretch of time in which the same sequences run.

    data (total, I); states (B, width) each -> outputs (total, O), *last states (B, width).
    step takes (steps, b, I) and states of b rows and gives outputs and last states.
    """
    stretches = _stretches(sizes)
    outputs: list[Tensor] = []
    done: list[tuple[Tensor, ...]] = []
    rows = stretches[-1][1] if backwards else sizes[0]
    now = tuple(s[:rows] for s in states)
    for start, b, steps in reversed(stretches) if backwards else stretches:
        if b > rows:  # backwards: sequences that end here begin
            now = tuple(cat([n, s[rows:b]], 0) for n, s in zip(now, states))
        elif b < rows:  # forwards: the shortest have ended
            done.append(tuple(n[b:] for n in now))
            now = tuple(n[:b] for n in now)
        y, *ends = step(data[start : start + b * steps].reshape(steps, b, data.shape[-1]), now)
        outputs.append(y.reshape(steps * b, y.shape[-1]))
        now, rows = tuple(ends), b
    outputs = outputs[::-1] if backwards else outputs
    return cat(outputs, 0), *(cat(list(parts), 0) for parts in zip(now, *reversed(done)))


def _stretches(sizes: list[int]) -> list[tuple[int, int, int]]:
    """(first packed row, sequences, steps) of each run of equal batch sizes."""
    runs = [(b, len(list(run))) for b, run in groupby(sizes)]
    starts = accumulate((b * steps for b, steps in runs), initial=0)
    return [(start, b, steps) for start, (b, steps) in zip(starts, runs)]
