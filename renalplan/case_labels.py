"""What is known of a training case: labels, from its label map or else from its boxes; and boxes."""

from __future__ import annotations

from collections.abc import Iterable

from numpy.typing import NDArray

from renalplan.boxes import canonical_box, outside, paint_boxes
from renalplan.dataset import Case
from renalplan.errors import DatasetError
from renalplan.geometry import Box
from renalplan.images import Volume, read_grid, read_volume


def read_labels(case: Case, volume: Volume) -> NDArray | None:
    """Label values (z, y, x) on an image's canonical grid; None for an unlabelled case.

    Args:
        case: The case.
        volume: Its image.

    Raises:
        DatasetError: image and label map do not share a grid, or a box lies beyond the image.
    """
    if case.label is None:
        if not case.boxes:
            return None
        if problems := outside(case.boxes_in, case.boxes, volume.grid):
            raise DatasetError(problems[0])
        return paint_boxes(case.boxes, volume.grid)
    label = read_volume(case.label, labels=True)
    if differences := volume.grid.differences(label.grid):
        raise DatasetError(
            f"{case.label} does not lie on the grid of {case.images[0].name}: "
            f"{'; '.join(differences)}. Resample the label onto the image."
        )
    labels: NDArray = label.array[0]
    return labels


def canonical_boxes(cases: Iterable[Case]) -> dict[str, tuple[Box, ...]]:
    """Case -> its boxes in boxesTr.csv, canonical (z, y, x) voxels; cases without any are left out.

    Raises:
        DatasetError: a box lies beyond its image.
    """
    found = {}
    for case in cases:
        if case.boxes:
            grid = read_grid(case.images[0])
            if problems := outside(case.boxes_in, case.boxes, grid):
                raise DatasetError(problems[0])
            found[case.id] = tuple(canonical_box(box.box, grid) for box in case.boxes)
    return found
