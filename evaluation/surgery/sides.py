"""A whole scan's label map -> one set of masks for each kidney.

`owners` says which kidney tissue and lesions belong to; vessels go to the nearer kidney voxel by voxel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray

from renalplan.evaluation.surgery.anatomy import Anatomy
from renalplan.evaluation.surgery.frame import Frame, Point
from renalplan.evaluation.surgery.owners import Owners, find_owners
from renalplan.geometry import Box, Shape, Spacing, box_slices, grow_box, margin_voxels, mask_box
from renalplan.pieces import number_pieces

VESSEL_REACH_MM = 120.0  # arteries and veins further from a kidney are not its own
MARGIN_MM = 8.0  # around all masks: room to let them grow
LEAST_TUMOR_ML = 0.05
BODY_MM = 220.0
CUT_MM2 = 50.0  # of a kidney on the scan's border: there it goes on beyond
BORDERS = (
    ("lower", "upper"),
    ("front", "back"),
    ("right", "left"),
)  # of the canonical array's axes

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
        parts: Of how many large pieces the kidney consists.
        cut_off: The scan's borders (`BORDERS`) that cut off the kidney or its tumors.
        named: `left` or `right` if the names of its labels say so, else empty.
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
    parts: int
    cut_off: tuple[str, ...]
    named: str

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The kidneys of a scan, and what belongs to none.

    Attributes:
        kidneys: One or two, from the patient's right to the left; none without kidney tissue.
        joined: Whether they hang together and were cut apart.
        apart_ml: Volumes of the pieces of tissue and lesions far from both, the largest first.
        apart_mm: LPS place of the largest of them.
    """

    kidneys: tuple[KidneyMasks, ...] = ()
    joined: bool = False
    apart_ml: tuple[float, ...] = ()
    apart_mm: Point | None = None


def find_kidneys(labels: NDArray, anatomy: Anatomy, frame: Frame) -> Found:
    """Cut a label map into its kidneys.

    Args:
        labels: Canonical (z, y, x) label values.
        anatomy: What the values are.
        frame: Where the array lies in the patient.
    """
    box = mask_box(labels > 0)
    if box is None:
        return Found()
    box = grow_box(box, margin_voxels(MARGIN_MM, frame.spacing), labels.shape)
    whole, frame = labels.shape, frame.cut(box)
    # a scan of one kidney alone has its middle in the kidney
    whole_body = whole[2] * frame.spacing[2] >= BODY_MM
    midplane = whole[2] // 2 - box[2][0] if whole_body else None
    labels = labels[box_slices(box)]
    parenchyma = np.isin(labels, anatomy.parenchyma)
    owners = find_owners(
        parenchyma, np.isin(labels, (*anatomy.tumor, *anatomy.cyst)), frame.spacing, midplane
    )
    if owners is None:
        return Found()
    kidneys = []
    for number in range(1, len(owners.parts) + 1):
        cut_off = tuple(_cut_off(owners.numbers == number, box, whole, frame.spacing))
        kidneys.append(_cut_out(labels, anatomy, frame, owners, number, cut_off))
    return Found(
        kidneys=tuple(sorted(kidneys, key=lambda masks: float(masks.centre[0]))),
        joined=owners.joined,
        apart_ml=tuple(piece.ml for piece in owners.apart),
        apart_mm=frame.point(np.multiply(owners.apart[0].centre, frame.spacing))
        if owners.apart
        else None,
    )


def _cut_off(own: Mask, box: Box, whole: Shape, spacing: Spacing) -> Iterator[str]:
    """The borders of a scan of shape `whole`, of which `box` is cut out, that cut through a mask."""
    for axis, (names, (low, high)) in enumerate(zip(BORDERS, box, strict=True)):
        face = float(np.prod(spacing)) / spacing[axis]
        for name, place, at_border in (
            (names[0], 0, low == 0),
            (names[1], -1, high == whole[axis]),
        ):
            if at_border and np.count_nonzero(own.take(place, axis)) * face >= CUT_MM2:
                yield name


def _named_side(values: NDArray, anatomy: Anatomy) -> str:
    """The side that most of a kidney's voxels are named by."""
    counts = {
        side: np.count_nonzero(np.isin(values, named))
        for side, named in (("left", anatomy.left), ("right", anatomy.right))
    }
    most = max(counts, key=lambda side: counts[side])
    return most if 2 * counts[most] > len(values) else ""


def _cut_out(
    labels: NDArray,
    anatomy: Anatomy,
    frame: Frame,
    owners: Owners,
    number: int,
    cut_off: tuple[str, ...],
) -> KidneyMasks:
    owner = owners.numbers
    own = owner == number
    near = mask_box(own)
    assert near is not None  # a kidney has tissue
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
        parts=owners.parts[number - 1],
        cut_off=cut_off,
        named=_named_side(part[mine & around["parenchyma"]], anatomy),
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
