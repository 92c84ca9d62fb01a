"""The words of golden cases: code that PyTorch and minidl both run, and its inputs.

A case is one string of Python (statements, then an expression) in which `ml`, `F`, `nn` and `optim`
are the library and every other name is an input drawn here. Float inputs lie on a grid of 1/256 and
are distinct and non-zero, so that they are exact in half precision, and ties and kinks are met only
where a case asks for them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Draw:
    """An input: how it is drawn, and whether a gradient is wanted."""

    kind: str
    shape: tuple[int, ...] = ()
    lo: float = -3.0
    hi: float = 3.0
    grad: bool = True
    values: object = None
    dtype: str = "float"

    def make(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the array: float16 for floats, else the stated dtype."""
        if self.kind == "literal":
            return np.asarray(self.values, None if self.dtype == "float" else self.dtype)
        if self.kind == "int":
            return rng.integers(int(self.lo), int(self.hi), self.shape).astype(self.dtype)
        if self.kind == "bool":
            return rng.random(self.shape) < 0.5
        grid = np.arange(np.ceil(self.lo * 256), np.floor(self.hi * 256) + 1)
        grid = grid[grid != 0] / 256
        n = int(np.prod(self.shape))
        return rng.choice(grid, n, replace=n > len(grid)).reshape(self.shape).astype(np.float16)


@dataclass
class Case:
    """Code to run on both sides, its inputs by name, the layers (constructor strings) it uses."""

    code: str
    inputs: dict[str, Draw] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)

    def rng(self) -> np.random.Generator:
        """A generator seeded by the case's own text: other cases may come and go."""
        text = self.code + "".join(self.layers.values()) + str(sorted(self.inputs))
        return np.random.default_rng(zlib.crc32(text.encode()))


def case(code: str, **names: Draw | str) -> Case:
    """A case from its code and named inputs; a string input is a layer's constructor."""
    layers = {k: v for k, v in names.items() if isinstance(v, str)}
    return Case(code, {k: v for k, v in names.items() if isinstance(v, Draw)}, layers)


def f(*shape: int, lo: float = -3.0, hi: float = 3.0) -> Draw:
    """Floats in [lo, hi] with a gradient."""
    return Draw("float", shape, lo, hi)


def pos(*shape: int) -> Draw:
    """Floats in [0.1, 3] with a gradient."""
    return Draw("float", shape, 0.1, 3.0)


def unit(*shape: int) -> Draw:
    """Floats in [0.05, 0.95] with a gradient."""
    return Draw("float", shape, 0.05, 0.95)


def c(*shape: int, lo: float = -3.0, hi: float = 3.0) -> Draw:
    """Floats without a gradient."""
    return Draw("float", shape, lo, hi, grad=False)


def i(high: int, *shape: int, low: int = 0, dtype: str = "int64") -> Draw:
    """Integers in [low, high)."""
    return Draw("int", shape, low, high, grad=False, dtype=dtype)


def mask(*shape: int) -> Draw:
    """Booleans."""
    return Draw("bool", shape, grad=False, dtype="bool")


def lit(values: object, dtype: str = "float", grad: bool = False) -> Draw:
    """The given values; a "float" literal follows the run's precision."""
    return Draw("literal", values=values, dtype=dtype, grad=grad)
