"""Which label values are which part of the anatomy: told by the structures' names, as in `roles`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from renalplan.labels import LabelScheme
from renalplan.roles import find_roles

TUMOR_FREE = ("cyst",)  # lesions with this in their name are not operated on for cancer
CORTEX, MEDULLA = ("cortex",), ("medulla",)
ARTERY, VEIN, AORTA = ("artery", "arteries"), ("vein",), ("aorta",)
SINUS = ("sinus",)
COLLECTING = ("collecting", "pelvis", "calyx", "calyces", "calices")
# where other organs' structures are labelled too: a tumor of the liver is none of the kidney
ELSEWHERE = (
    *("adrenal", "suprarenal", "liver", "hepat", "portal", "lung", "pulmon", "pancrea", "splen"),
    *("iliac", "mesenteric", "celiac", "coeliac", "carotid", "subclavian", "brachiocephalic"),
    *("gonadal", "lumbar", "femoral", "colon", "gastric", "bladder", "prostat", "brain", "bone"),
)
OF_THE_KIDNEY = ("kidney", "renal")
SIDES = {"left": ("left", "l"), "right": ("right", "r")}

Values = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Label values of each part; empty where the segmentation has no such label.

    Attributes:
        parenchyma: Kidney tissue without lesions, sinus and collecting system.
        cortex: Part of it.
        medulla: Part of it.
        tumor: Lesions that are not cysts.
        cyst: Cysts.
        artery: Renal arteries without the aorta.
        vein: Renal veins without the vena cava.
        aorta: The aorta.
        sinus: Renal sinus.
        collecting: Collecting system: pelvis and calyces; not the ureter.
        left: Whatever has left in its name.
        right: Whatever has right in its name.
    """

    parenchyma: Values
    cortex: Values
    medulla: Values
    tumor: Values
    cyst: Values
    artery: Values
    vein: Values
    aorta: Values
    sinus: Values
    collecting: Values
    left: Values
    right: Values

    @property
    def named(self) -> dict[str, Values]:
        """Part -> label values, of the parts that there are."""
        found = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in SIDES
        }
        return {name: values for name, values in found.items() if values}


def find_anatomy(scheme: LabelScheme) -> Anatomy:
    """The anatomy of a scheme; a part that no name tells of is empty."""
    roles = find_roles(scheme)
    sinus, collecting = _named(scheme, SINUS), _named(scheme, COLLECTING)
    elsewhere = {v for name, of in scheme.foreground.items() if _is_elsewhere(name) for v in of}
    kidney = set(roles.kidney) - sinus - collecting - elsewhere
    lesion = set(roles.lesion) - elsewhere
    cyst = lesion & _named(scheme, TUMOR_FREE)
    vessel = set(roles.vessel) - set(roles.trunk) - elsewhere
    return Anatomy(
        parenchyma=_values(kidney),
        cortex=_values(kidney & _named(scheme, CORTEX)),
        medulla=_values(kidney & _named(scheme, MEDULLA)),
        tumor=_values(lesion - cyst),
        cyst=_values(cyst),
        artery=_values(vessel & _named(scheme, ARTERY)),
        vein=_values(vessel & _named(scheme, VEIN)),
        aorta=_values(set(roles.trunk) & _named(scheme, AORTA)),
        sinus=_values(sinus),
        collecting=_values(collecting - sinus),
        left=_values(_sided(scheme, "left")),
        right=_values(_sided(scheme, "right")),
    )


def _named(scheme: LabelScheme, words: tuple[str, ...]) -> set[int]:
    """Values of the structures whose names hold one of the words."""
    return {
        value
        for name, values in scheme.foreground.items()
        if any(word in name.lower() for word in words)
        for value in values
    }


def _is_elsewhere(name: str) -> bool:
    """Whether a name says that a structure is another organ's."""
    low = name.lower()
    if not any(word in low for word in ELSEWHERE):
        return False
    rest = low.replace("suprarenal", "").replace("adrenal", "")
    return not any(word in rest for word in OF_THE_KIDNEY)


def _sided(scheme: LabelScheme, side: str) -> set[int]:
    """Values of the structures with a side in their name: left_kidney, KidneyLeft, Kidney_L."""
    return {
        value
        for name, values in scheme.foreground.items()
        if any(
            word.lower() in SIDES[side]
            for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
        )
        for value in values
    }


def _values(values: set[int]) -> Values:
    return tuple(sorted(values))
