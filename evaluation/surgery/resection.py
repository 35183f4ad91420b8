"""What is left of the parenchyma when a tumor is cut out with a margin.

Removed is the parenchyma within the margin of the tumor's surface; with the suture rim, also what lies
`SUTURE_MM` beyond it, that is lost to the sutures.

Sources:
    methods.md, section 5: resected = parenchyma within 0, 5 or 10 mm of the tumor; loss = resected and
    a rim of 5 mm; robotic partial nephrectomies lose 15 to 16 % at 6 to 12 months.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from renalplan.evaluation.surgery.frame import Frame
from renalplan.evaluation.surgery.mesh import Mesh
from renalplan.evaluation.surgery.numbers import ML, SHARE, Number, measured
from renalplan.evaluation.surgery.sides import Mask
from renalplan.files import Record

MARGINS_MM = (0.0, 5.0, 10.0)
SUTURE_MM = 5.0


class Resection(Record):
    """One tumor cut out with one margin.

    Attributes:
        margin_mm: Healthy tissue that goes with the tumor.
        removed: Parenchyma in the specimen.
        remaining: Parenchyma of this kidney that is left.
        remaining_share: Of this kidney's parenchyma before.
        remaining_after_suture: As `remaining_share`, the suture rim lost as well.
    """

    margin_mm: float
    removed: Number
    remaining: Number
    remaining_share: Number
    remaining_after_suture: Number


def distance_to(mesh: Mesh, mask: Mask, frame: Frame, limit_mm: float) -> NDArray[np.float32]:
    """mm from each voxel of a (z, y, x) mask to a surface; infinite beyond the limit, and outside."""
    result = np.full(mask.shape, np.inf, np.float32)
    low = np.floor((mesh.vertices.min(axis=0) - limit_mm) / frame.spacing).astype(int)
    high = np.ceil((mesh.vertices.max(axis=0) + limit_mm) / frame.spacing).astype(int) + 1
    start = np.maximum(low, 0)
    place = tuple(slice(a, max(a, b)) for a, b in zip(start, high, strict=True))
    voxels = np.argwhere(mask[place]) + start
    distances = cKDTree(mesh.vertices).query(voxels * frame.spacing, distance_upper_bound=limit_mm)[
        0
    ]
    result[tuple(voxels.T)] = distances
    return result


def resect(
    mesh: Mesh, parenchyma: Mask, frame: Frame, margins: tuple[float, ...] = MARGINS_MM
) -> tuple[Resection, ...]:
    """Cut a tumor out with several margins.

    Args:
        mesh: The tumor's surface.
        parenchyma: (z, y, x), not empty; no tumor.
        frame: Where the array lies in the patient.
        margins: mm, 0 or more.
    """
    distance = distance_to(mesh, parenchyma, frame, max(margins) + SUTURE_MM)
    before = float(np.count_nonzero(parenchyma)) * frame.voxel_ml
    found = []
    for margin in margins:
        # the specimen alone: a margin of 0 follows the tumor, and a voxel beside it stays
        removed = np.count_nonzero(distance <= margin) * frame.voxel_ml if margin > 0 else 0.0
        sutured = np.count_nonzero(distance <= margin + SUTURE_MM) * frame.voxel_ml
        found.append(
            Resection(
                margin_mm=margin,
                removed=measured(removed, ML),
                remaining=measured(before - removed, ML),
                remaining_share=measured(1 - removed / before, SHARE),
                remaining_after_suture=measured(1 - sutured / before, SHARE),
            )
        )
    return tuple(found)
