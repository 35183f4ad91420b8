"""The default segmenter: the plan's stages one after the other, each a sliding window.

`locate -> fine` finds the kidneys on a coarse grid and segments only the boxes around them;
`lowres -> fullres` gives the second network the first one's labels as extra channels. Folds are
averaged as logits, stage by stage, so all folds look into the same boxes.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from renalplan.geometry import Box, Shape
from renalplan.images import Volume
from renalplan.inference.decisions import Decisions
from renalplan.inference.fields import ProbabilityField, RegionField, RegionLogits
from renalplan.inference.folds import mean_logits
from renalplan.inference.segmenter import InferenceOptions, Segmenter
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder
from renalplan.normalisation import Rescaling, rescalings
from renalplan.plan import StagePlan
from renalplan.preprocessing import body_box, prepare_image, prepare_labels
from renalplan.regions import region_boxes


class StagedSegmenter(Segmenter):
    """Runs stages in order; the last one's field is the answer.

    Attributes:
        stages: Stage name -> the phase whose network segments it, in order.
        patch_sizes: Stage name -> window size, where it is not the plan's.
    """

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

    @cached_property
    def networks(self) -> dict[str, list[nn.Module]]:
        """Stage -> one network a fold."""
        return {
            stage: [self.model.load_network(phase, fold) for fold in self.folds]
            for stage, phase in self.stages.items()
        }

    @property
    def phases(self) -> tuple[str, ...]:
        """See `Segmenter.phases`."""
        return tuple(self.stages.values())

    def load(self) -> None:
        """See `Segmenter.load`."""
        _ = self.networks

    def segment(self, volume: Volume) -> ProbabilityField:
        """See `Segmenter.segment`."""
        body = body_box(volume.array)
        rules = rescalings(volume.array, self.model.plan.channels)
        field: ProbabilityField | None = None
        labels: NDArray | None = None
        for name in self.stages:
            stage = self.model.plan.stage(name)
            if field is not None:
                labels = field.labels(self.scheme_of(self.model.plan.stage(stage.previous or name)))
            boxes = self.boxes(stage, body, labels, volume)
            regions = [self._region(stage, box, volume, rules, labels) for box in boxes]
            scheme = self.scheme_of(stage)
            field = RegionField(
                volume.shape, scheme.heads, regions, exclusive=not scheme.has_regions
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
        return None

    def _region(
        self,
        stage: StagePlan,
        box: Box,
        volume: Volume,
        rules: tuple[Rescaling, ...],
        labels: NDArray | None,
    ) -> RegionLogits:
        plan = self.model.plan
        image = prepare_image(volume.array, box, volume.spacing, plan, stage, rules)
        if stage.previous_as_channels:
            assert labels is not None, "checked when the plan was read"
            before = prepare_labels(labels, box, volume.spacing, plan, stage)
            image = np.concatenate([image, one_hot(before, self.model.scheme)])
        scheme = self.scheme_of(stage)
        logits = mean_logits(
            self.networks[stage.name],
            torch.from_numpy(image),
            self._patch(stage),
            scheme.heads,
            options=self.options,
            names=[f"{stage.name}, fold {fold}" for fold in self.folds],
            swap=scheme.mirrored_heads() if scheme.mirror_pairs else None,
            left_right_axis=plan.left_right_axis,
        )
        lead_first = (0, *(1 + int(a) for a in np.argsort(plan.order)))
        return RegionLogits(box=box, logits=logits.permute(lead_first))

    def _patch(self, stage: StagePlan) -> Shape:
        z, y, x = self.patch_sizes.get(stage.name, stage.patch_size)
        return z, y, x


def one_hot(labels: NDArray, scheme: LabelScheme) -> NDArray[np.float32]:
    """Label map (z, y, x) -> (structures, z, y, x): the extra input channels of a cascade."""
    return np.stack([np.isin(labels, values) for values in scheme.foreground.values()]).astype(
        np.float32
    )
