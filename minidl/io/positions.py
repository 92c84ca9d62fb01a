"""A Vision Transformer's learnt positions, brought to a grid of another size."""

from collections.abc import Sequence
from math import isqrt

import numpy as np


def resampled(table: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Positions (1, 1 + n², D) of n x n patches for the grid of `shape` (1, 1 + m², D).

    The class token's stays; the others become a picture of D channels, scaled by the antialiased
    bicubic filter as timm's resample_abs_pos_embed scales them. Arrays of that shape, and those
    that are no such pair, come back as they are.
    """
    pair = (table.shape, tuple(shape))
    n, m = (isqrt(s[1] - 1) if len(s) == 3 and s[1] > 1 else 0 for s in pair)
    if n == m or not n * m or pair != tuple((1, 1 + side**2, table.shape[2]) for side in (n, m)):
        return table
    along = _filter(n, m)
    grid = np.einsum("ai,bj,ijd->abd", along, along, table[0, 1:].reshape(n, n, -1), optimize=True)
    return np.concatenate([table[:, :1], grid.reshape(1, m**2, -1).astype(table.dtype)], 1)


def _filter(n: int, m: int) -> np.ndarray:
    """(m, n): the shares that m samples have of n: Keys's cubic (1981, a = -1/2), a step wide."""
    t = np.abs((np.arange(m)[:, None] + 0.5) * (n / m) - np.arange(n) - 0.5) / max(n / m, 1.0)
    near, far = (1.5 * t - 2.5) * t**2 + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2
    shares = np.where(t < 1, near, np.where(t < 2, far, 0))
    return shares / shares.sum(1, keepdims=True)
