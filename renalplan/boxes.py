"""boxesTr.csv: tumors (or other structures) known by their boxes, in the voxels of the scans' own files.

    case,label,z0,y0,x0,z1,y1,x1
    case_001,1,12,30,41,25,47,60

Half-open, in the file's own array order (the first number counts along the last axis of the header), as
numpy sees the array when SimpleITK or nibabel's reversed axes give it. Any number of rows a case.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import DatasetError
from renalplan.geometry import Box, Grid, Orientation, box_slices

BOXES = "boxesTr.csv"
COLUMNS = ("case", "label", "z0", "y0", "x0", "z1", "y1", "x1")


@dataclass(frozen=True, kw_only=True)
class LabelBox:
    """One row.

    Attributes:
        label: The value that dataset.json gives the structure.
        box: Half-open voxels along the file's array axes (k, j, i).
        line: Of the file, for messages.
    """

    label: int
    box: Box
    line: int


def read_boxes(
    path: Path, values: Iterable[int], cases: Iterable[str]
) -> dict[str, tuple[LabelBox, ...]]:
    """Read and check boxesTr.csv; whether boxes lie in their images, `outside` says.

    Args:
        path: The file.
        values: Label values that a box may have.
        cases: Cases of imagesTr.

    Returns:
        Case -> its rows in order; cases without any are left out.

    Raises:
        DatasetError: not readable, other columns, a row of other than whole numbers, an empty box, an
            unknown case or label. The sentence names the line.
    """
    allowed, known = set(values), set(cases)
    found: dict[str, list[LabelBox]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream)
            header = tuple(cell.strip() for cell in next(rows, []))
            if header != COLUMNS:
                raise DatasetError(
                    f"{path}: line 1 must be {','.join(COLUMNS)}, it is {','.join(header)!r}."
                )
            for row in rows:
                if any(cell.strip() for cell in row):
                    case, box = _row(path, rows.line_num, row, allowed, known)
                    found.setdefault(case, []).append(box)
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DatasetError(f"{path} cannot be read: {problem}.") from None
    return {case: tuple(boxes) for case, boxes in found.items()}


def _row(
    path: Path, line: int, row: list[str], allowed: set[int], known: set[str]
) -> tuple[str, LabelBox]:
    where = f"{path}: line {line}"
    if len(row) != len(COLUMNS):
        raise DatasetError(f"{where} has {len(row)} columns, it needs {len(COLUMNS)}.")
    case = row[0].strip()
    if case not in known:
        raise DatasetError(f"{where}: imagesTr has no case {case!r}.")
    try:
        label, z0, y0, x0, z1, y1, x1 = (int(cell) for cell in row[1:])
    except ValueError:
        raise DatasetError(
            f"{where}: label and corners must be whole numbers: {row[1:]}."
        ) from None
    if label not in allowed:
        raise DatasetError(
            f"{where}: dataset.json has no structure of label {label}; it has {sorted(allowed)}."
        )
    box: Box = ((z0, z1), (y0, y1), (x0, x1))
    for axis, (low, high) in zip("zyx", box, strict=True):
        if not 0 <= low < high:
            raise DatasetError(
                f"{where}: {axis}0 must be at least 0 and below {axis}1; they are {low} and {high}."
            )
    return case, LabelBox(label=label, box=box, line=line)


def outside(path: Path, boxes: Iterable[LabelBox], grid: Grid) -> list[str]:
    """A sentence for each box that does not lie in its image."""
    return [
        f"{path}: line {box.line}: {axis}1 is {high}, but the image has {size} voxels along {axis}."
        for box in boxes
        for axis, (_, high), size in zip("zyx", box.box, grid.shape, strict=True)
        if high > size
    ]


def canonical_box(box: Box, grid: Grid) -> Box:
    """A box of the file's array -> of the canonical (z, y, x) array."""
    orientation = Orientation.of(grid)
    sides = []
    for axis, turned in zip(orientation.order, orientation.flipped, strict=True):
        low, high = box[axis]
        size = grid.shape[axis]
        sides.append((size - high, size - low) if turned else (low, high))
    return sides[0], sides[1], sides[2]


def paint_boxes(boxes: Iterable[LabelBox], grid: Grid) -> NDArray[np.uint8]:
    """A label map (z, y, x), canonical, in which every box is full; later rows lie on top."""
    labels = np.zeros(Orientation.of(grid).shape(grid), np.uint8)
    for box in boxes:
        labels[box_slices(canonical_box(box.box, grid))] = box.label
    return labels
