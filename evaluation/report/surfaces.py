"""The mask of a structure -> its smooth surface in the patient, of the mask's own volume.

As for the surgical numbers (`surgery.mesh`), the surface is laid through the blurred mask. What is only a
voxel or two wide would be lost there, so it stays as it is and is smoothed as a mesh. At the end the
surface moves in or out by a hair's breadth all over until it holds the volume of the voxels: neither
smoothing nor decimation shrinks anything.

Sources:
    Taubin 1995, "A signal processing approach to fair surface design": smoothing without shrinking, as
    trimesh has it.
    Garland and Heckbert 1997, "Surface simplification using quadric error metrics": fewer triangles,
    as fast-simplification has it.
"""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes
from trimesh.smoothing import filter_taubin

from renalplan.evaluation.surgery.frame import Frame
from renalplan.evaluation.surgery.mesh import blur
from renalplan.geometry import Spacing, box_slices, mask_box
from renalplan.pieces import number_pieces

MOST_TRIANGLES = 100_000  # of one structure in a file
SPECK_VOXELS = 8  # pieces below have no shape to show
PAD = 5  # voxels around a piece, so that blurring meets no border
TAUBIN_STEPS, TAUBIN_SHRINK, TAUBIN_GROW = 10, 0.5, 0.53
RESTORING_STEPS = 8
CLOSE_ENOUGH = 1e-4  # of the volume

AROUND = np.ones((3, 3, 3), bool)


def make_surface(
    mask: NDArray[np.bool_], frame: Frame, most: int = MOST_TRIANGLES
) -> trimesh.Trimesh | None:
    """The surface of a structure.

    Args:
        mask: Canonical (z, y, x).
        frame: Where the array lies in the patient.
        most: Triangles; about so many if there would be more.

    Returns:
        A closed mesh in LPS mm whose triangles face outwards; None if there is no piece of at least
        `SPECK_VOXELS` voxels.
    """
    box = mask_box(mask)
    if box is None:
        return None
    part = _without_specks(np.pad(mask[box_slices(box)], PAD))
    if not part.any():
        return None
    place = frame.cut(tuple((low - PAD, high + PAD) for low, high in box))  # type: ignore[arg-type]
    mesh = _smooth(part, frame.spacing)
    if len(mesh.faces) > most:
        mesh = mesh.simplify_quadric_decimation(face_count=most)
    mesh = _with_volume(mesh, np.count_nonzero(part) * float(np.prod(frame.spacing)))
    # (z, y, x) to (x, y, z) is a reflection: then triangles turn round
    turn = -1 if np.linalg.det(place.axes) < 0 else 1
    return trimesh.Trimesh(place.to_lps(mesh.vertices), mesh.faces[:, ::turn], process=False)


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces = number_pieces(mask)
    large = np.bincount(pieces.ravel()) >= SPECK_VOXELS
    large[0] = False
    result: NDArray[np.bool_] = large[pieces]
    return result


def _smooth(mask: NDArray[np.bool_], spacing: Spacing) -> trimesh.Trimesh:
    """A mesh in array mm, somewhat shrunk."""
    field, level = blur(mask, spacing)
    lost = mask & ~ndimage.binary_dilation(field > level, AROUND)
    field[mask & ndimage.binary_dilation(lost, AROUND)] = 2 * level
    vertices, triangles, _, _ = marching_cubes(
        field, level, spacing=spacing, gradient_direction="ascent"
    )
    mesh = trimesh.Trimesh(vertices, triangles, process=False)
    return filter_taubin(mesh, lamb=TAUBIN_SHRINK, nu=TAUBIN_GROW, iterations=TAUBIN_STEPS)


def _with_volume(mesh: trimesh.Trimesh, goal_mm3: float) -> trimesh.Trimesh:
    """The mesh grown or shrunk along its normals until it holds a volume."""
    for _ in range(RESTORING_STEPS):
        lacking = goal_mm3 - float(mesh.volume)
        if abs(lacking) < CLOSE_ENOUGH * goal_mm3:
            break
        moved = mesh.vertices + mesh.vertex_normals * (lacking / float(mesh.area))
        mesh = trimesh.Trimesh(moved, mesh.faces, process=False)
    return mesh
