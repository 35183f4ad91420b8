"""Soft Dice, as a loss by itself and in nnU-Net's Dice + cross-entropy.

Sources:
    [Isensee2021] F. Isensee et al., nnU-Net: a self-configuring method for deep learning-based
    biomedical image segmentation, Nature Methods 18, 203-211, 2021.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from renalplan.labels import LabelScheme
from renalplan.trainers.losses.batch_sums import batch_sum
from renalplan.trainers.losses.targets import TargetEncoder
from renalplan.trainers.losses.voxels import VoxelLoss, Voxels


def soft_dice(
    probabilities: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    over_batch: bool = False,
    smooth: float = 1e-5,
) -> Tensor:
    """Mean soft Dice in [0, 1]: (2 |PG| + s) / (|P| + |G| + s).

    Args:
        probabilities: (B, K, Z, Y, X).
        target: Same shape, 0 or 1.
        mask: (B, 1, Z, Y, X), 0 where nothing is known.
        over_batch: Sum over the batch before dividing, instead of a Dice a sample.
        smooth: Added above and below, so that an absent structure that is not predicted scores 1.
    """
    axes = [0, 2, 3, 4] if over_batch else [2, 3, 4]
    if mask is not None:
        probabilities = probabilities * mask
        target = target * mask
    intersection = (probabilities * target).sum(axes)
    total = probabilities.sum(axes) + target.sum(axes)
    if over_batch:
        intersection, total = batch_sum(intersection), batch_sum(total)
    return ((2 * intersection + smooth) / (total + smooth).clamp_min(1e-8)).mean()


class Dice(VoxelLoss):
    """1 - soft Dice, in [0, 1]; background of exclusive classes has no Dice of its own.

    Attributes:
        exclusive: True takes softmax over the channels and leaves out the first, background; false,
            or a single channel, takes sigmoids and every channel.
        over_batch: See `soft_dice`. A sample without the structure teaches next to nothing by
            itself (its Dice is flat near 0); over the batch, what is wrongly found in it counts.
    """

    def __init__(self, *, exclusive: bool = True, over_batch: bool = False) -> None:
        super().__init__(exclusive=exclusive)
        self.over_batch = over_batch

    def value(self, voxels: Voxels) -> Tensor:
        """See `VoxelLoss.value`."""
        predicted, target = voxels.probabilities(), voxels.target
        if voxels.exclusive:
            predicted, target = predicted[:, 1:], target[:, 1:]
        return 1 - soft_dice(predicted, target, voxels.known, over_batch=self.over_batch)


class DiceCrossEntropy(nn.Module):
    """nnU-Net's loss [Isensee2021]: cross-entropy minus soft Dice without background.

    Regions take binary cross-entropy and the Dice of every region.

    Attributes:
        encoder: How label values become targets.
        over_batch: See `soft_dice`.
    """

    def __init__(self, scheme: LabelScheme, *, over_batch: bool = False) -> None:
        super().__init__()
        self.encoder = TargetEncoder(scheme)
        self.over_batch = over_batch

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of logits (B, heads, Z, Y, X) and labels (B, 1, Z, Y, X)."""
        target, mask = self.encoder(labels)
        logits = logits.float()
        if self.encoder.scheme.has_regions:
            entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            entropy = entropy.mean(1, keepdim=True)
            dice = soft_dice(logits.sigmoid(), target, mask, over_batch=self.over_batch)
        else:
            entropy = -(logits.log_softmax(1) * target).sum(1, keepdim=True)
            dice = soft_dice(
                logits.softmax(1)[:, 1:], target[:, 1:], mask, over_batch=self.over_batch
            )
        return masked_mean(entropy, mask) - dice


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the voxels that count; 0 if none does."""
    if mask is None:
        return values.mean()
    return batch_sum((values * mask).sum()) / batch_sum(mask.sum()).clamp_min(1)
