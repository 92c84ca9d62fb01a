"""All families, in the order in which they are shown."""

from __future__ import annotations

from benchmarks import (
    attention,
    conv,
    dense,
    generation,
    norm,
    overhead,
    pointwise,
    recurrent,
    rows,
    steps,
)
from benchmarks.case import Case

FAMILIES = (conv, norm, recurrent, attention, dense, rows, pointwise, steps, generation, overhead)


def cases(small: bool = False) -> list[Case]:
    """Every case; small: at sizes for tests."""
    return [case for family in FAMILIES for case in family.cases(small)]
