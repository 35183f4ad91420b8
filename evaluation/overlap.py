"""How far two masks agree: Dice and its relatives, with a stated value for every empty mask.

No score is ever NaN, because a NaN drops out of a mean without a trace and a missed tumour would
then improve the average. What an empty mask scores:

    reference   prediction   dice   iou   sensitivity   precision
    empty       empty        1      1     1             1
    empty       not empty    0      0     0             0
    not empty   empty        0      0     0             0

Distances in mm are `surface`'s and `centerline`'s business, averaging over cases is `aggregate`'s,
reading files is `cases`'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import DatasetError
from renalplan.geometry import Spacing

MM3_PER_ML = 1000.0


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Agreement of one structure's reference and prediction in one case.

    Attributes:
        dice: 2 TP / (2 TP + FP + FN), in [0, 1].
        iou: TP / (TP + FP + FN), in [0, 1].
        sensitivity: TP / (TP + FN): the share of the reference that was found.
        precision: TP / (TP + FP): the share of the prediction that is right.
        reference_ml: Volume of the reference, voxel count times voxel volume.
        predicted_ml: Volume of the prediction.
        true_positives: Voxels in both masks.
        false_positives: Voxels in the prediction only.
        false_negatives: Voxels in the reference only.
    """

    dice: float
    iou: float
    sensitivity: float
    precision: float
    reference_ml: float
    predicted_ml: float
    true_positives: int
    false_positives: int
    false_negatives: int


def overlap(reference: NDArray, prediction: NDArray, spacing: Spacing) -> Overlap:
    """Compare two masks of one structure.

    Args:
        reference: (z, y, x) bool, or numbers where nonzero means inside.
        prediction: The same shape.
        spacing: Voxel size in mm, one value for each axis.

    Returns:
        All scores; empty masks as in the table at the top of this file.

    Raises:
        DatasetError: the masks differ in shape.
    """
    require_same_shape(reference, prediction)
    truth, found = reference.astype(bool, copy=False), prediction.astype(bool, copy=False)
    true_positives = int(np.count_nonzero(truth & found))
    in_truth, in_found = int(np.count_nonzero(truth)), int(np.count_nonzero(found))
    voxel_ml = float(np.prod(spacing)) / MM3_PER_ML
    both_empty = in_truth == in_found == 0

    def share(part: int, whole: int) -> float:
        if both_empty:
            return 1.0
        return part / whole if whole else 0.0

    return Overlap(
        dice=share(2 * true_positives, in_truth + in_found),
        iou=share(true_positives, in_truth + in_found - true_positives),
        sensitivity=share(true_positives, in_truth),
        precision=share(true_positives, in_found),
        reference_ml=in_truth * voxel_ml,
        predicted_ml=in_found * voxel_ml,
        true_positives=true_positives,
        false_positives=in_found - true_positives,
        false_negatives=in_truth - true_positives,
    )


def require_same_shape(reference: NDArray, prediction: NDArray) -> None:
    """Refuse two masks of different shape.

    Raises:
        DatasetError: the masks differ in shape.
    """
    if reference.shape != prediction.shape:
        raise DatasetError(
            f"a reference of shape {reference.shape} cannot be compared with a prediction of shape "
            f"{prediction.shape}; resample one of them."
        )
