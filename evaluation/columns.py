"""What per_case.csv holds: the columns, and which of them a structure has, by its name.

Scores are shares from 0 to 1 of which 1 is best, distances are mm of which 0 is best, lesions are
counts. Every structure has overlap and surface; a tube (`is_tubular`) has a centerline too, a lesion
(`has_lesions`) is also counted. What a structure does not have is NaN in its row and empty in the
file.
"""

from __future__ import annotations

import re

from renalplan.evaluation.centerline import is_tubular
from renalplan.kidney_tumor import is_lesion

OVERLAPS = ("dice", "iou", "sensitivity", "precision")
SURFACE_DICE, CLDICE = "surface_dice", "cldice"
SCORES = (*OVERLAPS, SURFACE_DICE, CLDICE)
SURFACE_DISTANCES = ("hausdorff_mm", "hd95_mm", "average_hausdorff_mm", "assd_mm")
CENTERLINE = "centerline_mm"
DISTANCES = (*SURFACE_DISTANCES, CENTERLINE)
LESIONS = ("lesions_found", "lesions_missed", "lesions_false")
VOLUMES = ("reference_ml", "predicted_ml", "volume_error_ml")
TOLERANCE = "tolerance_mm"
COLUMNS = (
    "case", "structure", *SCORES, *DISTANCES, *LESIONS, *VOLUMES, TOLERANCE, "note"
)  # fmt: skip
TEXTS = ("case", "structure", "note")
MISSING = "missing"  # note of a case that has no prediction

Row = dict[str, str | float]  # its keys are COLUMNS

# "kidney_and_tumor", "tumor+kidney", "kidney with cysts": an organ with its lesions, not a lesion
ORGAN_TOO = re.compile(r"(?=.*kidney)(?=.*(\+|(?<![a-z])(and|with|plus)(?![a-z])))")


def has_lesions(structure: str) -> bool:
    """Whether a structure's parts are counted as lesions, by its name."""
    return is_lesion(structure) and not ORGAN_TOO.match(structure.lower())


def scores_of(structure: str) -> tuple[str, ...]:
    """The scores a structure has."""
    return SCORES if is_tubular(structure) else tuple(s for s in SCORES if s != CLDICE)


def distances_of(structure: str) -> tuple[str, ...]:
    """The distances a structure has."""
    return DISTANCES if is_tubular(structure) else SURFACE_DISTANCES


def absent_columns(structure: str) -> tuple[str, ...]:
    """The columns that are empty for a structure."""
    tube = () if is_tubular(structure) else (CLDICE, CENTERLINE)
    return tube if has_lesions(structure) else (*tube, *LESIONS)


def higher_is_better(column: str) -> bool:
    """Whether more of a score or distance is better."""
    return column in SCORES
