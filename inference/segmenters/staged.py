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
from renalplan.inference.fields import ProbabilityField, RegionField, RegionLogits
from renalplan.inference.segmenter import InferenceOptions, Segmenter
from renalplan.inference.sliding_window import WindowPredictor
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
        total: torch.Tensor | None = None
        for number, network in enumerate(self.networks[stage.name]):
            predict = WindowPredictor(
                network,
                self._patch(stage),
                scheme.heads,
                step=self.options.step,
                mirror_axes=self._mirror_axes(stage),
                swap=scheme.mirrored_heads() if scheme.mirror_pairs else None,
                left_right_axis=plan.left_right_axis,
                device=self.options.torch_device(),
            )
            logits = predict(torch.from_numpy(image), self._progress(stage, number))
            total = logits if total is None else total.add_(logits)
        assert total is not None, "there is at least one fold"
        total /= len(self.folds)
        lead_first = (0, *(1 + int(a) for a in np.argsort(plan.order)))
        return RegionLogits(box=box, logits=total.permute(lead_first))

    def _mirror_axes(self, stage: StagePlan) -> tuple[int, ...]:
        if not self.options.tta:
            return ()
        return tuple(axis for axis in range(3) if self._patch(stage)[axis] > 1)

    def _patch(self, stage: StagePlan) -> Shape:
        z, y, x = self.patch_sizes.get(stage.name, stage.patch_size)
        return z, y, x

    def _progress(self, stage: StagePlan, number: int):  # type: ignore[no-untyped-def]
        report = self.options.progress
        if report is None:
            return None
        what = f"{stage.name}, fold {self.folds[number]}"
        return lambda done, total: report(what, done, total)


def one_hot(labels: NDArray, scheme: LabelScheme) -> NDArray[np.float32]:
    """Label map (z, y, x) -> (structures, z, y, x): the extra input channels of a cascade."""
    return np.stack([np.isin(labels, values) for values in scheme.foreground.values()]).astype(
        np.float32
    )
