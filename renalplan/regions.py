"""Region boxes around what a coarse stage found: one a kidney, as a rule.

Training cuts its regions from the true labels and prediction from the stage before, both by this
one rule, so the fine network sees at prediction what it was trained on.
"""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Box, Spacing, grow_box, merge_overlapping


def region_boxes(
    mask: NDArray[np.bool_], spacing: Spacing, *, margin_mm: float, minimum_ml: float
) -> list[Box]:
    """Boxes around the connected pieces of a (z, y, x) mask, grown, and joined where they overlap.

    Args:
        mask: Structure against rest.
        spacing: mm along (z, y, x).
        margin_mm: How far a box reaches beyond its piece, clipped to the array.
        minimum_ml: Smaller pieces do not open a box; if all are smaller the largest one does, so a
            case with any structure has a region.

    Returns:
        Disjoint boxes ordered by position; empty if the mask is.
    """
    pieces = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    statistics = cc3d.statistics(pieces)
    counts = statistics["voxel_counts"][1:]
    if len(counts) == 0:
        return []
    volumes = counts * float(np.prod(spacing)) / 1000
    keep = np.flatnonzero(volumes >= min(minimum_ml, volumes.max()))
    margin = tuple(int(np.ceil(margin_mm / s)) for s in spacing)
    boxes = []
    for number in keep:
        bounds = statistics["bounding_boxes"][number + 1]
        piece: Box = tuple((int(s.start), int(s.stop)) for s in bounds)  # type: ignore[assignment]
        boxes.append(grow_box(piece, margin, mask.shape))
    return merge_overlapping(boxes)
