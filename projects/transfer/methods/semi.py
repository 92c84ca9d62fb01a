"""Learning from unlabelled pictures: pseudo-labels (Lee 2013) and FixMatch (arXiv 2001.07685)."""

from collections.abc import Iterator
from typing import Any

import numpy as np

import minidl.functional as F
from minidl.autograd import Tensor
from minidl.data.transforms import (
    Compose,
    Cutout,
    RandAugment,
    RandomHorizontalFlip,
    RandomTranslate,
    Transform,
)
from minidl.data.wide import shuffled
from minidl.errors import require
from minidl.random import Generator


def confident(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The most probable classes (M,) of logits (M, K), and 1 where their probability reaches it.

    Without a gradient. Raises ShapeError: threshold outside [0, 1].
    """
    rule = "threshold must lie in [0, 1]"
    require(0 <= threshold <= 1, "confident", rule, threshold=threshold)
    said = F.softmax(logits.detach(), dim=1)
    return said.argmax(1), (said.amax(1) >= threshold).to(logits.dtype)


def fixmatch_loss(weak: Tensor, strong: Tensor, threshold: float = 0.95) -> Tensor:
    """Strong views must be called what weak views surely are (0-d, nats).

    weak, strong (M, K): logits of two views of M unlabelled pictures; the first give labels (and
    get no gradient) where they are confident. The loss is the sum of those pictures' cross-entropy
    over M, as in the paper, so that few labels weigh little. Raises ShapeError: shapes differ,
    threshold outside [0, 1].
    """
    same = weak.shape == strong.shape and weak.ndim == 2
    require(same, "fixmatch_loss", "both must be (M, K)", weak=weak, strong=strong)
    labels, counts = confident(weak, threshold)
    return (F.cross_entropy(strong, labels, reduction="none") * counts).mean()


def pseudo_label_loss(logits: Tensor, threshold: float = 0.0) -> Tensor:
    """Cross-entropy of logits (M, K) against their own most probable classes (0-d, nats).

    Lee's has no threshold, and `ramp` for its weight.
    """
    return fixmatch_loss(logits, logits, threshold)


def ramp(step: float, start: float, stop: float, final: float = 3.0) -> float:
    """The weight of the pseudo-labels' loss: 0 up to start, then linear, `final` from stop on."""
    require(start < stop, "ramp", "start must lie before stop", start=start, stop=stop)
    return final * min(max((step - start) / (stop - start), 0.0), 1.0)


def weak_transform(*after: Transform, shift: float = 0.125) -> Compose:
    """Flips and shifts of uint8 pictures (N, 3, H, W), then what follows (Normalize)."""
    return Compose([RandomHorizontalFlip(), RandomTranslate(shift), *after])


def strong_transform(
    size: int, *after: Transform, shift: float = 0.125, magnitude: int = 9
) -> Compose:
    """Of pictures (N, 3, size, size): the weak one's steps, then two of RandAugment, and Cutout.

    RandAugment's operations have one magnitude, where the paper draws it; a grey square with half
    the side is cut out.
    """
    hard = RandAugment(2, magnitude), Cutout(size // 2, 127)
    return Compose([weak_transform(shift=shift), *hard, *after])


class MixedBatches:
    """A batch_sampler: `batch` labelled rows, then mu times as many unlabelled ones.

    An epoch passes over the unlabelled rows once, without what is left of less than a batch, and
    over the labelled ones as often as that takes, each time in another order; both orders are
    functions of (seed, epoch). labelled, unlabelled: rows of the data set, int64; FixMatch lets the
    labelled ones be among the unlabelled too.
    Raises ShapeError: no labelled rows, fewer unlabelled ones than one batch takes.
    """

    def __init__(
        self, labelled: np.ndarray, unlabelled: np.ndarray, batch: int, mu: int, *, seed: int = 0
    ) -> None:
        ok = batch >= 1 and mu >= 1 and len(labelled) > 0 and len(unlabelled) >= mu * batch
        rule = "there must be labelled rows, and unlabelled ones for a batch"
        require(ok, "MixedBatches", rule, labelled=len(labelled), unlabelled=len(unlabelled),
                batch=batch, mu=mu)  # fmt: skip
        self.labelled, self.unlabelled = np.asarray(labelled), np.asarray(unlabelled)
        self.batch, self.mu, self.seed, self.epoch = batch, mu, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch whose batches the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.unlabelled) // (self.mu * self.batch)

    def __iter__(self) -> Iterator[list[int]]:
        draws = Generator(self.seed, "loader", draw=self.epoch << 32)  # room for its own draws
        self.epoch += 1
        others = draws.permutation(len(self.unlabelled))[: len(self) * self.mu * self.batch]
        known = shuffled(draws, len(self.labelled), len(self) * self.batch)
        for i, some in enumerate(np.split(others, len(self))):
            own = known[i * self.batch : (i + 1) * self.batch]
            yield [*self.labelled[own].tolist(), *self.unlabelled[some].tolist()]


class Views:
    """The `mix` of a DataLoader over MixedBatches, whose data set has no transform of its own.

    A batch becomes [x, y, weak, strong]: weak views of `batch` labelled pictures, their labels
    (batch,), two views of each unlabelled picture; the labels of those are not given away.
    """

    def __init__(self, batch: int, weak: Transform, strong: Transform) -> None:
        self.batch, self.weak, self.strong = batch, weak, strong

    def __call__(self, images: Any, labels: Any, rows: np.ndarray, epoch: int) -> tuple[Any, ...]:
        b = self.batch
        # A labelled row comes many times in an epoch, an unlabelled one once: so the latter's
        # numbers key the draws of both, and no view of a picture is shown twice.
        keys = rows[b:]
        own = self.weak(images[:b], keys[:b], 3 * epoch)
        weak = self.weak(images[b:], keys, 3 * epoch + 1)
        return own, labels[:b], weak, self.strong(images[b:], keys, 3 * epoch + 2)
