"""How far two masks' surfaces lie apart, in mm, with a stated value for every empty mask.

No distance is ever NaN or infinite, because both drop out of a mean or drown it, and a missed tumour
must not improve the average. What an empty mask measures, here and in `centerline`:

    reference   prediction   every distance
    empty       empty        0 mm
    empty       not empty    the diagonal of the scan
    not empty   empty        the diagonal of the scan

The diagonal is that of the whole scan, corner to corner, and so above any distance that two masks
in it can have.

Sources:
    He et al. 2020, "Dense biased networks with deep priori anatomy and hard region adaptation",
    section 3.3: Eq. 4 (mean surface distance) and the Hausdorff distance of Taha and Hanbury 2015.
    Heimann et al. 2009, "Comparison and evaluation of methods for liver segmentation from CT
    datasets", IEEE TMI 28(8):1251: the average symmetric surface distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from renalplan.evaluation.overlap import require_same_shape
from renalplan.geometry import Shape, Spacing, box_slices, mask_box
from renalplan.parallel import compute_threads

# Finding a point's nearest in a tree takes as long as the distance transform of so many voxels (on
# surfaces of kidneys of 35, on surfaces far apart of 100): surfaces go by tree, which is exact as
# well, a mask full of noise does not unless it is small.
VOXELS_PER_POINT = 50
FEW_POINTS = 100_000  # a tenth of a second by tree, wherever they are
ROUNDING = 1e-6  # relative; what the transform's single precision may be off by
NOTHING_MM = 1e-9  # as good as no distance


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """Distances between the surface voxels G of the reference and P of the prediction, in mm.

    f(G, P) stands for the distances from every voxel of G to the nearest voxel of P.

    Attributes:
        hausdorff_mm: Hausdorff distance: max of f(G, P) and f(P, G).
        hd95_mm: The larger of the two directed 95th percentiles of f(G, P) and f(P, G), each
            interpolated linearly between voxels (not the percentile of both pooled).
        average_hausdorff_mm: Mean surface distance, He et al. 2020, Eq. 4: the larger of the two
            directed means of f(G, P) and f(P, G) (other tools average the two).
        assd_mm: Average symmetric surface distance: the mean of f(G, P) and f(P, G) together, so
            that every surface voxel has the same weight (Heimann et al. 2009).
    """

    hausdorff_mm: float
    hd95_mm: float
    average_hausdorff_mm: float
    assd_mm: float


def surface_distances(
    reference: NDArray, prediction: NDArray, spacing: Spacing, scan: Shape | None = None
) -> SurfaceDistances:
    """Compare the surfaces of two masks of one structure.

    Args:
        reference: (z, y, x) bool, or numbers where nonzero means inside.
        prediction: The same shape.
        spacing: Voxel size in mm, one value for each axis.
        scan: Shape (z, y, x) of the whole scan if the masks are cut out of it; its diagonal is
            the distance to an empty mask. None: the masks are the whole scan.

    Returns:
        All distances, between voxel centres, to 1e-6 of their value (exact but where large masks
        are noise, see `VOXELS_PER_POINT`); empty masks as in the table at the top of this file.

    Raises:
        DatasetError: the masks differ in shape.
    """
    require_same_shape(reference, prediction)
    stated = empty_mask_mm(reference, prediction, spacing, scan)
    if stated is not None:
        return SurfaceDistances(
            hausdorff_mm=stated, hd95_mm=stated, average_hausdorff_mm=stated, assd_mm=stated
        )
    truth, found = cut_to_both(reference, prediction)
    there, back = directed_distances(surface_voxels(truth), surface_voxels(found), spacing)
    return SurfaceDistances(
        hausdorff_mm=float(max(there.max(), back.max())),
        hd95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        average_hausdorff_mm=float(max(there.mean(), back.mean())),
        assd_mm=float((there.sum() + back.sum()) / (there.size + back.size)),
    )


def surface_voxels(mask: NDArray) -> NDArray:
    """The voxels of a (z, y, x) bool mask with a 6-neighbour outside; beyond the array is outside."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis, size in enumerate(mask.shape):
        for start in (0, 2):
            neighbour = [slice(1, -1)] * 3
            neighbour[axis] = slice(start, start + size)
            inner &= padded[tuple(neighbour)]
    return mask & ~inner


def directed_distances(
    first: NDArray, second: NDArray, spacing: Spacing
) -> tuple[NDArray, NDArray]:
    """From each voxel of one set to the nearest of the other, both ways.

    Args:
        first: (z, y, x) bool, not empty.
        second: The same shape, not empty.
        spacing: mm along the axes.

    Returns:
        float64 mm: one for each voxel of `first` (to `second`), and one for each of `second`.
    """
    if _few(first, second):
        one, two = _tree(first, spacing), _tree(second, spacing)
        return _nearest(one, two), _nearest(two, one)
    return _by_transform(first, second, spacing), _by_transform(second, first, spacing)


def within_distance(
    first: NDArray, second: NDArray, spacing: Spacing, limit_mm: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which voxels of one set have one of the other within a distance, both ways.

    Args:
        first: (z, y, x) bool, not empty.
        second: The same shape, not empty.
        spacing: mm along the axes.
        limit_mm: The distance, which itself still counts, and what rounds to it.

    Returns:
        One bool for each voxel of `first`, and one for each of `second`.
    """
    limit = limit_mm * (1 + ROUNDING) + NOTHING_MM
    if _few(first, second):
        one, two = _tree(first, spacing), _tree(second, spacing)
        # the tree finds what is nearer than its bound, of which it keeps the square
        there, back = _nearest(one, two, 2 * limit), _nearest(two, one, 2 * limit)
    else:
        there, back = directed_distances(first, second, spacing)
    return there <= limit, back <= limit


def _few(first: NDArray, second: NDArray) -> bool:
    points = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return points < max(FEW_POINTS, first.size / VOXELS_PER_POINT)


def _tree(voxels: NDArray, spacing: Spacing) -> cKDTree:
    return cKDTree(np.argwhere(voxels) * spacing, balanced_tree=False)


def _nearest(start: cKDTree, target: cKDTree, bound: float = np.inf) -> NDArray:
    """Distance of each point to the nearest of the other tree; infinite from the bound on."""
    found: NDArray = target.query(
        start.data, distance_upper_bound=bound, workers=compute_threads()
    )[0]
    return found


def _by_transform(start: NDArray, target: NDArray, spacing: Spacing) -> NDArray:
    distances = edt.edt(~target, anisotropy=spacing, parallel=compute_threads())
    return distances[start].astype(np.float64)


def cut_to_both(reference: NDArray, prediction: NDArray) -> tuple[NDArray, NDArray]:
    """Two masks that are not empty as bool arrays, cut to the smallest box that holds both."""
    truth, found = reference.astype(bool, copy=False), prediction.astype(bool, copy=False)
    box = mask_box(truth | found)
    return (truth, found) if box is None else (truth[box_slices(box)], found[box_slices(box)])


def empty_mask_mm(
    reference: NDArray, prediction: NDArray, spacing: Spacing, scan: Shape | None
) -> float | None:
    """The stated distance in mm if one or both masks are empty, None if none is."""
    in_truth, in_found = bool(reference.any()), bool(prediction.any())
    if in_truth and in_found:
        return None
    if not in_truth and not in_found:
        return 0.0
    return diagonal_mm(reference.shape if scan is None else scan, spacing)


def diagonal_mm(shape: tuple[int, ...], spacing: Spacing) -> float:
    """Length of a scan's diagonal in mm, from outer corner to outer corner.

    Args:
        shape: Voxels (z, y, x).
        spacing: mm along the same axes.
    """
    return float(np.linalg.norm(np.multiply(shape, spacing)))
