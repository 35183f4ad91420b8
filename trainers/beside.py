"""Arrays that a phase writes, one for each stored item: a cascade's labels so far, voxel weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from numpy.typing import NDArray

from renalplan.plan import StagePlan
from renalplan.store import ItemArrays, open_array, write_array
from renalplan.trainers.task import TrainingTask


@dataclass(frozen=True)
class ArraysBeside:
    """Reads and writes them; picklable for data workers.

    Attributes:
        folder: Of the phase; `<item><suffix>.b2nd` lies in it.
        suffix: Tells several arrays of an item apart.
    """

    folder: Path
    suffix: str = ""

    def __call__(self, item: ItemArrays, start: tuple[int, ...], size: tuple[int, ...]) -> NDArray:
        """(1, *size) values, zero beyond the border."""
        box = [[int(a), int(a + n)] for a, n in zip(start, size, strict=True)]
        return crop_and_pad_nd(_opened(str(self.path(item))), box, 0)

    def path(self, item: ItemArrays) -> Path:
        """Where an item's array is."""
        return self.folder / f"{item.item.name}{self.suffix}.b2nd"

    def whole(self, item: ItemArrays) -> NDArray:
        """All of an item's array, of the item's shape."""
        values: NDArray = open_array(self.path(item))[:][0]
        return values

    def write(self, item: ItemArrays, values: NDArray) -> None:
        """Write an item's array, of the item's shape, by rename."""
        write_array(self.path(item), values[None])
        _opened.cache_clear()  # a restart in this process writes new files under the same names


@lru_cache(maxsize=256)
def _opened(path: str) -> Any:
    return open_array(Path(path))


def previous_labels(task: TrainingTask, stage: StagePlan) -> ArraysBeside | None:
    """Where what the stage before said about each item is; None if the stage does not see it."""
    if not stage.previous_as_channels:
        return None
    return ArraysBeside(task.fold_folder / f"before_{stage.name}")
