"""Which label values are kidney, lesion or vessel: told by the structures' names."""

from __future__ import annotations

from dataclasses import dataclass

from renalplan.kidney_tumor import is_lesion
from renalplan.labels import LabelScheme

KIDNEY = ("kidney", "cortex", "medulla", "parenchyma")
VESSEL = ("artery", "arteries", "vein", "vessel")
TRUNK = ("aorta", "cava")


@dataclass(frozen=True)
class Roles:
    """Label values by what they are; a value is of one kind only.

    A structure of several values (a region) may hold another one: what a lesion's name claims is
    lesion, also inside a region named kidney.

    Attributes:
        kidney: Kidney tissue without lesions.
        lesion: Tumors, cysts and other masses.
        vessel: Vessels, the trunks too.
        trunk: Aorta and vena cava.
    """

    kidney: tuple[int, ...]
    lesion: tuple[int, ...]
    vessel: tuple[int, ...]
    trunk: tuple[int, ...]

    @property
    def organ(self) -> tuple[int, ...]:
        """Kidney with its lesions."""
        return (*self.kidney, *self.lesion)


def find_roles(scheme: LabelScheme) -> Roles:
    """The roles of a scheme's label values; a kind that no name tells of is empty."""
    structures = scheme.foreground
    lesion = {v for name, values in structures.items() if is_lesion(name) for v in values}
    trunk = {v for name, values in structures.items() if _says(name, TRUNK) for v in values}
    vessel = {v for name, values in structures.items() if _says(name, VESSEL) for v in values}
    kidney = {
        value
        for name, values in structures.items()
        if _says(name, KIDNEY) and not is_lesion(name) and not _says(name, (*VESSEL, *TRUNK))
        for value in values
    }
    vessel = (vessel | trunk) - lesion
    kidney -= lesion | vessel
    return Roles(
        kidney=tuple(sorted(kidney)),
        lesion=tuple(sorted(lesion)),
        vessel=tuple(sorted(vessel)),
        trunk=tuple(sorted(trunk - lesion)),
    )


def _says(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)
