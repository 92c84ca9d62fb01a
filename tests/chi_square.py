"""Pearson's chi-square test of counts, for tests of what is drawn."""

import math

import numpy as np


def chi_square(counts, p):
    """How far Pearson's statistic lies above its mean, in standard deviations (p: expected)."""
    counts, p = np.ravel(counts), np.ravel(p)
    assert counts[p == 0].sum() == 0
    counts, p = counts[p > 0], p[p > 0]
    expected = counts.sum() * p
    freedom = len(p) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)
