"""Label maps -> what losses compare with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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


class OnLabels(nn.Module):
    """Gives a loss of logits and targets the label maps of a dataset.

    Attributes:
        encoder: How label values become targets, and the ignore label a mask.
        loss: Called with (logits, target, mask), and with voxel weights if there are any.
    """

    def __init__(self, loss: nn.Module, scheme: LabelScheme) -> None:
        super().__init__()
        self.encoder = TargetEncoder(scheme)
        self.loss = loss

    def forward(self, logits: Tensor, labels: Tensor, *voxel_weights: Tensor) -> Tensor:
        """Scalar loss of logits (B, heads, Z, Y, X) and labels (B, 1, Z, Y, X)."""
        return self.loss(logits, *self.encoder(labels), *voxel_weights)
