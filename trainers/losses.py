"""Losses on logits and label maps: Dice + cross-entropy, over deep supervision's resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renalplan.labels import LabelScheme


class TargetEncoder(nn.Module):
    """Label values -> what losses compare with, on the labels' own device."""

    table: Tensor

    def __init__(self, scheme: LabelScheme) -> None:
        super().__init__()
        self.scheme = scheme
        table = torch.zeros((max(scheme.all_values) + 1, scheme.heads), dtype=torch.float32)
        for head, values in enumerate(scheme.values):
            table[list(values), head] = 1
        if scheme.ignore is not None:
            table[scheme.ignore] = 0
        self.register_buffer("table", table, persistent=False)

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode a label map.

        Args:
            labels: (B, 1, Z, Y, X) integers.

        Returns:
            (B, heads, Z, Y, X) float32, 1 where a voxel belongs to a head; and the
            (B, 1, Z, Y, X) mask of voxels that count, None if all do.
        """
        index = labels[:, 0].long()
        encoded = self.table[index].movedim(-1, 1)
        if self.scheme.ignore is None:
            return encoded, None
        return encoded, (labels != self.scheme.ignore).float()


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
    return ((2 * intersection + smooth) / (total + smooth).clamp_min(1e-8)).mean()


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
    return (values * mask).sum() / mask.sum().clamp_min(1)


class DeepSupervision(nn.Module):
    """A loss over several resolutions, halving in weight; the coarsest does not count.

    Attributes:
        loss: Called with (logits, labels) at each resolution; labels are taken by nearest voxel.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        """Weighted mean over outputs, finest first; a single tensor is its own mean."""
        if isinstance(outputs, Tensor):
            return self.loss(outputs, labels)
        weights = [0.5**level for level in range(len(outputs))]
        if len(weights) > 1:
            weights[-1] = 0.0
        total = torch.zeros((), device=labels.device)
        for weight, output in zip(weights, outputs, strict=True):
            if weight:
                total = total + weight / sum(weights) * self.loss(output, shrink(labels, output))
        return total


def shrink(labels: Tensor, like: Tensor) -> Tensor:
    """Labels (B, 1, Z, Y, X) at the resolution of another tensor, by nearest voxel."""
    if labels.shape[2:] == like.shape[2:]:
        return labels
    small = F.interpolate(labels.float(), size=like.shape[2:], mode="nearest-exact")
    return small.to(labels.dtype)


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
