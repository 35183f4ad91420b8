"""What is wrong with an artery's mask, and where: pieces without a root, loops, contacts with veins.

Nothing is repaired here. A gap between two pieces may be a vessel too thin for the segmentation or two
vessels that only come near each other; the surgeon decides, and has the coordinates to look at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from renalplan.evaluation.surgery.frame import Frame, Point
from renalplan.evaluation.surgery.numbers import ML, MM, MM2, Number, measured, needs
from renalplan.evaluation.surgery.sides import Mask
from renalplan.evaluation.surgery.tree import ArteryTree
from renalplan.files import Record
from renalplan.pieces import number_pieces


class Break(Record):
    """A piece of artery that does not hang on the aorta.

    Attributes:
        at_mm: Its point nearest to the arteries that do, LPS.
        nearest_mm: The nearest point of those.
        gap: Between the two, from voxel centre to voxel centre.
        volume: Of the piece.
        speck: Whether it is too short to be a vessel; then it feeds nothing.
    """

    at_mm: Point
    nearest_mm: Point | None
    gap: Number
    volume: Number
    speck: bool


class Contact(Record):
    """Where artery and vein touch: they may have been mistaken for each other there.

    Attributes:
        at_mm: Middle of the touching voxel faces, LPS.
        area: Of these faces.
    """

    at_mm: Point
    area: Number


def find_breaks(tree: ArteryTree, frame: Frame) -> tuple[Break, ...]:
    """Every piece without a root, the largest first."""
    spacing = frame.spacing
    rooted = np.isin(tree.parts, list(tree.rooted))
    targets = np.argwhere(rooted) * spacing
    search = cKDTree(targets) if len(targets) else None
    found = []
    for piece in range(1, int(tree.parts.max()) + 1):
        if piece in tree.rooted:
            continue
        voxels = np.argwhere(tree.parts == piece) * spacing
        volume = measured(len(voxels) * frame.voxel_ml, ML)
        speck = piece in tree.specks
        if search is None:
            gap = needs("an artery that reaches the aorta", MM)
            at, nearest = frame.point(voxels.mean(axis=0)), None
        else:
            distances, indices = search.query(voxels)
            closest = int(distances.argmin())
            gap = measured(distances[closest], MM)
            at, nearest = frame.point(voxels[closest]), frame.point(targets[indices[closest]])
        found.append(Break(at_mm=at, nearest_mm=nearest, gap=gap, volume=volume, speck=speck))
    return tuple(sorted(found, key=lambda one: -(one.volume.value or 0.0)))


def find_contacts(artery: Mask, vein: Mask, frame: Frame) -> tuple[Contact, ...]:
    """Every place where artery and vein share voxel faces, the largest first."""
    touching = artery & ndimage.binary_dilation(vein)
    parts = number_pieces(touching)
    middles: list[NDArray] = []
    areas: list[NDArray] = []
    owners: list[NDArray] = []
    for axis in range(3):
        area = float(np.prod(frame.spacing)) / frame.spacing[axis]
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        for here, there, side in ((low, high, 0.5), (high, low, -0.5)):
            faces = touching[tuple(here)] & vein[tuple(there)]
            places = np.argwhere(faces)
            owners.append(parts[tuple(here)][faces])
            offset = np.zeros(3)
            offset[axis] = (0.0 if side > 0 else 1.0) + side
            middles.append(places + offset)
            areas.append(np.full(len(places), area))
    middle, size, owner = np.concatenate(middles), np.concatenate(areas), np.concatenate(owners)
    found = [
        Contact(
            at_mm=frame.point(middle[owner == number].mean(axis=0) * frame.spacing),
            area=measured(size[owner == number].sum(), MM2),
        )
        for number in range(1, int(parts.max()) + 1)
    ]
    return tuple(sorted(found, key=lambda one: -(one.area.value or 0.0)))
