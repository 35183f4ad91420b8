"""How far two tubes' centerlines lie apart, in mm, and how much of each lies within the other.

Both are about a vessel's course, whatever its width. Only sensible for tubular structures, which are
told by their names (`is_tubular`). Empty masks measure what `surface` states.

Sources:
    He et al. 2020, "Dense biased networks with deep priori anatomy and hard region adaptation",
    section 3.3: mean centerline distance, Eq. 4 on centerlines thinned after Boskamp et al. 2005.
    Lee et al. 1994, "Building skeleton models via 3-D medial surface/axis thinning algorithms": the
    thinning that is used here in its place, as scikit-image has it.
    Shit et al. 2021, "clDice - a novel topology-preserving loss function for tubular structure
    segmentation", CVPR 2021: clDice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from skimage.morphology import skeletonize

from renalplan.evaluation.overlap import require_same_shape
from renalplan.evaluation.surface import cut_to_both, directed_distances, empty_mask_mm
from renalplan.geometry import Shape, Spacing
from renalplan.pieces import number_pieces

# a structure is tubular if its name holds one of them: "Renal_Artery", "left veins", "ureters"
TUBULAR = ("artery", "arteries", "vein", "vessel", "ureter")


def is_tubular(structure: str) -> bool:
    """Whether a structure has a centerline, by its name; case does not matter."""
    name = structure.lower()
    return any(part in name for part in TUBULAR)


@dataclass(frozen=True, kw_only=True)
class Centerlines:
    """How well two tubes follow each other.

    Attributes:
        distance_mm: Mean centerline distance, He et al. 2020, Eq. 4: the larger of the two
            directed means of the distances from each centerline voxel of one mask to the nearest
            of the other.
        cldice: Shit et al. 2021: harmonic mean of the share of the prediction's centerline within
            the reference and of the reference's centerline within the prediction, from 0 to 1.
    """

    distance_mm: float
    cldice: float


def compare_centerlines(
    reference: NDArray, prediction: NDArray, spacing: Spacing, scan: Shape | None = None
) -> Centerlines:
    """Compare two masks of a tubular structure.

    He et al. thin after Boskamp et al. 2005, we after Lee et al. 1994: both keep topology and leave
    a line one voxel wide, not the same voxels.

    Args:
        reference: (z, y, x) bool, or numbers where nonzero means inside.
        prediction: The same shape.
        spacing: Voxel size in mm, one value for each axis.
        scan: Shape (z, y, x) of the whole scan if the masks are cut out of it; its diagonal is
            the distance to an empty mask. None: the masks are the whole scan.

    Returns:
        Distance between voxel centres; empty masks as in the tables of `surface` and `overlap`.

    Raises:
        DatasetError: the masks differ in shape.
    """
    require_same_shape(reference, prediction)
    stated = empty_mask_mm(reference, prediction, spacing, scan)
    if stated is not None:
        return Centerlines(distance_mm=stated, cldice=float(stated == 0))
    truth, found = cut_to_both(reference, prediction)
    true_line, found_line = centerline_voxels(truth), centerline_voxels(found)
    there, back = directed_distances(true_line, found_line, spacing)
    followed, right = float(found[true_line].mean()), float(truth[found_line].mean())
    both = followed + right
    return Centerlines(
        distance_mm=float(max(there.mean(), back.mean())),
        cldice=2 * followed * right / both if both else 0.0,
    )


def centerline_voxels(mask: NDArray) -> NDArray:
    """The centerline of a (z, y, x) bool mask, of the same shape; empty only if the mask is.

    A connected part (26 neighbours) whose line vanishes stays whole: scikit-image's thinning eats
    blocks and straight tubes of even width, e.g. of 2 x 2 voxels, and a part without a line would
    be a false positive that costs nothing.
    """
    centerline = np.zeros_like(mask)
    parts = number_pieces(mask)
    # part by part: thinning never looks beyond one, and stray voxels far apart span a large box
    for number, place in enumerate(find_objects(parts), start=1):
        # one voxel around it: without, a mask one slice thick is thinned in another way
        part = np.pad(parts[place] == number, 1)
        line = skeletonize(part)
        centerline[place] |= (line if line.any() else part)[1:-1, 1:-1, 1:-1]
    return centerline
