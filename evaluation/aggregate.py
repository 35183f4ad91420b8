"""Rows of all cases -> numbers for each structure: mean, spread, worst case.

Every case has the same weight: scores are computed per case and then averaged, never pooled over
voxels. Intervals and paired tests are not made here.
"""

from __future__ import annotations

import pandas as pd

from renalplan.evaluation.cases import (
    COLUMNS,
    DISTANCES,
    MISSING,
    SCORES,
    Row,
    distances_of,
)
from renalplan.files import Record

CONVENTIONS = (
    "Scores are computed for each case and averaged over cases; each case has the same weight.",
    "Reference and prediction both empty: every score is 1, every distance is 0 mm.",
    "Only one of them empty: every score is 0, every distance is the diagonal of the whole scan.",
    "A case without prediction is noted as missing: in every structure it scores 0 and every "
    "distance is the diagonal of the whole scan.",
    "Voxels the reference marks as ignored are left out of scores, distances and volumes.",
    "Distances are in mm between surface voxels, those with a face to the outside. Each compares "
    "both directions and takes the larger: the maximum (Hausdorff), the 95th percentile, or the "
    "mean of the nearest distances (mean surface distance, He et al. 2020, Eq. 4).",
    "The centerline distance is Eq. 4 between the thinned masks (Lee et al. 1994). Only "
    "structures with artery, vein, vessel or ureter in their name have one.",
    "sd is the sample standard deviation (n - 1); there is none for a single case.",
    "Volumes are voxel counts times voxel volume, in ml.",
)


class Spread(Record):
    """How one score or distance is distributed over the cases.

    Attributes:
        sd: Sample standard deviation (n - 1), None for a single case.
        min: The lowest value: the worst of a score, the best of a distance.
        max: The highest value: the best of a score, the worst of a distance.
    """

    mean: float
    sd: float | None
    median: float
    min: float
    max: float


class StructureSummary(Record):
    """One structure over all cases.

    Attributes:
        n: Cases.
        worst_case: Id of the case of lowest Dice, the first in order if several tie.
        notes: How many cases had an empty or a missing mask, by kind.
        volume_error_ml: Mean of predicted minus reference volume, over cases with a prediction;
            None if there are none.
        scores: Name of a score (`dice` …, shares) or of a distance (`hausdorff_mm` …, mm) -> its
            spread; a distance the structure does not have is not there.
    """

    n: int
    worst_case: str
    notes: dict[str, int]
    volume_error_ml: float | None
    scores: dict[str, Spread]


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
    predicted = rows[rows["note"] != MISSING]
    error = (predicted["predicted_ml"] - predicted["reference_ml"]).mean()
    notes = rows.loc[rows["note"] != "", "note"].value_counts().sort_index()
    return StructureSummary(
        n=len(rows),
        worst_case=str(rows["case"].iloc[int(rows["dice"].to_numpy().argmin())]),
        notes={str(note): int(count) for note, count in notes.items()},
        volume_error_ml=float(error) if len(predicted) else None,
        scores={name: spread(rows[name]) for name in (*SCORES, *distances_of(structure))},
    )


def spread(values: pd.Series) -> Spread:
    """Mean, sample sd, median, minimum and maximum of at least one value."""
    return Spread(
        mean=float(values.mean()),
        sd=float(values.std(ddof=1)) if len(values) > 1 else None,
        median=float(values.median()),
        min=float(values.min()),
        max=float(values.max()),
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
