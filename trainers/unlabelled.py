"""Patches of images alone: the fold's training scans and those without labels.

Where a stage looks only into kidney regions, the fold's own locating stage says where they are in a
scan that has no labels.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from renalplan.files import Record, read_record, write_json
from renalplan.geometry import Box, Shape, box_shape, whole_box
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.regions import region_boxes
from renalplan.store import ItemArrays
from renalplan.trainers.drawn import DrawnSource
from renalplan.trainers.forecast import count_windows
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.phase import ComputePhase
from renalplan.trainers.randomness import seeded
from renalplan.trainers.sampling import draw_item, random_corner, with_margin, within
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.transform import Sample, Transform
from renalplan.trainers.variation import Variation

REGIONS = "regions.json"
REGIONS_PHASE = "unlabelled_regions"
log = logging.getLogger(__name__)


class FoundRegions(Record):
    """regions.json: item name -> boxes in it, voxels along the plan's axes."""

    boxes: dict[str, tuple[Box, ...]]


@dataclass(frozen=True)
class ImageSource(DrawnSource):
    """Random image patches of labelled and unlabelled scans alike; no label is ever read.

    Its batches are images (B, C, *patch) float32.

    Attributes:
        items: Stored arrays; every case is equally likely, then every item of it.
        regions: Item name -> where patches may lie; an item that is not named is used whole.
        patch: Size after augmentation.
        margin: Most voxels read beyond the patch on each side.
        batch_size: Samples a batch.
        transform: Varies one sample {image} and cuts it to `patch`.
        seed: With the step it decides everything.
        places: Which samples of a batch are made; None makes all.
    """

    items: tuple[ItemArrays, ...]
    regions: dict[str, tuple[Box, ...]]
    patch: Shape
    margin: Shape
    batch_size: int
    transform: Transform
    seed: int
    places: range | None = None

    @property
    def halvable(self) -> bool:
        """See `DrawnSource.halvable`."""
        return self.transform.on_device

    def _vary(self, sample: Sample, drawn: Variation | None) -> Sample:
        assert drawn is not None, "see `_begin`"
        return self.transform(sample, drawn)

    def _begin(self, step: int, place: int) -> tuple[Sample, Variation]:
        with seeded(self.seed, step, place) as generator:
            item = draw_item(self.items, generator)
            boxes = self.regions.get(item.item.name) or (whole_box(item.item.shape),)
            box = boxes[generator.integers(len(boxes))]
            corner = random_corner(box_shape(box), self.patch, generator)
            drawn = self.transform.draw(generator, item.channel_count)
        corner = tuple(a + c for (a, _), c in zip(box, corner, strict=True))
        margin = within(self.transform.reach(drawn), self.margin)
        image = item.image_patch(*with_margin(corner, self.patch, margin))
        return {"image": torch.from_numpy(image)}, drawn


def regions_phase(stage: StagePlan, network: NetworkSpec) -> ComputePhase:
    """The phase that leaves what `unlabelled_regions` reads, see `find_regions`."""

    def windows(task: TrainingTask) -> int:
        previous = task.plan.stage(stage.previous or "")
        return count_windows(previous, task.unlabelled_items(previous))

    return ComputePhase(
        REGIONS_PHASE, lambda task, folder: find_regions(task, stage, network, folder), windows
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
