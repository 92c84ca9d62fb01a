"""Unequal classes: weights for the loss or the sampler, and measures that count classes alike."""

from typing import Any

import numpy as np

from minidl.errors import DataError, require


def class_weights(y: np.ndarray, classes: int) -> np.ndarray:
    """Weights (classes,) float32 for `F.cross_entropy`: inverse frequencies, scaled to mean 1.

    y (N,) labels. Raises DataError: a class has no example.
    """
    counts = np.bincount(y, minlength=classes)
    fits = len(counts) == classes and bool(counts.all())
    rule = f"each of {classes} classes must have an example, and no other"
    require(fits, "class_weights", rule, error=DataError, counts=counts.tolist())
    inverse = 1 / counts
    return (inverse / inverse.mean()).astype(np.float32)


def oversampling_weights(y: np.ndarray) -> np.ndarray:
    """Weights (N,) for `WeightedRandomSampler`: the classes in y (N,) are drawn equally often."""
    return 1 / np.bincount(y)[y]


def scores(confusion: np.ndarray) -> dict[str, Any]:
    """Measures by class of counts (K, K): a row a label, a column an answer (Evaluation.confusion).

    class_accuracy: hits / examples (recall); class_f1: 2 hits / (examples + answers), the harmonic
    mean of precision and recall; lists of K shares, nan where there is nothing to divide by.
    macro_accuracy ("balanced"), macro_f1: their means over the classes where they are defined.
    Raises ShapeError: not square, or no examples at all.
    """
    square = confusion.ndim == 2 and confusion.shape[0] == confusion.shape[1]
    rule = "confusion must be a square of counts"
    require(square and bool(confusion.sum()), "scores", rule, confusion=confusion)
    hits = np.diagonal(confusion).astype(np.float64)
    examples, answers = confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        accuracy, f1 = hits / examples, 2 * hits / (examples + answers)
    return {
        "macro_accuracy": float(np.nanmean(accuracy)),
        "macro_f1": float(np.nanmean(f1)),
        "class_accuracy": accuracy.tolist(),
        "class_f1": f1.tolist(),
    }
