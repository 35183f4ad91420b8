"""Where the labels of stored scans say that kidneys and tumors are, for windows to be cut around.

Measured once a fold, on the training cases alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from renalplan.files import Record, read_record, write_json
from renalplan.geometry import Box, Spacing, box_slices, grow_box, margin_voxels
from renalplan.kidney_tumor import KidneyTumor
from renalplan.kidneys import separate_kidneys
from renalplan.store import ItemArrays

NAME = "anatomy"  # of the phase and its folder
ANATOMY = "anatomy.json"


class KidneyPlace(Record):
    """One kidney of an item, its tumors included; voxels along (z, y, x).

    Attributes:
        box: Around it.
        search: The padded box in which its tumors are looked for.
        centre: Mean position of its voxels.
        tumor_slices: The slices in which the search box holds tumor.
    """

    box: Box
    search: Box
    centre: tuple[float, float, float]
    tumor_slices: tuple[int, ...]


class Anatomy(Record):
    """What the labels of an item say.

    Attributes:
        centre: Mean position of all kidney and tumor voxels; None if there are none.
        kidneys: At most two.
    """

    centre: tuple[float, float, float] | None
    kidneys: tuple[KidneyPlace, ...]


class Anatomies(Record):
    """anatomy.json: item name -> its anatomy."""

    items: dict[str, Anatomy]


def measure_item(
    item: ItemArrays,
    structures: KidneyTumor,
    spacing: Spacing,
    *,
    threshold_ml: float,
    padding_mm: float,
) -> Anatomy:
    """Kidneys of an item, told apart by the rule that prediction tells them apart by.

    Args:
        item: Stored along (z, y, x).
        structures: Which label values are what.
        spacing: mm along (z, y, x).
        threshold_ml: Volume that a kidney exceeds.
        padding_mm: How far beyond a kidney tumors are looked for.
    """
    both, tumor = structures.masks(np.asarray(item.labels[0]))
    margin = margin_voxels(padding_mm, spacing)
    kidneys = []
    for piece in separate_kidneys(both, spacing, threshold_ml):
        search = grow_box(piece.box, margin, both.shape)
        slices = np.flatnonzero(tumor[box_slices(search)].any(axis=(1, 2))) + search[0][0]
        kidneys.append(
            KidneyPlace(
                box=piece.box,
                search=search,
                centre=piece.centre,
                tumor_slices=tuple(int(z) for z in slices),
            )
        )
    if not both.any():
        return Anatomy(centre=None, kidneys=())
    z, y, x = np.argwhere(both).mean(axis=0).tolist()
    return Anatomy(centre=(z, y, x), kidneys=tuple(kidneys))


def write_anatomies(
    items: Iterable[ItemArrays],
    structures: KidneyTumor,
    spacing: Spacing,
    folder: Path,
    *,
    threshold_ml: float,
    padding_mm: float,
) -> None:
    """Measure items and write anatomy.json."""
    found = {
        item.item.name: measure_item(
            item, structures, spacing, threshold_ml=threshold_ml, padding_mm=padding_mm
        )
        for item in items
    }
    write_json(folder / ANATOMY, Anatomies(items=found))


def read_anatomies(folder: Path) -> dict[str, Anatomy]:
    """What `write_anatomies` wrote."""
    return read_record(folder / ANATOMY, Anatomies).items
