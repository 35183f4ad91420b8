"""The surface of a mask as a mesh whose area and volume are those of the body, not of its voxels.

A mesh around voxels has the area of stairs, 8 to 20 % too much whatever the voxel size. So the mask
is blurred by somewhat less than a voxel, and the surface laid where it encloses as many voxels as the
mask has. On spheres and ellipsoids of 24 mm and more, turned at random, the area is then right
to 2 %, also with slices of 3 mm.

Sources:
    Lewiner et al. 2003, "Efficient implementation of marching cubes' cases with topological
    guarantees": the mesh, as scikit-image makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes

from renalplan.geometry import Spacing, box_slices, mask_box

BLUR = 0.85  # of the mean of a voxel's edge and its longest edge (geometric)
_PAD = 5


@dataclass(frozen=True, eq=False)
class Mesh:
    """A closed surface.

    Attributes:
        vertices: (N, 3) array mm.
        triangles: (M, 3) indices of vertices.
    """

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int64]

    @cached_property
    def centres(self) -> NDArray[np.float64]:
        """(M, 3) array mm."""
        result: NDArray[np.float64] = self.vertices[self.triangles].mean(axis=1)
        return result

    @cached_property
    def _crosses(self) -> NDArray[np.float64]:
        first, second, third = (self.vertices[self.triangles[:, i]] for i in range(3))
        return np.cross(second - first, third - first)

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """(M,) mm2."""
        result: NDArray[np.float64] = np.linalg.norm(self._crosses, axis=1) / 2
        return result

    @cached_property
    def normals(self) -> NDArray[np.float64]:
        """(M, 3) unit vectors that point out of the body."""
        result: NDArray[np.float64] = self._crosses / np.maximum(2 * self.areas[:, None], 1e-12)
        return result

    @property
    def area_mm2(self) -> float:
        """Area of the whole surface."""
        return float(self.areas.sum())

    @property
    def volume_ml(self) -> float:
        """Volume by the divergence theorem."""
        return float((self.centres * self._crosses).sum() / 6) / 1000


def make_mesh(mask: NDArray[np.bool_], spacing: Spacing) -> Mesh:
    """The surface of a (z, y, x) mask that is not empty; beyond the array is outside."""
    box = mask_box(mask)
    if box is None:
        raise ValueError("an empty mask has no surface")
    blurred, level = blur(np.pad(mask[box_slices(box)], _PAD), spacing)
    vertices, triangles, _, _ = marching_cubes(
        blurred, level, spacing=spacing, gradient_direction="ascent"
    )
    start = np.array([low - _PAD for low, _ in box]) * spacing
    return Mesh(vertices.astype(np.float64) + start, triangles.astype(np.int64))


def blur(mask: NDArray[np.bool_], spacing: Spacing) -> tuple[NDArray[np.float32], float]:
    """A blurred (z, y, x) mask, and the level above which lie as many voxels as the mask has.

    The mask is neither empty nor full; beyond the array it goes on as at its border.
    """
    longest = max(spacing)
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(
        mask.astype(np.float32), [BLUR * (longest / step) ** 0.5 for step in spacing]
    )
    first = mask.size - int(np.count_nonzero(mask))
    # between the count-th and the next value, so that as many voxels lie inside as the mask has
    ordered = np.partition(blurred.ravel(), [first - 1, first])
    return blurred, float(ordered[first - 1 : first + 1].mean())


def face_points(mask: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float64]:
    """Middles (N, 3) of the voxel faces between a (z, y, x) mask and the rest, array mm.

    For vessels, that are too thin to be blurred; two masks that touch share such points.
    """
    box = mask_box(mask)
    if box is None:
        return np.zeros((0, 3))
    part = np.pad(mask[box_slices(box)], 1)
    start = np.array([low - 1 for low, _ in box], float)
    found = []
    for axis in range(3):
        places = np.argwhere(np.diff(part, axis=axis)).astype(float)
        places[:, axis] += 0.5
        found.append(places)
    result: NDArray[np.float64] = (np.concatenate(found) + start) * spacing
    return result


def largest_distance(points: NDArray) -> float:
    """The largest distance between two of some points (N, 2 or 3): their Feret diameter."""
    if len(points) < 2:
        return 0.0
    try:
        points = points[ConvexHull(points).vertices]
    except QhullError:  # all in one plane or on one line
        points = np.unique(points, axis=0)
    return float(pdist(points).max(initial=0.0))
