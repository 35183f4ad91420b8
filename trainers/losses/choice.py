"""A loss by its name, so that training can be told which one to use."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from torch import nn

from renalplan.files import Record
from renalplan.labels import LabelScheme
from renalplan.trainers.losses.balanced import BalancedCrossEntropy
from renalplan.trainers.losses.dice import DiceCrossEntropy
from renalplan.trainers.losses.entropy import CrossEntropy
from renalplan.trainers.losses.hard_regions import (
    HardRegionCrossEntropy,
    HardRegionDice,
    HardRegionMSE,
)
from renalplan.trainers.losses.targets import OnLabels
from renalplan.trainers.losses.weighted import VoxelWeightedCrossEntropy


class LossSettings(Record):
    """Which loss, and what it can be told."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: Literal["dice_ce", "ce", "wce", "hra_ce", "hra_dice", "hra_mse", "balanced_ce"] = Field(
        default="dice_ce",
        description="dice_ce is nnU-Net's Dice + cross-entropy; wce weighs the background less; hra_* "
        "look only at hard regions; balanced_ce weighs every class alike",
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
    threshold, average = settings.threshold, settings.average
    exclusive = not scheme.has_regions
    loss: nn.Module
    match settings.name:
        case "dice_ce":
            return DiceCrossEntropy(scheme, over_batch=over_batch)
        case "ce":
            loss = CrossEntropy(exclusive=exclusive)
        case "wce":
            loss = VoxelWeightedCrossEntropy(
                background=settings.background_weight, exclusive=exclusive
            )
        case "hra_ce":
            loss = HardRegionCrossEntropy(threshold, average=average, exclusive=exclusive)
        case "hra_dice":
            loss = HardRegionDice(threshold, exclusive=exclusive, over_batch=over_batch)
        case "hra_mse":
            loss = HardRegionMSE(threshold, average=average, exclusive=exclusive)
        case "balanced_ce":
            loss = BalancedCrossEntropy(threshold, exclusive=exclusive)
    return OnLabels(loss, scheme)
