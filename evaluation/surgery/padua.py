"""The PADUA score, component by component.

longitudinal        mostly above or below the polar lines 1, else 2
exophytic           half or more outside the kidney's outline 1, less 2, nothing 3
rim                 away from the hilum 1, on its side 2
renal sinus         not involved 1, involved 2
collecting system   not involved 1, involved (displaced or infiltrated) 2
size                4 cm or less 1, 7 cm or less 2, else 3

6 or 7 is low complexity, 8 or 9 moderate, 10 and more high. A mask cannot tell a displaced collecting
system from one that is only near: nearer than `INVOLVED_MM` counts as involved, as in
seg-to-nephrometry.

Sources:
    Ficarra et al. 2009, "Preoperative aspects and dimensions used for an anatomical (PADUA)
    classification of renal tumours …", Eur Urol 56.
"""

from __future__ import annotations

from renalplan.evaluation.surgery.numbers import POINTS, Number, measured, total
from renalplan.evaluation.surgery.position import Position
from renalplan.evaluation.surgery.renal import band, exophytic_points, face, steps
from renalplan.evaluation.surgery.shape import Shape
from renalplan.files import Record

INVOLVED_MM = 2.0


class Padua(Record):
    """PADUA of one tumor.

    Attributes:
        longitudinal: Along the kidney.
        exophytic: Exophytic rate.
        rim: Lateral or medial.
        sinus: Renal sinus.
        collecting: Urinary collecting system.
        size: Largest diameter.
        face: `a`, `p` or `x`; no points.
        score: The sum.
        complexity: `low`, `moderate`, `high`, or empty.
    """

    longitudinal: Number
    exophytic: Number
    rim: Number
    sinus: Number
    collecting: Number
    size: Number
    face: str
    score: Number
    complexity: str


def score_padua(shape: Shape, position: Position) -> Padua:
    """Score one tumor from its measures; missing measures leave components without a value."""
    points = {
        "longitudinal": _longitudinal(position),
        "exophytic": exophytic_points(position.exophytic),
        "rim": _one_or_two(position.hilar, (position.hilar.value or 0.0) > 0),
        "sinus": _involved(position.to_sinus),
        "collecting": _involved(position.to_collecting),
        "size": steps(shape.diameter, (40.0, 70.0), least_of_last=False),
    }
    score = total(points)
    return Padua(
        **points,
        face=face(position),
        score=score,
        complexity="" if score.value is None else band(score.value, (8, 10)),
    )


def _longitudinal(position: Position) -> Number:
    outside = (position.above.value or 0.0) + (position.below.value or 0.0)
    return _one_or_two(position.above, outside <= 0.5)


def _involved(distance: Number) -> Number:
    return _one_or_two(distance, (distance.value or 0.0) < INVOLVED_MM)


def _one_or_two(behind: Number, two: bool) -> Number:
    """2 if so, else 1; nothing if the measure behind it is missing."""
    if behind.value is None:
        return behind.model_copy(update={"unit": POINTS})
    return measured(2 if two else 1, POINTS)
