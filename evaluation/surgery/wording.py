"""The report's main numbers as lines of text, each with its interval."""

from __future__ import annotations

from collections.abc import Iterator

from renalplan.evaluation.surgery.numbers import MM2, POINTS, RATIO, SHARE, Number
from renalplan.evaluation.surgery.records import KidneyNumbers, SurgeryNumbers, TumorNumbers

MOST_TUMORS = (
    8  # of one kidney that are told in full: a bad segmentation has hundreds; the JSON file has all
)


def sentences(numbers: SurgeryNumbers) -> Iterator[str]:
    """One line for the notice, then some for each kidney and tumor."""
    yield numbers.notice
    yield from numbers.remarks
    for kidney in numbers.kidneys:
        yield from _kidney(kidney)
        for tumor in kidney.tumors[:MOST_TUMORS]:
            yield from _tumor(tumor)
        if (smaller := len(kidney.tumors) - MOST_TUMORS) > 0:
            yield f"  smaller tumors, told in the file alone: {smaller}"


def in_words(number: Number) -> str:
    """A number with its unit and intervals, or why there is none."""
    if number.value is None:
        return number.missing
    text = in_unit(number.value, number.unit)
    for name, interval in (("voxel", number.voxel), ("folds", number.folds)):
        if interval is not None:
            low, high = (in_unit(value, number.unit) for value in interval)
            text += f" ({'±1 voxel' if name == 'voxel' else name}: {low} to {high})"
    return text


def in_unit(value: float, unit: str) -> str:
    """A value as it is written in text: shares as percent, with its unit."""
    if unit == SHARE:
        return f"{100 * value:.1f} %"
    if unit == POINTS:
        return f"{value:.0f}"
    if unit == RATIO:
        return f"{value:.2f}"
    return f"{value:.0f} mm²" if unit == MM2 else f"{value:.1f} {unit}"


def _kidney(kidney: KidneyNumbers) -> Iterator[str]:
    arteries = kidney.arteries
    yield f"{kidney.side} kidney: parenchyma {in_words(kidney.volumes.parenchyma)}"
    if arteries.missing:
        yield f"  arteries: {arteries.missing}"
        return
    ends = sum(branch.terminal for branch in arteries.branches)
    yield (
        f"  arteries: {len(arteries.branches)} branches, {ends} terminal; {len(arteries.breaks)} breaks, "
        f"{len(arteries.loops_mm)} loops, {len(arteries.vein_contacts)} contacts with veins"
    )


def _tumor(tumor: TumorNumbers) -> Iterator[str]:
    yield f"  tumor {tumor.number}: diameter {in_words(tumor.shape.diameter)}"
    yield f"    volume {in_words(tumor.shape.volume)}"
    yield f"    contact surface {in_words(tumor.position.contact)}"
    yield f"    R.E.N.A.L. {in_words(tumor.renal.score)}"
    yield f"    PADUA {in_words(tumor.padua.score)}"
    yield f"    C-index {in_words(tumor.position.c_index)}"
    for resection in tumor.resections:
        left = in_words(resection.remaining_share)
        yield f"    parenchyma left with a margin of {resection.margin_mm:g} mm: {left}"
    if tumor.supply.missing:
        yield f"    feeding arteries: {tumor.supply.missing}"
    for clamping in tumor.supply.clampings:
        names = ", ".join(str(number) for number in clamping.branches)
        yield f"    clamping branches {names} covers it and loses {in_words(clamping.lost_share)}"
