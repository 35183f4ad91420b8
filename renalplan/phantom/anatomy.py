"""Draws a whole patient: trunk, kidneys, vessels, tumors and tissue values, nothing rendered yet.

Everything about patient i is drawn from (seed, i) alone, part by part with a generator of its own,
so that a change in one organ's drawing does not change the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from renalplan.phantom.abdomen import Abdomen, draw_abdomen
from renalplan.phantom.fields import RandomField
from renalplan.phantom.kidneys import Kidney, draw_kidney
from renalplan.phantom.shapes import Tubes
from renalplan.phantom.tissue import Values, draw_values
from renalplan.phantom.tumors import Tumor, draw_tumor
from renalplan.phantom.vessels import ACCESSORY_SHARE, draw_arteries, draw_veins

SOLITARY_SHARE = 0.05  # of patients have one kidney
SECOND_TUMOR_SHARE = 0.04  # KiTS19: single in 201 of 210

# first number after (seed, case) of each part's generator
_TRUNK, _KIDNEYS, _VESSELS, _TUMORS, _VALUES, _TEXTURE = range(6)
SCAN, PHASE, NOISE = 10, 11, 20  # generators of the scan, see scanner, tasks and render


@dataclass(frozen=True, kw_only=True, eq=False)
class Patient:
    """One patient's anatomy and tissue values.

    Attributes:
        abdomen: The trunk.
        kidneys: One or two, left first.
        arteries: Renal arteries, one tree per kidney, in the order of `kidneys`.
        veins: Renal veins, likewise.
        accessory: Whether each kidney has an accessory artery.
        tumors: None or more.
        values: HU of every tissue in every phase.
        parenchyma: Texture field of the kidneys.
    """

    abdomen: Abdomen
    kidneys: tuple[Kidney, ...]
    arteries: tuple[Tubes, ...]
    veins: tuple[Tubes, ...]
    accessory: tuple[bool, ...]
    tumors: tuple[Tumor, ...]
    values: Values
    parenchyma: RandomField

    @property
    def artery_count(self) -> int:
        """Renal arteries that leave the aorta."""
        return len(self.kidneys) + sum(self.accessory)


def generator(seed: int, index: int, part: int) -> np.random.Generator:
    """The random generator of one part of one case."""
    return np.random.default_rng([seed, index, part])


def draw_sides(rng: np.random.Generator, single_share: float = SOLITARY_SHARE) -> tuple[str, ...]:
    """Which kidneys a patient has; `single_share` of the patients have one."""
    if rng.random() < single_share:
        return ("left",) if rng.random() < 0.5 else ("right",)
    return ("left", "right")


def draw_patient(
    seed: int, index: int, *, tumors: bool = True, single_kidney_share: float = SOLITARY_SHARE
) -> Patient:
    """Draw patient `index` of a seed.

    Args:
        seed: Of the whole data set.
        index: Of the patient.
        tumors: Whether the patient has a tumor; a healthy one is otherwise the same patient.
        single_kidney_share: Probability of a single kidney; the trunk does not depend on it.
    """
    abdomen = draw_abdomen(generator(seed, index, _TRUNK))
    rng = generator(seed, index, _KIDNEYS)
    sides = draw_sides(rng, single_kidney_share)
    kidneys = tuple(draw_kidney(rng, side, abdomen.spine_y) for side in sides)
    rng = generator(seed, index, _VESSELS)
    accessory = [False] * len(kidneys)
    if rng.random() < ACCESSORY_SHARE:
        accessory[int(rng.integers(len(kidneys)))] = True
    arteries = tuple(
        draw_arteries(rng, kidney, abdomen, extra)
        for kidney, extra in zip(kidneys, accessory, strict=True)
    )
    veins = tuple(
        draw_veins(rng, kidney, abdomen, tree)
        for kidney, tree in zip(kidneys, arteries, strict=True)
    )
    return Patient(
        abdomen=abdomen,
        kidneys=kidneys,
        arteries=arteries,
        veins=veins,
        accessory=tuple(accessory),
        tumors=_draw_tumors(seed, index, kidneys, abdomen) if tumors else (),
        values=draw_values(generator(seed, index, _VALUES)),
        parenchyma=RandomField(generator(seed, index, _TEXTURE), 2.5),
    )


def _draw_tumors(
    seed: int, index: int, kidneys: tuple[Kidney, ...], abdomen: Abdomen
) -> tuple[Tumor, ...]:
    rng = generator(seed, index, _TUMORS)
    wanted = 2 if rng.random() < SECOND_TUMOR_SHARE else 1
    found: tuple[Tumor, ...] = ()
    for _ in range(8):  # a site is nearly always found at once
        tumor = draw_tumor(rng, kidneys[int(rng.integers(len(kidneys)))], abdomen, found)
        if tumor is not None:
            found = (*found, tumor)
        if len(found) == wanted:
            break
    return found
