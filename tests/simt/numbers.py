"""bfloat16 and tf32 by their definitions, in NumPy, for the tests of the emulator's conversions."""

import numpy as np


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16: of the two neighbours the nearer, at a tie the even one.

    Beyond the largest finite number the next one counts as 2**128, which is written as infinity.
    """
    x = np.asarray(x, np.float32)
    below = x.view(np.uint32) >> 16  # the neighbour towards zero
    last = below & 0x7FFF == 0x7F7F
    low = from_bfloat16(below).astype(np.float64)
    high = from_bfloat16(np.where(last, below, below + np.isfinite(x))).astype(np.float64)
    high = np.where(last, np.copysign(2.0**128, x.astype(np.float64)), high)
    with np.errstate(invalid="ignore"):
        to_low, to_high = np.abs(x - low), np.abs(high - x)
    up = (to_high < to_low) | ((to_high == to_low) & (below % 2 == 1))
    return (below + (up & np.isfinite(x))).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers whose upper halves these bits are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_tf32(x: np.ndarray) -> np.ndarray:
    """The nearest number with 10 bits behind the point, ties away from zero, as float32."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    rounded = np.copysign(np.floor(np.abs(mantissa) * 2**11 + 0.5), mantissa)
    with np.errstate(over="ignore"):
        return np.ldexp(rounded, exponent - 11).astype(np.float32)
