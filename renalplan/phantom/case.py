"""One finished phantom: images, labels, masks and the numbers that are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Grid, Spacing


@dataclass(frozen=True, kw_only=True)
class TumorTruth:
    """What is known about a tumor before any voxel exists.

    Attributes:
        side: "left" or "right".
        histology: Its type.
        diameter_mm: Largest diameter.
        volume_ml: Volume.
        contact: Share of its surface that lies in parenchyma.
        centre_mm: (z, y, x) in the patient frame, which is the image's LPS frame reversed.
    """

    side: str
    histology: str
    diameter_mm: float
    volume_ml: float
    contact: float
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known about a patient.

    Attributes:
        kidney_count: 1 or 2.
        kidney_ml: Side -> volume of the kidney label, partial voxels counted by their share.
        cortex_ml: Both kidneys.
        medulla_ml: Both kidneys.
        artery_count: Renal arteries that leave the aorta.
        artery_ml: Volume of the arterial trees, including their thinnest branches.
        tumors: All tumors.
    """

    kidney_count: int
    kidney_ml: dict[str, float]
    cortex_ml: float
    medulla_ml: float
    artery_count: int
    artery_ml: float
    tumors: tuple[TumorTruth, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PhantomCase:
    """One phantom; all arrays are canonical (z, y, x) and share one shape.

    Attributes:
        images: Phase -> int16 HU, in channel order.
        structures: Name -> bool mask; regions overlap the vessels that run in them.
        labels: uint8 label map of the task.
        grid: File header of images and labels.
        spacing: (z, y, x) mm.
        label_names: Label name -> value.
        truth: Exact numbers.
    """

    images: dict[str, NDArray[np.int16]]
    structures: dict[str, NDArray[np.bool_]]
    labels: NDArray[np.uint8]
    grid: Grid
    spacing: Spacing
    label_names: dict[str, int]
    truth: Truth
