"""Where a tumor sits on its kidney: how much bulges out, how deep it goes, what it touches.

Sources:
    Leslie et al. 2014 and Hsieh et al. 2016: contact surface area; Hsieh's is the cap 2 pi r d of a
    ball of the tumor's size that reaches d deep into the kidney. Bulanti et al. 2024
    (arXiv 2402.16857): from meshes, as here.
    Simmons et al. 2010, "Kidney tumor location measurement using the C index method", J Urol 183.
    neheller/seg-to-nephrometry (MIT): neither anterior nor posterior within 10 mm of the middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from renalplan.evaluation.surgery.frame import BACK, UP, Frame, Point
from renalplan.evaluation.surgery.hilum import NEEDS_HILUM, Hilum
from renalplan.evaluation.surgery.mesh import Mesh, face_points, make_mesh
from renalplan.evaluation.surgery.numbers import MM, MM2, RATIO, SHARE, Number, measured, needs
from renalplan.evaluation.surgery.outline import Outline
from renalplan.evaluation.surgery.shape import Shape
from renalplan.evaluation.surgery.sides import KidneyMasks, Mask
from renalplan.files import Record

AROUND = 3  # voxels around a tumor that its contact is looked for in
MIDDLE_MM = 10.0  # less than this in front of the kidney's middle, or behind it, is neither


class Position(Record):
    """Where one tumor sits; distances between surfaces are 0 where they touch.

    Attributes:
        centre_mm: Centroid, LPS.
        exophytic: Share of its volume outside the kidney's outline.
        depth: How far it reaches below that outline.
        contact: Area of its surface that lies on parenchyma.
        contact_share: Share of its surface.
        contact_hsieh: The cap 2 pi r d, r that of a ball of its volume; for comparison with the literature.
        c_index: Distance of the two centres over the tumor's radius; below 1 it covers the middle.
        front: How far its centroid lies in front of the kidney's middle; negative behind.
        hilar: How far it lies to the hilum's side of the kidney's middle, at right angles to the long
            axis of the body; negative away from it.
        above: Share of its volume above the upper polar line.
        below: Share of its volume below the lower polar line.
        over_middle: Distance that it reaches beyond the middle between the polar lines, seen from the
            side where most of it lies; negative if it does not get there.
        to_sinus: Distance to the renal sinus.
        to_collecting: Distance to the collecting system.
        to_artery: Distance to the nearest renal artery.
        to_vein: Distance to the nearest renal vein.
        to_main_vessel: Distance to the nearest artery or vein outside the kidney's outline.
    """

    centre_mm: Point
    exophytic: Number
    depth: Number
    contact: Number
    contact_share: Number
    contact_hsieh: Number
    c_index: Number
    front: Number
    hilar: Number
    above: Number
    below: Number
    over_middle: Number
    to_sinus: Number
    to_collecting: Number
    to_artery: Number
    to_vein: Number
    to_main_vessel: Number


def measure_position(
    tumor: Mask, mesh: Mesh, shape: Shape, masks: KidneyMasks, outline: Outline, hilum: Hilum | None
) -> Position:
    """Measure where a tumor sits.

    Args:
        tumor: (z, y, x), not empty, of the masks' shape.
        mesh: Its surface.
        shape: Its size.
        masks: The kidney and what belongs to it.
        outline: The kidney's.
        hilum: The kidney's; None if its mask shows none.
    """
    frame = masks.frame
    voxels = np.argwhere(tumor) * frame.spacing
    centre = voxels.mean(axis=0)
    depths = outline.depth(voxels)
    depth = max(0.0, float(outline.depth(mesh.vertices).max()), float(depths.max()))
    radius = (shape.diameter.value or 0.0) / 2
    ball = float(np.cbrt(3000 * (shape.volume.value or 0.0) / (4 * np.pi)))
    contact = contact_area(mesh, tumor, masks.parenchyma, frame)
    offset = frame.to_lps(centre) - frame.to_lps(outline.centre)
    return Position(
        centre_mm=frame.point(centre),
        exophytic=measured((depths < 0).mean(), SHARE),
        depth=measured(depth, MM),
        contact=measured(contact, MM2),
        contact_share=measured(contact / mesh.area_mm2, SHARE),
        contact_hsieh=measured(2 * np.pi * ball * min(depth, 2 * ball), MM2),
        c_index=measured(float(np.linalg.norm(offset)) / radius, RATIO),
        front=measured(float(-offset @ BACK), MM),
        **_along(voxels, mesh, frame, offset, hilum),
        to_sinus=_gap_to_body(mesh, masks.sinus, frame, "a label for the renal sinus"),
        to_collecting=_gap_to_body(
            mesh, masks.collecting, frame, "a label for the collecting system"
        ),
        to_artery=_gap_to_vessels(mesh, [masks.artery], frame, "a label for the renal artery"),
        to_vein=_gap_to_vessels(mesh, [masks.vein], frame, "a label for the renal vein"),
        to_main_vessel=_gap_to_vessels(
            mesh, [masks.artery, masks.vein], frame, "labels for renal artery and vein", outline
        ),
    )


def contact_area(mesh: Mesh, tumor: Mask, parenchyma: Mask, frame: Frame) -> float:
    """Area in mm2 of a tumor's surface that lies on parenchyma.

    A triangle does if, half a voxel (then a whole one) further out, parenchyma fills more of the
    voxels around than everything that is neither parenchyma nor tumor.
    """
    one_voxel = np.linalg.norm(mesh.normals * frame.spacing, axis=1)[:, None]
    undecided = np.ones(len(mesh.centres), bool)
    touching = np.zeros(len(mesh.centres), bool)
    # of many small tumors each would cost as much as the whole kidney
    first = np.floor(mesh.vertices.min(axis=0) / frame.spacing).astype(int) - AROUND
    last = np.ceil(mesh.vertices.max(axis=0) / frame.spacing).astype(int) + AROUND + 1
    first, last = np.maximum(first, 0), np.minimum(last, tumor.shape)
    near = tuple(slice(low, high) for low, high in zip(first, last, strict=True))
    other = ~(tumor[near] | parenchyma[near])
    for step in (0.5, 1.0):
        places = (mesh.centres + step * one_voxel * mesh.normals) / frame.spacing - first
        points = places[undecided].T
        inside, outside = (
            ndimage.map_coordinates(
                mask.astype(np.float32), points, order=1, mode="constant", cval=beyond
            )
            for mask, beyond in ((parenchyma[near], 0.0), (other, 1.0))
        )
        touching[undecided] = inside > outside
        undecided[undecided] = inside + outside < 0.05
    return float(mesh.areas[touching].sum())


def gap_mm(mesh: Mesh, points: NDArray) -> float:
    """The least distance between a surface and points (N, 3), N > 0, in mm."""
    return float(cKDTree(mesh.vertices).query(points)[0].min())


def _along(
    voxels: NDArray, mesh: Mesh, frame: Frame, offset: NDArray, hilum: Hilum | None
) -> dict[str, Number]:
    """What is measured along the hilum and the polar lines."""
    if hilum is None:
        units = {"hilar": MM, "above": SHARE, "below": SHARE, "over_middle": MM}
        return {name: needs(NEEDS_HILUM, unit) for name, unit in units.items()}
    level = hilum.direction - (hilum.direction @ UP) * UP
    level /= max(float(np.linalg.norm(level)), 1e-9)
    height = frame.to_lps(voxels) @ UP
    ends = frame.to_lps(mesh.vertices) @ UP
    thick = float(np.abs(UP @ frame.axes * frame.spacing).sum())  # a voxel's, from foot to head
    over = hilum.middle - ends.min() if height.mean() > hilum.middle else ends.max() - hilum.middle
    return {
        "hilar": measured(float(offset @ level), MM),
        "above": measured(_beyond(height - hilum.high, thick), SHARE),
        "below": measured(_beyond(hilum.low - height, thick), SHARE),
        "over_middle": measured(over, MM),
    }


def _beyond(height: NDArray, thick_mm: float) -> float:
    """Share of voxels above 0, those that the plane cuts by their part: a slice is many of them."""
    return float(np.clip(height / thick_mm + 0.5, 0, 1).mean())


def _gap_to_body(mesh: Mesh, mask: Mask | None, frame: Frame, what: str) -> Number:
    if mask is None:
        return needs(what, MM)
    if not mask.any():
        return needs(f"{what} that is not empty on this side", MM)
    return measured(gap_mm(mesh, make_mesh(mask, frame.spacing).vertices), MM)


def _gap_to_vessels(
    mesh: Mesh, found: list[Mask | None], frame: Frame, what: str, outline: Outline | None = None
) -> Number:
    if any(mask is None for mask in found):
        return needs(what, MM)
    points = np.concatenate([face_points(m, frame.spacing) for m in found if m is not None])
    if outline is not None:
        points = points[outline.depth(points) < 0]
        what += " outside the kidney's outline"
    if len(points) == 0:
        return needs(f"{what} that is not empty on this side", MM)
    return measured(gap_mm(mesh, points), MM)
