"""Which cases the page shows, and their pictures; a picture that fails never loses the numbers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from renalplan.dataset import find_images
from renalplan.errors import RenalplanError
from renalplan.evaluation.cases import find_label_maps
from renalplan.evaluation.figures import overlay_bytes
from renalplan.evaluation.scene import load_scene
from renalplan.evaluation.structures import Structures

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files one picture is drawn from."""

    case: str
    reference: Path | None
    prediction: Path | None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn case: PNG bytes, or why there are none."""

    case: str
    image: bytes | None = None
    problem: str = ""


def choose_cases(dice: pd.Series, count: int | None) -> list[str]:
    """The cases to draw: all if they fit, else the worst, the median and the best one.

    Args:
        dice: Mean Dice by case id, worst first.
        count: At most so many; None: all.

    Returns:
        Case ids, worst first.
    """
    cases = [str(case) for case in dice.index]
    if count is None or len(cases) <= count:
        return cases
    if count < 3:
        return cases[: max(count, 0)]
    return sorted({*cases[: count - 2], cases[len(cases) // 2], cases[-1]}, key=cases.index)


def draw_cases(
    dice: pd.Series,
    sources: list[Sources],
    structures: Structures,
    scans: dict[str, Path],
    count: int | None,
) -> list[Picture]:
    """Draw the chosen cases; one that cannot be drawn says why in its place.

    Args:
        dice: Mean Dice by case id, worst first.
        sources: Files of every case in `dice`.
        structures: What the labels mean and whether the scans are CT.
        scans: Case id -> its scan; a case that is not there is drawn without.
        count: At most so many; None: all.
    """
    chosen = choose_cases(dice, count)
    files = {source.case: source for source in sources}
    drawn = []
    for case in chosen:
        source = files[case]
        try:
            scene = load_scene(
                scans.get(case),
                source.prediction,
                source.reference,
                structures.scheme,
                structures.ct,
            )
            drawn.append(Picture(case=case, image=overlay_bytes(scene)))
        except RenalplanError as problem:
            logger.warning("%s has no picture: %s", case, problem)
            drawn.append(Picture(case=case, problem=str(problem)))
    return drawn


def find_scans(folder: Path) -> dict[str, Path]:
    """Case id -> its first channel (`case_0000.nii.gz`) or its only file (`case.nii.gz`).

    Raises:
        DatasetError: the folder is missing, or one case is there in two formats.
    """
    channels = {case: files[0] for case, files in find_images(folder).items() if 0 in files}
    return find_label_maps(folder) | channels
