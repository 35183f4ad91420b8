"""How far off a surface still counts in the surface Dice, for each structure.

Sources:
    [KiTS23] neheller/kits23, kits23/configuration/labels.py: tolerances derived from how far apart
    several readers' outlines were.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from renalplan.errors import UsageError

TOLERANCE_MM = 1.0  # about what KiTS' readers differ by
KITS_MM = {  # [KiTS23], which rounds nothing either
    "kidney_and_mass": 1.0330772532390826,
    "mass": 1.1328796488598762,
    "tumor": 1.1498198361434828,
}


@dataclass(frozen=True)
class Tolerance:
    """Tolerance in mm of each structure.

    Attributes:
        of_structure: Structure -> mm.
        other_mm: Of every other structure.
    """

    of_structure: Mapping[str, float] = field(default_factory=dict)
    other_mm: float = TOLERANCE_MM

    def mm(self, structure: str) -> float:
        """Tolerance of a structure."""
        return self.of_structure.get(structure, self.other_mm)

    def require_known(self, structures: Collection[str]) -> None:
        """Refuse a tolerance of a structure that is not scored.

        Raises:
            UsageError: there is one.
        """
        for name in self.of_structure:
            if name not in structures:
                raise UsageError(
                    f"--tolerance {name}: there is no such structure; there are "
                    f"{', '.join(structures)}."
                )


def parse_tolerance(texts: Sequence[str]) -> Tolerance | None:
    """`["2", "tumor=1.5"]` -> 1.5 mm for the tumor, 2 mm for the rest; nothing given -> None.

    Raises:
        UsageError: not of the form MM or NAME=MM with a number from 0 on.
    """
    if not texts:
        return None
    named: dict[str, float] = {}
    other = TOLERANCE_MM
    for text in texts:
        name, is_named, value = text.rpartition("=")
        try:
            mm = float(value)
        except ValueError:
            mm = -1.0
        if not (math.isfinite(mm) and mm >= 0) or (is_named and not name):
            raise UsageError(
                f"--tolerance {text}: needs the form MM or NAME=MM with mm from 0 on, e.g. 2 or "
                "tumor=1.5."
            )
        if is_named:
            named[name] = mm
        else:
            other = mm
    return Tolerance(named, other)
