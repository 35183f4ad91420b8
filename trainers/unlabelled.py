"""Patches of images alone: the fold's training scans and those without labels.

Where a stage looks only into kidney regions, the fold's own locating stage says where they are in a
scan that has no labels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from renalplan.files import Record, read_record, write_json
from renalplan.geometry import Box, Shape, box_shape, whole_box
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.regions import region_boxes
from renalplan.store import ItemArrays
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.phase import ComputePhase
from renalplan.trainers.sampling import draw_item, random_corner, seeded, with_margin
from renalplan.trainers.task import TrainingTask

REGIONS = "regions.json"
REGIONS_PHASE = "unlabelled_regions"
log = logging.getLogger(__name__)


class FoundRegions(Record):
    """regions.json: item name -> boxes in it, voxels along the plan's axes."""

    boxes: dict[str, tuple[Box, ...]]


@dataclass(frozen=True)
class ImageSource:
    """Random image patches of labelled and unlabelled scans alike; no label is ever read.

    Attributes:
        items: Stored arrays; every case is equally likely, then every item of it.
        regions: Item name -> where patches may lie; an item that is not named is used whole.
        patch: Size after augmentation.
        margin: Voxels read beyond the patch on each side.
        batch_size: Samples a batch.
        transform: Augments one sample {image}; must crop to `patch`.
        seed: With the step it decides everything.
        places: Which samples of a batch are made; None makes all.
    """

    items: tuple[ItemArrays, ...]
    regions: dict[str, tuple[Box, ...]]
    patch: Shape
    margin: Shape
    batch_size: int
    transform: Callable[..., dict[str, Any]]
    seed: int
    places: range | None = None

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """Images (B, C, *patch) float32 of one step."""
        places = range(self.batch_size) if self.places is None else self.places
        return {"image": torch.stack([self._image(step, n) for n in places])}

    def only(self, places: range) -> Self:
        """The same source that makes these samples of each batch alone."""
        return replace(self, places=places)

    def _image(self, step: int, place: int) -> torch.Tensor:
        with seeded(self.seed, step, place) as generator:
            item = draw_item(self.items, generator)
            boxes = self.regions.get(item.item.name) or (whole_box(item.item.shape),)
            box = boxes[generator.integers(len(boxes))]
            within = random_corner(box_shape(box), self.patch, generator)
            corner = tuple(a + c for (a, _), c in zip(box, within, strict=True))
            start, size = with_margin(corner, self.patch, self.margin)
            image: torch.Tensor = self.transform(
                image=torch.from_numpy(item.image_patch(start, size))
            )["image"]
            return image


def regions_phase(stage: StagePlan, network: NetworkSpec) -> ComputePhase:
    """The phase that leaves what `unlabelled_regions` reads, see `find_regions`."""
    return ComputePhase(
        REGIONS_PHASE, lambda task, folder: find_regions(task, stage, network, folder)
    )


def unlabelled_regions(task: TrainingTask, stage: StagePlan) -> dict[str, tuple[Box, ...]]:
    """Item name -> where the kidneys of unlabelled scans are; empty if the stage sees whole scans."""
    if stage.region != "kidney" or not task.unlabelled:
        return {}
    return read_regions(task.fold_folder / REGIONS_PHASE)


def find_regions(task: TrainingTask, stage: StagePlan, network: NetworkSpec, folder: Path) -> None:
    """Let the stage before say where the kidneys of unlabelled scans are; writes regions.json.

    Args:
        task: Its fold must have trained the stage before.
        stage: The stage that looks into kidney regions.
        network: The stage before's network.
        folder: Where to write.
    """
    previous = task.plan.stage(stage.previous or "")
    predict = ItemPredictor(task, previous, network)
    found: dict[str, tuple[Box, ...]] = {}
    for coarse, fine in zip(
        task.unlabelled_items(previous), task.unlabelled_items(stage), strict=True
    ):
        mask = predict(coarse) > 0
        # both items cover the same body, so positions scale with the shapes
        factors = [f / c for f, c in zip(fine.item.shape, coarse.item.shape, strict=True)]
        boxes = region_boxes(
            mask,
            task.spacing_of(previous, coarse),
            margin_mm=stage.margin_mm,
            minimum_ml=stage.minimum_component_ml,
        )
        if not boxes:
            log.info("%s: nothing located, so the whole scan is learned from", coarse.case)
        found[fine.item.name] = tuple(_scaled(box, factors, fine.item.shape) for box in boxes)
    write_json(folder / REGIONS, FoundRegions(boxes=found))


def read_regions(folder: Path) -> dict[str, tuple[Box, ...]]:
    """What `find_regions` wrote."""
    return read_record(folder / REGIONS, FoundRegions).boxes


def _scaled(box: Box, factors: list[float], shape: Shape) -> Box:
    return tuple(  # type: ignore[return-value]
        (int(a * f), min(n, int(-(-b * f // 1))))
        for (a, b), f, n in zip(box, factors, shape, strict=True)
    )
