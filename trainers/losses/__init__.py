"""Losses on logits.

Read in this order: `targets` (label maps -> what losses compare with), `voxels` (what most losses
share), `batch_sums` (batches in parts), `dice` (Dice, and the default, Dice + cross-entropy),
`entropy`, `weighted`, `hard_regions`, `balanced`, `sizes`, `deep_supervision`, `choice` (a loss by
its name), `counts` (Dice of held-out patches).
"""

from renalplan.trainers.losses.balanced import BalancedCrossEntropy
from renalplan.trainers.losses.batch_sums import batch_sum
from renalplan.trainers.losses.choice import LossSettings, build_loss, build_voxel_loss
from renalplan.trainers.losses.counts import dice_counts
from renalplan.trainers.losses.deep_supervision import DeepSupervision, shrink
from renalplan.trainers.losses.dice import Dice, DiceCrossEntropy, masked_mean, soft_dice
from renalplan.trainers.losses.entropy import CrossEntropy
from renalplan.trainers.losses.hard_regions import (
    HardRegionCrossEntropy,
    HardRegionDice,
    HardRegionMSE,
)
from renalplan.trainers.losses.sizes import SizeConstrainedCrossEntropy
from renalplan.trainers.losses.targets import OnLabels, TargetEncoder
from renalplan.trainers.losses.voxels import VoxelLoss
from renalplan.trainers.losses.weighted import VoxelWeightedCrossEntropy

__all__ = [
    "BalancedCrossEntropy",
    "CrossEntropy",
    "DeepSupervision",
    "Dice",
    "DiceCrossEntropy",
    "HardRegionCrossEntropy",
    "HardRegionDice",
    "HardRegionMSE",
    "LossSettings",
    "OnLabels",
    "SizeConstrainedCrossEntropy",
    "TargetEncoder",
    "VoxelLoss",
    "VoxelWeightedCrossEntropy",
    "batch_sum",
    "build_loss",
    "build_voxel_loss",
    "dice_counts",
    "masked_mean",
    "shrink",
    "soft_dice",
]
