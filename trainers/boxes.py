"""Where tumors may be: boxes, from boxesTr.csv or around labels, and what they look like on a stage's grid.

The phase `boxes` is the only one of a box trainer that may open a training case's labels. It leaves
boxes.json; everything later knows the labels through this file alone.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import TrainingError
from renalplan.files import Record, read_record, write_json
from renalplan.geometry import Box, Shape, box_slices, grow_box
from renalplan.plan import StagePlan
from renalplan.regions import find_pieces
from renalplan.store import ItemArrays
from renalplan.trainers.task import TrainingTask

NAME = "boxes"
BOXES_FILE = "boxes.json"
ROUNDING = 1e-6  # voxels; a box goes from one grid to another and back as it was

Edges = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


class TumorBoxes(Record):
    """boxes.json.

    Attributes:
        source: Where they are from.
        boxes: Case -> boxes, half-open, in voxels of the canonical (z, y, x) scan; edges drawn on a
            stage's grid may lie within such a voxel.
    """

    source: str
    boxes: dict[str, tuple[Edges, ...]]


def find_boxes(task: TrainingTask, stage: StagePlan, margin: int | None, folder: Path) -> None:
    """Write boxes.json for the fold's training cases.

    Args:
        task: What is trained on.
        stage: The stage whose grid boxes around labels are drawn on.
        margin: Voxels of that grid which boxes around labels are wider on every side; None takes
            boxesTr.csv where the dataset has one, else 0.
        folder: Where to write.

    Raises:
        TrainingError: there is no box at all.
    """
    found: dict[str, list[Edges]] = {case: [] for case in task.fold.train}
    if margin is None and task.boxes:
        source = "boxesTr.csv"
        for case in found:
            found[case] = [_exact(box) for box in task.boxes.get(case, ())]
    else:
        source = f"labels, {margin or 0} voxels wider on every side"
        for item in task.training_items(stage):
            mask = task.scheme.foreground_mask(np.asarray(item.labels[0]))
            for piece in find_pieces(mask, (1.0, 1.0, 1.0), 0.0):
                box = grow_box(piece.box, (margin or 0,) * 3, item.item.shape)
                found[item.case].append(to_scan(box, item, task.plan.order))
    if not any(found.values()):
        raise TrainingError(
            "no training case of this fold has a tumor box; nothing can be learned."
        )
    boxes = {case: tuple(edges) for case, edges in found.items()}
    write_json(folder / BOXES_FILE, TumorBoxes(source=source, boxes=boxes))


def read_boxes(task: TrainingTask) -> TumorBoxes:
    """What `find_boxes` wrote into the fold."""
    return read_record(task.fold_folder / NAME / BOXES_FILE, TumorBoxes, TrainingError)


def to_scan(box: Box, item: ItemArrays, order: Shape) -> Edges:
    """A box of an item's voxels (plan axes) -> canonical (z, y, x) voxels of the scan."""
    edges: list[tuple[float, float]] = [(0.0, 0.0)] * 3
    for axis, canonical in enumerate(order):
        start, step = _axis(item, axis, canonical)
        low, high = box[axis]
        edges[canonical] = (start + low * step, start + high * step)
    z, y, x = edges
    return z, y, x


def on_item(boxes: tuple[Edges, ...], item: ItemArrays, order: Shape) -> tuple[Box, ...]:
    """Boxes of a scan -> voxels of an item whose centres lie in them; those beside it are left out.

    A box between two centres keeps the voxel it lies in: what is small must not get lost.
    """
    found = []
    for edges in boxes:
        sides = []
        for axis, canonical in enumerate(order):
            start, step = _axis(item, axis, canonical)
            low, high = ((edge - start) / step for edge in edges[canonical])
            size = item.item.shape[axis]
            if high <= ROUNDING or low >= size - ROUNDING:
                break
            first, last = (ceil(edge - 0.5 - ROUNDING) for edge in (low, high))
            if last <= first:
                first = int((low + high) / 2)
                last = first + 1
            sides.append((min(max(first, 0), size - 1), max(1, min(last, size))))
        if len(sides) == 3:
            found.append((sides[0], sides[1], sides[2]))
    return tuple(found)


def radius(box: Box, around: Box) -> NDArray[np.float32]:
    """How far each voxel's centre is from a box's centre, 1 on the surface of its inscribed ellipsoid.

    Args:
        box: The box, voxels.
        around: Where to say so, voxels of the same array.

    Returns:
        float32 of `around`'s shape.
    """
    squares = []
    for (low, high), (first, last) in zip(box, around, strict=True):
        places = np.arange(first, last) + 0.5 - (low + high) / 2
        squares.append((2 * places / (high - low)) ** 2)
    z, y, x = np.ix_(*squares)
    return np.sqrt(z + y + x).astype(np.float32)


def inscribed_ellipsoid(box: Box, around: Box) -> NDArray[np.bool_]:
    """Voxels of `around` whose centres lie in a box's inscribed ellipsoid: never none of them."""
    inside: NDArray[np.bool_] = radius(box, around) <= 1
    return inside


def paint_ellipsoids(boxes: tuple[Box, ...], shape: Shape) -> NDArray[np.bool_]:
    """The inscribed ellipsoids of all boxes in an array."""
    result = np.zeros(shape, bool)
    for box in boxes:
        result[box_slices(box)] |= inscribed_ellipsoid(box, box)
    return result


def inside_boxes(boxes: tuple[Box, ...], shape: Shape) -> NDArray[np.bool_]:
    """Voxels of an array that lie in any box."""
    result = np.zeros(shape, bool)
    for box in boxes:
        result[box_slices(box)] = True
    return result


def _axis(item: ItemArrays, axis: int, canonical: int) -> tuple[float, float]:
    """Where an item begins along one plan axis, and its voxels' size, in voxels of the scan."""
    low, high = item.item.box[canonical]
    return float(low), (high - low) / item.item.shape[axis]


def _exact(box: Box) -> Edges:
    (a, b), (c, d), (e, f) = box
    return (float(a), float(b)), (float(c), float(d)), (float(e), float(f))
