"""Batch norm with relu, layer norm, and max pooling."""

from __future__ import annotations

from benchmarks import oracle
from benchmarks.case import Case, Cost, Expected, Work, kernel, passes, random
from benchmarks.library import Minidl


def batch_norm_relu(n: int, c: int, size: int) -> Case:
    """Normalise x (N, C, H, W) over the batch in training mode, then relu."""
    shape, count = (n, c, size, size), n * size * size

    def build(lib: Minidl) -> Work:
        arrays = random(*shape), 1 + 0.1 * random(c, seed=1), random(c, seed=2)
        out = random(*shape, seed=3)
        x = lib.images(arrays[0], True)
        norm = lib.nn.BatchNorm2d(c)
        affine = {name: lib.tensor(a) for name, a in zip(("weight", "bias"), arrays[1:])}
        norm.load_state_dict(affine, strict=False)
        net = lib.place(lib.nn.Sequential(norm, lib.nn.ReLU()))

        def forward():
            return net(x)

        def expect() -> dict[str, Expected]:
            each = (a[:, None, None] for a in arrays[1:])
            w, b = (a[None] for a in each)
            values = oracle.normalize(arrays[0], w, b, out, (0, 2, 3), relu=True)
            return {name: Expected(value, count) for name, value in values.items()}

        leaves = {"x": x, "weight": norm.weight, "bias": norm.bias}
        return kernel(lib, forward, leaves, lib.images(out), expect)

    size_x = 4 * n * c * size * size
    costs = passes(Cost(0, 2 * size_x), Cost(0, 4 * size_x))  # back: x, y > 0, g -> dx
    return Case("bn_relu_64c_32", "norm", build, costs, images=True)


def layer_norm(rows: int, width: int) -> Case:
    """Normalise each row of x (rows, width)."""

    def build(lib: Minidl) -> Work:
        arrays = random(rows, width), 1 + 0.1 * random(width, seed=1), random(width, seed=2)
        out = random(rows, width, seed=3)
        leaves = dict(zip(("x", "weight", "bias"), (lib.tensor(a, True) for a in arrays)))

        def forward():
            return lib.F.layer_norm(leaves["x"], (width,), leaves["weight"], leaves["bias"])

        def expect() -> dict[str, Expected]:
            w, b = (a[None] for a in arrays[1:])
            values = oracle.normalize(arrays[0], w, b, out, (1,), relu=False)
            return {k: Expected(v, rows if k in ("weight", "bias") else width)
                    for k, v in values.items()}  # fmt: skip

        return kernel(lib, forward, leaves, lib.tensor(out), expect)

    size = 4 * rows * width
    return Case("layer_norm_4096x384", "norm", build, passes(Cost(0, 2 * size), Cost(0, 3 * size)))


def max_pool(n: int, c: int, size: int) -> Case:
    """The largest of each 2x2 window of x (N, C, H, W)."""

    def build(lib: Minidl) -> Work:
        array, out = random(n, c, size, size), random(n, c, size // 2, size // 2, seed=1)
        x = lib.images(array, True)

        def expect() -> dict[str, Expected]:
            y, dx = oracle.max_pool(array, out)
            return {"y": Expected(y), "x": Expected(dx)}

        return kernel(lib, lambda: lib.F.max_pool2d(x, 2), {"x": x}, lib.images(out), expect)

    size_x = 4 * n * c * size * size
    costs = passes(Cost(0, 1.25 * size_x), Cost(0, 2.25 * size_x))
    return Case("maxpool2x2_64c_32", "norm", build, costs, images=True)


def cases(small: bool = False) -> list[Case]:
    """Normalisation and pooling."""
    n = 2 if small else 64
    return [
        batch_norm_relu(n, 64, 32),
        layer_norm(64 * n, 384),
        max_pool(n, 64, 32),
    ]
