"""The summary page's tables: one row for each structure, one line of thought a table."""

from __future__ import annotations

from html import escape

import pandas as pd

from renalplan.evaluation.aggregate import (
    ABSOLUTE_ERROR,
    Spread,
    Summary,
    by_case,
)
from renalplan.evaluation.columns import CENTERLINE, CLDICE, SURFACE_DICE
from renalplan.evaluation.page import NOTHING, named, table

SCORE_HEADS = {
    SURFACE_DICE: "Surface Dice",
    CLDICE: "clDice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "precision": "Precision",
}
DISTANCE_HEADS = {  # what the field calls the columns, the most telling one first
    "average_hausdorff_mm": "Mean surface distance (Eq. 4)",
    "assd_mm": "Average symmetric",
    CENTERLINE: "Centerline distance",
    "hd95_mm": "Hausdorff 95 %",
    "hausdorff_mm": "Hausdorff",
}


def dice_table(summary: Summary, colours: dict[str, str]) -> str:
    """Dice with its interval, and the worst case."""
    head = ("Structure", "Cases", "Dice, mean ± sd", "95 % interval", "Median", "Lowest")
    rows = []
    for name, found in summary.structures.items():
        dice = found.scores["dice"]
        cells = [str(found.n), mean_sd(dice, 3), interval(dice, 3)]
        cells += [f"{dice.median:.3f}", f"{dice.min:.3f}", escape(found.worst_case)]
        rows.append([named(name, colours[name]), *cells])
    return table((*head, "Worst case"), rows)


def score_table(summary: Summary, colours: dict[str, str]) -> str:
    """Mean and sd of the other scores."""
    names = [name for name in SCORE_HEADS if name in summary.means]
    head = ("Structure", *(SCORE_HEADS[name] for name in names), "Tolerance")
    rows = [
        [
            named(structure, colours[structure]),
            *(mean_sd(found.scores[n], 3) if n in found.scores else NOTHING for n in names),
            f"{found.tolerance_mm:.4g} mm",
        ]
        for structure, found in summary.structures.items()
    ]
    return table(head, rows)


def distance_table(summary: Summary, colours: dict[str, str]) -> str:
    """Mean and sd of every distance."""
    names = [name for name in DISTANCE_HEADS if name in summary.means]
    head = ("Structure", *(DISTANCE_HEADS[name] for name in names), "Largest Hausdorff")
    rows = [
        [
            named(structure, colours[structure]),
            *(mean_sd(found.scores[n], 2) if n in found.scores else NOTHING for n in names),
            f"{found.scores['hausdorff_mm'].max:.2f}",
        ]
        for structure, found in summary.structures.items()
    ]
    return table(head, rows)


def volume_table(summary: Summary, colours: dict[str, str]) -> str:
    """Volumes and their errors in ml."""
    head = ("Structure", "Reference", "Prediction", "Error, mean ± sd", "95 % interval")
    rows = []
    for name, found in summary.structures.items():
        error = found.volumes["volume_error_ml"]
        cells = [f"{found.volumes[column].mean:.1f}" for column in ("reference_ml", "predicted_ml")]
        cells += [f"{'+' if error.mean > 0 else ''}{mean_sd(error, 1)}", interval(error, 1)]
        cells.append(f"{found.volumes[ABSOLUTE_ERROR].mean:.1f}")
        rows.append([named(name, colours[name]), *cells])
    return table((*head, "Mean size of the error"), rows)


def lesion_table(summary: Summary, colours: dict[str, str]) -> str:
    """Lesions of all cases; empty if no structure is counted in lesions."""
    rows = []
    for name, found in summary.structures.items():
        if (lesions := found.lesions) is not None:
            counts = [str(n) for n in (lesions.found, lesions.missed, lesions.false)]
            shares = [_share(lesions.sensitivity), _share(lesions.precision)]
            per_case = f"{lesions.false_per_case:.2f}"
            rows.append([named(name, colours[name]), *counts, *shares, per_case])
    head = ("Structure", "Found", "Missed", "False", "Sensitivity", "Precision", "False a case")
    return table(head, rows) if rows else ""


def cases_table(rows: pd.DataFrame, colours: dict[str, str]) -> str:
    """Dice of every case and structure, worst first."""
    dice = {(r["case"], r["structure"]): r["dice"] for r in rows.to_dict("records")}
    heads = [named(name, colour) for name, colour in colours.items()]
    cells = [
        [escape(str(case)), f"{mean:.3f}", *(f"{dice[case, name]:.3f}" for name in colours)]
        for case, mean in by_case(rows).items()
    ]
    return table(("Case", "Mean Dice", *heads), cells)


def mean_sd(values: Spread, digits: int) -> str:
    """`0.912 ± 0.034`; without the sd for a single case."""
    sd = "" if values.sd is None else f" ± {values.sd:.{digits}f}"
    return f"{values.mean:.{digits}f}{sd}"


def interval(values: Spread, digits: int) -> str:
    """`0.88 to 0.93`: the mean's 95 % interval."""
    if values.ci95 is None:
        return NOTHING
    low, high = values.ci95
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _share(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.3f}"
