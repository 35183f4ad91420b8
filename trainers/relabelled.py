"""Stored scans with labels that a phase made: pseudo masks, fused masks, masks of boxes.

A phase writes them into its own folder; what trains on them sees the store's images and these labels,
and never opens the labels that the store may hold.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from numpy.typing import NDArray

from renalplan.errors import TrainingError
from renalplan.files import Record, read_record, write_json
from renalplan.labels import LabelScheme
from renalplan.store import ItemArrays, write_labels


class MadeLabels(Record):
    """<item>.json, written last: an item's new labels are complete.

    Attributes:
        structures: Structure name -> voxels of it, so that sampling knows what is there.
    """

    structures: dict[str, int]


def relabel(item: ItemArrays, folder: Path, labels: NDArray, scheme: LabelScheme) -> None:
    """Write new labels of an item.

    Args:
        item: Whose they are.
        folder: Of the phase that made them.
        labels: Label values of the item's shape, along the plan's axes.
        scheme: What they mean.
    """
    structures = write_labels(folder, item.item.name, labels, scheme)
    write_json(folder / f"{item.item.name}.json", MadeLabels(structures=structures))


def is_relabelled(item: ItemArrays, folder: Path) -> bool:
    """Whether an item's new labels are complete, so that a killed phase goes on after it."""
    return (folder / f"{item.item.name}.json").is_file()


def relabelled(item: ItemArrays, folder: Path) -> ItemArrays:
    """The item with the labels that `relabel` wrote instead of its own.

    Raises:
        TrainingError: they are missing or damaged.
    """
    made = read_record(folder / f"{item.item.name}.json", MadeLabels, TrainingError)
    stored = item.item.model_copy(update={"structures": made.structures})
    return replace(item, item=stored, labels_in=folder)
