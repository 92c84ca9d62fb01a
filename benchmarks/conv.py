"""Convolutions: dense 3x3 and 1x1, with stride 2, depthwise."""

from __future__ import annotations

import numpy as np

from benchmarks import oracle
from benchmarks.case import Case, Cost, Expected, Work, kernel, passes, random
from benchmarks.library import Minidl


def conv(
    name: str, shape: tuple[int, int, int, int], k: int, size: int = 3, *, stride: int = 1,
    depthwise: bool = False, group: str = "kernel",
) -> Case:  # fmt: skip
    """x (N, C, H, W) -> (N, K, H / stride, W / stride); pictures have no gradient."""
    n, c, h, w = shape
    inputs, pad, groups = c // (c if depthwise else 1), size // 2, c if depthwise else 1
    grad_x = c > 3
    ho, wo = (h - 1) // stride + 1, (w - 1) // stride + 1

    def build(lib: Minidl) -> Work:
        arrays = random(*shape), random(k, inputs, size, size, seed=1), random(n, k, ho, wo, seed=2)
        x = lib.images(arrays[0], grad_x)
        weight, g = lib.images(arrays[1], True), lib.images(arrays[2])

        def expect() -> dict[str, Expected]:
            if depthwise:  # a few channels stand for all
                some = np.array([0, c // 2, c - 1])
                y, dx, dw = oracle.depthwise(arrays[0][:, some], arrays[1][some, 0],
                                             arrays[2][:, some])  # fmt: skip
                dw, where, rows = dw[:, None], (slice(None), some), some
            else:
                y, dx, dw = oracle.conv(*arrays, stride, pad)
                where, rows = ..., ...
            taps = inputs * size * size
            out = {"y": Expected(y, taps, where), "weight": Expected(dw, n * ho * wo, rows)}
            return out | ({"x": Expected(dx, taps * k / c, where)} if grad_x else {})

        def forward():
            return lib.F.conv2d(x, weight, None, stride, pad, 1, groups)

        return kernel(lib, forward, {"weight": weight} | ({"x": x} if grad_x else {}), g, expect)

    x_bytes, y_bytes, w_bytes = 4 * n * c * h * w, 4 * n * k * ho * wo, 4 * k * inputs * size**2
    flops = 2 * n * k * ho * wo * inputs * size**2
    back = Cost(flops * (1 + grad_x), x_bytes * (1 + grad_x) + y_bytes + 2 * w_bytes)
    costs = passes(Cost(flops, x_bytes + w_bytes + y_bytes), back)
    return Case(name, "conv", build, costs, group, images=True)


def cases(small: bool = False) -> list[Case]:
    """The convolutions of small residual networks."""
    n = 2 if small else 64
    return [
        conv("conv3x3_64c_32", (n, 64, 32, 32), 64, group="wide"),
        conv("conv3x3_128c_16", (n, 128, 16, 16), 128, group="wide"),
        conv("conv3x3_256c_8", (n, 256, 8, 8), 256, group="wide"),
        conv("conv3x3_3c_32", (n, 3, 32, 32), 64),
        conv("conv3x3s2_64to128_32", (n, 64, 32, 32), 128, stride=2),
        conv("conv1x1_256to64_16", (n, 256, 16, 16), 64, 1),
        conv("dwconv3x3_96c_32", (n, 96, 32, 32), 96, depthwise=True, group="depthwise"),
        conv("dwconv7x7_96c_32", (n, 96, 32, 32), 96, 7, depthwise=True, group="depthwise"),
    ]
