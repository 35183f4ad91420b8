"""One number of the report: its value and unit, or why there is none, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from renalplan.files import Record

ML, MM, MM2, SHARE, POINTS, RATIO = "ml", "mm", "mm2", "share", "points", "ratio"

Interval = tuple[float, float]


class Number(Record):
    """A measured value, or the reason why it cannot be measured.

    Attributes:
        value: None if it cannot be computed.
        unit: `ml`, `mm`, `mm2`, `share` (0 to 1), `points` or `ratio`.
        missing: Empty, or `not computable: needs …`.
        voxel: Least and largest value when tumor or kidney are one voxel smaller or larger.
        folds: Least and largest value among the folds' own segmentations.
    """

    value: float | None
    unit: str
    missing: str = ""
    voxel: Interval | None = None
    folds: Interval | None = None


def measured(value: float, unit: str) -> Number:
    """A number that could be computed."""
    return Number(value=float(value), unit=unit)


def needs(what: str, unit: str) -> Number:
    """A number that cannot be computed, and what it would take."""
    return Number(value=None, unit=unit, missing=f"not computable: needs {what}")


def total(parts: dict[str, Number], unit: str = POINTS) -> Number:
    """The sum of all parts, or what the parts without a value need; names are of no consequence."""
    if lacking := dict.fromkeys(part.missing for part in parts.values() if part.missing):
        reasons = (reason.removeprefix("not computable: needs ") for reason in lacking)
        return needs("; ".join(reasons), unit)
    return measured(sum(part.value or 0.0 for part in parts.values()), unit)


def share_of(part: Number, rest: Sequence[Number]) -> Number:
    """A part's share of itself and the rest, which are not all 0.

    Its interval holds what comes of either being as small or as large as its own interval says while
    the other is as measured: a segmentation is seldom too small on one side and too large on the other.
    """
    whole = sum(one.value or 0.0 for one in rest)
    value = part.value or 0.0
    if part.voxel is None or any(one.voxel is None for one in rest):
        return measured(value / (value + whole), SHARE)
    ends = [sum((one.voxel or (0.0, 0.0))[end] for one in rest) for end in (0, 1)]
    pairs = [(value, whole), *((own, whole) for own in part.voxel), *((value, end) for end in ends)]
    shares = [own / (own + other) for own, other in pairs if own + other > 0]
    return Number(value=shares[0], unit=SHARE, voxel=(min(shares), max(shares)))
