"""BiSC-UNet's way: rough network, at most two kidneys, fine network on each one's fixed-size region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Box, Shape, Spacing
from renalplan.images import Volume
from renalplan.inference.decisions import Decisions
from renalplan.inference.segmenters.staged import StagedSegmenter
from renalplan.plan import StagePlan
from renalplan.preprocessing import stage_spacing
from renalplan.rois import MOST_KIDNEYS, kidney_rois


class KidneyRoiSegmenter(StagedSegmenter):
    """`StagedSegmenter` whose kidney stage looks into regions of interest instead of grown boxes.

    Where two regions overlap, the mean of their probabilities counts.
    """

    def boxes(
        self, stage: StagePlan, body: Box, labels: NDArray | None, volume: Volume
    ) -> list[Box]:
        """See `StagedSegmenter.boxes`."""
        if stage.region == "volume" or labels is None:
            return super().boxes(stage, body, labels, volume)
        plan = self.model.plan
        own = stage_spacing(plan, stage, volume.spacing)
        back = [int(axis) for axis in np.argsort(plan.order)]
        canonical: Spacing = tuple(own[axis] for axis in back)  # type: ignore[assignment]
        window: Shape = tuple(self._patch(stage)[axis] for axis in back)  # type: ignore[assignment]
        return kidney_rois(
            labels > 0,
            volume.spacing,
            canonical,
            margin_mm=stage.margin_mm,
            minimum_ml=stage.minimum_component_ml,
            least=window,
        )

    def decisions(self, stage: StagePlan, boxes: list[Box]) -> Decisions | None:
        """See `StagedSegmenter.decisions`."""
        if stage.region == "volume":
            return None
        remarks: tuple[str, ...] = ()
        if not boxes:
            remarks = ("no kidney found; the segmentation is empty",)
        elif len(boxes) < MOST_KIDNEYS:
            remarks = ("one kidney found where two are usual; going on with it",)
        return Decisions({"kidneys_found": len(boxes)}, remarks)
