"""What one operation costs beside its arithmetic: a tiny MLP's step, a chain of scalar adds."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.case import Case, Cost, Work, WrongResult, random
from benchmarks.library import Minidl
from benchmarks.steps import slope_agrees


def mlp(batch: int) -> Case:
    """A 64-64-10 perceptron's training step with SGD."""

    def build(lib: Minidl) -> Work:
        nn = lib.nn
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = lib.optim.SGD(model.parameters(), lr=1e-3)
        x = lib.tensor(random(batch, 64))
        y = lib.tensor(np.random.default_rng(1).integers(0, 10, batch))

        def forward() -> Any:
            return lib.F.cross_entropy(model(x), y)

        def step() -> None:
            optimizer.zero_grad()
            forward().backward()
            optimizer.step()

        return Work({"step": step}, lambda: slope_agrees(lib, forward, [*model.parameters()]))

    cost = Cost(6 * batch * (64 * 64 + 64 * 10), 0)
    return Case("mlp_64_64_10_b32", "overhead", build, {"step": (cost,)}, "overhead", repeat=20)


def scalar_chain(count: int) -> Case:
    """y = y + 1, again and again, then backward."""

    def build(lib: Minidl) -> Work:
        x = lib.tensor(np.float32(0.5), True)

        def run() -> Any:
            x.grad = None
            y = x
            for _ in range(count):
                y = y + 1.0
            y.backward()
            return y

        def check() -> None:
            y = run().item()
            if y != count + 0.5 or x.grad.item() != 1.0:
                raise WrongResult(f"the sum is {y}, its gradient {x.grad.item()}")

        return Work({"step": run}, check)

    costs = {"step": (Cost(0, 0),)}
    return Case("scalar_chain_1000", "overhead", build, costs, "overhead", bar="default")


def cases(small: bool = False) -> list[Case]:
    """Many small operations."""
    return [mlp(32), scalar_chain(100 if small else 1000)]
