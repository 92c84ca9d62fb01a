"""What a model says of a set of labelled images, and everything that is counted on it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

import minidl.functional as F
from minidl.autograd import Tensor, no_grad
from minidl.nn.module import Module, kept_modes


@dataclass
class Evaluation:
    """What a model says of N labelled inputs: log_probs (N, K) in nats, labels (N,)."""

    log_probs: np.ndarray
    labels: np.ndarray

    @property
    def said(self) -> np.ndarray:
        """The most probable classes (N,)."""
        return self.log_probs.argmax(1)

    @property
    def accuracy(self) -> float:
        """The fraction of inputs whose most probable class is the label."""
        return float((self.said == self.labels).mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        picked = self.log_probs[np.arange(len(self.labels)), self.labels]
        return float(-picked.mean(dtype=np.float64))

    def confusion(self) -> np.ndarray:
        """Counts (K, K): row = label, column = what the model said."""
        classes = self.log_probs.shape[1]
        pairs = self.labels.astype(np.int64) * classes + self.said
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def mistakes(self, count: int) -> np.ndarray:
        """Indices of the `count` wrong answers given with the highest probability, worst first."""
        wrong = np.flatnonzero(self.said != self.labels)
        return wrong[np.argsort(-self.log_probs[wrong, self.said[wrong]], kind="stable")[:count]]


def evaluate(model: Module, batches: Iterable[tuple[Tensor, Tensor]], *,
             views: tuple[Callable[[Tensor], Tensor], ...] = (lambda x: x,),
             check: Callable[[], None] = lambda: None) -> Evaluation:  # fmt: skip
    """Run `model` in eval mode over batches of (x, y) and keep its log-probabilities.

    With several `views` (test-time augmentation) the probabilities of the views are averaged.
    `check` is called between batches, and may raise to leave. The model's mode is put back.
    """
    rows, labels = [], []
    with kept_modes(model), no_grad():
        model.eval()
        for x, y in batches:
            check()
            outs = [F.log_softmax(model(view(x)), dim=-1).float().numpy() for view in views]
            rows.append(np.logaddexp.reduce(outs) - np.float32(np.log(len(outs))))
            labels.append(y.numpy())
    return Evaluation(np.concatenate(rows), np.concatenate(labels))
