"""Where a kidney opens: the direction of its hilum, and the polar lines.

A polar line is the axial plane at which the lip of parenchyma around the sinus is first interrupted,
from above and from below. In an axial slice of the kidney's mask (with its lesions) an interrupted lip
is a bay: a part of the slice's convex hull that the mask leaves open, deeper than `BAY_MM`. Bays that
hang together are one; the largest is the hilum. A mask that fills its sinus has none.

Sources:
    Kutikov and Uzzo 2009, "The R.E.N.A.L. nephrometry score", J Urol 182: polar lines.
    neheller/seg-to-nephrometry (MIT): first and last slice in which the hilum opens; read, not copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import convex_hull_image

from renalplan.evaluation.surgery.frame import Frame
from renalplan.evaluation.surgery.mesh import BLUR
from renalplan.geometry import box_slices, grow_box, mask_box
from renalplan.pieces import number_pieces

STEP_MM = 1.0  # of the upright copy that is looked at slice by slice
BAY_MM = 4.0
LEAST_BAY_ML = 0.5
NEEDS_HILUM = "a kidney mask that leaves the renal sinus open"


@dataclass(frozen=True, eq=False)
class Hilum:
    """Where a kidney opens.

    Attributes:
        direction: (3,) LPS unit vector from the kidney's middle to its hilum.
        low: LPS z in mm of the lower polar line.
        high: LPS z in mm of the upper one.
    """

    direction: NDArray[np.float64]
    low: float
    high: float

    @property
    def middle(self) -> float:
        """LPS z in mm halfway between the polar lines: the axial midline of the kidney."""
        return (self.low + self.high) / 2


def find_hilum(organ: NDArray[np.bool_], frame: Frame) -> Hilum | None:
    """Find the hilum of one kidney; None if its mask has no bay.

    Args:
        organ: (z, y, x) parenchyma and lesions.
        frame: Where the array lies in the patient.
    """
    box = mask_box(organ)
    if box is None:
        return None
    box = grow_box(box, (3, 3, 3), organ.shape)
    upright, start = upright_copy(organ[box_slices(box)], frame.cut(box))
    depth = np.zeros(upright.shape, np.float32)
    for number, plane in enumerate(upright):
        if np.count_nonzero(plane) >= 10:
            depth[number] = _bays(plane)
    parts = number_pieces(depth > BAY_MM / 2, 6)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if len(sizes) < 2 or sizes.max() * STEP_MM**3 / 1000 < LEAST_BAY_ML:
        return None
    bay = parts == int(sizes.argmax())
    middle = np.argwhere(upright).mean(axis=0)
    towards = (np.argwhere(bay).mean(axis=0) - middle)[::-1]
    deepest = ndimage.gaussian_filter1d(np.where(bay, depth, 0).max(axis=(1, 2)), 1.0)
    open_ = np.flatnonzero(deepest > BAY_MM)
    if len(open_) == 0:
        return None
    first, last = int(open_[0]), int(open_[-1])
    return Hilum(
        direction=towards / np.linalg.norm(towards),
        low=float(start[2] + (first - _rest(deepest, first, first - 1)) * STEP_MM),
        high=float(start[2] + (last + _rest(deepest, last, last + 1)) * STEP_MM),
    )


def _rest(deepest: NDArray, inside: int, outside: int) -> float:
    """How far from the last open plane towards the next the bay is as deep as it must be."""
    if not 0 <= outside < len(deepest):
        return 0.5
    return float((deepest[inside] - BAY_MM) / (deepest[inside] - deepest[outside]))


def upright_copy(
    mask: NDArray[np.bool_], frame: Frame
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """A mask on upright voxels of `STEP_MM`: array (z, y, x), and the first voxel's LPS mm.

    Partial voxels count from one half, so nothing is lost on the whole.
    """
    corners = np.array(np.meshgrid(*[(-1, n) for n in mask.shape], indexing="ij")).reshape(3, -1).T
    lps = frame.to_lps(corners * frame.spacing)
    start = lps.min(axis=0)
    shape = np.ceil((lps.max(axis=0) - start) / STEP_MM).astype(int)[::-1] + 1
    # upright voxel (z, y, x) -> LPS -> array mm -> array voxel
    to_voxel = frame.axes.T[:, ::-1] * STEP_MM / np.array(frame.spacing)[:, None]
    offset = frame.to_array(start) / frame.spacing
    # blurred like the meshes, so that tilted voxels leave no stairs
    sigma = [BLUR * (max(frame.spacing) / step) ** 0.5 for step in frame.spacing]
    soft = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="constant")
    copy = ndimage.affine_transform(
        soft, to_voxel, offset, output_shape=tuple(shape), order=1, mode="constant"
    )
    result: NDArray[np.bool_] = copy >= 0.5
    return result, start


def _bays(plane: NDArray[np.bool_]) -> NDArray[np.float32]:
    """mm below its convex hull of what the hull adds to a slice and is open to the outside; else 0."""
    hull = convex_hull_image(plane)
    gaps = hull & ~ndimage.binary_fill_holes(plane)
    depth = edt.edt(np.pad(hull, 1), parallel=1)[1:-1, 1:-1] - 0.5
    result: NDArray[np.float32] = np.where(gaps, depth * STEP_MM, 0).astype(np.float32)
    return result
