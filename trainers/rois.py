"""Where the fine network of a rough -> fine cascade looks while it is trained, and how wrong.

At prediction the rough network says where a kidney is; in training the labels do. So that the fine
network meets in training what it will meet later, each region is moved by a random error of the
size that the rough network was measured to make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from renalplan.files import Record, read_record, write_json
from renalplan.geometry import (
    Box,
    Shape,
    Spacing,
    box_shape,
    boxes_overlap,
    grow_box,
    margin_voxels,
    whole_box,
)
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.regions import Piece, find_pieces
from renalplan.rois import roi_box
from renalplan.store import ItemArrays
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.sampling import PatchSource, corner_around, random_corner
from renalplan.trainers.task import TrainingTask

KIDNEYS = "kidneys.json"
# of a rough voxel: on scans it was trained on, a network errs less than on others
LEAST_ERROR = 0.5


class Kidneys(Record):
    """kidneys.json: what the labels of the training cases say, and how far off the rough network is.

    Attributes:
        boxes: Item name of the fine stage -> box of each kidney in it, along the plan's axes.
        error_mm: Root mean square distance between the centres of a kidney's true and rough box,
            along the plan's axes, over the training cases.
        compared: Kidneys of the training cases that the rough network found.
        missed: Kidneys that it did not find.
    """

    boxes: dict[str, tuple[Box, ...]]
    error_mm: tuple[float, float, float]
    compared: int
    missed: int


@dataclass(frozen=True)
class RoiSource(PatchSource):
    """Patches inside the kidneys' regions of interest.

    Attributes:
        kidneys: Item name -> box of each kidney in it.
        spacing: mm along the plan's axes.
        slice_axis: The plan axis across the slices.
        margin_mm: How far beyond a kidney its region may reach.
        jitter_mm: Standard deviation of a region's displacement along each axis.
    """

    kidneys: dict[str, tuple[Box, ...]] = field(default_factory=dict)
    spacing: Spacing = (1.0, 1.0, 1.0)
    slice_axis: int = 0
    margin_mm: float = 0.0
    jitter_mm: Spacing = (0.0, 0.0, 0.0)

    def corner(
        self, item: ItemArrays, voxel: NDArray[np.int32] | None, generator: Generator
    ) -> tuple[int, ...]:
        """See `PatchSource.corner`; the patch lies in a kidney's displaced region."""
        shape = item.item.shape
        boxes = self.kidneys.get(item.item.name) or (whole_box(shape),)
        if voxel is not None:
            boxes = tuple(box for box in boxes if _holds(box, voxel)) or boxes
        roi = self.region(boxes[generator.integers(len(boxes))], shape, generator)
        size, start = box_shape(roi), [a for a, _ in roi]
        if voxel is None:
            corner = random_corner(size, self.patch, generator)
        else:
            corner = corner_around(np.asarray(voxel) - start, size, self.patch, generator)
        return tuple(c + s for c, s in zip(corner, start, strict=True))

    def region(self, kidney: Box, shape: Shape, generator: Generator) -> Box:
        """A kidney's region of interest, displaced as the rough network would misplace it."""
        shift = [
            round(float(generator.normal(0.0, sigma)) / s) if sigma else 0
            for sigma, s in zip(self.jitter_mm, self.spacing, strict=True)
        ]
        moved: Box = tuple((a + d, b + d) for (a, b), d in zip(kidney, shift, strict=True))  # type: ignore[assignment]
        within = grow_box(kidney, margin_voxels(self.margin_mm, self.spacing), shape)
        return roi_box(moved, self.spacing, self.spacing, within, self.slice_axis, self.patch)


def measure_rough_errors(
    task: TrainingTask, rough: StagePlan, fine: StagePlan, network: NetworkSpec, folder: Path
) -> None:
    """Find the kidneys of the training cases, and compare them with the rough network's.

    Args:
        task: Its fold must have trained the rough stage.
        rough: The stage whose network locates.
        fine: The stage that looks into kidney regions.
        network: The rough stage's network.
        folder: Where kidneys.json goes.
    """
    predict = ItemPredictor(task, rough, network)
    squares, compared, missed = np.zeros(3), 0, 0
    for item in task.training_items(rough):
        spacing = task.spacing_of(rough, item)
        truth = task.scheme.foreground_mask(np.asarray(item.labels[0]))
        found = find_pieces(predict(item) > 0, spacing, fine.minimum_component_ml)
        for piece in find_pieces(truth, spacing, fine.minimum_component_ml):
            nearest = _nearest(piece, found, spacing)
            if nearest is None:
                missed += 1
                continue
            squares += ((_centre(nearest.box) - _centre(piece.box)) * spacing) ** 2
            compared += 1
    error = np.sqrt(squares / max(1, compared))
    boxes: dict[str, tuple[Box, ...]] = {}
    for item in task.training_items(fine):
        truth = task.scheme.foreground_mask(np.asarray(item.labels[0]))
        pieces = find_pieces(truth, task.spacing_of(fine, item), fine.minimum_component_ml)
        boxes[item.item.name] = tuple(piece.box for piece in pieces)
    z, y, x = error.tolist()
    kidneys = Kidneys(boxes=boxes, error_mm=(z, y, x), compared=compared, missed=missed)
    write_json(folder / KIDNEYS, kidneys)


def read_kidneys(folder: Path) -> Kidneys:
    """What `measure_rough_errors` wrote."""
    return read_record(folder / KIDNEYS, Kidneys)


def jitter_mm(kidneys: Kidneys, rough_spacing: Spacing, factor: float) -> Spacing:
    """Standard deviation of a region's displacement along each axis, mm."""
    z, y, x = (
        factor * max(error, LEAST_ERROR * s)
        for error, s in zip(kidneys.error_mm, rough_spacing, strict=True)
    )
    return z, y, x


def _nearest(piece: Piece, found: list[Piece], spacing: Spacing) -> Piece | None:
    """The found piece whose box meets the true one's and whose centre is closest."""
    meeting = [other for other in found if boxes_overlap(piece.box, other.box)]
    centre = _centre(piece.box)

    def distance_mm(other: Piece) -> float:
        return float(np.linalg.norm((_centre(other.box) - centre) * spacing))

    return min(meeting, key=distance_mm, default=None)


def _centre(box: Box) -> NDArray[np.float64]:
    return np.array([(a + b) / 2 for a, b in box])


def _holds(box: Box, voxel: NDArray[np.int32]) -> bool:
    return all(a <= v < b for (a, b), v in zip(box, voxel, strict=True))
