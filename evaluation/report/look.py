"""How each structure looks, on the slices and in 3-D: anatomy has its customary colours."""

from __future__ import annotations

from dataclasses import dataclass

from renalplan.evaluation.figures import COLOURS
from renalplan.kidney_tumor import is_lesion

# the first word that a structure's name holds decides; no red beside green
_BY_WORD = (
    ("cyst", "#74d3e0", 1.0),
    ("artery", "#ef4136", 1.0),
    ("arteries", "#ef4136", 1.0),
    ("aorta", "#c9302c", 1.0),
    ("vein", "#4a8df0", 1.0),
    ("cava", "#2f62c4", 1.0),
    ("sinus", "#f3e3b3", 0.35),
    ("collecting", "#b48be8", 1.0),
    ("pelvis", "#b48be8", 1.0),
    ("calyx", "#b48be8", 1.0),
    ("calyces", "#b48be8", 1.0),
    ("ureter", "#9a6fd6", 1.0),
    ("medulla", "#b0604a", 0.6),
    ("cortex", "#f0b79c", 0.55),
    ("parenchyma", "#f0b79c", 0.55),
    ("kidney", "#f0b79c", 0.55),
)
_LESION = ("#ffd23f", 1.0)


@dataclass(frozen=True)
class Look:
    """Colour as `#rrggbb`, and opacity in 3-D from 0 to 1: one sees into kidneys."""

    colour: str
    opacity: float


def looks_of(names: tuple[str, ...]) -> dict[str, Look]:
    """Structure name -> its look; names that say nothing get the pictures' colours in turn."""
    return {name: _look(name, i) for i, name in enumerate(names)}


def _look(name: str, index: int) -> Look:
    low = name.lower()
    if is_lesion(name) and "cyst" not in low:
        return Look(*_LESION)
    for word, colour, opacity in _BY_WORD:
        if word in low:
            return Look(colour, opacity)
    return Look(COLOURS[index % len(COLOURS)], 1.0)
