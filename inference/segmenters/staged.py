"""The default segmenter: the plan's stages one after the other, each a sliding window.

`locate -> fine` finds the kidneys on a coarse grid and segments only the boxes around them;
`lowres -> fullres` gives the second network the first one's labels as extra channels. Folds are
averaged as logits, stage by stage, so all folds look into the same boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renalplan.geometry import Box, Shape, box_shape
from renalplan.images import Volume
from renalplan.inference.decisions import Decisions
from renalplan.inference.fields import ProbabilityField, RegionField, RegionLogits
from renalplan.inference.options import InferenceOptions
from renalplan.inference.planes import StoredPlanes, StreamedPlanes
from renalplan.inference.region_room import scratch_within
from renalplan.inference.room import HALF
from renalplan.inference.segmenter import Segmenter
from renalplan.inference.sliding_window import Skipping
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder
from renalplan.normalisation import Rescaling, rescalings
from renalplan.plan import StagePlan
from renalplan.preprocessing import (
    body_box,
    body_finder,
    prepare_image,
    prepare_labels,
    stage_shape,
)
from renalplan.regions import region_boxes

EAGER_BYTES = 256 << 20  # smaller fields are made at once and kept
SURE = 20.0  # the logit of what is beyond doubt


class StagedSegmenter(Segmenter):
    """Runs stages in order; the last one's field is the answer.

    Attributes:
        stages: Stage name -> the phase whose network segments it, in order.
        patch_sizes: Stage name -> window size, where it is not the plan's.
        twice: Whether the last field is looked at more than once, and so has to be kept.
    """

    twice = False
    forecasts = True

    def __init__(
        self,
        model: ModelFolder,
        folds: list[str],
        options: InferenceOptions,
        *,
        stages: dict[str, str],
        patch_sizes: dict[str, Shape] | None = None,
    ) -> None:
        super().__init__(model, folds, options)
        self.stages = stages
        self.patch_sizes = patch_sizes or {}

    @property
    def phases(self) -> tuple[str, ...]:
        """See `Segmenter.phases`."""
        return tuple(self.stages.values())

    def segment(self, volume: Volume) -> ProbabilityField:
        """See `Segmenter.segment`."""
        body = body_box(volume.array)
        rules = rescalings(volume.array, self.model.plan.channels)
        last = list(self.stages)[-1]
        field: ProbabilityField | None = None
        labels: NDArray | None = None
        for name in self.stages:
            stage = self.model.plan.stage(name)
            if field is not None:
                labels = field.labels(self.scheme_of(self.model.plan.stage(stage.previous or name)))
            boxes = self.boxes(stage, body, labels, volume)
            scheme = self.scheme_of(stage)
            disagrees = self.options.uncertainty and name == last
            field = RegionField(
                volume.shape,
                scheme.heads,
                [self._region(stage, box, volume, rules, labels, disagrees) for box in boxes],
                exclusive=not scheme.has_regions,
                disagrees=disagrees,
            )
            field.decisions = self.decisions(stage, boxes)
        assert field is not None, "a configuration has at least one stage"
        return field

    def scheme_of(self, stage: StagePlan) -> LabelScheme:
        """What a stage's heads mean."""
        scheme = self.model.scheme
        return scheme.as_foreground() if stage.target == "foreground" else scheme

    def boxes(
        self, stage: StagePlan, body: Box, labels: NDArray | None, volume: Volume
    ) -> list[Box]:
        """Where a stage looks: the body, or around what the stage before labelled."""
        if stage.region == "volume" or labels is None:
            return [body]
        return region_boxes(
            labels > 0,
            volume.spacing,
            margin_mm=stage.margin_mm,
            minimum_ml=stage.minimum_component_ml,
        )

    def decisions(self, stage: StagePlan, boxes: list[Box]) -> Decisions | None:
        """What to report of a stage that looked into these boxes; the last stage's report counts."""
        if boxes:
            return None
        return Decisions({}, (f"stage {stage.previous} found nothing; the segmentation is empty",))

    def _region(
        self,
        stage: StagePlan,
        box: Box,
        volume: Volume,
        rules: tuple[Rescaling, ...],
        labels: NDArray | None,
        uncertainty: bool,
    ) -> RegionLogits:
        plan = self.model.plan
        shape = stage_shape(plan, stage, box_shape(box), volume.spacing)
        scheme = self.scheme_of(stage)
        before = len(self.model.scheme.foreground) if stage.previous_as_channels else 0
        predict = self.windows(
            self.stages[stage.name],
            len(volume.array) + before,
            self._patch(stage),
            scheme.heads,
            scheme=scheme,
            uncertainty=uncertainty,
        )
        z, y, x = np.argsort(plan.order).tolist()
        small = HALF * predict.outputs * prod(shape) <= EAGER_BYTES
        stored = z != 0 or self.twice or small
        if (room := self.options.room()) is not None:
            own = box_shape(box)
            predict.scratch = scratch_within(
                room,
                predict,
                what=f"stage {stage.name}",
                channels=len(volume.array),
                box=(own[plan.order[0]], own[plan.order[1]], own[plan.order[2]]),
                shape=shape,
                scan=volume.shape,
                stored=stored,
                folder=self.options.scratch_folder,
            )
        image = torch.from_numpy(self._prepared(stage, box, volume, rules, labels))
        skip = None
        if self.options.skip_air:
            skip = Skipping(
                wanted=body_finder(volume.array, box, shape, plan),
                outside=background_logits(scheme),
            )

        def start() -> Iterator[Tensor]:
            return predict.planes(image, self.progress(stage.name), skip)

        if not stored:
            return RegionLogits(box, StreamedPlanes(start, shape[0], (z, y, x)))
        return RegionLogits(
            box, StoredPlanes(start(), predict.outputs, shape, (z, y, x), predict.scratch)
        )

    def _prepared(
        self,
        stage: StagePlan,
        box: Box,
        volume: Volume,
        rules: tuple[Rescaling, ...],
        labels: NDArray | None,
    ) -> NDArray[np.float32]:
        plan = self.model.plan
        image = prepare_image(volume.array, box, volume.spacing, plan, stage, rules)
        if not stage.previous_as_channels:
            return image
        assert labels is not None, "checked when the plan was read"
        before = prepare_labels(labels, box, volume.spacing, plan, stage)
        return np.concatenate([image, one_hot(before, self.model.scheme)])

    def _patch(self, stage: StagePlan) -> Shape:
        z, y, x = self.patch_sizes.get(stage.name, stage.patch_size)
        return z, y, x


def one_hot(labels: NDArray, scheme: LabelScheme) -> NDArray[np.float32]:
    """Label map (z, y, x) -> (structures, z, y, x): the extra input channels of a cascade."""
    return np.stack([np.isin(labels, values) for values in scheme.foreground.values()]).astype(
        np.float32
    )


def background_logits(scheme: LabelScheme) -> Tensor:
    """(heads,) of a voxel that is background beyond doubt."""
    if scheme.has_regions:
        return torch.full((scheme.heads,), -SURE)
    logits = torch.zeros(scheme.heads)
    logits[0] = SURE
    return logits
