"""Counts of right and wrong voxels, from which Dice over many patches is made."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from renalplan.trainers.losses.targets import TargetEncoder


def dice_counts(logits: Tensor, labels: Tensor, encoder: TargetEncoder) -> Tensor:
    """(3, structures) counts of true positive, false positive and false negative voxels."""
    target, mask = encoder(labels)
    scheme = encoder.scheme
    if scheme.has_regions:
        predicted = (logits > 0).float()
    else:
        chosen = logits.argmax(1)
        predicted = F.one_hot(chosen, scheme.heads).movedim(-1, 1)[:, 1:].float()
        target = target[:, 1:]
    if mask is not None:
        predicted, target = predicted * mask, target * mask
    axes = [0, 2, 3, 4]
    true_positive = (predicted * target).sum(axes, dtype=torch.float64)
    return torch.stack(
        [
            true_positive,
            predicted.sum(axes, dtype=torch.float64) - true_positive,
            target.sum(axes, dtype=torch.float64) - true_positive,
        ]
    )
