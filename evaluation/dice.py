"""The Dice of each structure and nothing else, for comparing many segmentations of the same cases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalplan.evaluation.overlap import overlap
from renalplan.geometry import Spacing, box_slices, mask_box
from renalplan.labels import LabelScheme


def structure_dice(
    reference: NDArray, prediction: NDArray, spacing: Spacing, scheme: LabelScheme
) -> dict[str, float]:
    """Structure -> Dice, as `cases.score_labels` has it.

    Args:
        reference: Label values (z, y, x); voxels of the ignore value do not count.
        prediction: The same shape.
        spacing: mm along (z, y, x).
        scheme: What the values mean.
    """
    box = mask_box((reference > 0) | (prediction > 0))
    if box is not None:  # beyond it both are background
        reference, prediction = reference[box_slices(box)], prediction[box_slices(box)]
    counted = np.True_ if scheme.ignore is None else reference != scheme.ignore
    return {
        name: overlap(
            np.isin(reference, values) & counted, np.isin(prediction, values) & counted, spacing
        ).dice
        for name, values in scheme.foreground.items()
    }
