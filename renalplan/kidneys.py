"""Counting kidneys in a coarse mask, and telling them apart: the abnormality rule.

Components above a threshold volume are kidneys. Exactly two is normal; any other number says that
the mask is wrong, or that the patient has one kidney.

Sources:
    [C2F] the coarse-to-fine system for KiTS19 of the group, section 1.2, Eq. 5: 10,000 voxels of
    3 x 0.7816 x 0.7816 mm, far less than a kidney, far more than noise. It is kept in ml, so that it
    holds at any spacing. Which voxels are connected is not said there: here all 26 neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Spacing, mask_box
from renalplan.pieces import largest_piece
from renalplan.regions import Piece, find_pieces

PAPER_SPACING: Spacing = (3.0, 0.7816, 0.7816)  # mm along (z, y, x) [C2F]
THRESHOLD_ML = 10_000 * 3.0 * 0.7816**2 / 1000  # 18.3 ml
NORMAL = 2
LEAST_ML = 0.1  # what is smaller counts as nothing found
ROUNDING = 1e-9  # 10,000 voxels are not above 10,000 voxels, whatever the order of multiplication


def count_kidneys(
    mask: NDArray[np.bool_], spacing: Spacing, threshold_ml: float = THRESHOLD_ML
) -> list[Piece]:
    """The components of a (z, y, x) mask that are larger than the threshold, largest first.

    Args:
        mask: Kidney (and tumor) against rest.
        spacing: mm along the mask's axes.
        threshold_ml: Volume that a kidney exceeds.
    """
    pieces = _by_size(find_pieces(mask, spacing, 0.0))
    return [piece for piece in pieces if piece.ml > threshold_ml * (1 + ROUNDING)]


def is_abnormal(kidneys: list[Piece]) -> bool:
    """Whether this is another number of kidneys than the two of most people [C2F, Eq. 5]."""
    return len(kidneys) != NORMAL


def separate_kidneys(
    mask: NDArray[np.bool_], spacing: Spacing, threshold_ml: float = THRESHOLD_ML
) -> list[Piece]:
    """The kidneys (at most two) to look at more closely, largest first.

    - The two largest components above the threshold; there is no patient with three.
    - A single one is split by the mid-sagittal plane if more than the threshold lies on either side:
      two kidneys that touch, or a horseshoe kidney. Its halves are then what a fine network looks at.
    - If none is large enough, the largest of at least `LEAST_ML`: an atrophic kidney, or one that
      was found in part. Who has a kidney must not be left without a segmentation.

    Args:
        mask: (z, y, x), x from right to left over the whole body; kidney (and tumor) against rest.
        spacing: mm along (z, y, x).
        threshold_ml: Volume that a kidney exceeds.
    """
    kidneys = count_kidneys(mask, spacing, threshold_ml)
    if len(kidneys) == 1:
        largest = largest_piece(mask)
        halves = split_by_midplane(largest, spacing)
        if all(half.ml > threshold_ml * (1 + ROUNDING) for half in halves):
            return _by_size(halves)
    if kidneys:
        return kidneys[:NORMAL]
    pieces = _by_size(find_pieces(mask, spacing, 0.0))[:1]
    return [piece for piece in pieces if piece.ml >= LEAST_ML]


def is_better(
    corrected: NDArray[np.bool_],
    coarse: NDArray[np.bool_],
    spacing: Spacing,
    threshold_ml: float = THRESHOLD_ML,
) -> bool:
    """Whether the corrected mask replaces the coarse one of an abnormal case [C2F, Eq. 3].

    It does, unless it holds no kidney: then it replaces only a mask that holds none either, and not
    if it is empty.
    """
    if count_kidneys(corrected, spacing, threshold_ml):
        return True
    return bool(corrected.any()) and not count_kidneys(coarse, spacing, threshold_ml)


def split_by_midplane(component: NDArray[np.bool_], spacing: Spacing) -> list[Piece]:
    """The parts of a component on either side of the plane through the middle of the x axis.

    Returns:
        One part if the component lies on one side, otherwise two, the right one first.
    """
    middle = component.shape[2] // 2
    voxel_ml = float(np.prod(spacing)) / 1000
    found = []
    for side in (slice(0, middle), slice(middle, None)):
        half = np.zeros_like(component)
        half[:, :, side] = component[:, :, side]
        box = mask_box(half)
        if box is None:
            continue
        z, y, x = (float(c) for c in np.argwhere(half).mean(axis=0))
        found.append(Piece(box=box, centre=(z, y, x), ml=float(half.sum()) * voxel_ml))
    return found


def _by_size(pieces: list[Piece]) -> list[Piece]:
    return sorted(pieces, key=lambda piece: -piece.ml)
