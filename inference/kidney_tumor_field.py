"""Two nested probabilities, kidney (with tumor) and tumor, as a dataset's heads."""

from __future__ import annotations

import torch
from torch import Tensor

from renalplan.geometry import Box, Shape, box_shape
from renalplan.inference.fields import ProbabilityField
from renalplan.kidney_tumor import KidneyTumor
from renalplan.labels import LabelScheme
from renalplan.plane_resampling import TensorPlanes, resample_planes


class KidneyTumorField(ProbabilityField):
    """Decides as the rules do: tumor where its probability is above one half, else kidney where its is.

    Regions have a sigmoid each, so the probabilities are the heads' own; a kidney region that holds
    the tumor is at least as probable as it. Exclusive classes are decided by the largest head: the
    rest that the tumor leaves is shared between kidney and background, and a tumor of one half or
    less counts two thirds of that, which is never more than the larger of the others.

    Attributes:
        box: The part of the scan that the probabilities cover; outside is background.
        probabilities: (2, z, y, x) of kidney and tumor together, and of tumor; at any resolution.
        scheme: The dataset's heads.
        structures: Which of them is what.
    """

    def __init__(
        self,
        shape: Shape,
        box: Box,
        probabilities: Tensor,
        scheme: LabelScheme,
        structures: KidneyTumor,
    ) -> None:
        self.shape = shape
        self.heads = scheme.heads
        self.box = box
        self.probabilities = probabilities
        self.scheme = scheme
        self.structures = structures

    def slab(self, start: int, stop: int) -> Tensor:
        """See `ProbabilityField.slab`."""
        result = torch.zeros((self.heads, stop - start, *self.shape[1:]))
        if not self.scheme.has_regions:
            result[0] = 1
        (z0, z1), (y0, y1), (x0, x1) = self.box
        first, last = max(start, z0), min(stop, z1)
        if first < last:
            rows = slice(first - z0, last - z0)
            both, tumor = resample_planes(
                TensorPlanes(self.probabilities), rows, box_shape(self.box)
            )
            result[:, first - start : last - start, y0:y1, x0:x1] = self._heads(both, tumor)
        return result

    def _heads(self, both: Tensor, tumor: Tensor) -> Tensor:
        names = self.scheme.names
        heads = torch.zeros((self.heads, *both.shape))
        if self.scheme.has_regions:
            holds = set(self.structures.tumor_values) <= set(
                self.scheme.foreground[self.structures.kidney]
            )
            kidney = (
                torch.maximum(both, tumor) if holds else torch.where(tumor > 0.5, 1 - tumor, both)
            )
        else:
            tumor = torch.where(tumor > 0.5, tumor, tumor * (2 / 3))
            kidney = (1 - tumor) * both
            heads[0] = (1 - tumor) * (1 - both)
        heads[names.index(self.structures.kidney)] = kidney
        heads[names.index(self.structures.tumor)] = tumor
        return heads
