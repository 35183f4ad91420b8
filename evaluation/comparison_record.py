"""What compare.json holds."""

from __future__ import annotations

from itertools import count

from renalplan.evaluation.columns import higher_is_better
from renalplan.files import Record

LEVEL = 0.05  # of the corrected tests
CONVENTIONS = (
    "Runs are compared case by case; a difference is the first run minus the second one.",
    "p is that of the two-sided Wilcoxon signed-rank test on the cases that differ, corrected by Holm "
    "for all tests of this comparison together; below 0.05 the better run is named.",
    "The effect is the matched-pairs rank-biserial correlation: 1 if the first run's number is the "
    "larger one in every case, -1 if the second one's is, 0 if they balance.",
    "Intervals are 95 % percentile bootstrap intervals of the mean difference over cases.",
    "Runs are ranked by their means over cases. The cases are drawn again with replacement, the same "
    "ones for all runs: how often a run is the best, and Kendall's tau of those rankings with the one "
    "of all cases (1: it never changes).",
    "Cases count as independent; several scans of one patient are not.",
    "A case without prediction has counted as the worst in every table.",
)


class PairedTest(Record):
    """Two runs in one metric and structure; see `paired.Difference`.

    Attributes:
        p_holm: p, corrected for all tests of the comparison.
    """

    metric: str
    structure: str
    first: str
    second: str
    mean: float
    ci95: tuple[float, float] | None
    larger: int
    smaller: int
    p: float
    p_holm: float
    rank_biserial: float
    cohens_dz: float | None

    @property
    def better(self) -> str | None:
        """The run that is better at the 5 % level, by the direction that the test saw."""
        if self.p_holm >= LEVEL or self.rank_biserial == 0:
            return None
        first = (self.rank_biserial > 0) == higher_is_better(self.metric)
        return self.first if first else self.second


class Ranking(Record):
    """Runs by their mean in one metric and structure; see `stability.Stability`.

    Attributes:
        structure: Empty: the mean over all structures that have the metric.
    """

    metric: str
    structure: str
    means: dict[str, float]
    ranks: dict[str, float]
    first: dict[str, float]
    ranks95: dict[str, tuple[float, float]]
    kendall_tau: float


class Comparison(Record):
    """The whole comparison.

    Attributes:
        runs: Name -> the table it was read from.
        cases: How many each of them scored.
        metrics: What was compared.
        resamples: Of every bootstrap.
    """

    runs: dict[str, str]
    cases: int
    metrics: tuple[str, ...]
    rankings: tuple[Ranking, ...]
    tests: tuple[PairedTest, ...]
    resamples: int
    conventions: tuple[str, ...] = CONVENTIONS

    @property
    def too_few(self) -> str:
        """That no difference can be significant with so few cases; empty if one can."""
        tests = max(len(self.tests), 1)
        if _least_p(self.cases) * tests < LEVEL:
            return ""
        needed = next(n for n in count(self.cases) if _least_p(n) * tests < LEVEL)
        return (
            f"{self.cases} cases are too few: even if one run were better in all of them, no p would be below "
            f"{LEVEL:g} after the correction for {tests} tests; that takes {needed} cases."
        )


def _least_p(cases: int) -> float:
    """The smallest p that the two-sided signed-rank test can have: one of 2^n signs, either way."""
    return float(2.0 ** (1 - cases))
