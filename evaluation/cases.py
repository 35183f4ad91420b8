"""One case's two label files -> one row of scores and distances for each structure.

A metric added later is a file beside `overlap`, a name in `SCORES` or `DISTANCES` and a line in
`_scores`: scores are shares from 0 to 1 of which 1 is best, distances are mm of which 0 is best.
A distance that a structure does not have (`distances_of`) is NaN in its row. Which structures there
are is decided by `structures`, averages by `aggregate`.

Voxels that the reference marks with the ignore value are left out of both masks, and so of the
volumes and surfaces. A prediction's own ignore voxels belong to no structure: a prediction cannot
excuse itself.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import DatasetError
from renalplan.evaluation.centerline import centerline_distance, is_tubular
from renalplan.evaluation.overlap import overlap
from renalplan.evaluation.space import require_same_space
from renalplan.evaluation.surface import diagonal_mm, surface_distances
from renalplan.files import TEMPORARY, require_shown
from renalplan.geometry import Shape, Spacing, box_slices, mask_box
from renalplan.images import Volume, image_ending, read_volume
from renalplan.labels import LabelScheme

SCORES = ("dice", "iou", "sensitivity", "precision")
SURFACE_DISTANCES = ("hausdorff_mm", "hd95_mm", "average_hausdorff_mm")
CENTERLINE = "centerline_mm"
DISTANCES = (*SURFACE_DISTANCES, CENTERLINE)
COLUMNS = ("case", "structure", *SCORES, *DISTANCES, "reference_ml", "predicted_ml", "note")
MISSING = "missing"  # note of a case that has no prediction
BOTH_EMPTY = "both empty"
REFERENCE_EMPTY = "reference empty"
PREDICTION_EMPTY = "prediction empty"

Row = dict[str, str | float]  # its keys are COLUMNS


def distances_of(structure: str) -> tuple[str, ...]:
    """The distances a structure has: the centerline's only if its name is a tube's."""
    return DISTANCES if is_tubular(structure) else SURFACE_DISTANCES


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
    case_id: str, prediction: Path, reference: Path, scheme: LabelScheme
) -> list[Row]:
    """Score one case.

    Args:
        case_id: The name that goes into the rows.
        prediction: Label file; its format may differ from the reference's.
        reference: Label file on the same voxels.
        scheme: What the label values mean; one row for each of its foreground structures.

    Returns:
        A row for each structure, in the scheme's order.

    Raises:
        DatasetError: a file is unreadable, the grids differ, or a label value is not declared.
    """
    truth, found = read_volume(reference, labels=True), read_volume(prediction, labels=True)
    require_same_space(prediction, found.grid, reference, truth.grid)
    for path, volume in ((reference, truth), (prediction, found)):
        _require_declared(path, volume, scheme)
    return score_labels(case_id, truth.array[0], found.array[0], truth.spacing, scheme)


def score_labels(
    case_id: str, reference: NDArray, prediction: NDArray, spacing: Spacing, scheme: LabelScheme
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
        scores = _scores(name, truth, found, spacing, scan)
        rows.append({"case": case_id, "structure": name, **scores})
    return rows


def missed_case(case_id: str, reference: Path, scheme: LabelScheme) -> list[Row]:
    """Rows of a case without prediction: score 0, distance the scan's diagonal, in every structure.

    Also for structures that the reference does not hold, so that a lost case never scores better
    than any prediction of it would.

    Raises:
        DatasetError: the reference is unreadable or holds a value that is not declared.
    """
    truth = read_volume(reference, labels=True)
    _require_declared(reference, truth, scheme)
    nothing = np.zeros_like(truth.array[0])
    rows = score_labels(case_id, truth.array[0], nothing, truth.spacing, scheme)
    worst = diagonal_mm(nothing.shape, truth.spacing)
    for row in rows:
        row |= dict.fromkeys(SCORES, 0.0)
        row |= dict.fromkeys(distances_of(str(row["structure"])), worst)
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
    structure: str, reference: NDArray, prediction: NDArray, spacing: Spacing, scan: Shape
) -> Row:
    result = overlap(reference, prediction, spacing)
    scores: Row = {score: getattr(result, score) for score in SCORES}
    surface = surface_distances(reference, prediction, spacing, scan)
    scores |= {distance: getattr(surface, distance) for distance in SURFACE_DISTANCES}
    scores[CENTERLINE] = (
        centerline_distance(reference, prediction, spacing, scan)
        if CENTERLINE in distances_of(structure)
        else math.nan
    )
    scores["reference_ml"], scores["predicted_ml"] = result.reference_ml, result.predicted_ml
    return {**scores, "note": _note(result.reference_ml > 0, result.predicted_ml > 0)}


def _note(in_reference: bool, in_prediction: bool) -> str:
    if in_reference:
        return "" if in_prediction else PREDICTION_EMPTY
    return REFERENCE_EMPTY if in_prediction else BOTH_EMPTY


def _require_declared(path: Path, volume: Volume, scheme: LabelScheme) -> None:
    known = scheme.all_values
    if unknown := [v for v in present_values(volume.array[0]) if v not in known]:
        raise DatasetError(
            f"{path} holds label values {unknown}, which the dataset does not declare "
            f"(declared: {list(known)}); repair the file or name them in dataset.json."
        )
