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
from renalplan.parallel import CaseExecutor, map_cases

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files one picture is drawn from."""

    case: str
    reference: Path | None
    prediction: Path | None
    scan: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn case: the bytes of a JPEG file, or why there are none."""

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
    count: int | None,
    executor: CaseExecutor,
) -> list[Picture]:
    """Draw the chosen cases; one that cannot be drawn says why in its place.

    Args:
        dice: Mean Dice by case id, worst first.
        sources: Files of every case in `dice`; a case without a scan is drawn on empty ground.
        structures: What the labels mean and whether the scans are CT.
        count: At most so many; None: all.
        executor: Who draws.
    """
    files = {source.case: source for source in sources}
    chosen = [files[case] for case in choose_cases(dice, count)]
    drawn: dict[str, Picture] = {}
    for source, result in map_cases(_draw, chosen, structures, executor=executor):
        if isinstance(result, RenalplanError):
            logger.warning("%s has no picture: %s", source.case, result)
            drawn[source.case] = Picture(case=source.case, problem=str(result))
        else:
            drawn[source.case] = Picture(case=source.case, image=result)
    return [drawn[source.case] for source in chosen]


def _draw(source: Sources, structures: Structures) -> bytes:
    scene = load_scene(
        source.scan, source.prediction, source.reference, structures.scheme, structures.ct
    )
    return overlay_bytes(scene, small=True)


def find_scans(folder: Path) -> dict[str, Path]:
    """Case id -> its first channel (`case_0000.nii.gz`) or its only file (`case.nii.gz`).

    Raises:
        DatasetError: the folder is missing, or one case is there in two formats.
    """
    channels = {case: files[0] for case, files in find_images(folder).items() if 0 in files}
    return find_label_maps(folder) | channels
