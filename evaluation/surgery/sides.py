"""A whole scan's label map -> one set of masks for each kidney.

Kidneys are told apart as everywhere (`renalplan.kidneys`): the large components, or the halves of a
single one that lies across the midplane of a scan as wide as a body. Whatever does not hang on either goes to the nearer one:
lesions by component, vessels voxel by voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray

from renalplan.evaluation.surgery.anatomy import Anatomy
from renalplan.evaluation.surgery.frame import Frame
from renalplan.geometry import Box, Spacing, box_slices, grow_box, margin_voxels, mask_box
from renalplan.kidneys import NORMAL, THRESHOLD_ML
from renalplan.pieces import number_pieces
from renalplan.regions import find_pieces

VESSEL_REACH_MM = 120.0  # arteries and veins further from a kidney are not its own
MARGIN_MM = 8.0  # around all masks: room to let them grow
LEAST_TUMOR_ML = 0.05
BODY_MM = 220.0

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class KidneyMasks:
    """One kidney and what belongs to it; (z, y, x) arrays of one shape.

    A mask is None if the segmentation has no such label at all, and empty if it has found none.

    Attributes:
        frame: Where the arrays lie in the patient.
        centre: (3,) LPS mm of the kidney.
        parenchyma: Kidney tissue.
        tumors: 0, or the number of a tumor, from 1; None if no label is a tumor.
        cortex: Part of the parenchyma.
        medulla: Part of the parenchyma.
        cyst: Cysts.
        artery: Renal artery.
        vein: Renal vein.
        aorta: Aorta, of both sides.
        sinus: Renal sinus.
        collecting: Collecting system.
    """

    frame: Frame
    centre: NDArray[np.float64]
    parenchyma: Mask
    tumors: NDArray[np.int32] | None
    cortex: Mask | None
    medulla: Mask | None
    cyst: Mask | None
    artery: Mask | None
    vein: Mask | None
    aorta: Mask | None
    sinus: Mask | None
    collecting: Mask | None

    @property
    def organ(self) -> Mask:
        """Parenchyma and lesions."""
        organ = self.parenchyma.copy()
        for lesion in (self.tumors, self.cyst):
            if lesion is not None:
                organ |= lesion > 0
        return organ

    def tumor(self, number: int) -> Mask:
        """The mask of one tumor."""
        if self.tumors is None:
            return np.zeros(self.parenchyma.shape, bool)
        return np.asarray(self.tumors == number)

    @property
    def tumor_count(self) -> int:
        """Number of tumors."""
        return 0 if self.tumors is None else int(self.tumors.max(initial=0))


def find_kidneys(labels: NDArray, anatomy: Anatomy, frame: Frame) -> list[KidneyMasks]:
    """Cut a label map into its kidneys, in order of position from the patient's right to the left.

    Args:
        labels: Canonical (z, y, x) label values.
        anatomy: What the values are.
        frame: Where the array lies in the patient.

    Returns:
        One for each kidney (one or two); empty if there is no parenchyma.
    """
    box = mask_box(labels > 0)
    if box is None:
        return []
    box = grow_box(box, margin_voxels(MARGIN_MM, frame.spacing), labels.shape)
    frame = frame.cut(box)
    # a scan of one kidney alone has its middle in the kidney
    whole_body = labels.shape[2] * frame.spacing[2] >= BODY_MM
    midplane = labels.shape[2] // 2 - box[2][0] if whole_body else None
    labels = labels[box_slices(box)]
    organ = np.isin(labels, (*anatomy.parenchyma, *anatomy.tumor, *anatomy.cyst))
    owner, count = _owners(organ, frame.spacing, midplane)
    if not count or not np.isin(labels, anatomy.parenchyma).any():
        return []
    found = [_cut_out(labels, anatomy, frame, owner, number) for number in range(1, count + 1)]
    kept = [masks for masks in found if masks is not None]
    return sorted(kept, key=lambda masks: float(masks.centre[0]))


def _owners(organ: Mask, spacing: Spacing, midplane: int | None) -> tuple[NDArray[np.uint8], int]:
    """For each organ voxel the number of its kidney, from 1; and how many kidneys there are."""
    pieces = find_pieces(organ, spacing, 0.0)
    parts = number_pieces(organ)
    order = sorted(range(len(pieces)), key=lambda i: -pieces[i].ml)
    large = [i for i in order if pieces[i].ml > THRESHOLD_ML][:NORMAL] or order[:1]
    if not large:
        return np.zeros(organ.shape, np.uint8), 0
    centres = np.array([pieces[i].centre for i in large]) * spacing
    numbers = np.zeros(len(pieces) + 1, np.uint8)
    for i, piece in enumerate(pieces):
        away = np.linalg.norm(centres - np.multiply(piece.centre, spacing), axis=1)
        numbers[i + 1] = large.index(i) + 1 if i in large else int(away.argmin()) + 1
    owner: NDArray[np.uint8] = numbers[parts]
    if len(large) == 1 and midplane is not None and 0 < midplane < organ.shape[2]:
        voxel_ml = float(np.prod(spacing)) / 1000
        halves = (organ[:, :, :midplane].sum() * voxel_ml, organ[:, :, midplane:].sum() * voxel_ml)
        if min(halves) > THRESHOLD_ML:
            owner[:, :, midplane:] *= 2
            return owner, 2
    return owner, len(large)


def _cut_out(
    labels: NDArray, anatomy: Anatomy, frame: Frame, owner: NDArray[np.uint8], number: int
) -> KidneyMasks | None:
    own = owner == number
    inner = mask_box(own & np.isin(labels, anatomy.parenchyma))
    near = mask_box(own)
    if inner is None or near is None:
        return None
    margin = margin_voxels(VESSEL_REACH_MM, frame.spacing)
    area = grow_box(near, margin, labels.shape)
    part, mine = labels[box_slices(area)], own[box_slices(area)]
    theirs = (owner[box_slices(area)] > 0) & ~mine
    closer = _closer(mine, theirs, frame)
    around = {name: np.isin(part, values) for name, values in anatomy.named.items()}
    for name in ("artery", "vein", "sinus", "collecting"):
        if name in around:
            around[name] &= closer
    for name in ("parenchyma", "cortex", "medulla", "tumor", "cyst"):
        if name in around:
            around[name] &= mine
    wanted = [mask for name, mask in around.items() if name != "aorta"]
    box = _box_of(wanted, frame)
    cut = {name: np.ascontiguousarray(mask[box_slices(box)]) for name, mask in around.items()}
    place = frame.cut(area).cut(box)
    parenchyma = cut["parenchyma"]
    tumor = cut.get("tumor")
    centre = place.to_lps(np.argwhere(parenchyma).mean(axis=0) * frame.spacing)
    others = ("cortex", "medulla", "cyst", "artery", "vein", "aorta", "sinus", "collecting")
    return KidneyMasks(
        frame=place,
        centre=centre,
        parenchyma=parenchyma,
        tumors=None if tumor is None else number_tumors(tumor, place),
        **{name: cut.get(name) for name in others},
    )


def _closer(mine: Mask, theirs: Mask, frame: Frame) -> Mask | np.bool_:
    """Where this kidney is nearer than the other one."""
    if not theirs.any():
        return np.True_
    to_mine, to_theirs = (
        edt.edt(~mask, anisotropy=frame.spacing, parallel=1) for mask in (mine, theirs)
    )
    result: Mask = to_mine <= to_theirs
    return result


def _box_of(masks: list[Mask], frame: Frame) -> Box:
    boxes = [box for mask in masks if (box := mask_box(mask)) is not None]
    joined: Box = tuple(  # type: ignore[assignment]
        (min(box[a][0] for box in boxes), max(box[a][1] for box in boxes)) for a in range(3)
    )
    return grow_box(joined, margin_voxels(MARGIN_MM, frame.spacing), masks[0].shape)


def number_tumors(tumor: Mask, frame: Frame) -> NDArray[np.int32]:
    """Connected tumors (26 neighbours), the largest is 1; specks below `LEAST_TUMOR_ML` are left out."""
    parts = number_pieces(tumor)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] * frame.voxel_ml >= LEAST_TUMOR_ML]
    numbers = np.zeros(len(sizes), np.int32)
    numbers[order] = np.arange(1, len(order) + 1)
    result: NDArray[np.int32] = numbers[parts]
    return result
