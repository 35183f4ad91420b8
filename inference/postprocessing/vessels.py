"""A renal vessel comes from the aorta (or goes to the vena cava): it reaches the side of the midline.

A label map need not hold the aorta, so the midline and the kidneys stand for it. On each side of the
midline a piece of vessel stays if it

* holds aorta or vena cava, where these have labels,
* or reaches further to the midline than the kidney of its side does: it leaves the hilum,
* or, on a side without kidney, comes about as near to the midline as the nearest piece there does,
* or is the nearest one of its side, so that no side loses all of its vessels.

What goes are pieces lateral to a kidney or shut up inside one. Arteries and veins are one mask: a
piece may hang on either.
"""

from __future__ import annotations

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Spacing
from renalplan.inference.postprocessing.scene import Scene
from renalplan.kidneys import NORMAL, count_kidneys
from renalplan.pieces import number_pieces
from renalplan.postprocessing import VesselsReachAorta

Range = tuple[int, int]  # first and last voxel along x


def unconnected(labels: NDArray, scene: Scene, rule: VesselsReachAorta) -> NDArray[np.bool_]:
    """Voxels of vessels that do not come from the aorta's side.

    Args:
        labels: Canonical (z, y, x), x from right to left.
        scene: Around them.
        rule: Which pieces count as one, and how far others may stay behind the nearest.
    """
    vessels = np.isin(labels, scene.roles.vessel)
    pieces = join_near(vessels, scene.spacing, rule.gap_mm)
    boxes = cc3d.statistics(pieces)["bounding_boxes"][1:]
    ranges = [(int(box[2].start), int(box[2].stop) - 1) for box in boxes]
    trunk = set(np.unique(pieces[np.isin(labels, scene.roles.trunk)]).tolist())
    kidneys = kidney_ranges(np.isin(labels, scene.roles.organ), scene.spacing)
    midline = find_midline(kidneys, scene.middle)
    gone = np.zeros(len(ranges) + 1, bool)
    for side in (-1, 1):
        # distances to the midline, negative beyond it
        numbers = [i for i, r in enumerate(ranges, 1) if _side(r, midline) == side]
        if not numbers:
            continue
        ends = {i: _medial_end(ranges[i - 1], side, midline) for i in numbers}
        nearest = min(ends.values())
        hila = [
            _medial_end(r, side, midline) for r in kidneys if _side(r, midline) == side
        ]  # a horseshoe kidney lies across the midline and borders nothing
        hila = [hilum for hilum in hila if hilum > 0]
        line = min(hila) - 0.5 if hila else nearest + rule.reach_mm / scene.spacing[2]
        for i, end in ends.items():
            gone[i] = end > line and end > nearest and i not in trunk
    result: NDArray[np.bool_] = gone[pieces]
    return result


def join_near(mask: NDArray[np.bool_], spacing: Spacing, gap_mm: float) -> NDArray:
    """Number the pieces of a mask (26 neighbours), those about `gap_mm` apart or less alike.

    Returns:
        Numbers from 1 in the mask, 0 elsewhere.
    """
    if gap_mm == 0 or not mask.any():
        return number_pieces(mask)
    near = edt.edt(~mask, anisotropy=spacing, parallel=1) <= gap_mm / 2
    joined = number_pieces(near)
    joined[~mask] = 0
    return joined


def kidney_ranges(organ: NDArray[np.bool_], spacing: Spacing) -> list[Range]:
    """Where the (at most two) kidneys lie along x: pieces too large to be anything else."""
    pieces = count_kidneys(organ, spacing)[:NORMAL]
    return [(piece.box[2][0], piece.box[2][1] - 1) for piece in pieces]


def find_midline(kidneys: list[Range], middle: float) -> float:
    """Position along x: halfway between two kidneys that lie side by side, else the scan's middle."""
    if len(kidneys) == NORMAL:
        right, left = sorted(kidneys)
        if right[1] < left[0]:
            return (right[1] + left[0]) / 2
    return middle


def _side(found: Range, midline: float) -> int:
    """-1 for the patient's right (low x), 1 for the left; a piece is where its middle is."""
    return -1 if sum(found) / 2 < midline else 1


def _medial_end(found: Range, side: int, midline: float) -> float:
    """How far a piece's medial end is from the midline, in voxels; negative beyond it."""
    return midline - found[1] if side < 0 else found[0] - midline
