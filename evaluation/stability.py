"""How firm a ranking of runs is: ranks of their means, and of the means over resampled cases.

Sources:
    Wiesenfarth et al. 2021, "Methods and open-source toolkit for analyzing and visualizing challenge
    results", Scientific Reports 11:2369: bootstrap of the cases, Kendall's tau with the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from renalplan.evaluation.bootstrap import LEVEL, resampled_means
from renalplan.evaluation.paired import DIGITS


@dataclass(frozen=True, kw_only=True)
class Stability:
    """The ranking of runs by one number; all lists are in the order of the runs.

    Attributes:
        means: Mean over cases.
        ranks: 1 is the best; equal means share the mean of their ranks.
        first: Share of the resamples in which a run is the best; equal ones share it.
        ranks95: Between which ranks a run lies in 95 % of the resamples.
        kendall_tau: Mean over resamples of Kendall's tau-a with the ranking: 1 if it never changes.
    """

    means: tuple[float, ...]
    ranks: tuple[float, ...]
    first: tuple[float, ...]
    ranks95: tuple[tuple[float, float], ...]
    kendall_tau: float


def rank_stability(values: NDArray, *, higher_is_better: bool) -> Stability:
    """Rank runs and see how the ranking changes with the cases.

    Args:
        values: (case, run), finite, at least one case and two runs.
        higher_is_better: Whether the largest mean has rank 1.
    """
    sign = -1 if higher_is_better else 1
    means = values.mean(axis=0)
    ranks = rankdata(sign * np.round(means, DIGITS))
    drawn = rankdata(sign * np.round(resampled_means(values), DIGITS), axis=1)
    best = drawn == drawn.min(axis=1, keepdims=True)
    edges = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
    low, high = np.percentile(drawn, edges, axis=0, method="inverted_cdf")
    one, two = np.triu_indices(values.shape[1], 1)
    agree = np.sign(drawn[:, one] - drawn[:, two]) * np.sign(ranks[one] - ranks[two])
    return Stability(
        means=tuple(float(v) for v in means),
        ranks=tuple(float(v) for v in ranks),
        first=tuple(float(v) for v in (best / best.sum(axis=1, keepdims=True)).mean(axis=0)),
        ranks95=tuple((float(a), float(b)) for a, b in zip(low, high, strict=True)),
        kendall_tau=float(agree.mean()),
    )
