"""Catastrophic forgetting: what training on a task B does to a task A learnt before it.

The network is trained on B with a head for B; A's old head then tells how much of A is lost, and a
new head for A on the frozen rest how much of it the features still hold (McCloskey and Cohen 1989).
"""

from collections.abc import Callable
from typing import NamedTuple

from minidl.models import Classifier
from minidl.models.blocks import put_module


class Forgetting(NamedTuple):
    """Accuracies on A: before B, after it with A's old head, and with a head retrained."""

    before: float
    after: float
    recovered: float

    @property
    def forgotten(self) -> float:
        """What was lost of A's accuracy."""
        return self.before - self.after


def measure_forgetting(
    model: Classifier,
    classes_a: int,
    classes_b: int,
    test_a: Callable[[], float],
    train_b: Callable[[], None],
    train_head_a: Callable[[], None],
) -> Forgetting:
    """A model trained on A goes through B and back to A.

    test_a() gives its accuracy on A; train_b() trains it on B, all of it or as the caller likes;
    train_head_a() trains its head alone on A. The heads are exchanged here, so optimizers must be
    made within the callables. The model ends with the retrained head for A.
    """
    before = test_a()
    old = model.get_submodule(model.head_name)
    model.replace_head(classes_b)
    train_b()
    put_module(model, model.head_name, old)
    after = test_a()
    model.replace_head(classes_a)
    train_head_a()
    return Forgetting(before, after, test_a())
