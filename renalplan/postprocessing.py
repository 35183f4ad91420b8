"""postprocessing.json: rules that a model's segmentations must obey, as data.

What the rules do is in `renalplan.inference.postprocessing`. None of them keeps only the largest
piece of something there can be two of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from renalplan.errors import ModelError
from renalplan.files import Record, read_record
from renalplan.labels import LabelScheme
from renalplan.roles import find_roles

POSTPROCESSING = "postprocessing.json"


class AtMostTwoKidneys(Record):
    """Only the largest pieces of kidney (with its lesions) stay.

    Attributes:
        at_most: How many; 3 if patients with a transplant are expected.
    """

    rule: Literal["at_most_two_kidneys"] = "at_most_two_kidneys"
    at_most: int = Field(default=2, ge=2)


class LesionsTouchKidney(Record):
    """A piece of lesion that touches no kidney goes, unless there is no kidney at all."""

    rule: Literal["lesions_touch_a_kidney"] = "lesions_touch_a_kidney"


class VesselsReachAorta(Record):
    """A piece of vessel that does not come from the aorta's side goes.

    Attributes:
        gap_mm: Pieces this near to each other count as one, since thin vessels break.
        reach_mm: Where there is no kidney on a side: a piece stays if it comes as near to the midline
            as the nearest one there, or at most so much less.
    """

    rule: Literal["vessels_reach_the_aorta"] = "vessels_reach_the_aorta"
    gap_mm: float = Field(default=3.0, ge=0, le=100)
    reach_mm: float = Field(default=20.0, ge=0, le=1000)


class MinimumVolume(Record):
    """A piece of a structure that is smaller goes.

    Attributes:
        structure: Its name in dataset.json.
        ml: The volume that stays.
    """

    rule: Literal["minimum_volume"] = "minimum_volume"
    structure: str
    ml: float = Field(gt=0, le=10_000)


Rule = Annotated[
    AtMostTwoKidneys | LesionsTouchKidney | VesselsReachAorta | MinimumVolume,
    Field(discriminator="rule"),
]


class Postprocessing(Record):
    """postprocessing.json: the rules, in the order in which they are applied."""

    version: Literal[1] = 1
    rules: tuple[Rule, ...] = ()


def misfit(rule: Rule, scheme: LabelScheme) -> str:
    """Why a rule says nothing about these labels; empty if it does.

    Names decide: `kidney`, `cortex` … are kidney, `tumor`, `cyst` … lesions, `artery`, `vein` …
    vessels (see `renalplan.roles`).
    """
    roles, names = find_roles(scheme), list(scheme.foreground)
    if isinstance(rule, MinimumVolume):
        lacking = "" if rule.structure in names else f"structure {rule.structure!r}"
    elif isinstance(rule, VesselsReachAorta):
        lacking = "" if roles.vessel else "vessel"
    elif isinstance(rule, LesionsTouchKidney):
        lacking = "kidney" if not roles.kidney else "" if roles.lesion else "lesion"
    else:
        lacking = "" if roles.kidney else "kidney"
    return f"there is no {lacking} among the labels {', '.join(names)}" if lacking else ""


def read_postprocessing(folder: Path, scheme: LabelScheme) -> Postprocessing | None:
    """The rules of a model folder; None if it has none.

    Raises:
        ModelError: the file is not valid, or a rule does not fit the labels.
    """
    path = folder / POSTPROCESSING
    if not path.is_file():
        return None
    found = read_record(path, Postprocessing, ModelError)
    for rule in found.rules:
        if reason := misfit(rule, scheme):
            raise ModelError(f"{path}: {rule.rule}: {reason}; correct or delete the file.")
    return found
