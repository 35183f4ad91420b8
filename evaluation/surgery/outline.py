"""A kidney's outline as it was without the tumor: the convex hull of the intact kidney.

The hull of the parenchyma bridges the hilum. Where a lesion has taken the place of the surface, the
hull would run straight across, so there the kidney's former reach is estimated (`capsule`). The
outline says what of a tumor bulges out of the kidney, and how deep the rest reaches, whatever way the
scan is turned; seg-to-nephrometry takes the hulls of the axial slices instead. A lip of parenchyma
that climbs up a tumor moves the outline outwards.

Sources:
    neheller/seg-to-nephrometry (MIT): exophytic share by convex hulls, read, not copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, cKDTree

from renalplan.evaluation.surgery.capsule import estimate_reach
from renalplan.evaluation.surgery.mesh import Mesh, make_mesh
from renalplan.evaluation.surgery.sides import Mask
from renalplan.geometry import Spacing
from renalplan.phantom.shapes import sphere_points

# in which the outermost points make the hull; with 600 the depth of a tumor depends on where they
# happen to lie, by up to 15 % on a real kidney
DIRECTIONS = 3000
WITNESSES = 600  # directions that the former surface is estimated from
RAYS = 2000  # that measure a body's volume and centre
# what is nearer to a lesion may be its own work; meshes are rounded off at such rims
NEAR_MM, NEAR_VOXELS = 2.5, 1.7
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


def make_outline(
    parenchyma: Mesh, lesions: Mask | None, spacing: Spacing, further: float = 0.0
) -> Outline:
    """The outline of a kidney.

    Args:
        parenchyma: Its surface.
        lesions: (z, y, x) tumors and cysts, whose meshes' coordinates are the parenchyma's; None or
            empty if there are none.
        spacing: mm of the mask's voxels.
        further: Standard deviations by which the surface lay further out than is likely, where a
            lesion has taken its place.
    """
    directions = sphere_points(DIRECTIONS)
    outermost = (parenchyma.vertices @ directions.T).argmax(axis=0)
    corners = parenchyma.vertices[np.unique(outermost)]
    hull = ConvexHull(corners)
    facets = hull.equations
    if lesions is not None and lesions.any():
        surface = make_mesh(lesions, spacing).vertices
        far = max(NEAR_MM, NEAR_VOXELS * float(np.mean(spacing)))
        taken = _taken(hull, corners, surface, lesions, spacing, far)
        search = cKDTree(surface)
        lost = search.query(parenchyma.vertices[outermost])[0] < far
        wanted = np.concatenate([facets[taken, :3], directions[lost]])
        if len(wanted):
            known = sphere_points(WITNESSES)
            seen = corners[(corners @ known.T).argmax(axis=0)]
            sure = search.query(seen)[0] >= far
            reach = (seen[sure] * known[sure]).sum(axis=1)
            former = estimate_reach(known[sure], reach, wanted, parenchyma.vertices)
            if former is not None:
                least = (corners @ wanted.T).max(axis=0)
                most = np.maximum(least, (surface @ wanted.T).max(axis=0))
                likely = np.clip(former.likely + further * former.spread, least, most)
                facets = np.concatenate([facets[~taken], np.column_stack([wanted, -likely])])
    return _body(facets, corners.mean(axis=0))


def _taken(
    hull: ConvexHull,
    corners: NDArray,
    surface: NDArray,
    lesions: Mask,
    spacing: Spacing,
    far: float,
) -> NDArray[np.bool_]:
    """(F,) which facets of the hull run across a lesion."""
    triangles = corners[hull.simplices]
    middles = np.stack(
        [triangles.mean(axis=1), *((triangles + triangles[:, [1, 2, 0]]) / 2).transpose(1, 0, 2)],
        axis=1,
    )
    places = np.rint(middles / spacing).astype(int).reshape(-1, 3)
    places = np.clip(places, 0, np.array(lesions.shape) - 1)
    within = lesions[tuple(places.T)].reshape(-1, 4).any(axis=1)
    at_rim = cKDTree(surface).query(corners)[0] < far
    result: NDArray[np.bool_] = within | at_rim[hull.simplices].any(axis=1)
    return result


def _body(facets: NDArray, inside: NDArray) -> Outline:
    """The body within some planes, of which `inside` (3,) is a point.

    Measured along rays from there: where many planes nearly meet, no list of corners can be trusted.
    """
    facets = np.unique(facets.round(9), axis=0)
    rays = sphere_points(RAYS)
    heights = -(facets[:, :3] @ inside + facets[:, 3])  # of the planes above the point
    steepness = facets[:, :3] @ rays.T
    with np.errstate(divide="ignore"):
        reach = np.where(steepness > 0, heights[:, None] / steepness, np.inf).min(axis=0)
    volume = 4 / 3 * np.pi * (reach**3).mean()
    away = 3 / 4 * (reach**4 @ rays) / (reach**3).sum()
    return Outline(facets, inside + away, float(volume) / 1000)
