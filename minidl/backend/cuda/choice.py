"""Which tiles a product of our own has on the GPU, how K is shared out, and what cuBLAS does.

Pure functions of shape, dtype and the committed table tuned.json, whose keys are "kernel kind M N
K" with the bit lengths of the sizes (a class is a power of two) and whose values are tiles, as
[M, N, stages], or [] for cuBLAS. What it does not say follows the rules here: estimates for an H200
until it is measured.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidl import config

CHUNK, DEEP = 16, 64  # of gemm.cuh: bytes of a chunk, and of the K of a tile's row
ROWS = 256  # of a tile, at most
BLOCKS = 264  # that a product shares K out for: two for each multiprocessor, or more small ones
_ENOUGH = 115 * 256  # threads that it should have: for seven eighths of them
_TENSOR = ("float16", "bfloat16", "tf32")  # what tensor cores multiply
Sizes = tuple[int, int, int]  # M, N, K

TABLE = Path(__file__).with_name("tuned.json")  # written by `python -m benchmarks.gpu_check`
# Read once: results must not change from run to run.
TUNED: dict[str, list[int]] = json.loads(TABLE.read_text())


class Tile(NamedTuple):
    """struct Tile of gemm.cuh."""

    m: int
    n: int
    stages: int

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block."""
        return self.stages * (self.m + self.n) * DEEP

    @property
    def most(self) -> int:
        """Blocks that K is shared out for."""
        return BLOCKS * (1 if self.m * self.n > 64 * 64 else 2)

    def threads(self, dtype: np.dtype) -> int:
        """Of a block: THREADS of gemm.cuh."""
        small = self.m * self.n * dtype.itemsize < 256 * 128 * 2
        return 128 if small and kind_of(dtype) in _TENSOR else 256

    def grid(self, m: int, n: int) -> tuple[int, int]:
        """Blocks for m x n results."""
        return -(-m // self.m), -(-n // self.n)

    def of(self, dtype: np.dtype) -> str:
        """The type, for products of a dtype."""
        tf32 = str(kind_of(dtype) == "tf32").lower()
        return f"Tile<{self.m}, {self.n}, {self.stages}, {tf32}>"


# The first is for weight gradients of half and bfloat16, the second is too much for float64.
TILES = (Tile(256, 128, 3), Tile(128, 128, 4), Tile(128, 64, 3), Tile(64, 64, 4))
# Up to this K a linear layer's bias costs cuBLAS, which must read and write its results again, more
# than its faster products win; up to this work (M N K, in whole tiles) a launch costs more.
_BIAS_K = {"float16": 256, "bfloat16": 256, "tf32": 256, "float32": 128, "float64": 128}
_BIAS_WORK = {"float16": 1 << 30, "bfloat16": 1 << 30, "tf32": 1 << 29, "float32": 1 << 27,
              "float64": 1 << 27}  # fmt: skip


def kind_of(dtype: np.dtype) -> str:
    """How products of a dtype are made: its name, or tf32."""
    fast = dtype == np.float32 and config.get_float32_matmul_precision() == "high"
    return "tf32" if fast else dtype.name


def tiles_of(kind: str) -> tuple[Tile, ...]:
    """Those that products of a kind can have, the largest first."""
    return TILES[{"tf32": 1, "float32": 1, "float64": 2}.get(kind, 0) :]


def _tuned(kernel: str, dtype: np.dtype, sizes: Sizes) -> list[int] | None:
    return TUNED.get(" ".join((kernel, kind_of(dtype), *(str(n.bit_length()) for n in sizes))))


def tile(kernel: str, dtype: np.dtype, sizes: Sizes, shared_out: bool) -> Tile:
    """The largest tile that keeps a GPU busy and is not mostly padding, unless a better is known.

    shared_out: whether blocks may share K.
    """
    if found := _tuned(kernel, dtype, sizes):
        return Tile(*found)
    m, n, k = sizes
    for made in tiles_of(kind_of(dtype)):
        if made == TILES[0] and kernel != "convolve_weight_grad":
            continue
        across, down = made.grid(m, n)
        parts = shares(across * down, k, dtype, made.most)[1] if shared_out else 1
        threads = across * down * parts * made.threads(dtype)
        if 2 * m > made.m and 2 * n > made.n and threads >= _ENOUGH:
            return made
    return TILES[-1]


def shares(blocks: int, k: int, dtype: np.dtype, most: int) -> tuple[int, int]:
    """How much of K blocks take, and how many shares that makes: for `most` blocks, if possible.

    A share is at least 8 tiles deep.
    """
    step = DEEP // dtype.itemsize
    parts = max(1, min(most // blocks, k // (8 * step)))
    span = -(-k // (parts * step)) * step
    return span, -(-k // span)


def own_linear(dtype: np.dtype, sizes: Sizes) -> bool:
    """Whether a linear layer with a bias is src/linear.cu's rather than cuBLAS's."""
    found = _tuned("linear", dtype, sizes)
    if found is not None:
        return bool(found)
    (m, n, k), kind = sizes, kind_of(dtype)
    return k <= _BIAS_K[kind] or (m + -m % 64) * (n + -n % 64) * k <= _BIAS_WORK[kind]
