"""One kidney's masks -> all its numbers."""

from __future__ import annotations

import numpy as np

from renalplan.evaluation.surgery.hilum import Hilum, find_hilum
from renalplan.evaluation.surgery.mesh import make_mesh
from renalplan.evaluation.surgery.numbers import ML, SHARE, Number, measured, needs
from renalplan.evaluation.surgery.outline import Outline, make_outline
from renalplan.evaluation.surgery.padua import score_padua
from renalplan.evaluation.surgery.position import measure_position
from renalplan.evaluation.surgery.records import (
    Arteries,
    KidneyNumbers,
    Supply,
    TumorNumbers,
    Volumes,
)
from renalplan.evaluation.surgery.renal import score_renal
from renalplan.evaluation.surgery.resection import SUTURE_MM, distance_to, resect
from renalplan.evaluation.surgery.shape import measure_shape
from renalplan.evaluation.surgery.sides import KidneyMasks, Mask
from renalplan.evaluation.surgery.supply import (
    NO_ARTERY,
    ArteryMap,
    describe_arteries,
    describe_supply,
    map_arteries,
    why_no_arteries,
)
from renalplan.evaluation.surgery.tree import ArteryTree

SUPPLY_MARGIN_MM = 5.0  # of tumor whose arteries are looked for [methods.md, section 5]


def measure_kidney(
    masks: KidneyMasks,
    tree: ArteryTree | None,
    side: tuple[str, str],
    margins: tuple[float, ...],
    further: float = 0.0,
) -> KidneyNumbers:
    """Measure one kidney.

    Args:
        masks: The kidney and what belongs to it; there is parenchyma.
        tree: Its arteries; None if there are none, or they are not to be looked at.
        side: The side, and what tells it.
        margins: mm of the resections.
        further: As in `make_outline`.

    Returns:
        All numbers but `function_share`, which needs both kidneys (`report` adds it).
    """
    hilum = find_hilum(masks.organ, masks.frame)
    spacing = masks.frame.spacing
    lesions = masks.organ & ~masks.parenchyma
    outline = make_outline(make_mesh(masks.parenchyma, spacing), lesions, spacing, further)
    reason = why_no_arteries(masks) or ("" if tree else NO_ARTERY)
    arteries = None if reason or tree is None else map_arteries(masks, tree)
    missing = needs(reason, SHARE).missing if reason else ""
    return KidneyNumbers(
        side=side[0],
        side_from=side[1],
        volumes=_volumes(masks),
        polar_lines_mm=None if hilum is None else (round(hilum.low, 1), round(hilum.high, 1)),
        tumors=tuple(
            _measure_tumor(number, masks, outline, hilum, arteries, missing, margins)
            for number in range(1, masks.tumor_count + 1)
        ),
        arteries=Arteries(missing=missing)
        if arteries is None
        else describe_arteries(masks, arteries),
    )


def _measure_tumor(
    number: int,
    masks: KidneyMasks,
    outline: Outline,
    hilum: Hilum | None,
    arteries: ArteryMap | None,
    missing: str,
    margins: tuple[float, ...],
) -> TumorNumbers:
    frame = masks.frame
    tumor = masks.tumor(number)
    mesh = make_mesh(tumor, frame.spacing)
    shape = measure_shape(tumor, mesh, frame)
    position = measure_position(tumor, mesh, shape, masks, outline, hilum)
    supply = Supply(missing=missing, margin_mm=SUPPLY_MARGIN_MM)
    if arteries is not None:
        distance = distance_to(mesh, masks.parenchyma, frame, SUPPLY_MARGIN_MM + SUTURE_MM)
        supply = describe_supply(masks, arteries, mesh, tumor, distance, SUPPLY_MARGIN_MM)
    return TumorNumbers(
        number=number,
        shape=shape,
        position=position,
        renal=score_renal(shape, position),
        padua=score_padua(shape, position),
        resections=resect(mesh, masks.parenchyma, frame, margins),
        supply=supply,
    )


def _volumes(masks: KidneyMasks) -> Volumes:
    def volume(mask: Mask | None, name: str) -> Number:
        if mask is None:
            return needs(f"a label for {name}", ML)
        return measured(np.count_nonzero(mask) * masks.frame.voxel_ml, ML)

    tumors = None if masks.tumors is None else masks.tumors > 0
    return Volumes(
        kidney=volume(masks.organ, "the kidney"),
        parenchyma=volume(masks.parenchyma, "the kidney"),
        cortex=volume(masks.cortex, "the cortex"),
        medulla=volume(masks.medulla, "the medulla"),
        tumor=volume(tumors, "tumors"),
        cyst=volume(masks.cyst, "cysts"),
        function_share=needs("both kidneys", SHARE),
    )
