"""Voxel-wise cross-entropy, the baseline that other losses are compared with."""

from __future__ import annotations

from torch import Tensor

from renalplan.trainers.losses.batch_sums import batch_sum
from renalplan.trainers.losses.voxels import VoxelLoss, Voxels


class CrossEntropy(VoxelLoss):
    """Mean cross-entropy of the voxels that count; 0 if none does.

    Attributes:
        exclusive: True takes softmax over the channels and -log p of the true class; false, or a
            single channel, takes sigmoids and the mean binary cross-entropy over the channels.
    """

    def __init__(self, *, exclusive: bool = True) -> None:
        super().__init__(exclusive=exclusive)

    def value(self, voxels: Voxels) -> Tensor:
        """See `VoxelLoss.value`."""
        total = batch_sum((voxels.cross_entropy() * voxels.known).sum())
        return total / batch_sum(voxels.entries().sum()).clamp_min(1)
