"""What a benchmark is: a workload, what it must cost, and how its result is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks.library import Array, Minidl

ROUNDING = 2.0**-24  # of float32, relative


class WrongResult(Exception):
    """A workload's result is not what its definition says."""


class Cost(NamedTuple):
    """The least that a pass must do: FLOPs, and bytes read and written once."""

    flops: float
    bytes: float


class Work(NamedTuple):
    """A workload built in one library: a call for each phase, and what checks its result."""

    run: dict[str, Callable[[], Any]]
    check: Callable[[], None]


@dataclass(frozen=True)
class Case:
    """A line of the suite.

    costs: by phase (fwd, fb, step), its passes one after another. group: what the summary counts it
    under. images: PyTorch's channels_last settings apply. repeat: calls between two readings of the
    clock. bar: "default" where PyTorch's default setting is the peer, not its fastest.
    """

    name: str
    family: str
    build: Callable[[Minidl], Work]
    costs: dict[str, tuple[Cost, ...]]
    group: str = "kernel"
    images: bool = False
    repeat: int = 1
    bar: str = "fastest"


class Expected(NamedTuple):
    """A part of a result in float64: value, where it is in the whole, terms of its longest sum."""

    value: Array
    terms: float = 1
    where: Any = ...


def passes(forward: Cost, backward: Cost) -> dict[str, tuple[Cost, ...]]:
    """The costs of a kernel's two phases."""
    return {"fwd": (forward,), "fb": (forward, backward)}


def random(*shape: int, seed: int = 0) -> Array:
    """N(0, 1) in float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def kernel(
    lib: Minidl, forward: Callable[[], Any], leaves: dict[str, Any], g: Any,
    expect: Callable[[], dict[str, Expected]],
) -> Work:  # fmt: skip
    """The work of a differentiable function of leaves.

    g: the cotangent, None for a scalar. expect: "y" and the leaves' gradients in float64.
    """

    def fwd() -> Any:
        with lib.no_grad():
            return forward()

    def fb() -> Any:
        for leaf in leaves.values():
            leaf.grad = None
        y = forward()
        y.backward(g)
        return y

    def check() -> None:
        found = {"y": fb().detach().numpy()}
        found |= {name: leaf.grad.numpy() for name, leaf in leaves.items()}
        agree("fwd", fwd().numpy(), Expected(found["y"]))
        for name, wanted in expect().items():
            agree(name, found[name], wanted)

    return Work({"fwd": fwd, "fb": fb}, check)


def agree(name: str, found: Array, wanted: Expected) -> None:
    """Raise WrongResult unless two arrays are the same but for rounding.

    A float32 sum of n terms in sequence is off by about sqrt(n / 6) roundings (relative L2, random
    data); ten times that, and eight roundings for what is not a sum, lets any order and Winograd
    pass. The relative L2 error over n elements is above 1 / sqrt(n) when a single one is missing.
    """
    part = np.asarray(found, np.float64)[wanted.where]
    if part.shape != wanted.value.shape:
        raise WrongResult(f"{name} has shape {part.shape}, expected {wanted.value.shape}")
    norm = np.linalg.norm(wanted.value.astype(np.float64))
    error = np.linalg.norm(part - wanted.value) / max(norm, np.finfo(np.float64).tiny)
    limit = ROUNDING * (4 * np.sqrt(wanted.terms) + 8)
    if not error <= limit:
        raise WrongResult(f"{name} is wrong: relative L2 error {error:.2e}, at most {limit:.2e}")
