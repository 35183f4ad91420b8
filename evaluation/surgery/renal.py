"""The R.E.N.A.L. nephrometry score, component by component, with what stands behind each.

R  largest diameter: 4 cm or less 1, less than 7 cm 2, else 3
E  half or more outside the kidney's outline 1, less 2, nothing 3
N  distance to sinus or collecting system: 7 mm or more 1, more than 4 mm 2, else 3
A  a: front, p: back, x: neither; no points
L  above or below a polar line 1; crosses it 2; more than half across it, entirely between the polar
   lines, or across the axial midline 3
h  touches the main artery or vein

4 to 6 is low complexity, 7 to 9 moderate, 10 to 12 high.

Sources:
    Kutikov and Uzzo 2009, "The R.E.N.A.L. nephrometry score: a comprehensive standardized system for
    quantitating renal tumor size, location and depth", J Urol 182; PMC3124570 for the bands.
"""

from __future__ import annotations

from renalplan.evaluation.surgery.numbers import POINTS, Number, measured, needs, total
from renalplan.evaluation.surgery.position import MIDDLE_MM, Position
from renalplan.evaluation.surgery.shape import Shape
from renalplan.files import Record

NOTHING = 0.01  # a share of the volume below this is nothing: less than a voxel's layer
TOUCHING_MM = 1.0


class Renal(Record):
    """R.E.N.A.L. of one tumor.

    Attributes:
        radius: R.
        exophytic: E.
        nearness: N.
        face: A: `a`, `p` or `x`.
        location: L.
        hilar: h: 1 if it touches a main vessel, else 0; no part of the sum.
        score: The sum.
        complexity: `low`, `moderate`, `high`, or empty.
    """

    radius: Number
    exophytic: Number
    nearness: Number
    face: str
    location: Number
    hilar: Number
    score: Number
    complexity: str


def score_renal(shape: Shape, position: Position) -> Renal:
    """Score one tumor from its measures; missing measures leave components without a value."""
    points = {
        "radius": steps(shape.diameter, (40.0, 70.0), least_of_last=True),
        "exophytic": exophytic_points(position.exophytic),
        "nearness": _nearness(position),
        "location": _location(position),
    }
    score = total(points)
    touching = position.to_main_vessel
    return Renal(
        **points,
        face=face(position),
        hilar=touching
        if touching.value is None
        else measured(touching.value <= TOUCHING_MM, POINTS),
        score=score,
        complexity="" if score.value is None else band(score.value, (7, 10)),
    )


def steps(size: Number, bands: tuple[float, float], *, least_of_last: bool) -> Number:
    """1 up to and with the first bound, 2 up to the second, 3 beyond.

    Args:
        size: What is compared.
        bands: The two bounds.
        least_of_last: Whether the second bound itself is 3 (else 2).
    """
    if size.value is None:
        return size.model_copy(update={"unit": POINTS})
    first, second = bands
    if size.value <= first:
        return measured(1, POINTS)
    last = size.value >= second if least_of_last else size.value > second
    return measured(3 if last else 2, POINTS)


def exophytic_points(share: Number) -> Number:
    """Half or more outside 1, less 2, nothing 3."""
    value = share.value or 0.0
    return measured(1 if value >= 0.5 else 2 if value >= NOTHING else 3, POINTS)


def face(position: Position) -> str:
    """`a` in front of the kidney's middle, `p` behind, `x` within `MIDDLE_MM` of it."""
    front = position.front.value or 0.0
    if abs(front) < MIDDLE_MM:
        return "x"
    return "a" if front > 0 else "p"


def _nearness(position: Position) -> Number:
    """The nearer of sinus and collecting system; one of them is enough if the tumor is at it."""
    known = [n.value for n in (position.to_sinus, position.to_collecting) if n.value is not None]
    if not known:
        return needs("a label for the renal sinus or the collecting system", POINTS)
    nearest = min(known)
    return measured(1 if nearest >= 7 else 2 if nearest > 4 else 3, POINTS)


def _location(position: Position) -> Number:
    above, below, over = position.above.value, position.below.value, position.over_middle.value
    if above is None or below is None or over is None:
        return position.above.model_copy(update={"unit": POINTS})
    between = 1 - above - below
    if between < NOTHING and min(above, below) < NOTHING:
        return measured(1, POINTS)
    return measured(3 if between > 0.5 or over > 0 else 2, POINTS)


def band(score: float, bounds: tuple[int, int]) -> str:
    """`low` below the first bound, `high` from the second on, else `moderate`."""
    return "low" if score < bounds[0] else "moderate" if score < bounds[1] else "high"
