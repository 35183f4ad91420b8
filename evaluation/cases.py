"""One case's two label files -> one row of scores and distances for each structure.

A metric added later is a file beside `overlap`, a name in `columns` and a line in `_scores`. Which
structures there are is decided by `structures`, averages by `aggregate`.

Voxels that the reference marks with the ignore value are left out of both masks, and so of the
volumes and surfaces. A prediction's own ignore voxels belong to no structure: a prediction cannot
excuse itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import DatasetError
from renalplan.evaluation.centerline import compare_centerlines, is_tubular
from renalplan.evaluation.columns import (
    CENTERLINE,
    CLDICE,
    LESIONS,
    MISSING,
    OVERLAPS,
    SURFACE_DICE,
    SURFACE_DISTANCES,
    TOLERANCE,
    Row,
    distances_of,
    has_lesions,
    scores_of,
)
from renalplan.evaluation.detection import detect_lesions
from renalplan.evaluation.overlap import overlap
from renalplan.evaluation.space import require_same_space
from renalplan.evaluation.surface import diagonal_mm, surface_distances
from renalplan.evaluation.surfels import surface_dice
from renalplan.evaluation.tolerance import Tolerance
from renalplan.files import TEMPORARY, require_shown
from renalplan.geometry import Shape, Spacing, box_slices, mask_box
from renalplan.images import Volume, image_ending, read_volume
from renalplan.labels import LabelScheme

BOTH_EMPTY = "both empty"
REFERENCE_EMPTY = "reference empty"
PREDICTION_EMPTY = "prediction empty"
USUAL = Tolerance()


def find_label_maps(folder: Path) -> dict[str, Path]:
    """Label files of a folder by case id (the name without its format ending), sorted.

    Raises:
        DatasetError: the folder is missing, one case is there in two formats, or a name cannot be
            shown.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; give a folder of segmentations.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = image_ending(path)
        if ending is None or path.name.startswith((".", TEMPORARY)):
            continue  # but a dead link counts: a case is not lost without a word
        require_shown(path)
        case_id = path.name.removesuffix(ending)
        if case_id in found:
            raise DatasetError(
                f"{path} and {found[case_id].name} are the same case; remove one of them."
            )
        found[case_id] = path
    return dict(sorted(found.items()))


def evaluate_case(
    case_id: str,
    prediction: Path,
    reference: Path,
    scheme: LabelScheme,
    tolerance: Tolerance = USUAL,
    declared: Collection[int] | None = None,
) -> list[Row]:
    """Score one case.

    Args:
        case_id: The name that goes into the rows.
        prediction: Label file; its format may differ from the reference's.
        reference: Label file on the same voxels.
        scheme: What the label values mean; one row for each of its foreground structures.
        tolerance: Of the surface Dice.
        declared: Values the files may hold, empty: any; None: those of the scheme.

    Returns:
        A row for each structure, in the scheme's order.

    Raises:
        DatasetError: a file is unreadable, the grids differ, or a label value is not declared.
    """
    truth, found = read_volume(reference, labels=True), read_volume(prediction, labels=True)
    require_same_space(prediction, found.grid, reference, truth.grid)
    for path, volume in ((reference, truth), (prediction, found)):
        _require_declared(path, volume, scheme.all_values if declared is None else declared)
    return score_labels(case_id, truth.array[0], found.array[0], truth.spacing, scheme, tolerance)


def score_labels(
    case_id: str,
    reference: NDArray,
    prediction: NDArray,
    spacing: Spacing,
    scheme: LabelScheme,
    tolerance: Tolerance = USUAL,
) -> list[Row]:
    """Score two label arrays (z, y, x) of one shape; see `evaluate_case`."""
    scan: Shape = reference.shape
    box = mask_box((reference > 0) | (prediction > 0))
    if box is not None:  # beyond it both are background, which no structure's score counts
        reference, prediction = reference[box_slices(box)], prediction[box_slices(box)]
    counted = np.True_ if scheme.ignore is None else reference != scheme.ignore
    rows: list[Row] = []
    for name, values in scheme.foreground.items():
        truth = np.isin(reference, values) & counted
        found = np.isin(prediction, values) & counted
        scores = _scores(name, truth, found, spacing, scan, tolerance.mm(name))
        rows.append({"case": case_id, "structure": name, **scores})
    return rows


def missed_case(
    case_id: str,
    reference: Path,
    scheme: LabelScheme,
    tolerance: Tolerance = USUAL,
    declared: Collection[int] | None = None,
) -> list[Row]:
    """Rows of a case without prediction: score 0, distance the scan's diagonal, in every structure.

    Also for structures that the reference does not hold, so that a lost case never scores better
    than any prediction of it would. All its lesions are missed, all its volume is an error.

    Raises:
        DatasetError: the reference is unreadable or holds a value that is not declared.
    """
    truth = read_volume(reference, labels=True)
    _require_declared(reference, truth, scheme.all_values if declared is None else declared)
    nothing = np.zeros_like(truth.array[0])
    rows = score_labels(case_id, truth.array[0], nothing, truth.spacing, scheme, tolerance)
    worst = diagonal_mm(nothing.shape, truth.spacing)
    for row in rows:
        structure = str(row["structure"])
        row |= dict.fromkeys(scores_of(structure), 0.0)
        row |= dict.fromkeys(distances_of(structure), worst)
        row["note"] = MISSING
    return rows


def present_values(labels: NDArray) -> list[int]:
    """The values a label array holds, ascending.

    Plane by plane: sorting or counting a whole scan at once takes eight bytes a voxel.
    """
    seen = np.zeros(int(labels.max(initial=0)) + 1, bool)
    for plane in labels:
        seen[plane] = True
    return [int(value) for value in np.flatnonzero(seen)]


def _scores(
    structure: str,
    reference: NDArray,
    prediction: NDArray,
    spacing: Spacing,
    scan: Shape,
    tolerance_mm: float,
) -> Row:
    result = overlap(reference, prediction, spacing)
    surface = surface_distances(reference, prediction, spacing, scan)
    scores: Row = {name: getattr(result, name) for name in OVERLAPS}
    scores[SURFACE_DICE] = surface_dice(reference, prediction, spacing, tolerance_mm)
    scores |= {name: getattr(surface, name) for name in SURFACE_DISTANCES}
    scores |= dict.fromkeys((CLDICE, CENTERLINE, *LESIONS), math.nan)
    if is_tubular(structure):
        lines = compare_centerlines(reference, prediction, spacing, scan)
        scores |= {CLDICE: lines.cldice, CENTERLINE: lines.distance_mm}
    if has_lesions(structure):
        lesions = detect_lesions(reference, prediction)
        counts = (lesions.found, lesions.missed, lesions.false)
        scores |= dict(zip(LESIONS, counts, strict=True))
    scores["reference_ml"], scores["predicted_ml"] = result.reference_ml, result.predicted_ml
    scores["volume_error_ml"] = result.predicted_ml - result.reference_ml
    scores[TOLERANCE] = tolerance_mm
    return {**scores, "note": _note(result.reference_ml > 0, result.predicted_ml > 0)}


def _note(in_reference: bool, in_prediction: bool) -> str:
    if in_reference:
        return "" if in_prediction else PREDICTION_EMPTY
    return REFERENCE_EMPTY if in_prediction else BOTH_EMPTY


def _require_declared(path: Path, volume: Volume, declared: Collection[int]) -> None:
    if not declared:
        return
    if unknown := [v for v in present_values(volume.array[0]) if v not in declared]:
        raise DatasetError(
            f"{path} holds label values {unknown}, which the dataset does not declare "
            f"(declared: {sorted(declared)}); repair the file or name them in dataset.json."
        )
