"""Which sections of a network are tuned when, and how fast (ULMFiT, arXiv 1801.06146)."""

from minidl.errors import require
from minidl.models import Classifier

FACTOR = 2.6  # the paper's ratio of the learning rates of neighbouring layers


def tuned_sections(epoch: int, sections: int, *, every: int = 1, start: int = 1) -> int:
    """Gradual unfreezing: how many sections, from the head backwards, are tuned in an epoch.

    `start` of them in epochs 0 … every - 1, then one more after each `every` epochs, up to all.
    Raises ShapeError: epoch < 0, every < 1, start outside 1 … sections.
    """
    ok = epoch >= 0 and every >= 1 and 1 <= start <= sections
    rule = "epoch must be at least 0, every 1, start within 1 … sections"
    got = {"epoch": epoch, "every": every, "start": start, "sections": sections}
    require(ok, "tuned_sections", rule, **got)
    return min(sections, start + epoch // every)


def tune_last(model: Classifier, count: int) -> None:
    """Let the last `count` sections' parameters require gradients, and no others.

    Statistics of batch norms are another matter: `norms.set_norms`. Raises ShapeError: count
    outside 0 … sections.
    """
    sections = model.sections()
    ok, rule = 0 <= count <= len(sections), f"count must lie in 0 … {len(sections)}"
    require(ok, "tune_last", rule, count=count)
    model.requires_grad_(False)
    for section in sections[len(sections) - count :]:
        for param in model.parameters_of(section).values():
            param.requires_grad_()


def layer_rates(lr: float, sections: int, *, factor: float = FACTOR) -> list[float]:
    """Discriminative rates: lr for the last section (the head), 1 / factor of it a section down."""
    rule = "there must be a section, and factor must be positive"
    require(sections >= 1 and factor > 0, "layer_rates", rule, sections=sections, factor=factor)
    return [lr / factor ** (sections - 1 - i) for i in range(sections)]
