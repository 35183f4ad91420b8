"""Cross-entropy in which every class weighs the same, whatever its size.

Sources:
    [BiSC-UNet] BiSC-UNet, KiTS19 challenge, section 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renalplan.trainers.losses.batch_sums import batch_sum
from renalplan.trainers.losses.voxels import HardRegionLoss, Voxels


class BalancedCrossEntropy(HardRegionLoss):
    """Balanced cross-entropy [BiSC-UNet, Eq. 1], with the minus sign that is missing in print.

    -1/C' sum_c [1 / (sum_n y_cn) sum_n 1(|y_cn - p_cn| > T) y_cn log p_cn]: within a class the sum
    over its hard voxels is divided by its size in the ground truth of the whole batch, not by the
    number of hard ones, so what is learned shrinks the loss. C' is the number of classes the batch
    holds; a class it lacks would be 0 / 0 and is left out. 0 if no voxel counts.

    Attributes:
        threshold: T, in [0, 1).
        exclusive: True takes softmax over the channels, background being a class like the others.
            False, or a single channel, takes sigmoids: -y log p alone would then be least for p = 1
            everywhere, so each channel has two classes, its foreground with (y, p) and its
            background with (1 - y, 1 - p), and C' counts both.

    Raises:
        ValueError: a threshold outside [0, 1).
    """

    def __init__(self, threshold: float = 0.1, *, exclusive: bool = True) -> None:
        super().__init__(threshold, exclusive=exclusive)

    def value(self, voxels: Voxels) -> Tensor:
        """See `VoxelLoss.value`."""
        entropy = voxels.cross_entropy() * voxels.hard(self.threshold)
        members = [voxels.target] if voxels.exclusive else [voxels.target, 1 - voxels.target]
        axes = [0, 2, 3, 4]
        sums = batch_sum(torch.cat([(entropy * m * voxels.known).sum(axes) for m in members]))
        sizes = batch_sum(torch.cat([(m * voxels.known).sum(axes) for m in members]))
        present = (sizes > 0).sum().clamp_min(1)
        return (sums / sizes.clamp_min(1)).sum() / present  # the sum of an absent class is 0
