"""Runs on the same cases -> compare.json and compare.html: who is better, by how much, how surely.

Models of one dataset that are to be chosen from are `compare`'s; here anything with a per_case.csv is
compared, also another program's segmentations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import UsageError
from renalplan.evaluation.bootstrap import RESAMPLES
from renalplan.evaluation.columns import DISTANCES, SCORES, higher_is_better
from renalplan.evaluation.comparison_page import comparison_page
from renalplan.evaluation.comparison_record import Comparison, PairedTest, Ranking
from renalplan.evaluation.paired import compare_pairs, holm
from renalplan.evaluation.runs import Run, has_column, read_runs
from renalplan.evaluation.stability import rank_stability
from renalplan.files import write_json, write_text
from renalplan.locks import hold_files
from renalplan.outputs import require_own

COMPARE_JSON, COMPARE_PAGE = "compare.json", "compare.html"
METRICS = ("dice", "surface_dice", "hd95_mm")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The comparison and the files that were written."""

    comparison: Comparison
    files: tuple[Path, ...] = ()


def compare_runs(
    paths: Sequence[str | Path], out: str | Path | None = None, metrics: Sequence[str] = METRICS
) -> Compared:
    """Compare runs that scored the same cases.

    Args:
        paths: As in `runs.read_runs`.
        out: Folder for compare.json and compare.html; None writes nothing.
        metrics: Scores and distances, columns of per_case.csv (or in capitals). Every test of every one
            is corrected for all the others, so name few.

    Raises:
        UsageError: runs that cannot be compared, a metric that there is not, another run compares into
            `out`, or somebody else's files there have these names.
        DatasetError: a table is damaged.
    """
    metrics = [metric.lower() for metric in metrics]
    for metric in metrics:
        if metric not in (*SCORES, *DISTANCES) or list(metrics).count(metric) > 1:
            raise UsageError(
                f"--metrics {metric}: name each once, of {', '.join((*SCORES, *DISTANCES))}."
            )
    files = () if out is None else (Path(out) / COMPARE_JSON, Path(out) / COMPARE_PAGE)
    if files:
        require_own(files[0], Comparison, *files[1:])
    runs = read_runs([Path(path) for path in paths])
    for metric in metrics:
        if not any(has_column(structure, metric) for structure in runs[0].structures):
            raise UsageError(
                f"--metrics {metric}: none of {', '.join(runs[0].structures)} has it; leave it out."
            )
    if not files:
        return Compared(comparison=_compare(runs, metrics))
    with hold_files(*files, advice=", or choose another folder"):
        comparison = _compare(runs, metrics)
        write_json(files[0], comparison)
        write_text(files[1], comparison_page(comparison, runs))
    return Compared(comparison=comparison, files=files)


def _compare(runs: list[Run], metrics: Sequence[str]) -> Comparison:
    return Comparison(
        runs={run.name: str(run.path) for run in runs},
        cases=int(runs[0].table["case"].nunique()),
        metrics=tuple(metrics),
        rankings=tuple(ranking for metric in metrics for ranking in _rankings(runs, metric)),
        tests=_tests(runs, metrics),
        resamples=RESAMPLES,
    )


def _values(runs: list[Run], structure: str, metric: str) -> NDArray:
    """(case, run)."""
    return np.stack([run.values(structure, metric).to_numpy(float) for run in runs], axis=1)


def _rankings(runs: list[Run], metric: str) -> list[Ranking]:
    """Of the mean over structures, if there are several, and of each structure."""
    names = [run.name for run in runs]
    better = higher_is_better(metric)
    values = {
        structure: _values(runs, structure, metric)
        for structure in runs[0].structures
        if has_column(structure, metric)
    }
    if len(values) > 1:
        values = {"": np.mean(list(values.values()), axis=0)} | values
    found = []
    for structure, numbers in values.items():
        firm = rank_stability(numbers, higher_is_better=better)
        found.append(
            Ranking(
                metric=metric,
                structure=structure,
                means=dict(zip(names, firm.means, strict=True)),
                ranks=dict(zip(names, firm.ranks, strict=True)),
                first=dict(zip(names, firm.first, strict=True)),
                ranks95=dict(zip(names, firm.ranks95, strict=True)),
                kendall_tau=firm.kendall_tau,
            )
        )
    return found


def _tests(runs: list[Run], metrics: Sequence[str]) -> tuple[PairedTest, ...]:
    """Every pair of runs in every metric and structure, corrected together."""
    what = [
        (metric, structure, one, two)
        for metric in metrics
        for structure in runs[0].structures
        if has_column(structure, metric)
        for one, two in combinations(runs, 2)
    ]
    differences = []
    for metric, structure, one, two in what:
        both = _values([one, two], structure, metric)
        differences.append(compare_pairs(both[:, 0], both[:, 1]))
    adjusted = holm([difference.p for difference in differences])
    return tuple(
        PairedTest(
            metric=metric,
            structure=structure,
            first=one.name,
            second=two.name,
            p_holm=p,
            **asdict(difference),
        )
        for (metric, structure, one, two), difference, p in zip(
            what, differences, adjusted, strict=True
        )
    )
