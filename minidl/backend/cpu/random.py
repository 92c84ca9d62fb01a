"""Philox4x32-10 random numbers on the CPU: bits, uniforms, normals and Bernoulli masks by counter.

Every function is pure: element i of the result depends on (key, draw, i) alone, so that results
are bit-equal at any thread count. The generator is that of Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3" (SC'11). Its 64-bit key is (k0, k1), its 128-bit counter is
(block, draw), and one block yields four words of 32 bits.
"""

from typing import Any

import numpy as np

from minidl.backend.cpu.jit import Kernel, R, cos, device, kernel, launch, log, sin, sqrt

ROW_BLOCKS = 1 << 20  # blocks that one row of random_rows owns
_CHUNK = 1 << 13  # blocks of four words that a thread takes at a time

_U = np.uint64
_M0, _M1 = _U(0xD2511F53), _U(0xCD9E8D57)
_W0, _W1 = _U(0x9E3779B9), _U(0xBB67AE85)
_LOW, _HALF = _U(0xFFFFFFFF), _U(32)
_TURN_F4, _TURN_F8 = 2.0 * np.pi / 2.0**32, 2.0 * np.pi / 2.0**64


def random_bits(n: int, key: int, draw: int) -> np.ndarray:
    """n random words (uint32); word i is lane i % 4 of block i // 4."""
    return _filled(_bits, n, 4, np.uint32, key, draw)


def random_words64(n: int, key: int, draw: int) -> np.ndarray:
    """n random words (uint64), each of two of random_bits, the high one first."""
    pairs = random_bits(2 * n, key, draw).astype(_U)
    return pairs[0::2] << _HALF | pairs[1::2]


def random_rows(rows: np.ndarray, words: int, key: int, draw: int, first: int = 0) -> np.ndarray:
    """(len(rows), words) uint32: each row's own sequence, whatever the other rows are.

    rows: int64 numbers < 2**44; first: the block of each row's sequence to begin with.
    """
    assert first + words // 4 < ROW_BLOCKS
    rows = np.ascontiguousarray(rows, np.int64)
    blocks = -(-words // 4)
    out = np.empty((len(rows), 4 * blocks), np.uint32)
    launch(_rows, len(rows), 256, rows, out, blocks, first, key, draw)
    return out[:, :words]


def random_uniform(n: int, dtype: np.dtype, key: int, draw: int) -> np.ndarray:
    """n uniforms in [0, 1): multiples of 2**-24 (float32) or, of two words, 2**-53 (float64)."""
    if dtype == np.float32:
        return (random_bits(n, key, draw) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return (random_words64(n, key, draw) >> _U(11)) * 2.0**-53


def random_normal(n: int, dtype: np.dtype, key: int, draw: int) -> np.ndarray:
    """n standard normals by Box and Muller: a pair from two words (float32) or four (float64)."""
    work, lanes = (_normal_f4, 4) if dtype == np.float32 else (_normal_f8, 2)
    return _filled(work, n, lanes, dtype, key, draw)


def random_bernoulli(n: int, p: float, key: int, draw: int,
                     channels_last: tuple[int, ...] = ()) -> np.ndarray:  # fmt: skip
    """n booleans, True with probability p (to 2**-32): where word i < p * 2**32.

    channels_last: sizes (N, C, H, W), of n elements, that a mask in such memory shall have.
    """
    mask = _filled(_bernoulli, n, 4, np.bool_, round(p * 2**32), key, draw)
    if not channels_last:
        return mask
    mask = mask.reshape(channels_last).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(mask).transpose(0, 3, 1, 2)


def _filled(work: Kernel, n: int, lanes: int, dtype: Any, *args: int) -> np.ndarray:
    """n elements by a kernel that makes `lanes` of them of each block."""
    blocks = -(-n // lanes)
    out = np.empty(lanes * blocks, dtype)
    launch(work, blocks, _CHUNK, out, *args)
    return out[:n]


@device
def _philox(block, key, draw):
    a, b, c, d = block & _LOW, block >> _HALF, draw & _LOW, draw >> _HALF
    x, y = key & _LOW, key >> _HALF
    for _ in range(10):
        p = _M0 * a
        q = _M1 * c
        a, b, c, d = (q >> _HALF) ^ b ^ x, q & _LOW, (p >> _HALF) ^ d ^ y, p & _LOW
        x = (x + _W0) & _LOW
        y = (y + _W1) & _LOW
    return a, b, c, d


@device
def _words(out, o, block, key, draw):
    out[o], out[o + 1], out[o + 2], out[o + 3] = _philox(block, key, draw)


@kernel("u4* u8 u8")
def _bits(i, out, key, draw):
    _words(out, 4 * i, _U(i), key, draw)


@kernel("i8* u4* int int u8 u8")
def _rows(i, rows, out, blocks, first, key, draw):
    for j in range(blocks):
        _words(out, 4 * (i * blocks + j), _U(rows[i] * ROW_BLOCKS + first + j), key, draw)


@device
def _pair(radius, angle, quarter):
    """radius times (cos, sin) of angle + quarter * pi / 2, where |angle| <= pi / 4."""
    c = radius * cos(angle)
    s = radius * sin(angle)
    swap = (quarter & _U(1)) == _U(1)
    x = s if swap else c
    y = c if swap else s
    x = -x if ((quarter + _U(1)) & _U(2)) == _U(2) else x
    y = -y if (quarter & _U(2)) == _U(2) else y
    return x, y


@device
def _pair_f4(u, turn):
    """Two normals from two words: the angle is 32 bits of a turn about its nearest quarter."""
    radius = sqrt(R(-2) * log(R(np.int32((u >> _U(8)) + _U(1))) * R(2.0**-24)))
    quarter = ((turn + _U(1 << 29)) >> _U(30)) & _U(3)
    rest = np.int64(turn) - (np.int64((turn + _U(1 << 29)) >> _U(30)) << 30)
    return _pair(radius, R(np.int32(rest)) * R(_TURN_F4), quarter)


@kernel("R* u8 u8")
def _normal_f4(i, out, key, draw):
    a, b, c, d = _philox(_U(i), key, draw)
    out[4 * i], out[4 * i + 1] = _pair_f4(a, b)
    out[4 * i + 2], out[4 * i + 3] = _pair_f4(c, d)


@kernel("R* u8 u8")
def _normal_f8(i, out, key, draw):
    a, b, c, d = _philox(_U(i), key, draw)
    u = np.int64(((a << _HALF) | b) >> _U(11))
    radius = sqrt(R(-2) * log((R(u) + R(1)) * R(2.0**-53)))
    turn = (c << _HALF) | d
    quarter = (turn + _U(1 << 61)) >> _U(62)  # may wrap to 0, as the angle does
    rest = np.int64(turn - (quarter << _U(62)))
    out[2 * i], out[2 * i + 1] = _pair(radius, R(rest) * R(_TURN_F8), quarter)


@kernel("u1* int u8 u8")
def _bernoulli(i, out, limit, key, draw):
    bound = _U(limit)
    a, b, c, d = _philox(_U(i), key, draw)
    out[4 * i], out[4 * i + 1] = a < bound, b < bound
    out[4 * i + 2], out[4 * i + 3] = c < bound, d < bound
