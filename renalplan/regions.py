"""Region boxes around what a coarse stage found: one a kidney, as a rule.

Training cuts its regions from the true labels and prediction from the stage before, both by this
one rule, so the fine network sees at prediction what it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Box, Spacing, grow_box, margin_voxels, merge_overlapping
from renalplan.pieces import number_pieces


@dataclass(frozen=True)
class Piece:
    """A connected piece (26-neighbourhood) of a mask.

    Attributes:
        box: Around it, voxels.
        centre: Mean position of its voxels, in voxels.
        ml: Its volume.
    """

    box: Box
    centre: tuple[float, float, float]
    ml: float


def find_pieces(mask: NDArray[np.bool_], spacing: Spacing, minimum_ml: float) -> list[Piece]:
    """The pieces of a mask that are large enough, in order of position.

    Args:
        mask: Structure against rest.
        spacing: mm along the mask's axes.
        minimum_ml: Smaller pieces do not count; if all are smaller the largest one does, so a mask
            with any voxel has a piece.
    """
    labelled = number_pieces(mask)
    statistics = cc3d.statistics(labelled)
    volumes = statistics["voxel_counts"][1:] * float(np.prod(spacing)) / 1000
    if len(volumes) == 0:
        return []
    found = []
    for number in np.flatnonzero(volumes >= min(minimum_ml, volumes.max())):
        bounds = statistics["bounding_boxes"][number + 1]
        box: Box = tuple((int(s.start), int(s.stop)) for s in bounds)  # type: ignore[assignment]
        z, y, x = (float(c) for c in statistics["centroids"][number + 1])
        found.append(Piece(box=box, centre=(z, y, x), ml=float(volumes[number])))
    return found


def region_boxes(
    mask: NDArray[np.bool_], spacing: Spacing, *, margin_mm: float, minimum_ml: float
) -> list[Box]:
    """Boxes around the connected pieces of a (z, y, x) mask, grown, and joined where they overlap.

    Args:
        mask: Structure against rest.
        spacing: mm along (z, y, x).
        margin_mm: How far a box reaches beyond its piece, clipped to the array.
        minimum_ml: Smaller pieces do not open a box, see `find_pieces`.

    Returns:
        Disjoint boxes ordered by position; empty if the mask is.
    """
    margin = margin_voxels(margin_mm, spacing)
    pieces = find_pieces(mask, spacing, minimum_ml)
    return merge_overlapping([grow_box(piece.box, margin, mask.shape) for piece in pieces])
