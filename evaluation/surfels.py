"""How much of two masks' surfaces lies within a tolerance of each other: surface Dice (NSD).

The surface is cut into surface elements: at every corner where eight voxels meet, inside and outside
among them are a piece of surface, whose area in mm² marching cubes gives for each of the 256
patterns. Each element is at its corner; distances are between corners.

Sources:
    Nikolov et al. 2021, "Clinically applicable segmentation of head and neck anatomy for
    radiotherapy", JMIR 23(7):e26151: the surface Dice. Their program fixes what the paper leaves
    open, elements at corners and areas by marching cubes; we agree with it.
    Lorensen and Cline 1987, "Marching cubes": the triangles, as scikit-image has them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes

from renalplan.evaluation.overlap import require_same_shape
from renalplan.evaluation.surface import cut_to_both, within_distance
from renalplan.geometry import Spacing

CORNERS = tuple((z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1))
FULL = 255  # the pattern of a corner in the midst of the mask


def surface_dice(
    reference: NDArray, prediction: NDArray, spacing: Spacing, tolerance_mm: float
) -> float:
    """Area of both surfaces within the tolerance of the other one, over their whole area.

    Args:
        reference: (z, y, x) bool, or numbers where nonzero means inside; beyond it is outside.
        prediction: The same shape.
        spacing: Voxel size in mm, one value for each axis.
        tolerance_mm: So far off still counts, rounding of a millionth included.

    Returns:
        A share from 0 to 1; 1 if both masks are empty, 0 if one is.

    Raises:
        DatasetError: the masks differ in shape.
    """
    require_same_shape(reference, prediction)
    in_truth, in_found = bool(reference.any()), bool(prediction.any())
    if not (in_truth and in_found):
        return float(in_truth == in_found)
    truth, found = (corner_codes(mask) for mask in cut_to_both(reference, prediction))
    there, back = within_distance(
        (truth > 0) & (truth < FULL), (found > 0) & (found < FULL), spacing, tolerance_mm
    )
    area = element_areas(spacing)
    areas = [area[codes[(codes > 0) & (codes < FULL)]] for codes in (truth, found)]
    near = areas[0][there].sum() + areas[1][back].sum()
    return float(near / (areas[0].sum() + areas[1].sum()))


def corner_codes(mask: NDArray) -> NDArray[np.uint8]:
    """Which of the eight voxels around each corner are inside, as the bits of a number.

    Args:
        mask: (z, y, x) bool; beyond it is outside.

    Returns:
        (z + 1, y + 1, x + 1); bit i stands for the voxel `CORNERS[i]` steps on from the corner's
        lowest one.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    shape = tuple(size + 1 for size in mask.shape)
    codes = np.zeros(shape, np.uint8)
    for bit, corner in enumerate(CORNERS):
        place = tuple(slice(c, c + size) for c, size in zip(corner, shape, strict=True))
        codes |= padded[place] << np.uint8(bit)
    return codes


def element_areas(spacing: Spacing) -> NDArray[np.float64]:
    """Area in mm² of the surface within each of the 256 patterns, for voxels of this size."""
    z, y, x = spacing
    normals, owners = _triangles()
    areas = np.linalg.norm(normals * (y * x, z * x, z * y), axis=1)
    found: NDArray[np.float64] = np.zeros(FULL + 1)
    np.add.at(found, owners, areas)
    return found


@lru_cache(maxsize=1)
def _triangles() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Normals (triangle, 3) as long as the area, in voxels, and the pattern each belongs to.

    A pattern with more than four voxels inside has the surface of its opposite, so that a mask and
    its complement have the same area; marching cubes alone treats the two in different ways.
    """
    normals, owners = [], []
    for code in range(1, FULL):
        inside = [code >> bit & 1 for bit in range(8)]
        if sum(inside) > 4:
            inside = [1 - bit for bit in inside]
        cube = np.array(inside, np.float32).reshape(2, 2, 2)
        points, faces, _, _ = marching_cubes(cube, 0.5, method="lorensen")
        corners = points[faces].astype(float)
        normals.append(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2)
        owners.append(np.full(len(faces), code))
    return np.concatenate(normals), np.concatenate(owners)
