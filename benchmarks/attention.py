"""Causal scaled dot-product attention."""

from __future__ import annotations

from benchmarks import oracle
from benchmarks.case import Case, Cost, Expected, Work, kernel, passes, random
from benchmarks.library import Minidl


def attention(batch: int, heads: int, steps: int, width: int) -> Case:
    """q, k, v (B, H, T, D); half of the T x T pairs count."""
    shape = (batch, heads, steps, width)

    def build(lib: Minidl) -> Work:
        arrays = {name: random(*shape, seed=i) for i, name in enumerate("qkv")}
        leaves = {name: lib.tensor(array, True) for name, array in arrays.items()}
        out = random(*shape, seed=3)

        def forward():
            return lib.F.scaled_dot_product_attention(*leaves.values(), is_causal=True)

        def expect() -> dict[str, Expected]:
            values = oracle.attention(*arrays.values(), out)
            return {name: Expected(value, steps * width) for name, value in values.items()}

        return kernel(lib, forward, leaves, lib.tensor(out), expect)

    flops, size = 2 * batch * heads * steps * steps * width, 4 * batch * heads * steps * width
    costs = passes(Cost(flops, 4 * size), Cost(2 * flops, 8 * size))
    return Case("sdpa_causal_16x6x256x64", "attention", build, costs)


def cases(small: bool = False) -> list[Case]:
    """The attention of a small GPT."""
    return [attention(1 if small else 16, 6, 256, 64)]
