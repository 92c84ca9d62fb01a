"""Philox4x32-10 random numbers on the GPU, bit for bit the CPU's (src/random.cu).

`draw` may also be an array (1,) of uint64 there, which is read when the kernel runs: a recorded
launch then draws new numbers whenever it is replayed.
"""

from typing import Any

import numpy as np

from minidl.backend.cuda.memory import contiguous
from minidl.backend.cuda.runtime import THREADS, Array, empty, kernel, launch
from minidl.errors import DTypeError, require

ROW_BLOCKS = 1 << 20  # blocks that one row of random_rows owns
_CHANNELS, _PIXELS = 32, 124  # of a tile of random.cu
_WORD64 = "unsigned long long"


def random_bits(n: int, key: int, draw: int | Array) -> Array:
    """n random words (uint32); word i is lane i % 4 of block i // 4."""
    return _filled("Bits", n, 4, np.uint32, key, draw)


def random_words64(n: int, key: int, draw: int | Array) -> Array:
    """n random words (uint64), each of two of random_bits, the high one first."""
    return _filled("Words64", n, 2, np.uint64, key, draw)


def random_rows(rows: Array, words: int, key: int, draw: int | Array, first: int = 0) -> Array:
    """(len(rows), words) uint32: each row's own sequence, whatever the other rows are.

    rows: int64 numbers < 2**44; first: the block of each row's sequence to begin with.
    """
    assert first + words // 4 < ROW_BLOCKS
    fits, blocks = rows.dtype == np.int64, -(-words // 4)
    require(fits, "random_rows", "rows must be int64", error=DTypeError, rows=rows)
    out = empty((len(rows), 4 * blocks), np.uint32)
    run, number = _of("fill_rows", draw)
    count = len(rows) * blocks
    given = (contiguous(rows), out, blocks, first, _signed(key), number, count)
    launch(run, -(-count // THREADS), *given)
    return out[:, :words]


def random_uniform(n: int, dtype: np.dtype, key: int, draw: int | Array) -> Array:
    """n uniforms in [0, 1): multiples of 2**-24 (float32) or, of two words, 2**-53 (float64)."""
    if dtype == np.float32:
        return _filled("UniformFloat", n, 4, np.float32, key, draw)
    return _filled("UniformDouble", n, 2, np.float64, key, draw)


def random_normal(n: int, dtype: np.dtype, key: int, draw: int | Array) -> Array:
    """n standard normals by Box and Muller: a pair from two words (float32) or four (float64)."""
    if dtype == np.float32:
        return _filled("NormalFloat", n, 4, np.float32, key, draw)
    return _filled("NormalDouble", n, 2, np.float64, key, draw)


def random_bernoulli(n: int, p: float, key: int, draw: int | Array,
                     channels_last: tuple[int, ...] = ()) -> Array:  # fmt: skip
    """n booleans, True with probability p (to 2**-32): where word i < p * 2**32.

    channels_last: sizes (N, C, H, W), of n elements, that a mask in such memory shall have.
    """
    limit = round(p * 2**32)
    if not channels_last:
        return _filled("Bernoulli", n, 4, np.bool_, key, draw, limit)
    samples, c, h, w = channels_last
    if h * w == 1 or c == 1:  # both orders are one
        mask = _filled("Bernoulli", n, 4, np.bool_, key, draw, limit)
        return mask.reshape(samples, h, w, c).transpose(0, 3, 1, 2)
    mask = empty((samples, h, w, c), np.bool_)
    if n:
        run, number = _of("bernoulli_last", draw)
        blocks, *tile = _tiles(samples, c, h * w)
        launch(run, blocks, mask, _signed(key), number, limit, c, h * w, *tile)
    return mask.transpose(0, 3, 1, 2)


def _tiles(samples: int, channels: int, pixels: int) -> tuple[int, int, int]:
    """Thread blocks of bernoulli_last, pixels of a tile, and Philox blocks that cover these."""
    span = min(pixels, _PIXELS)
    quads = -(-span // 4) if pixels % 4 == 0 else (span + 6) // 4  # where a row starts in a block
    return samples * -(-channels // _CHANNELS) * -(-pixels // span), span, quads


def _signed(word: int) -> int:
    """The integer in 64 bits with the same bits as a word: Python's go to a kernel with a sign."""
    return word - (word >= 1 << 63) * (1 << 64)


def _of(name: str, draw: int | Array, *kinds: str) -> tuple[Any, Any]:
    """A kernel of random.cu for a draw number of this kind, and the number as its argument."""
    if isinstance(draw, int):
        return kernel("random.cu", name, *kinds, _WORD64), _signed(draw)
    fits, rule = draw.dtype == np.uint64 and draw.shape == (1,), "uint64 (1,)"
    require(fits, "random", f"a draw number on the GPU must be {rule}", error=DTypeError, draw=draw)
    return kernel("random.cu", name, *kinds, f"const {_WORD64}*"), draw


def _filled(kind: str, n: int, lanes: int, dtype: Any, key: int, draw: int | Array,
            limit: int = 0) -> Array:  # fmt: skip
    """n elements of a kind that makes `lanes` of them of each block."""
    blocks = -(-n // lanes)
    out = empty((lanes * blocks,), dtype)
    run, number = _of("fill", draw, kind)
    launch(run, -(-blocks // THREADS), out, _signed(key), number, limit, blocks)
    return out[:n]
