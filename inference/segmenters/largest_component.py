"""The stages' answer without what is not connected with its largest piece.

Sources:
    [Yang2020] G. Yang et al., Weakly-supervised convolutional neural networks of renal tumor
    segmentation in abdominal CTA images, BMC Medical Imaging 20, 37, 2020:
    section 4.4, the largest component with 18-connectivity.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from renalplan.geometry import Spacing
from renalplan.images import Volume
from renalplan.inference.decisions import Decisions
from renalplan.inference.fields import ProbabilityField
from renalplan.inference.segmenters.staged import StagedSegmenter
from renalplan.labels import LabelScheme
from renalplan.pieces import number_pieces

CONNECTIVITY: Literal[18] = 18  # faces and edges, [Yang2020]
WORTH_A_REMARK_ML = 0.1  # a ball of 6 mm


class LargestComponentSegmenter(StagedSegmenter):
    """`StagedSegmenter` whose answer is the largest 18-connected piece of foreground.

    Of several tumors it keeps one; what it removes is among the case's decisions.
    """

    twice = True  # for the labels, then for what is left of the probabilities

    def segment(self, volume: Volume) -> ProbabilityField:
        """See `Segmenter.segment`."""
        field = LargestComponentField(super().segment(volume), self.model.scheme)
        field.decisions = report(field.removed, volume.spacing)
        return field


class LargestComponentField(ProbabilityField):
    """A field in which what is labelled beside the largest piece is background for certain.

    Attributes:
        field: What it is made of; its other probabilities stay.
        removed: Voxels of smaller pieces, (z, y, x).
    """

    def __init__(self, field: ProbabilityField, scheme: LabelScheme) -> None:
        self.field = field
        self.shape = field.shape
        self.heads = field.heads
        self.exclusive = not scheme.has_regions
        self.removed = smaller_pieces(field.labels(scheme) > 0)

    def slab(self, start: int, stop: int) -> Tensor:
        """See `ProbabilityField.slab`."""
        return self.detailed(start, stop)[0]

    def detailed(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """See `ProbabilityField.detailed`."""
        result, disagreement = self.field.detailed(start, stop)
        gone = from_numpy(self.removed[start:stop])
        result[:, gone] = 0
        if self.exclusive:
            result[0][gone] = 1
        return result, disagreement


def report(removed: NDArray[np.bool_], spacing: Spacing) -> Decisions:
    """The volumes of the removed pieces in ml, largest first, and a remark if one could be a tumor.

    Args:
        removed: Voxels of all removed pieces, (z, y, x).
        spacing: mm along the same axes.
    """
    pieces = number_pieces(removed, CONNECTIVITY)
    counts = cc3d.statistics(pieces)["voxel_counts"][1:]
    volumes = sorted((float(n) * prod(spacing) / 1000 for n in counts), reverse=True)
    large = [ml for ml in volumes if ml >= WORTH_A_REMARK_ML]
    remarks: tuple[str, ...] = ()
    if large:
        what = "1 piece" if len(large) == 1 else f"{len(large)} pieces"
        remarks = (
            f"{what} of {WORTH_A_REMARK_ML} ml and more ({sum(large):.2g} ml) removed beside the "
            "largest; train with --set largest_component=false to keep all",
        )
    return Decisions({"removed_pieces_ml": [round(ml, 3) for ml in volumes]}, remarks)


def smaller_pieces(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A (z, y, x) mask without its largest 18-connected piece; of equal ones the first is largest."""
    pieces = number_pieces(mask, CONNECTIVITY)
    sizes = cc3d.statistics(pieces)["voxel_counts"][1:]
    if len(sizes) < 2:
        return np.zeros(mask.shape, bool)
    smaller: NDArray[np.bool_] = mask & (pieces != 1 + int(np.argmax(sizes)))
    return smaller
