"""One stage, a coarse stage first, or kidney regions first: measured, decided, and why.

- `find_lowres`: nnU-Net's rule for the spacing of a coarse first stage.
- `measure_regions`: the boxes prediction will cut around what a locating stage finds.
- `decide`: which of them pays.

Sources:
    [Isensee2021] nnU-Net, Nature Methods 18, supplement: the low-resolution trigger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from renalplan.geometry import (
    Box,
    Spacing,
    box_shape,
    grow_box,
    margin_voxels,
    merge_overlapping,
    resampled_shape,
)
from renalplan.planners.fingerprint import CaseFingerprint, Fingerprint
from renalplan.planners.spacing import mm
from renalplan.planners.topology import Topology

SEES_ENOUGH = 0.25  # of the median case; below, context is missing [Isensee2021]
COARSER = 1.03  # spacing grows by this factor a step [Isensee2021]
WORTH_A_STAGE = 2.0  # a coarse stage has at least this many times fewer voxels [Isensee2021]
MOST_OF_SCAN = 0.6  # a patch or regions this large a share of the scan leave little to save
MARGIN_MM = 20.0  # perirenal fat, the hilum and an exophytic tumour's edge around a found kidney
COMPONENT_SHARE = 0.05  # of the typical largest piece; smaller pieces open no box ...
COMPONENT_ML = (0.5, 10.0)  # ... within these bounds: a speck of noise, a tenth of a small kidney

Cascade = Literal["none", "locate", "lowres"]


@dataclass(frozen=True, kw_only=True)
class Lowres:
    """A coarse first stage: mm, voxels of the median case, and its patch; plan axis order."""

    spacing: tuple[float, ...]
    shape: tuple[float, ...]
    topology: Topology
    reason: str


def find_lowres(
    spacing: tuple[float, ...],
    shape: tuple[float, ...],
    full: Topology,
    patch: Callable[[tuple[float, ...], tuple[float, ...]], Topology],
) -> tuple[Lowres | None, str]:
    """Coarsen until the patch sees a quarter of the median case.

    Args:
        spacing: Full-resolution mm.
        shape: The median case there, voxels.
        full: The full-resolution patch.
        patch: Spacing and shape -> the patch that fits the memory.

    Returns:
        None if the full-resolution patch sees enough, or a coarse stage would hardly be coarser;
        and the reason.
    """
    voxels = prod(shape)
    share = full.voxels / voxels
    if share >= SEES_ENOUGH:
        return None, (
            f"the full-resolution patch sees {100 * share:.0f} % of the median case, so a coarser "
            "stage would add no context."
        )
    fine, coarse = np.asarray(spacing), np.asarray(spacing)
    topology = full
    while topology.voxels / voxels < SEES_ENOUGH:
        behind = coarse.max() / coarse > 2
        coarse = coarse * np.where(behind, COARSER, 1.0) if behind.any() else coarse * COARSER
        exact = fine / coarse * np.asarray(shape)
        voxels = float(exact.prod())
        now = tuple(float(s) for s in coarse)
        rounded = tuple(float(round(n)) for n in exact)
        topology = patch(now, rounded)
    factor = prod(shape) / voxels
    if factor < WORTH_A_STAGE:
        return None, (
            f"the full-resolution patch sees {100 * share:.0f} % of the median case, but the "
            f"coarser stage would have only {factor:.2g} times fewer voxels."
        )
    reason = (
        f"the full-resolution patch sees {100 * share:.1f} % of the median case; at {mm(now)} a "
        f"patch sees {100 * topology.voxels / voxels:.0f} %."
    )
    return Lowres(
        spacing=now, shape=tuple(float(n) for n in exact), topology=topology, reason=reason
    ), reason


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The boxes around the foreground's large pieces, over the training cases.

    Attributes:
        shape: Median box, voxels along canonical (z, y, x).
        per_case: Mean number of boxes of the cases that have any.
        share: Median over those cases of boxes over scan, by volume.
    """

    shape: tuple[float, float, float]
    per_case: float
    share: float
    minimum_component_ml: float


def measure_regions(fingerprint: Fingerprint, spacing: Spacing) -> Regions:
    """The regions a perfect locating stage would hand on, at this spacing."""
    largest = [case.components[0].volume_ml for case in fingerprint.cases if case.components]
    low, high = COMPONENT_ML
    minimum = float(np.clip(COMPONENT_SHARE * np.median(largest), low, high))
    shapes, counts, shares = [], [], []
    for case in fingerprint.cases:
        if not case.components:
            continue
        scan = resampled_shape(case.shape_after_crop, case.spacing, spacing)
        boxes = [box_shape(box) for box in _boxes(case, spacing, scan, minimum)]
        shapes += boxes
        counts.append(len(boxes))
        shares.append(sum(prod(box) for box in boxes) / prod(scan))
    z, y, x = np.median(shapes, axis=0).tolist()
    return Regions(
        shape=(z, y, x),
        per_case=float(np.mean(counts)),
        share=float(np.median(shares)),
        minimum_component_ml=round(minimum, 2),
    )


def _boxes(
    case: CaseFingerprint, spacing: Spacing, scan: tuple[int, ...], minimum_ml: float
) -> list[Box]:
    """As `renalplan.regions.region_boxes` cuts them from a mask."""
    opening = min(minimum_ml, max(piece.volume_ml for piece in case.components))
    margin = margin_voxels(MARGIN_MM, spacing)
    boxes: list[Box] = []
    for piece in case.components:
        if piece.volume_ml >= opening:
            starts, stops = piece.box_mm[:3], piece.box_mm[3:]
            box = tuple(
                (int(np.floor(a / s)), int(np.ceil(b / s)))
                for a, b, s in zip(starts, stops, spacing, strict=True)
            )
            boxes.append(grow_box(box, margin, scan))  # type: ignore[arg-type]
    return merge_overlapping(boxes)


def decide(patch_share: float, region_share: float) -> tuple[Cascade, str]:
    """What pays.

    Args:
        patch_share: Share of the median scan that a whole-scan patch sees.
        region_share: Share of the scan that kidney regions take.
    """
    sees = f"a patch at the target spacing sees {100 * patch_share:.3g} % of the median scan"
    takes = f"kidney regions with margin take {100 * region_share:.3g} % of it"
    limit = f"{100 * MOST_OF_SCAN:g} %"
    if patch_share >= MOST_OF_SCAN:
        return "none", f"{sees}, over {limit}: one stage is enough."
    if region_share < MOST_OF_SCAN:
        return "locate", (
            f"{sees}, and {takes}, under {limit}: locating them first spends the fine patch, the "
            "memory and the time on kidneys."
        )
    if patch_share < SEES_ENOUGH:
        return "lowres", (
            f"{takes}, so locating would save little, and {sees}, under "
            f"{100 * SEES_ENOUGH:g} %: a coarse stage gives the context."
        )
    return "none", f"{takes}, so locating would save little, and {sees}: one stage is enough."
