"""A loss over the resolutions of a deeply supervised network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DeepSupervision(nn.Module):
    """A loss over several resolutions, halving in weight; the coarsest does not count.

    Attributes:
        loss: Called with (logits, labels) at each resolution, and with voxel weights if there are
            any; labels and weights are taken by nearest voxel.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self, outputs: Tensor | Sequence[Tensor], labels: Tensor, *voxel_weights: Tensor
    ) -> Tensor:
        """Weighted mean over outputs, finest first; a single tensor is its own mean."""
        if isinstance(outputs, Tensor):
            return self.loss(outputs, labels, *voxel_weights)
        weights = [0.5**level for level in range(len(outputs))]
        if len(weights) > 1:
            weights[-1] = 0.0
        total = torch.zeros((), device=labels.device)
        for weight, output in zip(weights, outputs, strict=True):
            if weight:
                targets = [shrink(target, output) for target in (labels, *voxel_weights)]
                total = total + weight / sum(weights) * self.loss(output, *targets)
        return total


def shrink(labels: Tensor, like: Tensor) -> Tensor:
    """Labels (B, 1, Z, Y, X) at the resolution of another tensor, by nearest voxel."""
    if labels.shape[2:] == like.shape[2:]:
        return labels
    small = F.interpolate(labels.float(), size=like.shape[2:], mode="nearest-exact")
    return small.to(labels.dtype)
