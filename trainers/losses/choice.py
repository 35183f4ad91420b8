"""A loss by its name, so that training can be told which one to use."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from renalplan.files import Record
from renalplan.labels import LabelScheme
from renalplan.trainers.losses.balanced import BalancedCrossEntropy
from renalplan.trainers.losses.dice import Dice, DiceCrossEntropy
from renalplan.trainers.losses.entropy import CrossEntropy
from renalplan.trainers.losses.hard_regions import (
    HardRegionCrossEntropy,
    HardRegionDice,
    HardRegionMSE,
)
from renalplan.trainers.losses.targets import OnLabels
from renalplan.trainers.losses.voxels import VoxelLoss
from renalplan.trainers.losses.weighted import VoxelWeightedCrossEntropy


class LossSettings(Record):
    """Which loss, and what it can be told."""

    name: Literal[
        "dice_ce", "dice", "ce", "wce", "hra_ce", "hra_dice", "hra_mse", "balanced_ce"
    ] = Field(
        default="dice_ce",
        description="dice_ce is nnU-Net's Dice + cross-entropy, dice and ce are its parts; wce weighs "
        "the background less; hra_* look only at hard regions; balanced_ce weighs every class alike",
    )
    background_weight: float = Field(
        default=0.2, ge=0, description="of wce: what background weighs; structures weigh 1"
    )
    threshold: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="of hra_* and balanced_ce: voxels less than this off are left out; 0 takes all",
    )
    average: Literal["all", "selected"] = Field(
        default="all",
        description="of hra_ce and hra_mse: divide by all voxels, or by the hard ones alone",
    )


def build_loss(
    scheme: LabelScheme, settings: LossSettings, *, over_batch: bool = False
) -> nn.Module:
    """The loss of logits (B, heads, Z, Y, X) and labels (B, 1, Z, Y, X) at one resolution.

    Args:
        scheme: What the labels mean; regions take sigmoids, classes softmax.
        settings: Which loss.
        over_batch: Of the losses with Dice, see `soft_dice`.
    """
    if settings.name == "dice_ce":
        return DiceCrossEntropy(scheme, over_batch=over_batch)
    exclusive = not scheme.has_regions
    return OnLabels(build_voxel_loss(settings, exclusive=exclusive, over_batch=over_batch), scheme)


def build_voxel_loss(
    settings: LossSettings, *, exclusive: bool = True, over_batch: bool = False
) -> VoxelLoss:
    """The loss of logits (B, K, Z, Y, X) with encoded targets and a mask.

    Args:
        settings: Which loss.
        exclusive: Softmax over the channels, or a sigmoid each.
        over_batch: Of the losses with Dice, see `soft_dice`.

    Raises:
        ValueError: `dice_ce`, which is not a `VoxelLoss`.
    """
    threshold, average = settings.threshold, settings.average
    match settings.name:
        case "dice":
            return Dice(exclusive=exclusive, over_batch=over_batch)
        case "ce":
            return CrossEntropy(exclusive=exclusive)
        case "wce":
            background = settings.background_weight
            return VoxelWeightedCrossEntropy(background=background, exclusive=exclusive)
        case "hra_ce":
            return HardRegionCrossEntropy(threshold, average=average, exclusive=exclusive)
        case "hra_dice":
            return HardRegionDice(threshold, exclusive=exclusive, over_batch=over_batch)
        case "hra_mse":
            return HardRegionMSE(threshold, average=average, exclusive=exclusive)
        case "balanced_ce":
            return BalancedCrossEntropy(threshold, exclusive=exclusive)
        case _:
            raise ValueError(f"{settings.name} is not computed voxel by voxel.")
