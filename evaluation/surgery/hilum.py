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

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import convex_hull_image

from renalplan.evaluation.surgery.frame import Frame

STEP_MM = 1.5  # of the upright copy that is looked at slice by slice
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
    upright, start = upright_copy(organ, frame)
    bays = np.zeros_like(upright)
    for number, plane in enumerate(upright):
        if np.count_nonzero(plane) >= 10:
            bays[number] = _bays(plane)
    parts = cc3d.connected_components(bays, connectivity=6)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if len(sizes) < 2 or sizes.max() * STEP_MM**3 / 1000 < LEAST_BAY_ML:
        return None
    bay = parts == int(sizes.argmax())
    middle = np.argwhere(upright).mean(axis=0)
    towards = (np.argwhere(bay).mean(axis=0) - middle)[::-1]
    heights = np.flatnonzero(bay.any(axis=(1, 2)))
    return Hilum(
        direction=towards / np.linalg.norm(towards),
        low=float(start[2] + (heights[0] - 0.5) * STEP_MM),
        high=float(start[2] + (heights[-1] + 0.5) * STEP_MM),
    )


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
    sigma = [max(0.0, (STEP_MM / step) ** 2 - 1) ** 0.5 / 2 for step in frame.spacing]
    soft = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="constant")
    copy = ndimage.affine_transform(
        soft, to_voxel, offset, output_shape=tuple(shape), order=1, mode="constant"
    )
    result: NDArray[np.bool_] = copy >= 0.5
    return result, start


def _bays(plane: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What the convex hull of a slice adds to it and is connected to the outside, if it is deep."""
    hull = convex_hull_image(plane)
    closed = ndimage.binary_fill_holes(plane)
    gaps = hull & ~closed
    depth = ndimage.distance_transform_edt(np.pad(hull, 1))[1:-1, 1:-1] * STEP_MM
    parts = cc3d.connected_components(gaps, connectivity=4)
    deepest = ndimage.maximum(depth, parts, np.arange(int(parts.max()) + 1))
    keep = np.atleast_1d(deepest) > BAY_MM
    keep[0] = False
    result: NDArray[np.bool_] = keep[parts]
    return result
