"""Saved probabilities of a case: one array, and beside it what it holds.

    <case>.probabilities.b2nd   (heads, the scan file's own axis order) float16, compressed
    <case>.probabilities.json   labels, grid and models; written last: the array is complete

A JSON file of its own, not a note inside the array: blosc2 may turn notes back into objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import blosc2
import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from renalplan.errors import PredictionError, UsageError
from renalplan.files import TEMPORARY, Record, atomic_file, read_record, write_json, writing
from renalplan.geometry import Grid, Orientation
from renalplan.images import ENDINGS
from renalplan.labels import LabelScheme
from renalplan.postprocessing import Rule

ARRAY, RECORD = ".probabilities.b2nd", ".probabilities.json"
AGAIN = "predict again with --save_probabilities"


class ProbabilityRecord(Record):
    """<case>.probabilities.json.

    Attributes:
        models: Folders of the models that were averaged.
        ending: File format of the scan, which a segmentation gets too.
        labels: What the heads mean, and how they turn into labels.
        grid: The scan's.
        postprocessing: The rules of the models, which a segmentation obeys and probabilities do not.
    """

    version: Literal[1] = 1
    models: tuple[str, ...]
    ending: str
    labels: LabelScheme
    grid: Grid
    postprocessing: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> ProbabilityRecord:
        if self.ending not in ENDINGS:
            raise ValueError(f"ending {self.ending!r} is not one of {', '.join(ENDINGS)}")
        labels, grid = self.labels, self.grid
        if not labels.names or len(labels.names) != len(labels.values) or not all(labels.values):
            raise ValueError("labels need values for each name")
        if labels.region_values and len(labels.region_values) != labels.heads:
            raise ValueError("region_values needs one value for each region")
        if not all(0 <= value < 1 << 16 for value in (*labels.all_values, *labels.region_values)):
            raise ValueError("label values must lie between 0 and 65535")
        if min(grid.size) < 1 or min(grid.spacing) <= 0 or len(grid.direction) != 9:
            raise ValueError("grid is not one of voxels")
        numbers = np.array([*grid.spacing, *grid.origin, *grid.direction])
        if not np.isfinite(numbers).all() or abs(np.linalg.det(numbers[6:].reshape(3, 3))) < 1e-3:
            raise ValueError("grid has a direction without volume, or numbers that are not finite")
        return self


def probability_files(folder: Path, case: str) -> tuple[Path, Path]:
    """The two files of a case: array and record."""
    return folder / f"{case}{ARRAY}", folder / f"{case}{RECORD}"


def forget_probabilities(folder: Path, case: str) -> None:
    """Remove a case's files, which are of another segmentation than the one to be written."""
    for path in reversed(probability_files(folder, case)):
        path.unlink(missing_ok=True)


class ProbabilityFile:
    """The array of one case while it is being written, some slices at a time."""

    def __init__(self, path: Path, temporary: Path, heads: int, grid: Grid) -> None:
        self._path, self._orientation = path, Orientation.of(grid)
        self._axis = self._orientation.order[0]  # canonical z is this axis of the file's array
        self._length = grid.shape[self._axis]
        temporary.unlink(missing_ok=True)
        with writing(path, RuntimeError):
            self._array = blosc2.zeros(
                (heads, *grid.shape), dtype=np.float16, urlpath=str(temporary), mode="w"
            )

    def add(
        self,
        start: int,
        stop: int,
        probabilities: Tensor,
        disagreement: Tensor | None = None,
        labels: NDArray | None = None,
    ) -> None:
        """Write canonical slices start to stop of (heads, n, y, x); see `SlabTaker`."""
        part = self._orientation.undo(probabilities.numpy().astype(np.float16))
        if self._orientation.flipped[0]:
            start, stop = self._length - stop, self._length - start
        where = [slice(None)] * 4
        where[1 + self._axis] = slice(start, stop)
        with writing(self._path, RuntimeError):
            self._array[tuple(where)] = np.ascontiguousarray(part)


@contextmanager
def probability_writer(
    folder: Path, case: str, heads: int, record: ProbabilityRecord
) -> Iterator[ProbabilityFile]:
    """Write a case's two files, each by rename, the record when the array is complete."""
    path, described = probability_files(folder, case)
    described.unlink(missing_ok=True)  # it must not describe an array that it is not of
    with atomic_file(path) as temporary:
        yield ProbabilityFile(path, temporary, heads, record.grid)
    write_json(described, record)


def saved_cases(folder: Path) -> list[str]:
    """Ids of the cases whose arrays are in a folder, sorted.

    Raises:
        UsageError: it is not there, or holds none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give folders of saved probabilities.")
    names = [path.name for path in folder.glob(f"*{ARRAY}")]
    found = sorted(n.removesuffix(ARRAY) for n in names if not n.startswith(TEMPORARY))
    if not found:
        raise UsageError(f"{folder} holds no probabilities (*{ARRAY}); {AGAIN}.")
    return found


@dataclass(frozen=True)
class SavedProbabilities:
    """A case's probabilities on disk.

    Attributes:
        path: Of the array.
        record: What it holds.
        array: (heads, *grid.shape) float16; slicing reads only what is asked for.
    """

    path: Path
    record: ProbabilityRecord
    array: Any

    @classmethod
    def open(cls, folder: Path, case: str) -> SavedProbabilities:
        """Open and check a case's two files.

        Raises:
            UsageError: one is missing, damaged, or does not fit the other.
        """
        path, described = probability_files(folder, case)
        if not described.is_file():
            raise UsageError(f"{described} is missing: {path.name} is not complete; {AGAIN}.")
        record = read_record(described, ProbabilityRecord, UsageError)
        try:
            array = blosc2.open(str(path), mode="r")
        except (OSError, RuntimeError, ValueError) as problem:
            raise UsageError(f"{path} cannot be opened ({problem}); {AGAIN}.") from None
        if type(array) is not blosc2.NDArray or array.dtype != np.float16:
            # a lazy expression in the file could compute when read
            raise UsageError(f"{path} is not a plain array of float16; {AGAIN}.")
        if array.shape != (record.labels.heads, *record.grid.shape):
            raise UsageError(
                f"{path} has the shape {array.shape}, which does not fit {described.name}; {AGAIN}."
            )
        return cls(path, record, array)

    def slab(self, start: int, stop: int) -> NDArray[np.float32]:
        """(heads, stop - start, j, i) along the first axis of the file's own order.

        Raises:
            PredictionError: the array is damaged.
        """
        try:
            values: NDArray[np.float32] = self.array[:, start:stop].astype(np.float32)
        except (OSError, RuntimeError, ValueError) as problem:
            raise PredictionError(f"{self.path} is damaged ({problem}); {AGAIN}.") from None
        if not np.isfinite(values).all():
            raise PredictionError(f"{self.path} holds values that are not finite; {AGAIN}.")
        return values
