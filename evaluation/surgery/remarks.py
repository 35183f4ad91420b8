"""What a reader must know before trusting the numbers, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from renalplan.evaluation.surgery.owners import FAR_MM
from renalplan.evaluation.surgery.sides import LEAST_TUMOR_ML, Found
from renalplan.kidneys import THRESHOLD_ML

HUGE_ML = 450.0  # the largest of 42 patients of KiTS19 has 430, and hangs together with the other


def find_remarks(found: Found, sides: Sequence[str]) -> Iterator[str]:
    """The remarks on the kidneys of one scan.

    Args:
        found: The kidneys.
        sides: What the report calls each of them.
    """
    yield from _apart(found)
    if found.joined:
        yield (
            "The kidneys hang together and are cut apart in the middle of the scan; a tumor that "
            "crosses it belongs to the side that holds most of it."
        )
    for masks, side in zip(found.kidneys, sides, strict=True):
        name = "The kidney" if side == "unknown" else f"The {side} kidney"
        if masks.parts > 1:
            yield (
                f"{name} is measured as one, but consists of {masks.parts} pieces of more than "
                f"{THRESHOLD_ML:.0f} ml."
            )
        if masks.cut_off:
            borders = " and ".join(
                [*filter(None, [", ".join(masks.cut_off[:-1])]), masks.cut_off[-1]]
            )
            yield (
                f"{name} or its tumor is cut off at the scan's border ({borders}): "
                "volumes, diameters, shares, the outline and what follows from them are those of the "
                "part in the scan."
            )
        ml = np.count_nonzero(masks.parenchyma) * float(np.prod(masks.frame.spacing)) / 1000
        if ml > HUGE_ML:
            yield (
                f"{name} has {ml:.0f} ml of tissue, where kidneys have some 200 and hardly ever "
                f"{HUGE_ML:.0f}: make sure that it is one."
            )
        if masks.named and masks.named != side:
            yield (
                f"{name} is named {masks.named} by its label: the scan or the labels may be mirrored; "
                "make sure which side it is."
            )


def _apart(found: Found) -> Iterator[str]:
    pieces = [ml for ml in found.apart_ml if ml >= LEAST_TUMOR_ML]
    if not pieces or found.apart_mm is None:
        return
    place = ", ".join(f"{value:.0f}" for value in found.apart_mm)
    what = "A piece" if len(pieces) == 1 else f"{len(pieces)} pieces"
    largest = "" if len(pieces) == 1 else f"the largest, {pieces[0]:.1f} ml, "
    verb = "lies" if len(pieces) == 1 else "lie"
    yield (
        f"{what} of tumor, cyst or kidney tissue ({sum(pieces):.1f} ml) {verb} more than {FAR_MM:g} mm "
        f"from the kidneys ({largest}at {place} mm LPS) and {'is' if len(pieces) == 1 else 'are'} in "
        "no number."
    )
