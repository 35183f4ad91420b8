"""Means of resampled cases: how far a mean would move with other cases of the same kind.

Percentile bootstrap (Efron and Tibshirani 1993, chapter 13): as many cases as there are, drawn with
replacement. The draws depend on the number of cases alone, so that the same table has the same
intervals everywhere, and two runs on the same cases are resampled together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 5000
SEED = 20  # any number; fixed, so that a table has one interval
LEVEL = 0.95
BLOCK = 500  # resamples in memory at a time


def resampled_means(values: NDArray, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Means over resampled cases.

    Args:
        values: (case, column), finite, at least one case.
        resamples: How many times the cases are drawn.

    Returns:
        (resample, column).
    """
    count = len(values)
    random = np.random.default_rng(SEED)
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, BLOCK):
        block = means[start : start + BLOCK]
        drawn = random.integers(0, count, (len(block), count), dtype=np.int32)
        for column in range(values.shape[1]):
            block[:, column] = values[:, column][drawn].mean(axis=1)
    return means


def intervals(values: NDArray) -> list[tuple[float, float] | None]:
    """95 % interval of each column's mean; None for a single case.

    Args:
        values: (case, column), finite, at least one case.
    """
    if len(values) < 2:
        return [None] * values.shape[1]
    edges = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
    low, high = np.percentile(resampled_means(values), edges, axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
