"""Which slices the report shows: through everything, and through each tumor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.evaluation.figures import overlay_bytes
from renalplan.evaluation.report.case import Case
from renalplan.evaluation.scene import MARGIN_MM, Scene
from renalplan.evaluation.surgery.anatomy import find_anatomy
from renalplan.evaluation.surgery.records import SurgeryNumbers
from renalplan.evaluation.surgery.sides import KidneyMasks, find_kidneys
from renalplan.geometry import Box, box_slices, grow_box, margin_voxels, mask_box

CLOSE_MM = 15.0  # around the kidney that a tumor's picture shows
MOST_TUMORS = 3  # that get pictures


@dataclass(frozen=True)
class Slices:
    """Three slices with contours: a title, and a PNG file's bytes."""

    title: str
    png: bytes


def draw_slices(case: Case, numbers: SurgeryNumbers | None) -> Iterator[Slices]:
    """Pictures of all structures, then of the largest tumors.

    Args:
        case: The case.
        numbers: Its kidneys and tumors; None draws the overview alone.
    """
    everything = _around(case, case.structures > 0, MARGIN_MM)
    yield Slices("Overview", overlay_bytes(_scene(case, everything)))
    if numbers is None:
        return
    masks = find_kidneys(case.labels, find_anatomy(case.scheme), case.frame).kidneys
    tumors = [
        (tumor.shape.volume.value or 0.0, place, tumor.number)
        for place, kidney in enumerate(numbers.kidneys)
        for tumor in kidney.tumors
    ]
    largest = sorted(tumors, reverse=True)[:MOST_TUMORS]
    for _, place, number in sorted(largest, key=lambda one: one[1:]):
        title = f"{numbers.kidneys[place].side.capitalize()} kidney, tumor {number}"
        yield Slices(title, overlay_bytes(_tumor_scene(case, masks[place], number)))


def _around(case: Case, mask: NDArray[np.bool_], margin_mm: float) -> Box:
    box = mask_box(mask)
    assert box is not None  # a case has structures, a kidney has tissue
    return grow_box(box, margin_voxels(margin_mm, case.frame.spacing), mask.shape)


def _scene(case: Case, box: Box, focus: NDArray[np.bool_] | None = None) -> Scene:
    part = box_slices(box)
    masks = [np.isin(case.labels[part], values) for values in case.scheme.foreground.values()]
    return Scene(
        image=case.image[part],
        reference=np.stack(masks),
        prediction=None,
        spacing=case.frame.spacing,
        names=tuple(case.scheme.foreground),
        window=case.window,
        focus=focus,
        start=tuple(low for low, _ in box),  # type: ignore[arg-type]
        whole=case.labels.shape,
        colours=tuple(look.colour for look in case.looks.values()),
        kinds=False,
    )


def _tumor_scene(case: Case, kidney: KidneyMasks, number: int) -> Scene:
    """The kidney around one of its tumors, cut through that."""
    frame = kidney.frame
    start = np.rint(case.frame.to_array(frame.origin) / frame.spacing).astype(int)
    inner = mask_box(kidney.organ)
    assert inner is not None  # `find_kidneys` gives kidneys with tissue
    box = grow_box(inner, margin_voxels(CLOSE_MM, frame.spacing), kidney.parenchyma.shape)
    focus = kidney.tumor(number)[box_slices(box)]
    there = tuple((low + int(s), high + int(s)) for (low, high), s in zip(box, start, strict=True))
    return _scene(case, there, focus)  # type: ignore[arg-type]
