"""The four data sets a phantom can be: which phases are imaged and what is labelled.

kidney_tumor and boxes need one contrast phase, corticomedullary in most patients and arterial in
the others; artery needs CTA; compartments needs CTA and CTU, registered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import UsageError
from renalplan.phantom.shapes import Floats

ARTERIAL_SHARE = 0.3  # of the CT data sets' patients were scanned early, in the arterial phase


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of data set.

    Attributes:
        channels: Channel names in file order.
        phases: Phase of each channel; empty if each patient's phase is drawn.
        labels: Label name -> value, background left out.
        tumors: Whether patients have tumors.
        boxes: Whether boxesTr.csv is written.
        description: One sentence for dataset.json.
    """

    channels: tuple[str, ...]
    phases: tuple[str, ...]
    labels: dict[str, int]
    tumors: bool = True
    boxes: bool = False
    description: str


TASKS: dict[str, Task] = {
    "kidney_tumor": Task(
        channels=("CT",),
        phases=(),
        labels={"kidney": 1, "tumor": 2},
        description="Simulated contrast CT: kidney parenchyma (no sinus, no pelvis) and tumor.",
    ),
    "artery": Task(
        channels=("CTA",),
        phases=("arterial",),
        labels={"artery": 1},
        description="Simulated CT angiography: renal arteries of 1.5 mm and more.",
    ),
    "compartments": Task(
        channels=("CTA", "CTU"),
        phases=("arterial", "excretory"),
        labels={"cortex": 1, "medulla": 2},
        tumors=False,
        description="Simulated registered CT angiography and urography: renal cortex and medulla.",
    ),
    "boxes": Task(
        channels=("CT",),
        phases=(),
        labels={"tumor": 1},
        boxes=True,
        description="Simulated contrast CT with tumors given as boxes; masks are for evaluation.",
    ),
}


def get_task(name: str) -> Task:
    """The task of a name; UsageError if there is none."""
    if name not in TASKS:
        raise UsageError(f"There is no phantom task {name!r}. There are: {', '.join(TASKS)}.")
    return TASKS[name]


def draw_phases(task: Task, rng: np.random.Generator) -> tuple[str, ...]:
    """The phases of a patient's images, in channel order."""
    if task.phases:
        return task.phases
    return ("arterial",) if rng.random() < ARTERIAL_SHARE else ("corticomedullary",)


def join_labels(
    task: str, shares: dict[str, Floats], artery: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Label map of a slab: a voxel is labelled if the labelled structures fill half of it.

    Where they fill it together, it gets the label of the larger share.

    Args:
        task: Name of the task.
        shares: Structure -> (Z, Y, X) covered share; structures outside the slab are missing.
        artery: (Z, Y, X) the artery mask, which also follows thin vessels.
    """
    none = np.zeros(artery.shape, np.float32)
    result = np.zeros(artery.shape, np.uint8)
    if task == "artery":
        result[artery] = 1
        return result
    if task == "boxes":
        result[shares.get("tumor", none) >= 0.5] = 1
        return result
    if task == "compartments":
        first, second = shares.get("cortex", none), shares.get("medulla", none)
    else:
        first = shares.get("kidney_left", none) + shares.get("kidney_right", none)
        second = shares.get("tumor", none)
    filled = first + second >= 0.5
    result[filled] = 1
    result[filled & (second >= first)] = 2
    return result
