"""Rows of all cases -> numbers for each structure: mean, spread, interval, worst case.

Every case has the same weight: scores are computed per case and then averaged, never pooled over
voxels. Only lesions are also counted over all cases. Runs are compared by `comparison`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from renalplan.evaluation.bootstrap import RESAMPLES, intervals
from renalplan.evaluation.columns import (
    COLUMNS,
    DISTANCES,
    LESIONS,
    SCORES,
    TOLERANCE,
    VOLUMES,
    Row,
    distances_of,
    has_lesions,
    scores_of,
)
from renalplan.evaluation.detection import LEAST_IOU
from renalplan.files import Record

CONVENTIONS = (
    "Scores are computed for each case and averaged over cases; each case has the same weight.",
    "Reference and prediction both empty: every score is 1, every distance is 0 mm.",
    "Only one of them empty: every score is 0, every distance is the diagonal of the whole scan.",
    "A case without prediction is noted as missing: in every structure it scores 0, every "
    "distance is the diagonal of the whole scan, its lesions are missed, its volume is 0 ml.",
    "Voxels the reference marks as ignored are left out of scores, distances and volumes.",
    "Distances are in mm between surface voxels, those with a face to the outside. Hausdorff, its "
    "95th percentile and the mean surface distance (He et al. 2020, Eq. 4) take the larger of the "
    "two directions; the average symmetric surface distance is the mean over both surfaces' voxels.",
    "The surface Dice is the share of both surfaces' area (marching cubes) that lies within the "
    "tolerance of the other surface.",
    "clDice and the centerline distance (Eq. 4) compare the thinned masks (Lee et al. 1994). Only "
    "structures with artery, vein, vessel or ureter in their name have them.",
    f"A lesion, connected by faces, edges or corners, is found by one predicted lesion with an IoU of "
    f"{LEAST_IOU} or more, each by another one. Only structures with tumor, cyst, mass or lesion in "
    "their name (and not the kidney as well) have lesions. Their shares are over the lesions of all "
    "cases together.",
    "sd is the sample standard deviation (n - 1); there is none for a single case.",
    f"Intervals are 95 % percentile bootstrap intervals of the mean ({RESAMPLES} times as many cases "
    "drawn with replacement); there is none for a single case.",
    "Volumes are voxel counts times voxel volume, in ml; their error is prediction minus reference.",
)
ABSOLUTE_ERROR = "absolute_volume_error_ml"


class Spread(Record):
    """How one score, distance or volume is distributed over the cases.

    Attributes:
        sd: Sample standard deviation (n - 1), None for a single case.
        min: The lowest value: the worst of a score, the best of a distance.
        max: The highest value: the best of a score, the worst of a distance.
        ci95: 95 % bootstrap interval of the mean, None for a single case.
    """

    mean: float
    sd: float | None
    median: float
    min: float
    max: float
    ci95: tuple[float, float] | None


class LesionSummary(Record):
    """Lesions of one structure in all cases together.

    Attributes:
        found: Reference lesions that were found.
        missed: Reference lesions that were not.
        false: Predicted lesions that are none.
        sensitivity: found / (found + missed), None without reference lesions.
        precision: found / (found + false), None without predicted lesions.
        false_per_case: false / cases.
    """

    found: int
    missed: int
    false: int
    sensitivity: float | None
    precision: float | None
    false_per_case: float


class StructureSummary(Record):
    """One structure over all cases.

    Attributes:
        n: Cases.
        worst_case: Id of the case of lowest Dice, the first in order if several tie.
        notes: How many cases had an empty or a missing mask, by kind.
        tolerance_mm: Of the surface Dice.
        scores: Name of a score (`dice` …, shares) or of a distance (`hausdorff_mm` …, mm) -> its
            spread; what the structure does not have is not there.
        volumes: `reference_ml`, `predicted_ml`, `volume_error_ml` (prediction minus reference) and
            `absolute_volume_error_ml` -> spread in ml; a missing case counts with 0 ml.
        lesions: None if the structure is not counted in lesions.
    """

    n: int
    worst_case: str
    notes: dict[str, int]
    tolerance_mm: float
    scores: dict[str, Spread]
    volumes: dict[str, Spread]
    lesions: LesionSummary | None


class Summary(Record):
    """What summary.json holds.

    Attributes:
        cases: Reference cases that were scored.
        predictions: Predictions that were scored.
        missing: Cases without prediction; every score of theirs is 0, every distance the
            scan's diagonal.
        extra: Predictions without a reference; they count nowhere.
        means: Name of a score or distance -> mean over structures of the mean over cases; over
            those structures that have it, and not there if none has.
        structures: Structure name -> its numbers, in the dataset's order.
        structure_source: Where the names of the structures come from.
        conventions: How the numbers were made, in sentences.
    """

    cases: int
    predictions: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    means: dict[str, float]
    structures: dict[str, StructureSummary]
    structure_source: str = ""
    conventions: tuple[str, ...] = CONVENTIONS


def to_table(rows: list[Row]) -> pd.DataFrame:
    """Rows -> a table with `COLUMNS`."""
    return pd.DataFrame(rows, columns=list(COLUMNS))


def summarise(
    table: pd.DataFrame,
    *,
    missing: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
    structure_source: str = "",
) -> Summary:
    """Numbers for each structure, and their mean over structures.

    Args:
        table: One row for each case and structure, columns `COLUMNS`; at least one row.
        missing: Ids of cases without prediction; their rows are in the table.
        extra: Ids of predictions without reference; they are not in the table.
        structure_source: Where the names of the structures come from.
    """
    structures = {
        str(name): summarise_structure(rows)
        for name, rows in table.groupby("structure", sort=False)
    }
    cases = int(table["case"].nunique())
    return Summary(
        cases=cases,
        predictions=cases - len(missing),
        missing=missing,
        extra=extra,
        means=_means(list(structures.values())),
        structures=structures,
        structure_source=structure_source,
    )


def summarise_structure(rows: pd.DataFrame) -> StructureSummary:
    """Numbers of one structure from its rows, one for each case."""
    structure = str(rows["structure"].iloc[0])
    notes = rows.loc[rows["note"] != "", "note"].value_counts().sort_index()
    scores = (*scores_of(structure), *distances_of(structure))
    volumes = rows[list(VOLUMES)].assign(**{ABSOLUTE_ERROR: rows["volume_error_ml"].abs()})
    return StructureSummary(
        n=len(rows),
        worst_case=str(rows["case"].iloc[int(rows["dice"].to_numpy().argmin())]),
        notes={str(note): int(count) for note, count in notes.items()},
        tolerance_mm=float(rows[TOLERANCE].iloc[0]),
        scores=_spreads(rows[list(scores)]),
        volumes=_spreads(volumes),
        lesions=_lesions(rows) if has_lesions(structure) else None,
    )


def _lesions(rows: pd.DataFrame) -> LesionSummary:
    found, missed, false = (int(rows[name].sum()) for name in LESIONS)
    return LesionSummary(
        found=found,
        missed=missed,
        false=false,
        sensitivity=found / (found + missed) if found + missed else None,
        precision=found / (found + false) if found + false else None,
        false_per_case=false / len(rows),
    )


def _spreads(values: pd.DataFrame) -> dict[str, Spread]:
    numbers = values.to_numpy(float)
    return {
        str(name): _spread(column, interval)
        for name, column, interval in zip(
            values.columns, numbers.T, intervals(numbers), strict=True
        )
    }


def _spread(values: NDArray, interval: tuple[float, float] | None) -> Spread:
    return Spread(
        mean=float(values.mean()),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        median=float(np.median(values)),
        min=float(values.min()),
        max=float(values.max()),
        ci95=interval,
    )


def by_case(table: pd.DataFrame) -> pd.Series:
    """Mean Dice over structures of each case, worst first; ties in order of the case id."""
    return table.groupby("case")["dice"].mean().sort_values(kind="stable")


def _means(structures: list[StructureSummary]) -> dict[str, float]:
    means = {}
    for name in (*SCORES, *DISTANCES):
        if found := [s.scores[name].mean for s in structures if name in s.scores]:
            means[name] = sum(found) / len(found)
    return means
