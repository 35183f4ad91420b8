"""A kidney's outline as it would be without the tumor: the convex hull of its parenchyma.

The hull bridges the hilum, and what a tumor has displaced or replaced at the surface. It says what
of a tumor bulges out of the kidney, and how deep the rest reaches, whatever way the scan is turned;
seg-to-nephrometry takes the hulls of the axial slices instead. A lip of parenchyma that climbs up a
tumor moves the hull outwards.

Sources:
    neheller/seg-to-nephrometry (MIT): exophytic share by convex hulls, read, not copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, Delaunay

from renalplan.evaluation.surgery.mesh import Mesh
from renalplan.phantom.shapes import sphere_points

DIRECTIONS = 600  # in which the outermost points make the hull: 0.15 mm less than all of them do
_CHUNK = 4096  # points against all facets at once


@dataclass(frozen=True, eq=False)
class Outline:
    """A convex body.

    Attributes:
        facets: (F, 4) outward unit normals and offsets: inside where normal @ point + offset < 0.
        centre: (3,) centroid of its volume, array mm.
        volume_ml: Its volume.
    """

    facets: NDArray[np.float64]
    centre: NDArray[np.float64]
    volume_ml: float

    def depth(self, points: NDArray) -> NDArray[np.float64]:
        """How far points (N, 3) lie below the outline, mm; negative outside.

        Inside this is the exact distance to the outline, outside at most that.
        """
        result = np.empty(len(points))
        facets = self.facets.astype(np.float32)
        for start in range(0, len(points), _CHUNK):
            distances = points[start : start + _CHUNK].astype(np.float32) @ facets[:, :3].T
            distances += facets[:, 3]
            result[start : start + _CHUNK] = -distances.max(axis=1)
        return result


def make_outline(parenchyma: Mesh) -> Outline:
    """The outline of a kidney from the surface of its parenchyma."""
    outermost = (parenchyma.vertices @ sphere_points(DIRECTIONS).T).argmax(axis=0)
    corners = parenchyma.vertices[np.unique(outermost)]
    hull = ConvexHull(corners)
    simplices = corners[Delaunay(corners).simplices]
    edges = simplices[:, 1:] - simplices[:, :1]
    weights = np.abs(np.linalg.det(edges))
    centre = (simplices.mean(axis=1) * weights[:, None]).sum(axis=0) / weights.sum()
    return Outline(np.unique(hull.equations.round(9), axis=0), centre, float(hull.volume) / 1000)
