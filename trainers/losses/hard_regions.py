"""Hard region adaptation: losses that look only where the prediction is more than T off.

Regions learned well drop out, which balances large easy structures against thin ones, and come back
as soon as they get worse.

Sources:
    [He2020] Y. He et al., Dense biased networks with deep priori anatomy and hard region adaptation:
    semi-supervised learning for fine renal artery segmentation, Medical Image Analysis 63, 2020,
    section 2.3.2.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from renalplan.trainers.losses.batch_sums import batch_sum
from renalplan.trainers.losses.dice import soft_dice
from renalplan.trainers.losses.voxels import HardRegionLoss, Voxels

Average = Literal["all", "selected"]


class HardRegionCrossEntropy(HardRegionLoss):
    """The HRA loss [He2020, Eq. 2]: -sum_n 1(|y_n - p_n| > T) y_n log p_n, divided by a count.

    Only the true class has y = 1, so with exclusive classes these are the voxels whose true class
    has a probability below 1 - T. Background is a class like the others: without it nothing would
    speak against false positives. With T = 0 this is `CrossEntropy`.

    Attributes:
        threshold: T, in [0, 1).
        average: The paper gives a sum. "all" divides it by the number of voxels that count, as the
            mean of a plain cross-entropy does, so that easy voxels shrink the loss; "selected" by
            the number of hard ones, 0 if there is none. Without exclusive classes, voxels are
            counted once a channel.
        exclusive: True takes softmax over the channels; false, or a single channel, takes sigmoids,
            and the binary cross-entropy of a channel where |y - p| > T in this channel.

    Raises:
        ValueError: a threshold outside [0, 1), an unknown average.
    """

    def __init__(
        self, threshold: float = 0.1, *, average: Average = "all", exclusive: bool = True
    ) -> None:
        super().__init__(threshold, exclusive=exclusive)
        self.average = _checked_average(average)

    def value(self, voxels: Voxels) -> Tensor:
        """See `VoxelLoss.value`."""
        hard = voxels.hard(self.threshold)
        total = (voxels.cross_entropy() * voxels.known * hard).sum()
        counted = voxels.entries() if self.average == "all" else voxels.entries() * hard
        return batch_sum(total) / batch_sum(counted.sum()).clamp_min(1)


class HardRegionDice(HardRegionLoss):
    """Soft Dice on hard regions, the form [He2020, section 2.3.2] mentions without a formula.

    Defined here as 1 - mean over channels of (2 sum h p y + s) / (sum h p + sum h y + s), where
    h = 1(|y - p| > T) of the channel has no gradient. A channel without a hard voxel scores 1, so
    that where all is easy the loss is that of a perfect prediction, 0, and teaches nothing. With
    T = 0 this is 1 - `soft_dice`. As in `DiceCrossEntropy`, background of exclusive classes has no
    Dice of its own; a false positive is hard in the channel that claims it.

    Attributes:
        threshold: T, in [0, 1).
        exclusive: True takes softmax over the channels and leaves out the first, background; false,
            or a single channel, takes sigmoids and every channel.
        over_batch: See `soft_dice`.

    Raises:
        ValueError: a threshold outside [0, 1).
    """

    def __init__(
        self, threshold: float = 0.1, *, exclusive: bool = True, over_batch: bool = False
    ) -> None:
        super().__init__(threshold, exclusive=exclusive)
        self.over_batch = over_batch

    def value(self, voxels: Voxels) -> Tensor:
        """See `VoxelLoss.value`."""
        hard = voxels.hard(self.threshold)
        predicted, target = voxels.probabilities() * hard, voxels.target * hard
        if voxels.exclusive:
            predicted, target = predicted[:, 1:], target[:, 1:]
        return 1 - soft_dice(predicted, target, voxels.known, over_batch=self.over_batch)


class HardRegionMSE(HardRegionLoss):
    """Squared error on hard regions, the form [He2020, section 2.3.2] mentions without a formula.

    Defined here as sum 1(|y - p| > T) (y - p)^2 over voxels and channels, background included,
    divided by a count of voxels and channels.

    Attributes:
        threshold: T, in [0, 1).
        average: "all" divides by the number of voxels that count times the number of channels;
            "selected" by the number of hard ones of these, 0 if there is none.
        exclusive: True takes softmax over the channels; false, or a single channel, sigmoids.

    Raises:
        ValueError: a threshold outside [0, 1), an unknown average.
    """

    def __init__(
        self, threshold: float = 0.1, *, average: Average = "all", exclusive: bool = True
    ) -> None:
        super().__init__(threshold, exclusive=exclusive)
        self.average = _checked_average(average)

    def value(self, voxels: Voxels) -> Tensor:
        """See `VoxelLoss.value`."""
        hard = voxels.hard(self.threshold)
        chosen = hard * voxels.known
        squares = (voxels.target - voxels.probabilities()).square() * chosen
        counted = voxels.known.expand_as(hard) if self.average == "all" else chosen
        return batch_sum(squares.sum()) / batch_sum(counted.sum()).clamp_min(1)


def _checked_average(average: Average) -> Average:
    if average not in get_args(Average):
        raise ValueError(f"average must be one of {get_args(Average)}, it is {average!r}.")
    return average
