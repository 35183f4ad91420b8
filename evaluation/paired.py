"""Whether two runs differ on the same cases, by how much, and how sure that is.

Sources:
    Wilcoxon 1945, "Individual comparisons by ranking methods": the signed-rank test.
    Kerby 2014, "The simple difference formula": the matched-pairs rank-biserial correlation.
    Holm 1979, "A simple sequentially rejective multiple test procedure".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

from renalplan.evaluation.bootstrap import intervals

DIGITS = 12  # differences beyond are rounding, and neither a difference nor a rank


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One number of two runs, first minus second, case by case.

    Attributes:
        mean: Mean difference.
        ci95: 95 % bootstrap interval of it, None for a single case.
        larger: Cases in which the first run's number is larger.
        smaller: Cases in which it is smaller.
        p: Two-sided Wilcoxon signed-rank test; 1 if no case differs.
        rank_biserial: Share of the ranks of larger cases minus that of smaller ones, from -1 to 1;
            0 if no case differs.
        cohens_dz: Mean difference over its sample standard deviation, None if that is 0.
    """

    mean: float
    ci95: tuple[float, float] | None
    larger: int
    smaller: int
    p: float
    rank_biserial: float
    cohens_dz: float | None


def compare_pairs(first: NDArray, second: NDArray) -> Difference:
    """Compare two runs.

    Args:
        first: (case) numbers of one run, finite, at least one.
        second: (case) those of the other one, of the same cases in the same order.
    """
    difference = np.round(first - second, DIGITS)
    sd = float(np.std(difference, ddof=1)) if len(difference) > 1 else 0.0
    mean = float(difference.mean())
    some = difference[difference != 0]
    ranks = rankdata(np.abs(some))
    balance = float((np.sign(some) * ranks).sum() / ranks.sum()) if len(some) else 0.0
    return Difference(
        mean=mean,
        ci95=intervals(difference[:, None])[0],
        larger=int((difference > 0).sum()),
        smaller=int((difference < 0).sum()),
        p=float(wilcoxon(some).pvalue) if len(some) else 1.0,
        rank_biserial=balance,
        cohens_dz=mean / sd if sd > 0 else None,
    )


def holm(p: list[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    adjusted = [0.0] * len(p)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, p[index] * (len(p) - rank)))
        adjusted[index] = least
    return adjusted
