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
"""

from __future__ import annotations

from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from renalplan.evaluation.overlap import require_same_shape
from renalplan.geometry import Shape, Spacing, box_slices, mask_box

# Finding a point's nearest in a tree takes as long as the distance transform of so many voxels: few
# points far apart (a stray voxel at the scan's other end) go by tree, a mask full of noise does not.
VOXELS_PER_POINT = 200


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
    """

    hausdorff_mm: float
    hd95_mm: float
    average_hausdorff_mm: float


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
        All distances, between voxel centres, to a few 1e-6 of their value (the transform's single
        precision); empty masks as in the table at the top of this file.

    Raises:
        DatasetError: the masks differ in shape.
    """
    require_same_shape(reference, prediction)
    stated = empty_mask_mm(reference, prediction, spacing, scan)
    if stated is not None:
        return SurfaceDistances(hausdorff_mm=stated, hd95_mm=stated, average_hausdorff_mm=stated)
    truth, found = cut_to_both(reference, prediction)
    there, back = directed_distances(surface_voxels(truth), surface_voxels(found), spacing)
    return SurfaceDistances(
        hausdorff_mm=float(max(there.max(), back.max())),
        hd95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        average_hausdorff_mm=float(max(there.mean(), back.mean())),
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
    points = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    nearest = _by_tree if points * VOXELS_PER_POINT < first.size else _by_transform
    return nearest(first, second, spacing), nearest(second, first, spacing)


def _by_tree(start: NDArray, target: NDArray, spacing: Spacing) -> NDArray:
    tree = cKDTree(np.argwhere(target) * spacing)
    return tree.query(np.argwhere(start) * spacing)[0]


def _by_transform(start: NDArray, target: NDArray, spacing: Spacing) -> NDArray:
    return edt.edt(~target, anisotropy=spacing, parallel=1)[start].astype(np.float64)


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
