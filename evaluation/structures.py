"""Which structures are scored: those asked for, else a nearby dataset.json's, else all present.

What `--labels` asks for is read by `asked`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from renalplan.dataset import DatasetDescription
from renalplan.errors import DatasetError
from renalplan.evaluation.cases import present_values
from renalplan.evaluation.tolerance import Tolerance
from renalplan.files import read_record, real_path
from renalplan.images import read_volume
from renalplan.labels import BACKGROUND, LabelScheme


@dataclass(frozen=True, kw_only=True)
class Structures:
    """What is scored, and whether its pictures are CT.

    Attributes:
        scheme: Names and label values.
        ct: Whether the first channel is CT; None if nothing says so.
        source: Where the names come from, for the reader of the summary.
        declared: Values the label files may hold, scored or not; empty: any.
        tolerance: Of the surface Dice.
    """

    scheme: LabelScheme
    ct: bool | None = None
    source: str = ""
    declared: tuple[int, ...] = ()
    tolerance: Tolerance = field(default_factory=Tolerance)


def find_structures(
    given: LabelScheme | Path | None, references: Path, files: Iterable[Path]
) -> Structures:
    """Decide what is scored.

    Args:
        given: A scheme, a dataset.json (or the folder that holds it), or None to look for
            dataset.json in `references` and its parent folder.
        references: Folder of reference label files.
        files: The label files to read if nothing names the structures: every value above 0 that
            occurs becomes `label 1`, `label 2` ….

    Raises:
        DatasetError: dataset.json is not valid, or there is neither a dataset.json nor any label.
    """
    if isinstance(given, LabelScheme):
        return Structures(scheme=given, declared=given.all_values)
    if given is not None:
        return described(given / "dataset.json" if given.is_dir() else given)
    if (beside := find_description(references)) is not None:
        return described(beside)
    values = sorted({v for path in files for v in _values(path)} - {0})
    if not values:
        raise DatasetError(
            f"{references} has no dataset.json and none of the files holds a label above 0; "
            "there is nothing to score."
        )
    scheme = LabelScheme(
        names=(BACKGROUND, *(f"label {value}" for value in values)),
        values=((0,), *((value,) for value in values)),
    )
    return Structures(scheme=scheme, source="the values present in the files")


def find_description(references: Path) -> Path | None:
    """The dataset.json in a folder of references or above it, if there is one."""
    for folder in (references, real_path(references).parent):
        if os.path.lexists(folder / "dataset.json"):  # one that cannot be read is said to be so
            return folder / "dataset.json"
    return None


def described(path: Path) -> Structures:
    """All structures of a dataset.json.

    Raises:
        DatasetError: it is missing or not valid.
    """
    description = read_record(path, DatasetDescription)
    scheme = description.scheme(str(path))
    return Structures(
        scheme=scheme,
        ct=description.channels[0].upper() == "CT",
        source="dataset.json",
        declared=scheme.all_values,
    )


def _values(path: Path) -> list[int]:
    return present_values(read_volume(path, labels=True).array[0])
